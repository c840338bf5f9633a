package proxy

import (
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"skiff.dev/skiff/internal/nftables"
)

// endpoint is one address of a port with what decides whether it is used.
type endpoint struct {
	addr               netip.AddrPort
	node               string
	ready              bool
	servingTerminating bool
	zones, nodes       []string // hints; empty for none
}

// endpointsOf returns the endpoints that slices hold for the port, each
// address once, in order. While an endpoint moves from one slice to another it
// may be in both: the one that is ready counts.
func endpointsOf(p *Port, proto corev1.Protocol, list []*discoveryv1.EndpointSlice) []endpoint {
	var out []endpoint
	for _, s := range list {
		if (s.AddressType == discoveryv1.AddressTypeIPv4) != (p.Family == nftables.IPv4) || s.AddressType == discoveryv1.AddressTypeFQDN {
			continue
		}
		for i := range s.Ports {
			sp := &s.Ports[i]
			if sp.Port == nil || *sp.Port == 0 || value(sp.Name) != p.PortName.Port || sp.Protocol != nil && *sp.Protocol != proto {
				continue
			}
			for j := range s.Endpoints {
				if e, ok := endpointOf(&s.Endpoints[j], uint16(*sp.Port)); ok {
					out = append(out, e)
				}
			}
		}
	}
	slices.SortStableFunc(out, func(a, b endpoint) int {
		if c := a.addr.Compare(b.addr); c != 0 {
			return c
		}
		return rank(a) - rank(b)
	})
	return slices.CompactFunc(out, func(a, b endpoint) bool { return a.addr == b.addr })
}

func rank(e endpoint) int {
	switch {
	case e.ready:
		return 0
	case e.servingTerminating:
		return 1
	}
	return 2
}

// endpointOf reads the conditions: ready and serving default to true,
// terminating to false (discovery/v1 EndpointConditions).
func endpointOf(e *discoveryv1.Endpoint, port uint16) (endpoint, bool) {
	if len(e.Addresses) == 0 {
		return endpoint{}, false
	}
	// All addresses of an endpoint are one backend; the first stands for it.
	addr, err := netip.ParseAddr(e.Addresses[0])
	if err != nil {
		return endpoint{}, false
	}
	c := e.Conditions
	out := endpoint{
		addr:               netip.AddrPortFrom(addr, port),
		node:               value(e.NodeName),
		ready:              c.Ready == nil || *c.Ready,
		servingTerminating: (c.Serving == nil || *c.Serving) && c.Terminating != nil && *c.Terminating,
	}
	if e.Hints != nil {
		for _, z := range e.Hints.ForZones {
			out.zones = append(out.zones, z.Name)
		}
		for _, n := range e.Hints.ForNodes {
			out.nodes = append(out.nodes, n.Name)
		}
	}
	return out, true
}

// clusterEndpoints are the ready ones, near ones only where hints say so. If
// none is ready, those that terminate but still serve (KEP-1669).
func clusterEndpoints(all []endpoint, node Node) []netip.AddrPort {
	if ready := pick(all, func(e endpoint) bool { return e.ready }); len(ready) > 0 {
		return addrs(nearest(ready, node))
	}
	return addrs(pick(all, func(e endpoint) bool { return e.servingTerminating }))
}

// localEndpoints are the ready ones on the node; if none is ready, those that
// terminate but still serve.
func localEndpoints(all []endpoint, node Node) []netip.AddrPort {
	here := pick(all, func(e endpoint) bool { return node.Name != "" && e.node == node.Name })
	if ready := pick(here, func(e endpoint) bool { return e.ready }); len(ready) > 0 {
		return addrs(ready)
	}
	return addrs(pick(here, func(e endpoint) bool { return e.servingTerminating }))
}

// nearest follows the hints, first for the node, then for its zone. Hints
// count only if every endpoint has one and at least one endpoint is left:
// anything else is a state in passing, in which all endpoints are used
// (KEP-2433, KEP-3015).
func nearest(ready []endpoint, node Node) []endpoint {
	if !slices.ContainsFunc(ready, func(e endpoint) bool { return len(e.nodes) == 0 }) {
		if near := pick(ready, func(e endpoint) bool { return slices.Contains(e.nodes, node.Name) }); len(near) > 0 {
			return near
		}
	}
	if node.Zone != "" && !slices.ContainsFunc(ready, func(e endpoint) bool { return len(e.zones) == 0 }) {
		if near := pick(ready, func(e endpoint) bool { return slices.Contains(e.zones, node.Zone) }); len(near) > 0 {
			return near
		}
	}
	return ready
}

func pick(list []endpoint, keep func(endpoint) bool) []endpoint {
	var out []endpoint
	for _, e := range list {
		if keep(e) {
			out = append(out, e)
		}
	}
	return out
}

func addrs(list []endpoint) []netip.AddrPort {
	var out []netip.AddrPort
	for _, e := range list {
		out = append(out, e.addr)
	}
	return out
}

func value(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}
