package endpointslice

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"pgregory.net/rapid"
)

func svc(change ...func(*corev1.Service)) *corev1.Service {
	s := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "default", UID: "svc", Labels: map[string]string{"team": "a"}},
		Spec: corev1.ServiceSpec{
			Selector: map[string]string{"app": "web"}, ClusterIP: "10.96.0.10", Type: corev1.ServiceTypeClusterIP,
			IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol},
			Ports:      []corev1.ServicePort{{Name: "http", Port: 80, Protocol: corev1.ProtocolTCP, TargetPort: intstr.FromInt32(8080)}},
		},
	}
	for _, f := range change {
		f(s)
	}
	return s
}

func runningPod(n int, change ...func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("p%d", n), Namespace: "default", UID: types.UID(fmt.Sprintf("u%d", n)), Labels: map[string]string{"app": "web"}},
		Spec:       corev1.PodSpec{NodeName: "n1", Containers: []corev1.Container{{Name: "c", Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: int32(8000 + n%2), Protocol: corev1.ProtocolTCP}}}}},
		Status: corev1.PodStatus{
			Phase: corev1.PodRunning, PodIPs: []corev1.PodIP{{IP: fmt.Sprintf("10.0.%d.%d", n/256, n%256)}},
			Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}},
		},
	}
	for _, f := range change {
		f(p)
	}
	return p
}

func nodes(name string) (*corev1.Node, bool) {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelTopologyZone: "z1"}}}
	return n, name == "n1"
}

func notReady(p *corev1.Pod) { p.Status.Conditions = nil }

func TestEndpointOf(t *testing.T) {
	yes, no, n1, z1, host := true, false, "n1", "z1", "db-0"
	ref := &corev1.ObjectReference{Kind: "Pod", Namespace: "default", Name: "p1", UID: "u1"}
	now := metav1.NewTime(time.Unix(1, 0))
	traffic := func(d string) func(*corev1.Service) {
		return func(s *corev1.Service) { s.Spec.TrafficDistribution = &d }
	}
	endpoint := func(ready, serving, terminating *bool, change ...func(*discoveryv1.Endpoint)) []discoveryv1.Endpoint {
		e := discoveryv1.Endpoint{
			Addresses: []string{"10.0.0.1"}, Conditions: discoveryv1.EndpointConditions{Ready: ready, Serving: serving, Terminating: terminating},
			TargetRef: ref, NodeName: &n1, Zone: &z1,
		}
		for _, f := range change {
			f(&e)
		}
		return []discoveryv1.Endpoint{e}
	}
	hints := func(h discoveryv1.EndpointHints) func(*discoveryv1.Endpoint) {
		return func(e *discoveryv1.Endpoint) { e.Hints = &h }
	}
	tests := []struct {
		name string
		svc  *corev1.Service
		pod  *corev1.Pod
		want []discoveryv1.Endpoint
	}{
		{"ready", svc(), runningPod(1), endpoint(&yes, &yes, &no)},
		{"not ready", svc(), runningPod(1, notReady), endpoint(&no, &no, &no)},
		{"terminating", svc(), runningPod(1, func(p *corev1.Pod) { p.DeletionTimestamp = &now }), endpoint(&no, &yes, &yes)},
		{"not ready but published", svc(func(s *corev1.Service) { s.Spec.PublishNotReadyAddresses = true }), runningPod(1, notReady), endpoint(&yes, &no, &no)},
		{"ended", svc(), runningPod(1, func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded }), nil},
		{"no address yet", svc(), runningPod(1, func(p *corev1.Pod) { p.Status.PodIPs = nil }), nil},
		{"node gone", svc(), runningPod(1, func(p *corev1.Pod) { p.Spec.NodeName = "n9" }), nil},
		{"hostname", svc(func(s *corev1.Service) { s.Name = "db" }), runningPod(1, func(p *corev1.Pod) { p.Spec.Hostname, p.Spec.Subdomain = host, "db" }),
			endpoint(&yes, &yes, &no, func(e *discoveryv1.Endpoint) { e.Hostname = &host })},
		{"hostname of another service", svc(), runningPod(1, func(p *corev1.Pod) { p.Spec.Hostname, p.Spec.Subdomain = host, "db" }), endpoint(&yes, &yes, &no)},
		{"close", svc(traffic("PreferClose")), runningPod(1), endpoint(&yes, &yes, &no, hints(discoveryv1.EndpointHints{ForZones: []discoveryv1.ForZone{{Name: "z1"}}}))},
		{"same node", svc(traffic("PreferSameNode")), runningPod(1), endpoint(&yes, &yes, &no,
			hints(discoveryv1.EndpointHints{ForNodes: []discoveryv1.ForNode{{Name: "n1"}}, ForZones: []discoveryv1.ForZone{{Name: "z1"}}}))},
		{"no hints while not ready", svc(traffic("PreferSameZone")), runningPod(1, notReady), endpoint(&no, &no, &no)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := compute(tt.svc, []*corev1.Pod{tt.pod}, nodes, nil, DefaultMax)
			if len(p.create) != 1 {
				t.Fatalf("%d slices created, want 1", len(p.create))
			}
			if diff := cmp.Diff(tt.want, p.create[0].Endpoints); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestSliceOf(t *testing.T) {
	headless := svc(func(s *corev1.Service) { s.Spec.ClusterIP = corev1.ClusterIPNone })
	s := compute(headless, []*corev1.Pod{runningPod(1)}, nodes, nil, DefaultMax).create[0]
	want := map[string]string{
		"team": "a", "service.kubernetes.io/headless": "", "kubernetes.io/service-name": "web",
		"endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
	}
	if diff := cmp.Diff(want, s.Labels); diff != "" {
		t.Error(diff)
	}
	if s.GenerateName != "web-" || s.AddressType != discoveryv1.AddressTypeIPv4 || !metav1.IsControlledBy(s, headless) || *s.Ports[0].Port != 8080 {
		t.Errorf("%+v", s)
	}
}

func TestNamedPortsThatDifferMakeSlicesOfTheirOwn(t *testing.T) {
	named := svc(func(s *corev1.Service) { s.Spec.Ports[0].TargetPort = intstr.FromString("http") })
	p := compute(named, []*corev1.Pod{runningPod(1), runningPod(2), runningPod(3)}, nodes, nil, DefaultMax)
	got := map[int32]int{}
	for _, s := range p.create {
		got[*s.Ports[0].Port] = len(s.Endpoints)
	}
	if diff := cmp.Diff(map[int32]int{8000: 1, 8001: 2}, got); diff != "" {
		t.Error(diff)
	}
}

func TestFamilies(t *testing.T) {
	dual := svc(func(s *corev1.Service) {
		s.Spec.IPFamilies = []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol}
	})
	pods := []*corev1.Pod{runningPod(1, func(p *corev1.Pod) { p.Status.PodIPs = append(p.Status.PodIPs, corev1.PodIP{IP: "fd00::1"}) })}
	got := map[discoveryv1.AddressType][]string{}
	for _, s := range compute(dual, pods, nodes, nil, DefaultMax).create {
		got[s.AddressType] = s.Endpoints[0].Addresses
	}
	want := map[discoveryv1.AddressType][]string{"IPv4": {"10.0.0.1"}, "IPv6": {"fd00::1"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// carry carries a plan out on slices kept by name.
func carry(have map[string]*discoveryv1.EndpointSlice, p plan, next *int) {
	for _, s := range p.create {
		*next++
		s.Name = fmt.Sprintf("web-%03d", *next)
		have[s.Name] = s
	}
	for _, s := range p.update {
		have[s.Name] = s
	}
	for _, s := range p.remove {
		delete(have, s.Name)
	}
}

func list(have map[string]*discoveryv1.EndpointSlice) (all []*discoveryv1.EndpointSlice) {
	for _, s := range have {
		all = append(all, s)
	}
	return all
}

func TestAChangeOfOnePodWritesOneSlice(t *testing.T) {
	var pods []*corev1.Pod
	for n := range 250 {
		pods = append(pods, runningPod(n))
	}
	have, next := map[string]*discoveryv1.EndpointSlice{}, 0
	carry(have, compute(svc(), pods, nodes, nil, 100), &next)
	if len(have) != 3 {
		t.Fatalf("%d slices, want 3", len(have))
	}
	if p := compute(svc(), pods, nodes, list(have), 100); len(p.create)+len(p.update)+len(p.remove) > 0 {
		t.Errorf("writes without a change: %+v", p)
	}
	pods[17] = runningPod(1000)
	if p := compute(svc(), pods, nodes, list(have), 100); len(p.update) != 1 || len(p.create)+len(p.remove) > 0 {
		t.Errorf("%d created, %d updated, %d removed, want one update", len(p.create), len(p.update), len(p.remove))
	}
}

// Whatever comes and goes, the slices tell of exactly the pods there are, each
// once, none is too full, and a second look finds nothing to do.
func TestSlicesTellOfThePods(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const most = 5
		have, next := map[string]*discoveryv1.EndpointSlice{}, 0
		named := svc(func(s *corev1.Service) { s.Spec.Ports[0].TargetPort = intstr.FromString("http") })
		for range rapid.IntRange(1, 5).Draw(t, "rounds") {
			var pods []*corev1.Pod
			want := map[string]int{}
			for n := range 30 {
				switch rapid.IntRange(0, 2).Draw(t, "pod") {
				case 1:
					pods = append(pods, runningPod(n))
				case 2:
					pods = append(pods, runningPod(n, notReady))
				default:
					continue
				}
				want[pods[len(pods)-1].Status.PodIPs[0].IP] = 1
			}
			carry(have, compute(named, pods, nodes, list(have), most), &next)
			got := map[string]int{}
			for _, s := range have {
				if len(s.Endpoints) > most {
					t.Fatalf("slice %s has %d endpoints", s.Name, len(s.Endpoints))
				}
				for _, e := range s.Endpoints {
					got[e.Addresses[0]]++
				}
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Fatal(diff)
			}
			if p := compute(named, pods, nodes, list(have), most); len(p.create)+len(p.update)+len(p.remove) > 0 {
				t.Fatalf("a second look changes something: %+v", p)
			}
		}
	})
}
