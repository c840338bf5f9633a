package proxy

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"skiff.dev/skiff/internal/nftables"
)

// Conntrack forgets connections. Rules decide where a connection goes only
// when it starts; UDP has no end that a client would notice, so without this
// it would go on sending to an endpoint that is gone.
type Conntrack interface {
	// Forget deletes the flows that are stale and returns how many.
	Forget(ctx context.Context, f Flows) (int, error)
}

// Flows tells stale UDP flows from others: by where a flow was sent to, the
// endpoints it may have arrived at.
type Flows struct {
	At     map[netip.AddrPort][]netip.AddrPort
	AtNode map[uint16][]netip.AddrPort // by node port
	Node   []netip.Addr                // addresses that have the node ports
}

func (f Flows) any() bool { return len(f.At) > 0 || len(f.AtNode) > 0 }

// staleFlows returns what to look at after the update.
func staleFlows(u *Update) Flows {
	f := Flows{At: map[netip.AddrPort][]netip.AddrPort{}, AtNode: map[uint16][]netip.AddrPort{}, Node: u.Node.NodePortAddresses}
	for _, k := range u.Changed {
		for _, p := range u.All[k] {
			if p.Proto != nftables.UDP {
				continue
			}
			valid := slices.Concat(p.Cluster, p.Local)
			for _, a := range append(p.outside(), p.ClusterIP) {
				at := netip.AddrPortFrom(a, p.Port)
				f.At[at] = append(f.At[at], valid...)
			}
			if p.NodePort != 0 {
				f.AtNode[p.NodePort] = append(f.AtNode[p.NodePort], valid...)
			}
		}
	}
	return f
}

// Stale reports whether a UDP flow sent to an address, and answered from
// another, goes where it no longer should.
func (f Flows) Stale(sentTo, answeredFrom netip.AddrPort) bool {
	valid, ok := f.At[sentTo]
	if !ok {
		if valid, ok = f.AtNode[sentTo.Port()]; !ok || !slices.Contains(f.Node, sentTo.Addr()) {
			return false
		}
	}
	if sentTo == answeredFrom && len(valid) == 0 {
		return false // it began without an endpoint, and there still is none
	}
	return !slices.Contains(valid, answeredFrom)
}

// KernelConntrack is the connection tracking of a network namespace.
type KernelConntrack struct{ handle *netlink.Handle }

// OpenConntrack returns the connection tracking of the calling thread's
// network namespace.
func OpenConntrack() (*KernelConntrack, error) {
	h, err := netlink.NewHandle(unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, fmt.Errorf("opening conntrack socket: %w", err)
	}
	return &KernelConntrack{h}, nil
}

// Close closes the socket.
func (c *KernelConntrack) Close() { c.handle.Close() }

// Forget implements Conntrack.
func (c *KernelConntrack) Forget(_ context.Context, f Flows) (int, error) {
	total := 0
	for _, family := range []netlink.InetFamily{unix.AF_INET, unix.AF_INET6} {
		n, err := c.handle.ConntrackDeleteFilters(netlink.ConntrackTable, family, staleFilter{f})
		total += int(n)
		if err != nil {
			return total, fmt.Errorf("deleting UDP flows: %w", err)
		}
	}
	return total, nil
}

type staleFilter struct{ flows Flows }

// MatchConntrackFlow implements netlink.CustomConntrackFilter.
func (s staleFilter) MatchConntrackFlow(f *netlink.ConntrackFlow) bool {
	return f.Forward.Protocol == unix.IPPROTO_UDP &&
		s.flows.Stale(addrPort(f.Forward.DstIP, f.Forward.DstPort), addrPort(f.Reverse.SrcIP, f.Reverse.SrcPort))
}

func addrPort(ip net.IP, port uint16) netip.AddrPort {
	a, _ := netip.AddrFromSlice(ip) // the zero address is nobody's
	return netip.AddrPortFrom(a.Unmap(), port)
}
