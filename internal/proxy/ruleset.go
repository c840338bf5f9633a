package proxy

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"skiff.dev/skiff/internal/nftables"
)

// NFTConfig says how the nftables mode marks and recognizes traffic.
type NFTConfig struct {
	// Table is the name of the tables, one per family.
	Table string
	// MasqueradeBit is the bit of the packet mark that asks for masquerading
	// (0 to 31). Nothing else on the host may use it.
	MasqueradeBit uint8
	// MasqueradeAll masquerades everything that goes to a cluster IP.
	MasqueradeAll bool
	// NodePortsEverywhere answers on all addresses of the node but loopback.
	NodePortsEverywhere bool
}

// nft decides the ruleset of the nftables mode. It is a value: rules depend on
// it and on ports alone.
type nft struct {
	NFTConfig
	node Node
}

// The sets and maps of the table. The first three are what every packet that
// starts a connection is looked up in, whatever the number of Services.
const (
	serviceIPs      = "service-ips"           // address . proto . port : goto chain
	nodePorts       = "service-nodeports"     // proto . port : goto chain
	nodePortIPs     = "nodeport-ips"          // address
	clusterIPSet    = "cluster-ips"           // address
	noEndpointIPs   = "no-endpoint-services"  // address . proto . port : drop or goto reject
	noEndpointPorts = "no-endpoint-nodeports" // proto . port : drop or goto reject
	endpointMap     = "endpoints"             // choice : address . port
	hairpins        = "hairpins"              // address . address
	firewallIPs     = "firewall-ips"          // address . proto . port : goto chain
	markChain       = "mark-for-masquerade"
	rejectChain     = "reject"
)

// Priorities beside nft's own: before destinations are rewritten and after.
const (
	beforeDNAT = nftables.PriorityDNAT - 10
	afterDNAT  = nftables.PriorityDNAT + 10
)

func (c *nft) table(f nftables.Family) nftables.Table {
	return nftables.Table{Family: f, Name: c.Table}
}

func (c *nft) markBit() uint32 { return 1 << c.MasqueradeBit }

// baseRules is the part of the table that is there without any Service: the
// way of a packet through the maps.
func (c *nft) baseRules(f nftables.Family) nftables.Table {
	t := c.table(f)
	t.Sets = c.sets(f)
	for i := range t.Sets {
		if t.Sets[i].Name != nodePortIPs {
			continue
		}
		for _, a := range c.node.NodePortAddresses {
			if familyOf(a) == f {
				t.Sets[i].Elements = append(t.Sets[i].Elements, nftables.Element{Key: nftables.Key("").Addr(a)})
			}
		}
	}
	hook := func(typ string, p nftables.HookPoint, prio int32) *nftables.Hook {
		return &nftables.Hook{Type: typ, Point: p, Priority: prio}
	}
	check := func(chain string) nftables.Rule { return nftables.R(nftables.StateNew, nftables.Jump(chain)) }
	t.Chains = []nftables.Chain{
		// Refuse whom loadBalancerSourceRanges does not name, while the
		// destination still is the load balancer's.
		{Name: "filter-prerouting", Hook: hook("filter", nftables.Prerouting, beforeDNAT), Rules: []nftables.Rule{check("firewall-check")}},
		{Name: "filter-output", Hook: hook("filter", nftables.Output, beforeDNAT), Rules: []nftables.Rule{check("firewall-check")}},
		{Name: "firewall-check", Rules: []nftables.Rule{
			nftables.R(nftables.Dispatch(firewallIPs, nftables.DstAddr, nftables.L4Proto, nftables.DstPort))}},
		// Choose an endpoint.
		{Name: "nat-prerouting", Hook: hook("nat", nftables.Prerouting, nftables.PriorityDNAT), Rules: []nftables.Rule{nftables.R(nftables.Jump("services"))}},
		{Name: "nat-output", Hook: hook("nat", nftables.Output, nftables.PriorityDNAT), Rules: []nftables.Rule{nftables.R(nftables.Jump("services"))}},
		{Name: "services", Rules: []nftables.Rule{
			nftables.R(nftables.Dispatch(serviceIPs, nftables.DstAddr, nftables.L4Proto, nftables.DstPort)),
			nftables.R(append(c.toNodePorts(f), nftables.Dispatch(nodePorts, nftables.L4Proto, nftables.DstPort))...)}},
		// What still has a Service's address now has no endpoint to go to.
		{Name: "filter-input", Hook: hook("filter", nftables.Input, nftables.PriorityFilter), Rules: []nftables.Rule{check("endpoints-check")}},
		{Name: "filter-forward", Hook: hook("filter", nftables.Forward, nftables.PriorityFilter), Rules: []nftables.Rule{check("endpoints-check"), check("cluster-ips-check")}},
		{Name: "filter-output-post-dnat", Hook: hook("filter", nftables.Output, afterDNAT), Rules: []nftables.Rule{check("endpoints-check"), check("cluster-ips-check")}},
		{Name: "endpoints-check", Rules: []nftables.Rule{
			nftables.R(nftables.Dispatch(noEndpointIPs, nftables.DstAddr, nftables.L4Proto, nftables.DstPort)),
			nftables.R(append(c.toNodePorts(f), nftables.Dispatch(noEndpointPorts, nftables.L4Proto, nftables.DstPort))...)}},
		{Name: "cluster-ips-check", Rules: []nftables.Rule{
			nftables.R(nftables.In(clusterIPSet, nftables.DstAddr), nftables.Goto(rejectChain)).Noted("no such port")}},
		{Name: rejectChain, Rules: []nftables.Rule{nftables.R(nftables.Reject())}},
		// Masquerade what was marked on the way.
		{Name: "nat-postrouting", Hook: hook("nat", nftables.Postrouting, nftables.PrioritySNAT), Rules: []nftables.Rule{
			// A pod that reaches itself must see another's address, or it
			// would answer itself past the translation.
			nftables.R(nftables.StatusDNAT, nftables.In(hairpins, nftables.SrcAddr, nftables.DstAddr), nftables.Masquerade()),
			nftables.R(nftables.NotMarked(c.markBit()), nftables.Return()),
			nftables.R(nftables.ClearMark(c.markBit())),
			nftables.R(nftables.Masquerade())}},
		{Name: markChain, Rules: []nftables.Rule{nftables.R(nftables.SetMark(c.markBit()))}},
	}
	return t
}

// sets returns the heads of the sets and maps.
func (c *nft) sets(f nftables.Family) []nftables.Set {
	triple := []nftables.Type{f.Address(), nftables.TypeProto, nftables.TypePort}
	pair := triple[1:]
	return []nftables.Set{
		{Name: clusterIPSet, Key: triple[:1], Comment: "all active cluster IPs"},
		{Name: nodePortIPs, Key: triple[:1], Comment: "addresses that accept node port traffic"},
		{Name: serviceIPs, Map: true, Key: triple, Comment: "cluster, external and load balancer IP traffic"},
		{Name: nodePorts, Map: true, Key: pair, Comment: "node port traffic"},
		{Name: noEndpointIPs, Map: true, Key: triple, Comment: "what to do with traffic to services without endpoints"},
		{Name: noEndpointPorts, Map: true, Key: pair, Comment: "what to do with traffic to node ports without endpoints"},
		{Name: endpointMap, Key: nftables.ChoiceTypes(), Value: f.AddrPortTypes(), Comment: "endpoints of ports that have several"},
		{Name: hairpins, Key: []nftables.Type{f.Address(), f.Address()}, Comment: "endpoints on this node, each with itself"},
		{Name: firewallIPs, Map: true, Key: triple, Comment: "load balancer IPs with source ranges"},
	}
}

func (c *nft) toNodePorts(f nftables.Family) []nftables.Expr {
	if !c.NodePortsEverywhere {
		return []nftables.Expr{nftables.In(nodePortIPs, nftables.DstAddr)}
	}
	loopback := netip.MustParsePrefix("127.0.0.0/8")
	if f == nftables.IPv6 {
		loopback = netip.MustParsePrefix("::1/128")
	}
	return []nftables.Expr{nftables.Local(nftables.DstAddr), nftables.NotWithin(nftables.DstAddr, loopback)}
}

// podCIDR returns the family's pod addresses, if known.
func (c *nft) podCIDR(f nftables.Family) (netip.Prefix, bool) {
	for _, p := range c.node.PodCIDRs {
		if familyOf(p.Addr()) == f {
			return p, true
		}
	}
	return netip.Prefix{}, false
}

// portRules collects the part of the table that serves one port.
type portRules struct {
	*nft
	port *Port
	// owns reports whether a claim is this port's: two Services may name one
	// external IP or the like.
	owns func(claim) bool
	part nftables.Table
	sets map[string]int // index into part.Sets
	seen map[claim]bool // elements the part has
}

// claim is something only one port can have: an address it answers on, or an
// element that several ports would add alike.
type claim struct {
	set string
	key nftables.Key
}

// claims returns all a port would like to have.
func claims(p *Port) []claim {
	list := []claim{{clusterIPSet, nftables.Key("").Addr(p.ClusterIP)}, {serviceIPs, p.at(p.ClusterIP)}}
	for _, a := range p.outside() {
		list = append(list, claim{serviceIPs, p.at(a)})
	}
	if p.NodePort != 0 {
		list = append(list, claim{nodePorts, p.atNode()})
	}
	for _, e := range p.Local {
		list = append(list, claim{hairpins, hairpin(e.Addr())})
	}
	return list
}

// claimOn returns the claim that an element of a set stands under: what
// happens at an address is decided by the one port that has it.
func claimOn(set string, key nftables.Key) claim {
	switch set {
	case noEndpointIPs, firewallIPs:
		return claim{serviceIPs, key}
	case noEndpointPorts:
		return claim{nodePorts, key}
	}
	return claim{set, key}
}

// at returns the key of an address of the port.
func (p *Port) at(a netip.Addr) nftables.Key {
	return nftables.Key("").Addr(a).Proto(p.Proto).Port(p.Port)
}

func (p *Port) atNode() nftables.Key { return nftables.Key("").Proto(p.Proto).Port(p.NodePort) }

func hairpin(a netip.Addr) nftables.Key { return nftables.Key("").Addr(a).Addr(a) }

// outside returns the addresses beside the cluster IP and the node's.
func (p *Port) outside() []netip.Addr {
	return append(slices.Clone(p.ExternalIPs), p.LoadBalancerIPs...)
}

// rulesOf returns the part of the table that serves one port, and no more
// than is used: chains for local or external traffic are there only where
// some address leads to them.
func (c *nft) rulesOf(p *Port, owns func(claim) bool) nftables.Table {
	r := &portRules{nft: c, port: p, owns: owns, part: c.table(p.Family), sets: map[string]int{}, seen: map[claim]bool{}}
	r.part.Sets = c.sets(p.Family)
	for i := range r.part.Sets {
		r.sets[r.part.Sets[i].Name] = i
	}
	r.clusterIP()
	r.external()
	r.firewall()
	r.endpointChains()
	r.part.Sets = slices.DeleteFunc(r.part.Sets, func(s nftables.Set) bool { return s.Timeout == 0 && len(s.Elements) == 0 })
	return r.part
}

func (r *portRules) name(kind string) string { return kind + "-" + r.port.PortName.String() }

func (r *portRules) element(set string, key nftables.Key, v nftables.Verdict) {
	if at := (claim{set, key}); !r.seen[at] && r.owns(claimOn(set, key)) {
		r.seen[at] = true
		s := &r.part.Sets[r.sets[set]]
		s.Elements = append(s.Elements, nftables.Element{Key: key, Verdict: v})
	}
}

func (r *portRules) chain(name string, rules ...nftables.Rule) {
	r.part.Chains = append(r.part.Chains, nftables.Chain{Name: name, Rules: rules})
}

// none is what happens to traffic that may not go to any endpoint. If there
// are some elsewhere it is dropped: a client that retries may soon find one.
func (r *portRules) none() nftables.Verdict {
	if len(r.port.Cluster) > 0 {
		return nftables.Drop()
	}
	return nftables.Goto(rejectChain)
}

func (r *portRules) clusterIP() {
	p := r.port
	r.element(clusterIPSet, nftables.Key("").Addr(p.ClusterIP), nftables.Verdict{})
	list, kind := p.Cluster, "service"
	if p.InternalLocal {
		list, kind = p.Local, "local"
	}
	if len(list) == 0 {
		r.element(noEndpointIPs, p.at(p.ClusterIP), r.none())
		return
	}
	r.element(serviceIPs, p.at(p.ClusterIP), nftables.Goto(r.name("internal")))
	var rules []nftables.Rule
	if r.MasqueradeAll {
		rules = append(rules, nftables.R(nftables.Jump(markChain)))
	} else if cidr, ok := r.podCIDR(p.Family); ok {
		rules = append(rules, nftables.R(nftables.NotWithin(nftables.SrcAddr, cidr), nftables.Jump(markChain)))
	}
	r.chain(r.name("internal"), append(rules, nftables.R(nftables.Goto(r.name(kind))))...)
}

// external serves external, load balancer and node addresses.
func (r *portRules) external() {
	p := r.port
	ips := p.outside()
	if len(ips) == 0 && p.NodePort == 0 {
		return
	}
	list := p.Cluster
	if p.ExternalLocal {
		list = p.Local
	}
	if len(list) == 0 {
		for _, a := range ips {
			r.element(noEndpointIPs, p.at(a), r.none())
		}
		if p.NodePort != 0 {
			r.element(noEndpointPorts, p.atNode(), r.none())
		}
	}
	if len(p.Cluster) == 0 && len(p.Local) == 0 {
		return
	}
	chain := r.name("external")
	for _, a := range ips {
		r.element(serviceIPs, p.at(a), nftables.Goto(chain))
	}
	if p.NodePort != 0 {
		r.element(nodePorts, p.atNode(), nftables.Goto(chain))
	}
	r.chain(chain, r.externalRules()...)
}

func (r *portRules) externalRules() []nftables.Rule {
	p, mark := r.port, nftables.Jump(markChain)
	if !p.ExternalLocal {
		return []nftables.Rule{nftables.R(mark), nftables.R(nftables.Goto(r.name("service")))}
	}
	var rules []nftables.Rule
	if len(p.Cluster) > 0 {
		// Pods and the node itself are inside the cluster, and may go to any
		// endpoint even by an outside address.
		anywhere := nftables.Goto(r.name("service"))
		if cidr, ok := r.podCIDR(p.Family); ok {
			rules = append(rules, nftables.R(nftables.Within(nftables.SrcAddr, cidr), anywhere).Noted("short-circuit pod traffic"))
		}
		rules = append(rules,
			nftables.R(nftables.Local(nftables.SrcAddr), mark),
			nftables.R(nftables.Local(nftables.SrcAddr), anywhere).Noted("short-circuit node traffic"))
	}
	if len(p.Local) > 0 {
		rules = append(rules, nftables.R(nftables.Goto(r.name("local"))))
	}
	return rules
}

// firewall lets only the sources named use the load balancer's addresses.
func (r *portRules) firewall() {
	p := r.port
	if len(p.SourceRanges) == 0 || len(p.LoadBalancerIPs) == 0 {
		return
	}
	var rules []nftables.Rule
	for _, s := range p.SourceRanges {
		rules = append(rules, nftables.R(nftables.Within(nftables.SrcAddr, s), nftables.Return()))
	}
	r.chain(r.name("firewall"), append(rules, nftables.R(nftables.Drop()))...)
	for _, a := range p.LoadBalancerIPs {
		r.element(firewallIPs, p.at(a), nftables.Goto(r.name("firewall")))
	}
}

// endpointChains adds the chains that choose among endpoints.
func (r *portRules) endpointChains() {
	p := r.port
	for _, e := range p.Local {
		r.element(hairpins, hairpin(e.Addr()), nftables.Verdict{})
	}
	choose := r.choose
	if p.Affinity != 0 {
		choose = r.chooseByClient
	}
	outside := len(p.outside()) > 0 || p.NodePort != 0
	if len(p.Cluster) > 0 && (!p.InternalLocal || outside) {
		choose("service", p.Cluster)
	}
	if len(p.Local) > 0 && (p.InternalLocal || p.ExternalLocal && outside) {
		choose("local", p.Local)
	}
}

// choose adds the chain that sends a connection to any of the endpoints, in
// one step however many there are.
func (r *portRules) choose(kind string, list []netip.AddrPort) {
	proto := nftables.Is(nftables.L4Proto, nftables.Key("").Proto(r.port.Proto))
	if len(list) == 1 {
		r.chain(r.name(kind), nftables.R(proto, nftables.DNAT(list[0])))
		return
	}
	id := idOf(r.name(kind))
	s := &r.part.Sets[r.sets[endpointMap]]
	for i, e := range list {
		s.Elements = append(s.Elements, nftables.Element{
			Key: nftables.Choice(id, i), Value: nftables.Key("").Addr(e.Addr()).Port(e.Port())})
	}
	r.chain(r.name(kind), nftables.R(proto, nftables.DNATByMap(endpointMap, id, len(list))))
}

// idOf is a hash that nobody can make two names share: who could choose the
// ID of a Service would choose its endpoints.
func idOf(name string) (id nftables.ID) {
	sum := sha256.Sum256([]byte(name))
	for i := range id {
		id[i] = binary.BigEndian.Uint32(sum[4*i:])
	}
	return id
}

// chooseByClient adds the chain that sends a client to the endpoint it had
// before. Each endpoint has a chain and a set of its clients, so that both go
// with it.
func (r *portRules) chooseByClient(kind string, list []netip.AddrPort) {
	var rules []nftables.Rule
	chains := make([]string, len(list))
	for i, e := range list {
		chains[i] = r.endpointName("endpoint", e)
		set := r.affinitySet(e)
		rules = append(rules, nftables.R(nftables.In(set, nftables.SrcAddr), nftables.Goto(chains[i])))
		if _, ok := r.sets[set]; ok {
			continue // the endpoint serves both the cluster and the node
		}
		r.sets[set] = len(r.part.Sets)
		r.part.Sets = append(r.part.Sets, nftables.Set{Name: set, Key: []nftables.Type{r.port.Family.Address()}, Timeout: r.port.Affinity})
		r.chain(chains[i],
			nftables.R(nftables.Update(set, nftables.SrcAddr)),
			nftables.R(nftables.Is(nftables.L4Proto, nftables.Key("").Proto(r.port.Proto)), nftables.DNAT(e)))
	}
	r.chain(r.name(kind), append(rules, nftables.R(nftables.Balance(chains...)))...)
}

func (r *portRules) endpointName(kind string, e netip.AddrPort) string {
	// nft takes no colon in a name.
	return fmt.Sprintf("%s__%s/%d", r.name(kind), strings.ReplaceAll(e.Addr().String(), ":", "."), e.Port())
}

// affinitySet names the set of clients that stay with the endpoint. The time
// is part of the name, for a set's time cannot be changed.
func (r *portRules) affinitySet(e netip.AddrPort) string {
	return fmt.Sprintf("%s/%ds", r.endpointName("affinity", e), int(r.port.Affinity.Seconds()))
}
