package dns

import (
	"math/rand/v2"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// Source is what the cluster's zone is answered from. Lookups are by index;
// objects are shared and read-only.
type Source interface {
	// Synced reports whether everything has been loaded once. Until then a
	// name that is not found may exist.
	Synced() bool
	// HasNamespace reports whether a namespace exists.
	HasNamespace(name string) bool
	// Service returns a Service, nil if there is none.
	Service(namespace, name string) *corev1.Service
	// EndpointSlices returns the slices of a Service.
	EndpointSlices(namespace, service string) []*discoveryv1.EndpointSlice
	// ServicesByIP returns the Services that have ip as a cluster IP.
	ServicesByIP(ip string) []*corev1.Service
	// EndpointSlicesByIP returns the slices that have an endpoint with the
	// address.
	EndpointSlicesByIP(ip string) []*discoveryv1.EndpointSlice
}

// specVersion is the version of the Kubernetes DNS specification followed.
const specVersion = "1.1.0"

// zone answers for the cluster's domain, and for addresses in reverse. It is
// pure: what the source holds in, records out.
type zone struct {
	domain string       // canonical: lower case, with the final dot
	ttl    uint32       // seconds
	addrs  []netip.Addr // of the server itself, for its NS record
	src    Source
}

// reply is the answer to one question.
type reply struct {
	rcode  int
	answer []dns.RR
	extra  []dns.RR
	// chase is a name outside the zone that the answer ends in: a CNAME's
	// target, which the server resolves too if it can.
	chase string
}

// found is the reply to a name that exists, whatever records it has.
func found(rrs ...dns.RR) reply { return reply{rcode: dns.RcodeSuccess, answer: rrs} }

// missing is the reply to a name that does not exist. While the source has
// not been loaded nobody can say so.
func (z *zone) missing() reply {
	if !z.src.Synced() {
		return reply{rcode: dns.RcodeServerFailure}
	}
	return reply{rcode: dns.RcodeNameError}
}

// answer answers for a name in the zone. The name is canonical.
func (z *zone) answer(name string, qtype uint16) reply {
	if name == z.domain {
		switch qtype {
		case dns.TypeSOA:
			return found(z.soa())
		case dns.TypeNS:
			r := found(&dns.NS{Hdr: z.head(name, dns.TypeNS), Ns: "ns.dns." + z.domain})
			r.extra = z.hosts("ns.dns."+z.domain, z.addrs, 0)
			return r
		}
		return found()
	}
	labels := dns.SplitDomainName(strings.TrimSuffix(name, z.domain))
	n := len(labels)
	switch last := labels[n-1]; {
	case last == "dns-version" && n == 1:
		if qtype == dns.TypeTXT {
			return found(&dns.TXT{Hdr: z.head(name, dns.TypeTXT), Txt: []string{specVersion}})
		}
		return found()
	case last == "dns" && n == 1:
		return found()
	case last == "dns" && n == 2 && labels[0] == "ns":
		return found(z.hosts(name, z.addrs, qtype)...)
	case last != "svc" && last != "pod":
		return reply{rcode: dns.RcodeNameError} // no other names, whatever the source holds
	case n == 1:
		return found()
	case n == 2:
		if !z.src.HasNamespace(labels[0]) {
			return z.missing()
		}
		return found()
	case last == "pod":
		return z.pod(name, labels, qtype)
	}
	return z.service(name, labels[:n-1], qtype)
}

// pod answers a-b-c-d.namespace.pod: the address is in the name, so it is
// right for any pod (CoreDNS: pods insecure).
func (z *zone) pod(name string, labels []string, qtype uint16) reply {
	if len(labels) != 3 || !z.src.HasNamespace(labels[1]) {
		return z.missing()
	}
	ip, ok := dashed(labels[0])
	if !ok {
		return z.missing()
	}
	return found(z.hosts(name, []netip.Addr{ip}, qtype)...)
}

// dashed reads an address whose dots or colons are dashes.
func dashed(s string) (netip.Addr, bool) {
	if ip, err := netip.ParseAddr(strings.ReplaceAll(s, "-", ".")); err == nil && ip.Is4() {
		return ip, true
	}
	ip, err := netip.ParseAddr(strings.ReplaceAll(s, "-", ":"))
	return ip, err == nil
}

// dash writes an address as a label.
func dash(ip netip.Addr) string {
	if ip.Is4() {
		return strings.ReplaceAll(ip.String(), ".", "-")
	}
	s := ip.String()
	// A label neither begins nor ends with a dash.
	if strings.HasPrefix(s, "::") {
		s = "0" + s
	}
	if strings.HasSuffix(s, "::") {
		s += "0"
	}
	return strings.ReplaceAll(s, ":", "-")
}

// service answers names below svc; labels end with the namespace.
func (z *zone) service(name string, labels []string, qtype uint16) reply {
	n := len(labels)
	namespace, svcName := labels[n-1], labels[n-2]
	svc := z.src.Service(namespace, svcName)
	if svc == nil {
		return z.missing()
	}
	base := svcName + "." + namespace + ".svc." + z.domain
	rest := labels[:n-2]
	if svc.Spec.Type == corev1.ServiceTypeExternalName {
		if len(rest) > 0 {
			return z.missing()
		}
		return z.externalName(name, svc, qtype)
	}
	headless := svc.Spec.ClusterIP == corev1.ClusterIPNone
	switch {
	case len(rest) == 0 && qtype == dns.TypeSRV:
		return z.srv(name, base, svc, headless, "", "")
	case len(rest) == 0 && headless:
		return found(z.hosts(name, addressesOf(z.endpoints(svc), nil), qtype)...)
	case len(rest) == 0:
		return found(z.hosts(name, clusterIPs(svc), qtype)...)
	case len(rest) == 2 && isUnderscored(rest[0]) && isUnderscored(rest[1]):
		r := z.srv(name, base, svc, headless, rest[0][1:], rest[1][1:])
		if len(r.answer) == 0 {
			return z.missing()
		}
		if qtype != dns.TypeSRV {
			return found()
		}
		return r
	case len(rest) == 1 && isUnderscored(rest[0]):
		// Nothing but the parent of SRV records.
		if len(z.srv(name, base, svc, headless, "", rest[0][1:]).answer) == 0 {
			return z.missing()
		}
		return found()
	case len(rest) == 1 && headless:
		ips := addressesOf(z.endpoints(svc), &rest[0])
		if len(ips) == 0 {
			return z.missing()
		}
		return found(z.hosts(name, ips, qtype)...)
	}
	return z.missing()
}

func isUnderscored(label string) bool { return len(label) > 1 && label[0] == '_' }

func (z *zone) externalName(name string, svc *corev1.Service, qtype uint16) reply {
	// An address as a name is legal and answers for itself, as CoreDNS has it.
	if ip, err := netip.ParseAddr(svc.Spec.ExternalName); err == nil {
		return found(z.hosts(name, []netip.Addr{ip}, qtype)...)
	}
	target := dns.CanonicalName(svc.Spec.ExternalName)
	if _, ok := dns.IsDomainName(target); !ok {
		return found()
	}
	r := found(&dns.CNAME{Hdr: z.head(name, dns.TypeCNAME), Target: target})
	if qtype != dns.TypeCNAME {
		r.chase = target
	}
	return r
}

// endpoint is what the zone knows of one endpoint of a headless Service.
type endpoint struct {
	ip    netip.Addr
	host  string // label: the hostname, or the address with dashes
	ports []discoveryv1.EndpointPort
}

// endpoints returns those that are published: the ready ones, all if the
// Service says so.
func (z *zone) endpoints(svc *corev1.Service) []endpoint {
	var out []endpoint
	for _, s := range z.src.EndpointSlices(svc.Namespace, svc.Name) {
		if s.AddressType == discoveryv1.AddressTypeFQDN {
			continue
		}
		for i := range s.Endpoints {
			e := &s.Endpoints[i]
			if !published(svc, e) {
				continue
			}
			for _, a := range e.Addresses {
				if ip, err := netip.ParseAddr(a); err == nil {
					out = append(out, endpoint{ip: ip, host: hostOf(e, ip), ports: s.Ports})
				}
			}
		}
	}
	return out
}

func published(svc *corev1.Service, e *discoveryv1.Endpoint) bool {
	return svc.Spec.PublishNotReadyAddresses || e.Conditions.Ready == nil || *e.Conditions.Ready
}

func hostOf(e *discoveryv1.Endpoint, ip netip.Addr) string {
	if e.Hostname != nil && *e.Hostname != "" {
		return strings.ToLower(*e.Hostname)
	}
	return dash(ip)
}

// addressesOf returns the addresses of the endpoints, of one host if given,
// each once.
func addressesOf(list []endpoint, host *string) []netip.Addr {
	seen := make(map[netip.Addr]bool, len(list))
	var out []netip.Addr
	for i := range list {
		e := &list[i]
		if (host == nil || e.host == *host) && !seen[e.ip] {
			seen[e.ip] = true
			out = append(out, e.ip)
		}
	}
	return out
}

// srv returns the SRV records of the ports with that name and protocol, "" for
// any, and the addresses of their targets.
func (z *zone) srv(name, base string, svc *corev1.Service, headless bool, port, proto string) reply {
	var r reply
	add := func(target string, number uint16, ips ...netip.Addr) {
		for _, rr := range r.answer {
			if s := rr.(*dns.SRV); s.Target == target && s.Port == number {
				r.extra = append(r.extra, z.hosts(target, ips, 0)...)
				return
			}
		}
		r.answer = append(r.answer, &dns.SRV{Hdr: z.head(name, dns.TypeSRV), Target: target, Port: number})
		r.extra = append(r.extra, z.hosts(target, ips, 0)...)
	}
	matches := func(n string, p corev1.Protocol) bool {
		return (port == "" || strings.EqualFold(n, port)) && (proto == "" || strings.EqualFold(string(p), proto))
	}
	if headless {
		for _, e := range z.endpoints(svc) {
			for i := range e.ports {
				if p := &e.ports[i]; p.Port != nil && matches(deref(p.Name), deref(p.Protocol)) {
					add(e.host+"."+base, uint16(*p.Port), e.ip)
				}
			}
		}
	} else {
		for i := range svc.Spec.Ports {
			if p := &svc.Spec.Ports[i]; matches(p.Name, p.Protocol) {
				add(base, uint16(p.Port), clusterIPs(svc)...)
			}
		}
	}
	r.extra = uniqueHosts(r.extra)
	for _, rr := range r.answer {
		rr.(*dns.SRV).Weight = uint16(max(1, 100/len(r.answer)))
	}
	return r
}

func deref[T any](p *T) T {
	if p == nil {
		var zero T
		return zero
	}
	return *p
}

// uniqueHosts drops address records that are there twice: several ports
// lead to one host.
func uniqueHosts(rrs []dns.RR) []dns.RR {
	type key struct{ name, ip string }
	seen := map[key]bool{}
	out := rrs[:0]
	for _, rr := range rrs {
		k := key{name: rr.Header().Name}
		switch rr := rr.(type) {
		case *dns.A:
			k.ip = string(rr.A)
		case *dns.AAAA:
			k.ip = string(rr.AAAA)
		}
		if !seen[k] {
			seen[k] = true
			out = append(out, rr)
		}
	}
	return out
}

func clusterIPs(svc *corev1.Service) []netip.Addr {
	list := svc.Spec.ClusterIPs
	if len(list) == 0 {
		list = []string{svc.Spec.ClusterIP}
	}
	var out []netip.Addr
	for _, s := range list {
		if ip, err := netip.ParseAddr(s); err == nil {
			out = append(out, ip)
		}
	}
	return out
}

// hosts returns the A or AAAA records of a name, both for type 0, beginning
// with any of them so that clients that take the first spread.
func (z *zone) hosts(name string, ips []netip.Addr, qtype uint16) []dns.RR {
	rrs := make([]dns.RR, 0, len(ips))
	start := 0
	if len(ips) > 1 {
		start = rand.IntN(len(ips))
	}
	for i := range ips {
		ip := ips[(start+i)%len(ips)]
		switch {
		case ip.Is4() && (qtype == dns.TypeA || qtype == dns.TypeANY || qtype == 0):
			rrs = append(rrs, &dns.A{Hdr: z.head(name, dns.TypeA), A: net.IP(ip.AsSlice())})
		case ip.Is6() && (qtype == dns.TypeAAAA || qtype == dns.TypeANY || qtype == 0):
			rrs = append(rrs, &dns.AAAA{Hdr: z.head(name, dns.TypeAAAA), AAAA: net.IP(ip.AsSlice())})
		}
	}
	return rrs
}

func (z *zone) head(name string, t uint16) dns.RR_Header {
	return dns.RR_Header{Name: name, Rrtype: t, Class: dns.ClassINET, Ttl: z.ttl}
}

// soa is what negative answers carry: for how long they may be kept.
func (z *zone) soa() dns.RR {
	return &dns.SOA{Hdr: z.head(z.domain, dns.TypeSOA), Ns: "ns.dns." + z.domain, Mbox: "hostmaster." + z.domain,
		Serial: 1, Refresh: 7200, Retry: 1800, Expire: 86400, Minttl: z.ttl}
}

// reverse answers PTR questions for addresses of Services and of endpoints of
// headless Services; ok is false for others, which are not the cluster's.
func (z *zone) reverse(name string) (r reply, ok bool) {
	ip, ok := addressIn(name)
	if !ok {
		return reply{}, false
	}
	s := ip.String()
	for _, svc := range z.src.ServicesByIP(s) {
		r.answer = append(r.answer, z.ptr(name, svc.Name+"."+svc.Namespace+".svc."+z.domain))
	}
	if len(r.answer) > 0 {
		return r, true
	}
	for _, slice := range z.src.EndpointSlicesByIP(s) {
		svc := z.src.Service(slice.Namespace, slice.Labels[discoveryv1.LabelServiceName])
		if svc == nil || svc.Spec.ClusterIP != corev1.ClusterIPNone {
			continue
		}
		for i := range slice.Endpoints {
			e := &slice.Endpoints[i]
			for _, a := range e.Addresses {
				if a == s && published(svc, e) {
					r.answer = append(r.answer, z.ptr(name, hostOf(e, ip)+"."+svc.Name+"."+svc.Namespace+".svc."+z.domain))
				}
			}
		}
	}
	return r, len(r.answer) > 0
}

func (z *zone) ptr(name, target string) dns.RR {
	return &dns.PTR{Hdr: z.head(name, dns.TypePTR), Ptr: target}
}

// addressIn reads the address from a name below in-addr.arpa or ip6.arpa.
func addressIn(name string) (netip.Addr, bool) {
	if s, ok := strings.CutSuffix(name, ".in-addr.arpa."); ok {
		p := strings.Split(s, ".")
		if len(p) != 4 {
			return netip.Addr{}, false
		}
		ip, err := netip.ParseAddr(p[3] + "." + p[2] + "." + p[1] + "." + p[0])
		return ip, err == nil
	}
	s, ok := strings.CutSuffix(name, ".ip6.arpa.")
	if !ok || len(s) != 63 {
		return netip.Addr{}, false
	}
	var b [16]byte
	for i := range 32 {
		v, err := strconv.ParseUint(s[i*2:i*2+1], 16, 8)
		if err != nil || i < 31 && s[i*2+1] != '.' {
			return netip.Addr{}, false
		}
		b[15-i/2] |= byte(v) << (4 * (i % 2))
	}
	return netip.AddrFrom16(b), true
}
