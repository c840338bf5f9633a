package proxy

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff.dev/skiff/internal/nftables"
)

var update = flag.Bool("update", false, "write golden files")

var testConfig = NFTConfig{Table: "skiff-proxy", MasqueradeBit: 14}

var testNode = Node{
	Name: "node1", Zone: "zone-a",
	PodCIDRs:          []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16"), netip.MustParsePrefix("fd00:244::/56")},
	NodePortAddresses: []netip.Addr{netip.MustParseAddr("192.168.0.2"), netip.MustParseAddr("fd00::2")},
}

func ptr[T any](v T) *T { return &v }

// service returns a Service of namespace ns1 with a TCP port p80.
func service(name, ip string, edit ...func(*corev1.Service)) *corev1.Service {
	s := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns1", Name: name},
		Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeClusterIP, ClusterIP: ip, ClusterIPs: []string{ip},
			Ports: []corev1.ServicePort{{Name: "p80", Port: 80, Protocol: corev1.ProtocolTCP}}},
	}
	for _, e := range edit {
		e(s)
	}
	return s
}

// slice returns an EndpointSlice of the Service with one endpoint per entry:
// an address, then words for what is special about it.
func slice(svc *corev1.Service, port int32, entries ...string) *discoveryv1.EndpointSlice {
	s := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: svc.Namespace, Name: svc.Name + "-1", Labels: map[string]string{discoveryv1.LabelServiceName: svc.Name}},
		AddressType: discoveryv1.AddressTypeIPv4,
	}
	for i := range svc.Spec.Ports {
		p := &svc.Spec.Ports[i]
		s.Ports = append(s.Ports, discoveryv1.EndpointPort{Name: &p.Name, Protocol: &p.Protocol, Port: ptr(port + int32(i))})
	}
	for _, entry := range entries {
		words := strings.Fields(entry)
		e := discoveryv1.Endpoint{Addresses: words[:1], NodeName: ptr("node2")}
		if strings.Contains(words[0], ":") {
			s.AddressType = discoveryv1.AddressTypeIPv6
		}
		for _, w := range words[1:] {
			switch k, v, _ := strings.Cut(w, "="); k {
			case "local":
				e.NodeName = ptr("node1")
			case "unready":
				e.Conditions.Ready, e.Conditions.Serving = ptr(false), ptr(false)
			case "draining":
				e.Conditions = discoveryv1.EndpointConditions{Ready: ptr(false), Serving: ptr(true), Terminating: ptr(true)}
			case "zone":
				e.Hints = &discoveryv1.EndpointHints{ForZones: []discoveryv1.ForZone{{Name: v}}}
			case "node":
				if e.Hints == nil {
					e.Hints = &discoveryv1.EndpointHints{}
				}
				e.Hints.ForNodes = []discoveryv1.ForNode{{Name: v}}
			default:
				panic("no such word: " + w)
			}
		}
		s.Endpoints = append(s.Endpoints, e)
	}
	return s
}

func TestEndpointsOfPorts(t *testing.T) {
	for _, test := range []struct {
		name           string
		entries        []string
		cluster, local string // last octets
	}{
		{"none", nil, "", ""},
		{"all ready", []string{"10.244.1.1", "10.244.1.2 local"}, "1 2", "2"},
		{"unready ones are left out", []string{"10.244.1.1", "10.244.1.2 local unready"}, "1", ""},
		{"draining ones are left out while one is ready", []string{"10.244.1.1", "10.244.1.2 local draining"}, "1", "2"},
		{"draining ones serve if none is ready", []string{"10.244.1.1 unready", "10.244.1.2 draining", "10.244.1.3 local draining"}, "2 3", "3"},
		{"an endpoint in two places counts once", []string{"10.244.1.1 unready", "10.244.1.1"}, "1", ""},
		{"zone hints", []string{"10.244.1.1 zone=zone-a", "10.244.1.2 zone=zone-b"}, "1", ""},
		{"zone hints do not bind local traffic", []string{"10.244.1.1 zone=zone-a", "10.244.1.2 local zone=zone-b"}, "1", "2"},
		{"zone hints missing on one", []string{"10.244.1.1 zone=zone-a", "10.244.1.2"}, "1 2", ""},
		{"zone hints for other zones only", []string{"10.244.1.1 zone=zone-b", "10.244.1.2 zone=zone-c"}, "1 2", ""},
		{"node hints", []string{"10.244.1.1 zone=zone-a node=node1", "10.244.1.2 zone=zone-a node=node2"}, "1", ""},
		{"node hints for other nodes fall back to the zone", []string{"10.244.1.1 zone=zone-b node=node2", "10.244.1.2 zone=zone-a node=node3"}, "2", ""},
		{"hints on draining ones do not count", []string{"10.244.1.1 zone=zone-b draining", "10.244.1.2 zone=zone-a draining"}, "1 2", ""},
	} {
		svc := service("svc1", "10.96.0.1")
		ports := Ports(svc, []*discoveryv1.EndpointSlice{slice(svc, 8080, test.entries...)}, testNode)
		if len(ports) != 1 {
			t.Fatalf("%s: %d ports", test.name, len(ports))
		}
		if got := octets(ports[0].Cluster); got != test.cluster {
			t.Errorf("%s: cluster endpoints %q, want %q", test.name, got, test.cluster)
		}
		if got := octets(ports[0].Local); got != test.local {
			t.Errorf("%s: local endpoints %q, want %q", test.name, got, test.local)
		}
	}
}

func octets(list []netip.AddrPort) string {
	var out []string
	for _, e := range list {
		out = append(out, fmt.Sprint(e.Addr().As4()[3]))
	}
	return strings.Join(out, " ")
}

func TestPortsIgnores(t *testing.T) {
	for name, svc := range map[string]*corev1.Service{
		"headless":      service("a", corev1.ClusterIPNone),
		"external name": service("a", "", func(s *corev1.Service) { s.Spec.Type = corev1.ServiceTypeExternalName }),
		"other proxy":   service("a", "10.96.0.1", func(s *corev1.Service) { s.Labels = map[string]string{proxyNameLabel: ""} }),
		"gone":          nil,
	} {
		if got := Ports(svc, nil, testNode); len(got) != 0 {
			t.Errorf("%s: got %v", name, got)
		}
	}
}

// rulesets are Services with the goldens that show what becomes of them.
func rulesets() map[string][]any {
	nodePort := func(s *corev1.Service) {
		s.Spec.Type = corev1.ServiceTypeNodePort
		s.Spec.Ports[0].NodePort = 30080
	}
	loadBalancer := func(s *corev1.Service) {
		nodePort(s)
		s.Spec.Type = corev1.ServiceTypeLoadBalancer
		s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "5.6.7.8"}, {IP: "5.6.7.9", IPMode: ptr(corev1.LoadBalancerIPModeProxy)}}
	}
	external := func(s *corev1.Service) { s.Spec.ExternalIPs = []string{"1.2.3.4"} }
	externalLocal := func(s *corev1.Service) { s.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal }
	internalLocal := func(s *corev1.Service) {
		s.Spec.InternalTrafficPolicy = ptr(corev1.ServiceInternalTrafficPolicyLocal)
	}
	affine := func(s *corev1.Service) { s.Spec.SessionAffinity = corev1.ServiceAffinityClientIP }
	ranges := func(s *corev1.Service) {
		s.Spec.LoadBalancerSourceRanges = []string{"203.0.113.0/25", " 2001:db8::/32", "198.51.100.7/32"}
	}
	threePorts := func(s *corev1.Service) {
		s.Spec.Ports = append(s.Spec.Ports,
			corev1.ServicePort{Name: "dns", Port: 53, Protocol: corev1.ProtocolUDP},
			corev1.ServicePort{Name: "sig", Port: 5060, Protocol: corev1.ProtocolSCTP})
	}
	dual := service("dual", "10.96.0.9", func(s *corev1.Service) { s.Spec.ClusterIPs = []string{"10.96.0.9", "fd00:96::9"} })
	young := service("young", "10.96.0.21", external, func(s *corev1.Service) { s.CreationTimestamp = metav1.Unix(200, 0) })
	old := service("z-old", "10.96.0.20", external, func(s *corev1.Service) { s.CreationTimestamp = metav1.Unix(100, 0) })
	with := func(svc *corev1.Service, entries ...string) []any { return []any{svc, slice(svc, 8080, entries...)} }
	return map[string][]any{
		"clusterip":                with(service("svc1", "10.96.0.1", threePorts), "10.244.0.5 local", "10.244.1.5"),
		"nodeport":                 with(service("svc1", "10.96.0.1", nodePort), "10.244.0.5 local"),
		"loadbalancer":             with(service("svc1", "10.96.0.1", loadBalancer, external, ranges), "10.244.1.5"),
		"external-local":           with(service("svc1", "10.96.0.1", loadBalancer, externalLocal), "10.244.0.5 local", "10.244.1.5"),
		"external-local-elsewhere": with(service("svc1", "10.96.0.1", loadBalancer, externalLocal), "10.244.1.5"),
		"internal-local":           with(service("svc1", "10.96.0.1", nodePort, internalLocal), "10.244.0.5 local", "10.244.1.5"),
		"internal-local-elsewhere": with(service("svc1", "10.96.0.1", internalLocal), "10.244.1.5"),
		"affinity":                 with(service("svc1", "10.96.0.1", affine), "10.244.0.5 local", "10.244.1.5"),
		"no-endpoints":             with(service("svc1", "10.96.0.1", loadBalancer, external), "10.244.1.5 unready"),
		"dual-stack":               {dual, slice(dual, 8080, "10.244.0.5"), slice(dual, 8080, "fd00:244::5")},
		"same-external-ip":         append(with(young, "10.244.0.5"), with(old, "10.244.0.6")...),
	}
}

// wholeRuleset returns the table of a family for a set of objects.
func wholeRuleset(node Node, f nftables.Family, objects ...any) nftables.Table {
	all := portsOf(node, objects...)
	var keys []Key
	for k := range all {
		keys = append(keys, k)
	}
	_, t := newFamilyRules(f).update(&nft{testConfig, node}, keys, all)
	return t
}

func portsOf(node Node, objects ...any) map[Key][]Port {
	src := newFakeSource(objects...)
	all := map[Key][]Port{}
	for k := range src.services {
		if ports := Ports(src.Service(k), src.EndpointSlices(k), node); len(ports) > 0 {
			all[k] = ports
		}
	}
	return all
}

func TestRulesetGolden(t *testing.T) {
	sets := rulesets()
	sets["empty"] = nil
	for name, objects := range sets {
		t.Run(name, func(t *testing.T) {
			got := wholeRuleset(testNode, nftables.IPv4, objects...).String()
			if v6 := wholeRuleset(testNode, nftables.IPv6, objects...); name == "empty" || len(v6.Chains) > len(wholeRuleset(testNode, nftables.IPv6).Chains) {
				got += v6.String()
			}
			file := filepath.Join("testdata", name+".nft")
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Errorf("ruleset (-want +got; -update writes it):\n%s", diff)
			}
		})
	}
}

// Whatever the order of changes, the kernel ends up with what the last state
// alone would give.
func TestIncrementalEqualsWhole(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	pool := rulesets()
	var names []string
	for name := range pool {
		names = append(names, name)
	}
	slices.Sort(names)
	k := &nftables.Fake{}
	backend := NFTables(testConfig, k)
	all := map[Key][]Port{}
	ctx := context.Background()
	for step := range 300 {
		key := Key{Namespace: "ns1", Name: fmt.Sprintf("svc%d", r.IntN(6))}
		delete(all, key)
		if r.IntN(4) > 0 {
			// One of the shapes, under another name and cluster IP.
			list := pool[names[r.IntN(len(names))]]
			for _, p := range portsOf(testNode, list...) {
				p = slices.Clone(p)
				for i := range p {
					p[i].NamespacedName = key
					p[i].Created = time.Unix(int64(r.IntN(3)), 0)
					if p[i].Family == nftables.IPv4 {
						p[i].ClusterIP = netip.AddrFrom4([4]byte{10, 96, 1, key.Name[3]})
					}
				}
				all[key] = p
			}
		}
		node := testNode
		if step%50 > 25 {
			node.PodCIDRs = nil
			node.NodePortAddresses = node.NodePortAddresses[:1]
		}
		changed := []Key{key}
		if step%50 == 26 || step%50 == 0 { // what Proxy does when the node changes
			for k := range all {
				changed = append(changed, k)
			}
		}
		if err := backend.Sync(ctx, Update{Node: node, All: all, Changed: changed, Full: step%100 == 0}); err != nil {
			t.Fatalf("step %d: %v", step, err)
		}
		for _, f := range []nftables.Family{nftables.IPv4, nftables.IPv6} {
			got, err := k.Read(ctx, f, testConfig.Table)
			if err != nil {
				t.Fatal(err)
			}
			var keys []Key
			for k := range all {
				keys = append(keys, k)
			}
			_, want := newFamilyRules(f).update(&nft{testConfig, node}, keys, all)
			if diff := cmp.Diff(want.String(), got.String()); diff != "" {
				t.Fatalf("step %d (-want +got):\n%s", step, diff)
			}
		}
	}
	if err := backend.Cleanup(ctx); err != nil {
		t.Fatal(err)
	}
	if got, _ := k.Read(ctx, nftables.IPv4, testConfig.Table); got.Name != "" {
		t.Errorf("cleanup left a table: %v", got)
	}
}

func TestStaleFlows(t *testing.T) {
	svc := service("dns", "10.96.0.10", func(s *corev1.Service) {
		s.Spec.Type = corev1.ServiceTypeNodePort
		s.Spec.Ports = []corev1.ServicePort{{Name: "dns", Port: 53, NodePort: 30053, Protocol: corev1.ProtocolUDP}}
	})
	empty := service("none", "10.96.0.11", func(s *corev1.Service) { s.Spec.Ports[0].Protocol = corev1.ProtocolUDP })
	tcp := service("tcp", "10.96.0.12")
	all := portsOf(testNode, svc, slice(svc, 5353, "10.244.0.5"), empty, tcp)
	flows := staleFlows(&Update{Node: testNode, All: all, Changed: []Key{{Namespace: "ns1", Name: "dns"}, {Namespace: "ns1", Name: "none"}, {Namespace: "ns1", Name: "tcp"}}})
	for _, test := range []struct {
		to, from string
		want     bool
	}{
		{"10.96.0.10:53", "10.244.0.5:5353", false},
		{"10.96.0.10:53", "10.244.0.6:5353", true},
		{"10.96.0.10:53", "10.96.0.10:53", true}, // began when there was no endpoint
		{"192.168.0.2:30053", "10.244.0.6:5353", true},
		{"8.8.8.8:30053", "10.244.0.6:5353", false},
		{"10.96.0.11:80", "10.96.0.11:80", false},
		{"10.96.0.11:80", "10.244.0.6:80", true},
		{"10.96.0.12:80", "10.244.0.6:80", false},
	} {
		if got := flows.Stale(netip.MustParseAddrPort(test.to), netip.MustParseAddrPort(test.from)); got != test.want {
			t.Errorf("to %s from %s: stale %v, want %v", test.to, test.from, got, test.want)
		}
	}
}

// fakeSource is a Source in memory.
type fakeSource struct {
	mu       sync.Mutex
	services map[Key]*corev1.Service
	slices   map[Key][]*discoveryv1.EndpointSlice
	notify   func([]Key)
}

func newFakeSource(objects ...any) *fakeSource {
	s := &fakeSource{services: map[Key]*corev1.Service{}, slices: map[Key][]*discoveryv1.EndpointSlice{}}
	for _, o := range objects {
		switch o := o.(type) {
		case *corev1.Service:
			s.services[Key{Namespace: o.Namespace, Name: o.Name}] = o
		case *discoveryv1.EndpointSlice:
			k := Key{Namespace: o.Namespace, Name: o.Labels[discoveryv1.LabelServiceName]}
			s.slices[k] = append(s.slices[k], o)
		}
	}
	return s
}

func (s *fakeSource) Service(k Key) *corev1.Service {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.services[k]
}

func (s *fakeSource) EndpointSlices(k Key) []*discoveryv1.EndpointSlice {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.slices[k]
}

func (s *fakeSource) Follow(ctx context.Context, changed func([]Key)) error {
	s.mu.Lock()
	s.notify = changed
	var all []Key
	for k := range s.services {
		all = append(all, k)
	}
	s.mu.Unlock()
	changed(all)
	<-ctx.Done()
	return ctx.Err()
}

// set replaces what the source has on one Service.
func (s *fakeSource) set(k Key, svc *corev1.Service, slices ...*discoveryv1.EndpointSlice) {
	s.mu.Lock()
	s.services[k], s.slices[k] = svc, slices
	if svc == nil {
		delete(s.services, k)
	}
	notify := s.notify
	s.mu.Unlock()
	if notify != nil {
		notify([]Key{k})
	}
}

// flaky is a Kernel that refuses as often as told.
type flaky struct {
	nftables.Fake
	refuse int
}

func (f *flaky) Apply(ctx context.Context, b *nftables.Batch) error {
	if f.refuse > 0 {
		f.refuse--
		return os.ErrPermission
	}
	return f.Fake.Apply(ctx, b)
}

func TestRunFollowsTheSourceAndRetries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		svc := service("svc1", "10.96.0.1")
		src := newFakeSource(svc, slice(svc, 8080, "10.244.0.5"))
		k, registry := &flaky{refuse: 3}, prometheus.NewRegistry()
		p := New(Config{Source: src, Backend: NFTables(testConfig, k), Node: testNode, Log: slog.New(slog.DiscardHandler), Metrics: NewMetrics(registry)})
		done := make(chan error)
		go func() { done <- p.Run(ctx) }()
		check := func(when string, node Node, objects ...any) {
			t.Helper()
			synctest.Wait()
			got, err := k.Read(ctx, nftables.IPv4, testConfig.Table)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(wholeRuleset(node, nftables.IPv4, objects...).String(), got.String(), cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("%s (-want +got):\n%s", when, diff)
			}
		}
		synctest.Wait()
		select {
		case <-p.Synced():
			t.Error("synced although nothing could be applied")
		default:
		}
		<-p.Synced()
		check("after the retries", testNode, svc, slice(svc, 8080, "10.244.0.5"))
		two := slice(svc, 8080, "10.244.0.5", "10.244.0.6")
		src.set(Key{Namespace: "ns1", Name: "svc1"}, svc, two)
		check("after an endpoint came", testNode, svc, two)
		other := testNode
		other.PodCIDRs = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
		p.SetNode(other)
		check("after the node changed", other, svc, two)
		src.set(Key{Namespace: "ns1", Name: "svc1"}, nil)
		check("after the service went", other)
		families, err := registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		counts := map[string]float64{}
		for _, f := range families {
			m := f.GetMetric()[0]
			counts[f.GetName()] = m.GetCounter().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
		if counts["kubeproxy_sync_proxy_rules_duration_seconds"] != 7 || counts["kubeproxy_sync_proxy_rules_nftables_sync_failures_total"] != 3 {
			t.Errorf("metrics after 3 failures and 4 changes: %v", counts)
		}
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
}
