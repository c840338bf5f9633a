package cni

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"skiff.dev/skiff/internal/nftables"
)

// Host ports come before Services: they are what this node was asked for.
const beforeServices = nftables.PriorityDNAT - 5

// priorityRaw is before connection tracking gives translated packets their
// first addresses back.
const priorityRaw = -300

// hostPorts returns the table that serves the host ports of all attachments.
// A port on one address goes before the same port on all.
func hostPorts(f nftables.Family, name string, all []*attachment) nftables.Table {
	here := []nftables.Type{f.Address(), nftables.TypeProto, nftables.TypePort}
	t := nftables.Table{Family: f, Name: name, Sets: []nftables.Set{
		{Name: "ports", Map: true, Key: here[1:], Comment: "host ports on all addresses"},
		{Name: "addresses", Map: true, Key: here, Comment: "host ports on one address"},
		{Name: "hairpins", Key: []nftables.Type{f.Address(), f.Address()}, Comment: "pods with host ports, each with itself"},
	}}
	ports, addresses, hairpins := &t.Sets[0], &t.Sets[1], &t.Sets[2]
	seen := map[nftables.Element]bool{}
	add := func(s *nftables.Set, e nftables.Element) {
		// Two pods never have one host port: the scheduler and the kubelet see
		// to it. Should they while one goes, the older record stays.
		if id := (nftables.Element{Key: nftables.Key(s.Name) + e.Key}); !seen[id] {
			seen[id] = true
			s.Elements = append(s.Elements, e)
		}
	}
	for _, a := range all {
		i := slices.IndexFunc(a.IPs, func(ip netip.Addr) bool { return ip.Is4() == (f == nftables.IPv4) })
		if i < 0 {
			continue
		}
		for _, m := range a.Ports {
			proto, err := protoOf(m.Protocol)
			hostIP, ok := hostIPOf(m, f)
			if err != nil || !ok || m.HostPort == 0 {
				continue
			}
			to := netip.AddrPortFrom(a.IPs[i], m.ContainerPort)
			chain := fmt.Sprintf("to-%s/%s/%d", strings.ReplaceAll(to.Addr().String(), ":", "."), proto, to.Port())
			if !slices.ContainsFunc(t.Chains, func(c nftables.Chain) bool { return c.Name == chain }) {
				t.Chains = append(t.Chains, nftables.Chain{Name: chain, Rules: []nftables.Rule{
					nftables.R(nftables.Is(nftables.L4Proto, nftables.Key("").Proto(proto)), nftables.DNAT(to)).Noted(a.Container)}})
			}
			add(hairpins, nftables.Element{Key: nftables.Key("").Addr(to.Addr()).Addr(to.Addr())})
			if hostIP.IsValid() {
				add(addresses, nftables.Element{Key: nftables.Key("").Addr(hostIP).Proto(proto).Port(m.HostPort), Verdict: nftables.Goto(chain)})
			} else {
				add(ports, nftables.Element{Key: nftables.Key("").Proto(proto).Port(m.HostPort), Verdict: nftables.Goto(chain)})
			}
		}
	}
	t.Chains = append(t.Chains, hostPortChains(f)...)
	return t
}

func hostPortChains(f nftables.Family) []nftables.Chain {
	loopback := netip.MustParsePrefix("127.0.0.0/8")
	if f == nftables.IPv6 {
		loopback = netip.MustParsePrefix("::1/128")
	}
	hook := func(typ string, p nftables.HookPoint, prio int32) *nftables.Hook {
		return &nftables.Hook{Type: typ, Point: p, Priority: prio}
	}
	return []nftables.Chain{
		// Links to pods with host ports may carry loopback addresses, for
		// host ports on 127.0.0.1, but only towards the pod (CVE-2020-8558).
		{Name: "guard", Hook: hook("filter", nftables.Prerouting, priorityRaw), Rules: []nftables.Rule{
			nftables.R(nftables.IsNot(nftables.InIface, nftables.Key("").Iface("lo")), nftables.Within(nftables.DstAddr, loopback), nftables.Drop())}},
		{Name: "prerouting", Hook: hook("nat", nftables.Prerouting, beforeServices), Rules: []nftables.Rule{nftables.R(nftables.Jump("hostports"))}},
		{Name: "output", Hook: hook("nat", nftables.Output, beforeServices), Rules: []nftables.Rule{nftables.R(nftables.Jump("hostports"))}},
		{Name: "hostports", Rules: []nftables.Rule{
			nftables.R(nftables.Dispatch("addresses", nftables.DstAddr, nftables.L4Proto, nftables.DstPort)),
			nftables.R(nftables.Local(nftables.DstAddr), nftables.Dispatch("ports", nftables.L4Proto, nftables.DstPort))}},
		{Name: "postrouting", Hook: hook("nat", nftables.Postrouting, nftables.PrioritySNAT-5), Rules: []nftables.Rule{
			nftables.R(nftables.StatusDNAT, nftables.In("hairpins", nftables.SrcAddr, nftables.DstAddr), nftables.Masquerade()),
			nftables.R(nftables.StatusDNAT, nftables.Within(nftables.SrcAddr, loopback), nftables.Masquerade())}},
	}
}

func protoOf(name string) (nftables.Proto, error) {
	switch strings.ToLower(name) {
	case "tcp", "":
		return nftables.TCP, nil
	case "udp":
		return nftables.UDP, nil
	case "sctp":
		return nftables.SCTP, nil
	}
	return 0, fmt.Errorf("no such protocol: %q", name)
}

// hostIPOf returns the address the mapping is bound to, the zero address for
// all of them; ok is false if it is of the other family.
func hostIPOf(m PortMapping, f nftables.Family) (ip netip.Addr, ok bool) {
	if m.HostIP == "" {
		return netip.Addr{}, true
	}
	ip, err := netip.ParseAddr(m.HostIP)
	if err != nil || ip.Is4() != (f == nftables.IPv4) {
		return netip.Addr{}, false
	}
	if ip.IsUnspecified() {
		ip = netip.Addr{}
	}
	return ip, true
}

// openHostPorts makes the tables serve a new attachment with the others.
func (n *Network) openHostPorts(s *state, a *attachment) error {
	if err := n.syncHostPorts(s); err != nil {
		return err
	}
	// After the guard is there, never before.
	return setSysctl("ipv4/conf/"+a.Veth+"/route_localnet", "1")
}

// syncHostPorts makes the tables serve the attachments there are, but for
// those named, and deletes them when no host port is left.
func (n *Network) syncHostPorts(s *state, without ...string) error {
	all, err := s.list()
	if err != nil {
		return err
	}
	all = slices.DeleteFunc(all, func(a *attachment) bool { return len(a.Ports) == 0 || slices.Contains(without, a.name()) })
	k, err := nftables.Open()
	if err != nil {
		return err
	}
	defer k.Close()
	ctx := context.Background()
	for _, p := range n.PodCIDRs {
		f := nftables.IPv4
		if p.Addr().Is6() {
			f = nftables.IPv6
		}
		if len(all) == 0 {
			err = errors.Join(err, k.Apply(ctx, nftables.Delete(f, n.HostPortTable)))
			continue
		}
		_, e := nftables.Sync(ctx, k, hostPorts(f, n.HostPortTable, all))
		err = errors.Join(err, e)
	}
	return err
}
