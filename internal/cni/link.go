package cni

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// hostLink names the node's end of a pair, the same for the same attachment.
func hostLink(container, ifname string) string {
	sum := sha256.Sum256([]byte(container + "@" + ifname))
	return "sk" + hex.EncodeToString(sum[:6])
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// anywhere is the default route's destination in the family of a.
func anywhere(a netip.Addr) netip.Prefix {
	if a.Is4() {
		return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	}
	return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
}

// macOf makes a link's address from an IP, so that both change together.
func macOf(a netip.Addr) net.HardwareAddr {
	b := a.AsSlice()
	return append(net.HardwareAddr{0x0a, 0x58}, b[len(b)-4:]...)
}

// ensureNode makes the node forward. Addresses of its pod CIDRs that no pod
// has are unreachable: sent on, they would come back by the other nodes' routes.
func (n *Network) ensureNode() error {
	for _, p := range n.PodCIDRs {
		sysctl := "ipv4/ip_forward"
		if p.Addr().Is6() {
			sysctl = "ipv6/conf/all/forwarding"
		}
		if err := setSysctl(sysctl, "1"); err != nil {
			return err
		}
		if err := netlink.RouteAdd(unreachable(p)); err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("adding route to %s: %w", p, err)
		}
	}
	return nil
}

func unreachable(p netip.Prefix) *netlink.Route {
	return &netlink.Route{Dst: ipNet(p.Masked()), Type: unix.RTN_UNREACHABLE}
}

// setSysctl writes /proc/sys/net/NAME of the calling thread's namespace, if
// it is another value: /proc/sys may be read-only and right already.
func setSysctl(name, value string) error {
	path := "/proc/sys/net/" + name
	if old, err := os.ReadFile(path); err == nil && string(old) == value+"\n" {
		return nil
	}
	if err := os.WriteFile(path, []byte(value), 0); err != nil {
		return fmt.Errorf("setting sysctl %s: %w", name, err)
	}
	return nil
}

// hostMAC is the link address of the node's end of every pair: a pair has
// only two ends, so it need not be unique.
var hostMAC = net.HardwareAddr{0x0a, 0x58, 0, 0, 0, 1}

// attach makes the pair of links and configures both ends. It returns the
// pod's link address.
func (n *Network) attach(a *attachment, netns string) (string, error) {
	ns, err := os.Open(netns)
	if err != nil {
		return "", fmt.Errorf("opening network namespace: %w", err)
	}
	defer ns.Close()
	mac := macOf(a.IPs[0])
	veth := &netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: a.Veth, MTU: n.MTU, HardwareAddr: hostMAC, TxQLen: -1},
		PeerName:  a.Ifname, PeerNamespace: netlink.NsFd(ns.Fd()), PeerHardwareAddr: mac, PeerMTU: uint32(n.MTU),
	}
	if err := netlink.LinkAdd(veth); err != nil {
		return "", fmt.Errorf("adding link %s: %w", a.Veth, err)
	}
	if err := inNamespace(ns, func() error { return n.configurePod(a) }); err != nil {
		return "", fmt.Errorf("in the pod's namespace: %w", err)
	}
	if err := n.configureHost(a, mac); err != nil {
		return "", err
	}
	return mac.String(), nil
}

// configureHost gives the node's end the gateway's addresses and the node its
// routes to the pod.
func (n *Network) configureHost(a *attachment, mac net.HardwareAddr) error {
	link, err := netlink.LinkByName(a.Veth)
	if err != nil {
		return fmt.Errorf("finding %s: %w", a.Veth, err)
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("setting %s up: %w", a.Veth, err)
	}
	for i, ip := range a.IPs {
		if err := address(link, gateway(n.PodCIDRs[i])); err != nil {
			return err
		}
		if err := neighbour(link, ip, mac); err != nil {
			return err
		}
		r := &netlink.Route{LinkIndex: link.Attrs().Index, Dst: host(ip), Scope: netlink.SCOPE_LINK, Src: gateway(n.PodCIDRs[i]).AsSlice()}
		if err := netlink.RouteAdd(r); err != nil {
			return fmt.Errorf("adding route to pod %s: %w", ip, err)
		}
	}
	return nil
}

// configurePod runs in the pod's namespace.
func (n *Network) configurePod(a *attachment) error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("finding lo: %w", err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return fmt.Errorf("setting lo up: %w", err)
	}
	link, err := netlink.LinkByName(a.Ifname)
	if err != nil {
		return fmt.Errorf("finding %s: %w", a.Ifname, err)
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("setting %s up: %w", a.Ifname, err)
	}
	for i, ip := range a.IPs {
		if err := address(link, ip); err != nil {
			return err
		}
		gw := gateway(n.PodCIDRs[i])
		if err := neighbour(link, gw, hostMAC); err != nil {
			return err
		}
		for _, r := range []*netlink.Route{
			{LinkIndex: link.Attrs().Index, Dst: host(gw), Scope: netlink.SCOPE_LINK, Src: ip.AsSlice()},
			{LinkIndex: link.Attrs().Index, Dst: ipNet(anywhere(ip)), Gw: gw.AsSlice()},
		} {
			if err := netlink.RouteAdd(r); err != nil {
				return fmt.Errorf("adding route to %s: %w", r.Dst, err)
			}
		}
	}
	return nil
}

// host is the network of one address.
func host(ip netip.Addr) *net.IPNet { return ipNet(netip.PrefixFrom(ip, ip.BitLen())) }

func address(link netlink.Link, ip netip.Addr) error {
	a := &netlink.Addr{IPNet: host(ip)}
	if ip.Is6() {
		a.Flags = unix.IFA_F_NODAD // who has it is the plugin's to say
	}
	if err := netlink.AddrAdd(link, a); err != nil {
		return fmt.Errorf("adding address %s to %s: %w", ip, link.Attrs().Name, err)
	}
	return nil
}

// neighbour tells a link who is at its other end, for good: nobody is asked,
// the first packet does not wait, and nobody else can answer.
func neighbour(link netlink.Link, ip netip.Addr, mac net.HardwareAddr) error {
	family := netlink.FAMILY_V4
	if ip.Is6() {
		family = netlink.FAMILY_V6
	}
	n := &netlink.Neigh{LinkIndex: link.Attrs().Index, Family: family, State: netlink.NUD_PERMANENT, IP: ip.AsSlice(), HardwareAddr: mac}
	if err := netlink.NeighSet(n); err != nil {
		return fmt.Errorf("adding neighbour %s to %s: %w", ip, link.Attrs().Name, err)
	}
	return nil
}

// inNamespace runs f with its thread in a network namespace.
func inNamespace(ns *os.File, f func() error) error {
	done := make(chan error, 1)
	go func() {
		// Never unlocked: the thread ends with the goroutine and is not used
		// again in the wrong namespace.
		runtime.LockOSThread()
		if unix.Gettid() == os.Getpid() {
			// The main thread cannot end, and is the one whose namespace is taken
			// for the process's. While it is held here, another is found.
			done <- inNamespace(ns, f)
			runtime.UnlockOSThread()
			return
		}
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- fmt.Errorf("entering: %w", err)
			return
		}
		done <- f()
	}()
	return <-done
}

// deleteLink deletes a link, and its other end with it.
func deleteLink(name string) error {
	if name == "" {
		return nil // an attachment that never got so far
	}
	link, err := netlink.LinkByName(name)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return nil // went with the pod's namespace
	}
	if err != nil {
		return fmt.Errorf("finding %s: %w", name, err)
	}
	if err := netlink.LinkDel(link); err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("deleting %s: %w", name, err)
	}
	return nil
}

// checkLinks reports what is missing of an attachment.
func checkLinks(a *attachment, netns string) error {
	if _, err := netlink.LinkByName(a.Veth); err != nil {
		return fmt.Errorf("finding %s: %w", a.Veth, err)
	}
	ns, err := os.Open(netns)
	if err != nil {
		return fmt.Errorf("opening network namespace: %w", err)
	}
	defer ns.Close()
	return inNamespace(ns, func() error {
		link, err := netlink.LinkByName(a.Ifname)
		if err != nil {
			return fmt.Errorf("finding %s in the pod: %w", a.Ifname, err)
		}
		addrs, err := netlink.AddrList(link, netlink.FAMILY_ALL)
		if err != nil {
			return fmt.Errorf("listing addresses in the pod: %w", err)
		}
		have := map[string]bool{}
		for _, ad := range addrs {
			have[ad.IP.String()] = true
		}
		for _, ip := range a.IPs {
			if !have[ip.String()] {
				return fmt.Errorf("%s in the pod has no address %s", a.Ifname, ip)
			}
		}
		return nil
	})
}
