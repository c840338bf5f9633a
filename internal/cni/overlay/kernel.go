package overlay

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"skiff.dev/skiff/internal/nftables"
)

// routeProtocol marks our routes, so that they are known from others' after a
// restart and at a reset (rt_protos: numbers above 4 are free to choose).
const routeProtocol = 83

// Kernel is the network of one namespace.
type Kernel struct {
	netlink *netlink.Handle
	nft     *nftables.NetNS
}

// Open returns the network of the calling thread's namespace.
func Open() (*Kernel, error) {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("opening route socket: %w", err)
	}
	n, err := nftables.Open()
	if err != nil {
		h.Close()
		return nil, err
	}
	return &Kernel{netlink: h, nft: n}, nil
}

// Close closes the sockets. What was applied stays.
func (k *Kernel) Close() error {
	k.netlink.Close()
	return k.nft.Close()
}

// Apply makes the kernel hold the state, changing only what differs. It goes
// on after an error, so that one node that cannot be reached costs no other.
func (k *Kernel) Apply(ctx context.Context, c Config, s State) error {
	var errs []error
	device := 0
	if s.Device != nil {
		link, err := k.device(s.Device)
		if err != nil {
			return err
		}
		device = link.Attrs().Index
		errs = append(errs, k.neighbours(device, s.Neighbours), k.forwards(device, s.Forwards))
	} else {
		errs = append(errs, k.deleteDevice(c.Device))
	}
	errs = append(errs, k.routes(device, s.Routes))
	for _, f := range []nftables.Family{nftables.IPv4, nftables.IPv6} {
		errs = append(errs, k.masquerade(ctx, f, c.MasqueradeTable, s.Masquerade))
	}
	return errors.Join(errs...)
}

// Cleanup removes all that Apply has made.
func (k *Kernel) Cleanup(ctx context.Context, c Config) error {
	return k.Apply(ctx, c, State{})
}

func (k *Kernel) masquerade(ctx context.Context, f nftables.Family, name string, tables []nftables.Table) error {
	for _, t := range tables {
		if t.Family == f {
			_, err := nftables.Sync(ctx, k.nft, t)
			return err
		}
	}
	return k.nft.Apply(ctx, nftables.Delete(f, name))
}

// device returns the VXLAN device, made anew if it is not as it should be.
func (k *Kernel) device(d *Device) (netlink.Link, error) {
	mac, err := net.ParseMAC(d.MAC)
	if err != nil {
		return nil, fmt.Errorf("reading link address of %s: %w", d.Name, err)
	}
	want := &netlink.Vxlan{
		LinkAttrs: netlink.LinkAttrs{Name: d.Name, HardwareAddr: mac, TxQLen: -1},
		VxlanId:   int(d.VNI), Port: int(d.Port), SrcAddr: d.Local.AsSlice(), Learning: false,
	}
	link, err := k.netlink.LinkByName(d.Name)
	if err == nil {
		have, ok := link.(*netlink.Vxlan)
		if !ok {
			return nil, fmt.Errorf("%s is there and is no VXLAN device", d.Name)
		}
		if have.VxlanId != want.VxlanId || have.Port != want.Port || !have.SrcAddr.Equal(want.SrcAddr) || have.HardwareAddr.String() != d.MAC {
			if err := k.netlink.LinkDel(have); err != nil {
				return nil, fmt.Errorf("deleting %s: %w", d.Name, err)
			}
			link = nil
		}
	} else if !errors.As(err, &netlink.LinkNotFoundError{}) {
		return nil, fmt.Errorf("finding %s: %w", d.Name, err)
	}
	if link == nil {
		if err := k.netlink.LinkAdd(want); err != nil {
			return nil, fmt.Errorf("adding %s: %w", d.Name, err)
		}
		if link, err = k.netlink.LinkByName(d.Name); err != nil {
			return nil, fmt.Errorf("finding %s: %w", d.Name, err)
		}
	}
	if err := k.netlink.LinkSetUp(link); err != nil {
		return nil, fmt.Errorf("setting %s up: %w", d.Name, err)
	}
	return link, k.addresses(link, d.Addrs)
}

func (k *Kernel) addresses(link netlink.Link, want []netip.Addr) error {
	have, err := k.netlink.AddrList(link, netlink.FAMILY_ALL)
	if err != nil {
		return fmt.Errorf("listing addresses of %s: %w", link.Attrs().Name, err)
	}
	keep := map[netip.Addr]bool{}
	for _, a := range want {
		keep[a] = true
		addr := &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(a, a.BitLen()))}
		if a.Is6() {
			addr.Flags = unix.IFA_F_NODAD
		}
		if err := k.netlink.AddrAdd(link, addr); err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("adding address %s to %s: %w", a, link.Attrs().Name, err)
		}
	}
	for _, a := range have {
		ip, _ := netip.AddrFromSlice(a.IP)
		if ip = ip.Unmap(); keep[ip] || ip.IsLinkLocalUnicast() {
			continue
		}
		if err := k.netlink.AddrDel(link, &a); err != nil {
			return fmt.Errorf("removing address %s from %s: %w", ip, link.Attrs().Name, err)
		}
	}
	return nil
}

func (k *Kernel) deleteDevice(name string) error {
	link, err := k.netlink.LinkByName(name)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("finding %s: %w", name, err)
	}
	if _, ok := link.(*netlink.Vxlan); !ok {
		return nil // not ours
	}
	if err := k.netlink.LinkDel(link); err != nil {
		return fmt.Errorf("deleting %s: %w", name, err)
	}
	return nil
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

func (k *Kernel) routes(device int, want []Route) error {
	filter := &netlink.Route{Protocol: routeProtocol, Table: unix.RT_TABLE_MAIN}
	have, err := k.netlink.RouteListFiltered(netlink.FAMILY_ALL, filter, netlink.RT_FILTER_PROTOCOL|netlink.RT_FILTER_TABLE)
	if err != nil {
		return fmt.Errorf("listing routes: %w", err)
	}
	type key struct {
		dst, via string
		device   int // 0 if the kernel finds it by the gateway
	}
	keyOf := func(r Route) key {
		if r.Over {
			return key{ipNet(r.Dst).String(), r.Via.String(), device}
		}
		return key{ipNet(r.Dst).String(), r.Via.String(), 0}
	}
	missing := map[key]bool{}
	for _, r := range want {
		missing[keyOf(r)] = true
	}
	var errs []error
	// Away with the old first: an old way to a place would be taken for the
	// way to its new gateway.
	for i := range have {
		r := &have[i]
		at := key{dst: r.Dst.String(), via: r.Gw.String()}
		if r.LinkIndex == device {
			at.device = device
		}
		if missing[at] {
			delete(missing, at)
			continue
		}
		if err := k.netlink.RouteDel(r); err != nil && !errors.Is(err, unix.ESRCH) {
			errs = append(errs, fmt.Errorf("removing route to %s: %w", r.Dst, err))
		}
	}
	for _, r := range want {
		if !missing[keyOf(r)] {
			continue
		}
		nr := &netlink.Route{Dst: ipNet(r.Dst), Gw: r.Via.AsSlice(), Protocol: routeProtocol, Table: unix.RT_TABLE_MAIN}
		if r.Over {
			nr.LinkIndex, nr.Flags = device, int(netlink.FLAG_ONLINK)
		}
		if err := k.netlink.RouteReplace(nr); err != nil {
			errs = append(errs, fmt.Errorf("adding route to %s via %s: %w", r.Dst, r.Via, err))
		}
	}
	return errors.Join(errs...)
}

func (k *Kernel) neighbours(device int, want []Neighbour) error {
	have, err := k.netlink.NeighList(device, netlink.FAMILY_ALL)
	if err != nil {
		return fmt.Errorf("listing neighbours: %w", err)
	}
	found := map[Neighbour]*netlink.Neigh{}
	for i := range have {
		n := &have[i]
		ip, ok := netip.AddrFromSlice(n.IP)
		if ok && n.State&netlink.NUD_PERMANENT != 0 && !ip.IsMulticast() {
			found[Neighbour{ip.Unmap(), n.HardwareAddr.String()}] = n
		}
	}
	var errs []error
	wanted := map[netip.Addr]bool{}
	for _, n := range want {
		wanted[n.IP] = true
		if found[n] != nil {
			delete(found, n)
			continue
		}
		mac, err := net.ParseMAC(n.MAC)
		if err != nil {
			return fmt.Errorf("reading link address: %w", err)
		}
		family := unix.AF_INET
		if n.IP.Is6() {
			family = unix.AF_INET6
		}
		nn := &netlink.Neigh{LinkIndex: device, Family: family, State: netlink.NUD_PERMANENT, IP: n.IP.AsSlice(), HardwareAddr: mac}
		if err := k.netlink.NeighSet(nn); err != nil {
			errs = append(errs, fmt.Errorf("adding neighbour %s: %w", n.IP, err))
		}
	}
	for n, old := range found {
		if wanted[n.IP] {
			continue // replaced
		}
		if err := k.netlink.NeighDel(old); err != nil && !errors.Is(err, unix.ENOENT) {
			errs = append(errs, fmt.Errorf("removing neighbour %s: %w", n.IP, err))
		}
	}
	return errors.Join(errs...)
}

func (k *Kernel) forwards(device int, want []Forward) error {
	have, err := k.netlink.NeighList(device, unix.AF_BRIDGE)
	if err != nil {
		return fmt.Errorf("listing forwarding entries: %w", err)
	}
	found := map[Forward]*netlink.Neigh{}
	for i := range have {
		ip, _ := netip.AddrFromSlice(have[i].IP)
		found[Forward{have[i].HardwareAddr.String(), ip.Unmap()}] = &have[i]
	}
	var errs, late []error
	// Away with the old first: a node that changed its address keeps its link
	// address, and an entry is added beside another, not in its place.
	keep := map[Forward]bool{}
	for _, f := range want {
		keep[f] = true
	}
	for f, old := range found {
		if !keep[f] {
			if err := k.netlink.NeighDel(old); err != nil && !errors.Is(err, unix.ENOENT) {
				errs = append(errs, fmt.Errorf("removing forwarding entry of %s: %w", f.MAC, err))
			}
		}
	}
	for _, f := range want {
		if found[f] != nil {
			continue
		}
		mac, err := net.ParseMAC(f.MAC)
		if err != nil {
			return fmt.Errorf("reading link address: %w", err)
		}
		n := &netlink.Neigh{LinkIndex: device, Family: unix.AF_BRIDGE, State: netlink.NUD_PERMANENT, Flags: netlink.NTF_SELF, IP: f.To.AsSlice(), HardwareAddr: mac}
		if err := k.netlink.NeighSet(n); err != nil {
			late = append(late, fmt.Errorf("adding forwarding entry of %s: %w", f.MAC, err))
		}
	}
	return errors.Join(append(errs, late...)...)
}

// UnderlayMTU returns the MTU of the link that has the node's address.
func (k *Kernel) UnderlayMTU(ip netip.Addr) (int, error) {
	links, err := k.netlink.LinkList()
	if err != nil {
		return 0, fmt.Errorf("listing links: %w", err)
	}
	for _, l := range links {
		addrs, err := k.netlink.AddrList(l, netlink.FAMILY_ALL)
		if err != nil {
			return 0, fmt.Errorf("listing addresses of %s: %w", l.Attrs().Name, err)
		}
		for _, a := range addrs {
			if have, ok := netip.AddrFromSlice(a.IP); ok && have.Unmap() == ip {
				return l.Attrs().MTU, nil
			}
		}
	}
	return 0, fmt.Errorf("no link has address %s", ip)
}

// Links tells, until ctx ends, when a link of the calling thread's namespace
// has changed: with a link the kernel drops the routes over it. Changes of
// pods' links are not told.
func Links(ctx context.Context) (<-chan struct{}, error) {
	updates, told := make(chan netlink.LinkUpdate, 16), make(chan struct{}, 1)
	if err := netlink.LinkSubscribe(updates, ctx.Done()); err != nil {
		return nil, fmt.Errorf("watching links: %w", err)
	}
	go func() { // ends when the subscription, with ctx, closes updates
		for u := range updates {
			if u.Link != nil && u.Link.Type() == "veth" {
				continue
			}
			select {
			case told <- struct{}{}:
			default: // told already
			}
		}
	}()
	return told, nil
}
