// Package overlay connects the pods of different nodes: from the Node objects
// it decides which routes, neighbours and tunnel ends this node needs (pure)
// and brings the kernel there.
//
// It reads Nodes (their pod CIDRs and InternalIPs) and the links of its
// network namespace. It writes routes under a protocol number of their own,
// the VXLAN device with its neighbours and forwarding entries, and the tables
// that masquerade what pods send out of the cluster.
package overlay

import (
	"cmp"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"skiff.dev/skiff/internal/nftables"
)

// Mode is how packets get from node to node.
type Mode string

const (
	// HostGW routes to the other node's address. All nodes must share a link.
	HostGW Mode = "host-gw"
	// VXLAN wraps packets in UDP (RFC 7348). Nodes need only reach each other.
	VXLAN Mode = "vxlan"
)

// Config says how the nodes are connected. It has to be the same on all.
type Config struct {
	Mode Mode
	// Device is the name of the VXLAN device; VNI and Port are the tunnel's
	// number (24 bits) and UDP port.
	Device string
	VNI    uint32
	Port   uint16
	// ClusterCIDRs are all pods' addresses. Without them the nodes' pod CIDRs
	// stand for it.
	ClusterCIDRs []netip.Prefix
	// MasqueradeTable is the name of the tables for masquerading.
	MasqueradeTable string
}

// Default returns the configuration of a cluster that asks for nothing else.
func Default() Config {
	return Config{Mode: VXLAN, Device: "skiff-vxlan", VNI: 1, Port: 8472, MasqueradeTable: "skiff-masq"}
}

// What VXLAN adds to a packet: an outer IP header, UDP, VXLAN and an inner
// Ethernet header.
const (
	overheadIPv4 = 20 + 8 + 8 + 14
	overheadIPv6 = 40 + 8 + 8 + 14
)

// MTU returns the largest packet of a pod that fits the nodes' network, whose
// own MTU is given.
func (c Config) MTU(underlay int, nodeIP netip.Addr) int {
	switch {
	case c.Mode != VXLAN:
		return underlay
	case nodeIP.Is6():
		return underlay - overheadIPv6
	}
	return underlay - overheadIPv4
}

// Peer is what a node shows of itself to others.
type Peer struct {
	Name     string
	IPs      []netip.Addr   // InternalIPs, at most one per family, as ordered in its status
	PodCIDRs []netip.Prefix // at most one per family
}

// PeerOf reads a Node. What does not parse is left out, as if not yet set.
func PeerOf(n *corev1.Node) Peer {
	p := Peer{Name: n.Name}
	for _, a := range n.Status.Addresses {
		ip, err := netip.ParseAddr(a.Address)
		if a.Type != corev1.NodeInternalIP || err != nil {
			continue
		}
		if !slices.ContainsFunc(p.IPs, func(o netip.Addr) bool { return o.Is4() == ip.Is4() }) {
			p.IPs = append(p.IPs, ip)
		}
	}
	for _, s := range n.Spec.PodCIDRs {
		if c, err := netip.ParsePrefix(s); err == nil {
			p.PodCIDRs = append(p.PodCIDRs, c.Masked())
		}
	}
	return p
}

func (p *Peer) ip(v4 bool) (netip.Addr, bool) {
	for _, ip := range p.IPs {
		if ip.Is4() == v4 {
			return ip, true
		}
	}
	return netip.Addr{}, false
}

func (p *Peer) podCIDR(v4 bool) (netip.Prefix, bool) {
	for _, c := range p.PodCIDRs {
		if c.Addr().Is4() == v4 {
			return c, true
		}
	}
	return netip.Prefix{}, false
}

// State is what a node's kernel should hold. States are values, rendered as
// the ip and bridge commands would have it.
type State struct {
	Device     *Device
	Routes     []Route
	Neighbours []Neighbour // on the device
	Forwards   []Forward   // on the device
	Masquerade []nftables.Table
}

// Device is the node's end of the tunnel.
type Device struct {
	Name  string
	VNI   uint32
	Port  uint16
	Local netip.Addr
	MAC   string
	Addrs []netip.Addr
}

// Route leads to the pods of another node.
type Route struct {
	Dst  netip.Prefix
	Via  netip.Addr
	Over bool // over the device
}

// Neighbour is the link address of another node's end of the tunnel.
type Neighbour struct {
	IP  netip.Addr
	MAC string
}

// Forward is the node that has a link address.
type Forward struct {
	MAC string
	To  netip.Addr
}

// errNotYet says that the cluster does not know yet where this node is: usual
// while it starts for the first time.
var errNotYet = errors.New("has no InternalIP or no pod CIDR yet")

// Desired decides what the node named self needs. Peers without addresses or
// pod CIDRs have none to reach yet. An error names what cannot be had.
func Desired(c Config, self string, peers []Peer) (State, error) {
	var s State
	i := slices.IndexFunc(peers, func(p Peer) bool { return p.Name == self })
	if i < 0 || len(peers[i].IPs) == 0 || len(peers[i].PodCIDRs) == 0 {
		return s, fmt.Errorf("node %s %w", self, errNotYet)
	}
	me := peers[i]
	s.Masquerade = masquerade(c, me, peers)
	if c.Mode == VXLAN {
		s.Device = &Device{Name: c.Device, VNI: c.VNI, Port: c.Port, Local: me.IPs[0], MAC: tunnelMAC(me.IPs[0])}
		for _, p := range me.PodCIDRs {
			s.Device.Addrs = append(s.Device.Addrs, p.Addr())
		}
	}
	var missing []string
	for _, p := range peers {
		if p.Name == self || len(p.IPs) == 0 || len(p.PodCIDRs) == 0 {
			continue
		}
		if c.Mode == VXLAN {
			if to, ok := p.ip(s.Device.Local.Is4()); ok {
				s.tunnelTo(p, to)
			} else {
				missing = append(missing, p.Name)
			}
			continue
		}
		for _, dst := range p.PodCIDRs {
			if via, ok := p.ip(dst.Addr().Is4()); ok {
				s.Routes = append(s.Routes, Route{Dst: dst, Via: via})
			} else {
				missing = append(missing, p.Name)
			}
		}
	}
	slices.SortFunc(s.Routes, func(a, b Route) int { return a.Dst.Compare(b.Dst) })
	slices.SortFunc(s.Neighbours, func(a, b Neighbour) int { return a.IP.Compare(b.IP) })
	slices.SortFunc(s.Forwards, func(a, b Forward) int { return cmp.Or(a.To.Compare(b.To), cmp.Compare(a.MAC, b.MAC)) })
	if len(missing) > 0 {
		return s, fmt.Errorf("no InternalIP of the family needed on nodes %s", strings.Join(missing, ", "))
	}
	return s, nil
}

// tunnelTo adds the way to a peer: its pods are behind the address of its end
// of the tunnel, that address has its link address, and that is at its node.
func (s *State) tunnelTo(p Peer, to netip.Addr) {
	// The peer makes its link address from its own first address.
	mac := tunnelMAC(p.IPs[0])
	for _, dst := range p.PodCIDRs {
		s.Routes = append(s.Routes, Route{Dst: dst, Via: dst.Addr(), Over: true})
		s.Neighbours = append(s.Neighbours, Neighbour{IP: dst.Addr(), MAC: mac})
	}
	s.Forwards = append(s.Forwards, Forward{MAC: mac, To: to})
}

// tunnelMAC makes a link address from a node's address, so that nobody has to
// tell it to the others.
func tunnelMAC(ip netip.Addr) string {
	mac := net.HardwareAddr{0x0a, 0x59}
	if ip.Is4() {
		return append(mac, ip.AsSlice()...).String()
	}
	sum := sha256.Sum256(ip.AsSlice())
	return append(net.HardwareAddr{0x0e}, sum[:5]...).String()
}

// masquerade returns the tables that give packets the node's address where
// the pod's would not be understood: outside the cluster.
func masquerade(c Config, me Peer, peers []Peer) []nftables.Table {
	var tables []nftables.Table
	for _, f := range []nftables.Family{nftables.IPv4, nftables.IPv6} {
		v4 := f == nftables.IPv4
		mine, ok := me.podCIDR(v4)
		if !ok {
			continue
		}
		nodes := nftables.Set{Name: "node-ips", Key: []nftables.Type{f.Address()}, Comment: "nodes that know the way back to pods"}
		rules := []nftables.Rule{nftables.R(nftables.NotWithin(nftables.SrcAddr, mine), nftables.Return())}
		inside := c.ClusterCIDRs
		for _, p := range peers {
			// Through the tunnel only pods are reached. A node would see its
			// neighbour's pods come in by another link than they are behind.
			if ip, ok := p.ip(v4); ok && c.Mode == HostGW {
				nodes.Elements = append(nodes.Elements, nftables.Element{Key: nftables.Key("").Addr(ip)})
			}
			if len(c.ClusterCIDRs) == 0 {
				inside = append(inside, p.PodCIDRs...)
			}
		}
		for _, cidr := range inside {
			if cidr.Addr().Is4() == v4 {
				rules = append(rules, nftables.R(nftables.Within(nftables.DstAddr, cidr), nftables.Return()))
			}
		}
		multicast := netip.MustParsePrefix("224.0.0.0/4")
		if !v4 {
			multicast = netip.MustParsePrefix("ff00::/8")
		}
		rules = append(rules,
			nftables.R(nftables.In(nodes.Name, nftables.DstAddr), nftables.Return()),
			nftables.R(nftables.Within(nftables.DstAddr, multicast), nftables.Return()),
			nftables.R(nftables.Masquerade()))
		tables = append(tables, nftables.Table{Family: f, Name: c.MasqueradeTable, Sets: []nftables.Set{nodes},
			Chains: []nftables.Chain{{Name: "postrouting", Hook: &nftables.Hook{Type: "nat", Point: nftables.Postrouting, Priority: nftables.PrioritySNAT + 5}, Rules: rules}}})
	}
	return tables
}

// String renders the state as the commands that would lead there.
func (s State) String() string {
	var b strings.Builder
	dev := ""
	if d := s.Device; d != nil {
		dev = d.Name
		fmt.Fprintf(&b, "ip link add %s address %s type vxlan id %d dstport %d local %s nolearning\n", d.Name, d.MAC, d.VNI, d.Port, d.Local)
		for _, a := range d.Addrs {
			fmt.Fprintf(&b, "ip address add %s/%d dev %s\n", a, a.BitLen(), d.Name)
		}
	}
	for _, n := range s.Neighbours {
		fmt.Fprintf(&b, "ip neighbour add %s lladdr %s dev %s nud permanent\n", n.IP, n.MAC, dev)
	}
	for _, f := range s.Forwards {
		fmt.Fprintf(&b, "bridge fdb add %s dev %s dst %s self permanent\n", f.MAC, dev, f.To)
	}
	for _, r := range s.Routes {
		fmt.Fprintf(&b, "ip route add %s via %s", r.Dst, r.Via)
		if r.Over {
			fmt.Fprintf(&b, " dev %s onlink", dev)
		}
		b.WriteByte('\n')
	}
	for _, t := range s.Masquerade {
		b.WriteString(t.String())
	}
	return b.String()
}
