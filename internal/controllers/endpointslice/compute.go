package endpointslice

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"skiff.dev/skiff/internal/node"
	"skiff.dev/skiff/internal/pod"
	"skiff.dev/skiff/internal/service"
)

// group is the endpoints that go into slices together: of one address family,
// on the same ports.
type group struct {
	family    discoveryv1.AddressType
	ports     []discoveryv1.EndpointPort
	endpoints []discoveryv1.Endpoint
}

func (g *group) key() string { return keyOf(g.family, g.ports) }

// keyOf identifies the slices that can hold the same endpoints.
func keyOf(family discoveryv1.AddressType, ports []discoveryv1.EndpointPort) string {
	ports = slices.Clone(ports)
	slices.SortFunc(ports, func(a, b discoveryv1.EndpointPort) int { return cmp.Compare(*a.Name, *b.Name) })
	data, err := json.Marshal(ports)
	if err != nil {
		panic(fmt.Sprintf("endpointslice: ports cannot be encoded: %v", err)) // API types always can
	}
	return string(family) + string(data)
}

// plan is what is to be written. All objects in create and update are copies.
type plan struct {
	create, update, remove []*discoveryv1.EndpointSlice
}

// compute returns the changes that make existing, the slices of svc, tell of
// pods, with few writes. It is pure.
func compute(svc *corev1.Service, pods []*corev1.Pod, nodes func(string) (*corev1.Node, bool), existing []*discoveryv1.EndpointSlice, most int) plan {
	var p plan
	groups := groupsOf(svc, pods, nodes)
	have := map[string][]*discoveryv1.EndpointSlice{}
	for _, s := range slices.SortedFunc(slices.Values(existing), func(a, b *discoveryv1.EndpointSlice) int { return cmp.Compare(a.Name, b.Name) }) {
		key := keyOf(s.AddressType, s.Ports)
		have[key] = append(have[key], s)
	}
	used := map[discoveryv1.AddressType]bool{}
	for _, key := range slices.Sorted(maps.Keys(groups)) {
		g := groups[key]
		used[g.family] = true
		p.pack(svc, g, have[key], most)
		delete(have, key)
	}
	for _, f := range familiesOf(svc) {
		if used[f] {
			continue
		}
		// A service without endpoints still has an empty slice.
		empty := &group{family: f}
		kept := have[empty.key()]
		if len(kept) > 0 {
			p.refresh(svc, kept[0], nil)
			have[empty.key()] = kept[1:]
		} else {
			p.create = append(p.create, newSlice(svc, empty, nil))
		}
	}
	for _, key := range slices.Sorted(maps.Keys(have)) {
		p.remove = append(p.remove, have[key]...)
	}
	return p
}

// familiesOf returns the address types of the service.
func familiesOf(svc *corev1.Service) (families []discoveryv1.AddressType) {
	for _, f := range svc.Spec.IPFamilies {
		families = append(families, discoveryv1.AddressType(f))
	}
	if len(families) == 0 {
		families = append(families, discoveryv1.AddressTypeIPv4)
	}
	return families
}

func groupsOf(svc *corev1.Service, pods []*corev1.Pod, nodes func(string) (*corev1.Node, bool)) map[string]*group {
	groups := map[string]*group{}
	for _, p := range pods {
		if pod.IsTerminal(p) || len(p.Status.PodIPs) == 0 {
			continue
		}
		var n *corev1.Node
		if p.Spec.NodeName != "" {
			var known bool
			if n, known = nodes(p.Spec.NodeName); !known && !svc.Spec.PublishNotReadyAddresses {
				continue // on a node that is gone
			}
		}
		ports := portsOf(svc, p)
		for _, f := range familiesOf(svc) {
			e, ok := endpointOf(svc, p, n, f)
			if !ok {
				continue
			}
			g := &group{family: f, ports: ports}
			key := g.key()
			if groups[key] == nil {
				groups[key] = g
			}
			groups[key].endpoints = append(groups[key].endpoints, e)
		}
	}
	return groups
}

func portsOf(svc *corev1.Service, p *corev1.Pod) (ports []discoveryv1.EndpointPort) {
	for i := range svc.Spec.Ports {
		sp := &svc.Spec.Ports[i]
		if n, ok := service.TargetPort(p, sp); ok {
			name, protocol := sp.Name, sp.Protocol
			ports = append(ports, discoveryv1.EndpointPort{Name: &name, Port: &n, Protocol: &protocol, AppProtocol: sp.AppProtocol})
		}
	}
	return ports
}

func endpointOf(svc *corev1.Service, p *corev1.Pod, n *corev1.Node, family discoveryv1.AddressType) (e discoveryv1.Endpoint, ok bool) {
	for _, ip := range p.Status.PodIPs {
		if f, ok := service.Family(ip.IP); ok && string(f) == string(family) {
			e.Addresses = append(e.Addresses, ip.IP)
		}
	}
	if len(e.Addresses) == 0 {
		return e, false
	}
	serving, terminating := pod.IsReady(p), p.DeletionTimestamp != nil
	ready := svc.Spec.PublishNotReadyAddresses || serving && !terminating
	e.Conditions = discoveryv1.EndpointConditions{Ready: &ready, Serving: &serving, Terminating: &terminating}
	e.TargetRef = &corev1.ObjectReference{Kind: "Pod", Namespace: p.Namespace, Name: p.Name, UID: p.UID}
	if p.Spec.NodeName != "" {
		e.NodeName = &p.Spec.NodeName
	}
	if n != nil && node.Zone(n) != "" {
		zone := node.Zone(n)
		e.Zone = &zone
	}
	if name := service.HostnameOf(p, svc); name != "" {
		e.Hostname = &name
	}
	if ready {
		e.Hints = hintsOf(svc, &e)
	}
	return e, true
}

// hintsOf says for whom an endpoint is, as far as the service wants traffic to
// stay close (KEP-4444, KEP-3015).
func hintsOf(svc *corev1.Service, e *discoveryv1.Endpoint) *discoveryv1.EndpointHints {
	if svc.Spec.TrafficDistribution == nil {
		return nil
	}
	var h discoveryv1.EndpointHints
	switch *svc.Spec.TrafficDistribution {
	case corev1.ServiceTrafficDistributionPreferSameNode:
		if e.NodeName != nil {
			h.ForNodes = []discoveryv1.ForNode{{Name: *e.NodeName}}
		}
	case corev1.ServiceTrafficDistributionPreferClose, corev1.ServiceTrafficDistributionPreferSameZone:
	default:
		return nil
	}
	if e.Zone != nil {
		h.ForZones = []discoveryv1.ForZone{{Name: *e.Zone}}
	}
	if h.ForNodes == nil && h.ForZones == nil {
		return nil
	}
	return &h
}

func uidOf(e *discoveryv1.Endpoint) types.UID {
	if e.TargetRef == nil {
		return ""
	}
	return e.TargetRef.UID
}

// pack spreads the endpoints of a group over its slices. What is in a slice
// stays there; what is new goes into slices that change anyway, then into the
// fullest that has room for all of it, then into new ones.
func (p *plan) pack(svc *corev1.Service, g *group, have []*discoveryv1.EndpointSlice, most int) {
	missing := map[types.UID]*discoveryv1.Endpoint{}
	for i := range g.endpoints {
		missing[uidOf(&g.endpoints[i])] = &g.endpoints[i]
	}
	contents := make([][]discoveryv1.Endpoint, len(have))
	touched := make([]bool, len(have))
	for i, s := range have {
		for j := range s.Endpoints {
			uid := uidOf(&s.Endpoints[j])
			want := missing[uid]
			if want == nil || len(contents[i]) >= most {
				touched[i] = true
				continue
			}
			delete(missing, uid)
			touched[i] = touched[i] || !equality.Semantic.DeepEqual(*want, s.Endpoints[j])
			contents[i] = append(contents[i], *want)
		}
	}
	var rest []discoveryv1.Endpoint
	for i := range g.endpoints {
		if missing[uidOf(&g.endpoints[i])] != nil {
			rest = append(rest, g.endpoints[i])
		}
	}
	for i := range have {
		if touched[i] && len(contents[i]) > 0 {
			n := min(most-len(contents[i]), len(rest))
			contents[i], rest = append(contents[i], rest[:n]...), rest[n:]
		}
	}
	for len(rest) >= most {
		p.create = append(p.create, newSlice(svc, g, rest[:most]))
		rest = rest[most:]
	}
	if len(rest) > 0 {
		if i := fullestWithRoom(contents, touched, len(rest), most); i >= 0 {
			contents[i], rest = append(contents[i], rest...), nil
		} else {
			p.create = append(p.create, newSlice(svc, g, rest))
		}
	}
	for i, s := range have {
		if len(contents[i]) == 0 {
			p.remove = append(p.remove, s)
			continue
		}
		p.refresh(svc, s, contents[i])
	}
}

// fullestWithRoom finds the slice that n endpoints go into; an emptied one that
// would be deleted will do as well. It returns -1 if there is none.
func fullestWithRoom(contents [][]discoveryv1.Endpoint, touched []bool, n, most int) int {
	best := -1
	for i := range contents {
		if len(contents[i])+n > most || touched[i] && len(contents[i]) > 0 {
			continue
		}
		if best < 0 || len(contents[i]) > len(contents[best]) {
			best = i
		}
	}
	return best
}

// refresh plans to update s unless it is as it should be.
func (p *plan) refresh(svc *corev1.Service, s *discoveryv1.EndpointSlice, endpoints []discoveryv1.Endpoint) {
	want := labelsOf(svc)
	owner := *metav1.NewControllerRef(svc, corev1.SchemeGroupVersion.WithKind("Service"))
	owned := slices.ContainsFunc(s.OwnerReferences, func(r metav1.OwnerReference) bool { return r.UID == svc.UID })
	if owned && maps.Equal(s.Labels, want) && equality.Semantic.DeepEqual(s.Endpoints, endpoints) {
		return
	}
	s = s.DeepCopy()
	s.Labels, s.Endpoints = want, endpoints
	if !owned {
		s.OwnerReferences = []metav1.OwnerReference{owner}
	}
	p.update = append(p.update, s)
}

func newSlice(svc *corev1.Service, g *group, endpoints []discoveryv1.Endpoint) *discoveryv1.EndpointSlice {
	return &discoveryv1.EndpointSlice{
		TypeMeta: metav1.TypeMeta{APIVersion: discoveryv1.SchemeGroupVersion.String(), Kind: "EndpointSlice"},
		ObjectMeta: metav1.ObjectMeta{
			GenerateName: svc.Name + "-", Namespace: svc.Namespace, Labels: labelsOf(svc),
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(svc, corev1.SchemeGroupVersion.WithKind("Service"))},
		},
		AddressType: g.family, Ports: g.ports, Endpoints: slices.Clone(endpoints),
	}
}

// labelsOf are the labels of the service's slices: its own and those by which
// slices are found.
func labelsOf(svc *corev1.Service) map[string]string {
	l := maps.Clone(svc.Labels)
	if l == nil {
		l = map[string]string{}
	}
	delete(l, corev1.IsHeadlessService)
	if service.IsHeadless(svc) {
		l[corev1.IsHeadlessService] = ""
	}
	l[discoveryv1.LabelServiceName] = svc.Name
	l[discoveryv1.LabelManagedBy] = manager
	return l
}
