package core

import (
	"context"
	"errors"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"skiff.dev/skiff/internal/check"
	"skiff.dev/skiff/internal/meta"
	"skiff.dev/skiff/internal/resource"
)

// server is the least that definitions need of a running server.
type server struct {
	objects map[meta.Key]meta.Object
	claimed map[string]bool
	deleted []resource.DeleteOptions
	dry     bool
}

func (s *server) Get(_ context.Context, gr schema.GroupResource, key meta.Key) (meta.Object, error) {
	if o := s.objects[key]; o != nil {
		return o, nil
	}
	return nil, errors.New("not found")
}

func (s *server) List(context.Context, schema.GroupResource, string) ([]meta.Object, error) {
	return nil, nil
}

func (s *server) Modify(_ context.Context, _ schema.GroupResource, key meta.Key, change func(meta.Object) error) (meta.Object, error) {
	o := meta.Copy(s.objects[key])
	if err := change(o); err != nil {
		return nil, err
	}
	s.objects[key] = o
	return o, nil
}

func (s *server) Delete(_ context.Context, _ schema.GroupResource, _ meta.Key, opts resource.DeleteOptions) error {
	s.deleted = append(s.deleted, opts)
	return nil
}

func (s *server) Claimed(_ context.Context, key string) (bool, error) { return s.claimed[key], nil }
func (s *server) DryRun() bool                                        { return s.dry }

func prefixes(cidrs ...string) []netip.Prefix {
	all := make([]netip.Prefix, len(cidrs))
	for i, c := range cidrs {
		all[i] = netip.MustParsePrefix(c)
	}
	return all
}

func ptr[V any](v V) *V { return &v }

func faults(r *check.Report) []string {
	var out []string
	for _, e := range r.Errors() {
		out = append(out, e.Error())
	}
	return out
}

// write takes a service through what a create or update does with it.
func write(t *testing.T, cfg ServiceConfig, srv *server, s, old *corev1.Service) []string {
	t.Helper()
	d, ctx := Services(cfg), t.Context()
	d.Default(s)
	d.Prepare(ctx, s, old)
	if err := d.Allocate(ctx, srv, s, old); err != nil {
		return []string{err.Error()}
	}
	r := check.NewReport()
	d.Validate(r, s, old)
	if old != nil {
		for _, c := range d.Claims(old) {
			delete(srv.claimed, c.Key)
		}
	}
	for _, c := range d.Claims(s) {
		if srv.claimed[c.Key] {
			return []string{c.Conflict.Error()}
		}
		srv.claimed[c.Key] = true
	}
	return faults(r)
}

func simpleService() *corev1.Service {
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "default"},
		Spec:       corev1.ServiceSpec{Selector: map[string]string{"app": "web"}, Ports: []corev1.ServicePort{{Port: 80}}},
	}
}

var (
	single = ServiceConfig{CIDRs: prefixes("10.96.0.0/24"), FirstNodePort: 30000, LastNodePort: 32767}
	dual   = ServiceConfig{CIDRs: prefixes("10.96.0.0/24", "fd00::/112"), FirstNodePort: 30000, LastNodePort: 32767}
)

func TestServiceFaults(t *testing.T) {
	for _, tc := range []struct {
		name   string
		cfg    ServiceConfig
		change func(*corev1.Service)
		want   []string
	}{
		{"plain", single, func(*corev1.Service) {}, nil},
		{"headless", single, func(s *corev1.Service) { s.Spec.ClusterIP = "None" }, nil},
		{"no ports", single, func(s *corev1.Service) { s.Spec.Ports = nil }, []string{"spec.ports: Required value"}},
		{"second port without a name", single, func(s *corev1.Service) {
			s.Spec.Ports = append(s.Spec.Ports, corev1.ServicePort{Port: 81, Name: "b"})
		}, []string{"spec.ports[0].name: Required value"}},
		{"external name", single, func(s *corev1.Service) {
			s.Spec.Type, s.Spec.ExternalName = corev1.ServiceTypeExternalName, "example.com"
		}, nil},
		{"no external name", single, func(s *corev1.Service) { s.Spec.Type = corev1.ServiceTypeExternalName },
			[]string{"spec.externalName: Required value"}},
		{"address outside", single, func(s *corev1.Service) { s.Spec.ClusterIP = "10.0.0.1" },
			[]string{`Service "web" is invalid: spec.clusterIPs: Invalid value: ["10.0.0.1"]: failed to allocate IP 10.0.0.1: the provided network does not match the current range`}},
		{"node port on cluster IP", single, func(s *corev1.Service) { s.Spec.Ports[0].NodePort = 30001 },
			[]string{"spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'"}},
		{"node port outside", single, func(s *corev1.Service) {
			s.Spec.Type, s.Spec.Ports[0].NodePort = corev1.ServiceTypeNodePort, 80
		}, []string{`Service "web" is invalid: spec.ports[0].nodePort: Invalid value: 80: provided port is not in the valid range. The range of valid ports is 30000-32767`}},
		{"dual stack on a single one", single, func(s *corev1.Service) { s.Spec.IPFamilyPolicy = ptr(corev1.IPFamilyPolicyRequireDualStack) },
			[]string{`spec.ipFamilyPolicy: Invalid value: "RequireDualStack": this cluster is not configured for dual-stack services`}},
		{"loopback external IP", single, func(s *corev1.Service) { s.Spec.ExternalIPs = []string{"127.0.0.1"} },
			[]string{`spec.externalIPs[0]: Invalid value: "127.0.0.1": may not be in the loopback range (127.0.0.0/8, ::1/128)`}},
		{"local policy inside", single, func(s *corev1.Service) { s.Spec.ExternalTrafficPolicy = "Local" },
			[]string{`spec.externalTrafficPolicy: Invalid value: "Local": may only be set for externally-accessible services`}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := simpleService()
			tc.change(s)
			if diff := cmp.Diff(tc.want, write(t, tc.cfg, &server{claimed: map[string]bool{}}, s, nil)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestServiceTypeChanges(t *testing.T) {
	srv := &server{claimed: map[string]bool{}}
	s := simpleService()
	if f := write(t, dual, srv, s, nil); f != nil {
		t.Fatal(f)
	}
	ip := s.Spec.ClusterIP
	if ip == "" || len(s.Spec.ClusterIPs) != 1 || *s.Spec.IPFamilyPolicy != corev1.IPFamilyPolicySingleStack {
		t.Fatalf("got %+v", s.Spec)
	}

	update := func(change func(*corev1.Service)) *corev1.Service {
		t.Helper()
		next := s.DeepCopy()
		change(next)
		if f := write(t, dual, srv, next, s); f != nil {
			t.Fatal(f)
		}
		s = next
		return next
	}
	up := update(func(s *corev1.Service) { s.Spec.IPFamilyPolicy = ptr(corev1.IPFamilyPolicyPreferDualStack) })
	if len(up.Spec.ClusterIPs) != 2 || up.Spec.ClusterIPs[0] != ip {
		t.Errorf("upgrade: %v", up.Spec.ClusterIPs)
	}
	down := update(func(s *corev1.Service) { s.Spec.IPFamilyPolicy = ptr(corev1.IPFamilyPolicySingleStack) })
	if len(down.Spec.ClusterIPs) != 1 || len(down.Spec.IPFamilies) != 1 {
		t.Errorf("downgrade: %v %v", down.Spec.ClusterIPs, down.Spec.IPFamilies)
	}
	open := update(func(s *corev1.Service) { s.Spec.Type = corev1.ServiceTypeNodePort })
	port := open.Spec.Ports[0].NodePort
	if port < 30086 || port > 32767 {
		t.Errorf("node port %d is not of the upper part of the range", port)
	}
	again := update(func(s *corev1.Service) { s.Spec.Ports[0].NodePort, s.Spec.ClusterIP, s.Spec.ClusterIPs = 0, "", nil })
	if again.Spec.Ports[0].NodePort != port || again.Spec.ClusterIP != ip {
		t.Errorf("an update without them lost %d and %s: %+v", port, ip, again.Spec)
	}
	update(func(s *corev1.Service) { s.Spec.Type = corev1.ServiceTypeClusterIP })
	update(func(s *corev1.Service) {
		s.Spec.Type, s.Spec.ExternalName = corev1.ServiceTypeExternalName, "example.com"
	})
	if len(srv.claimed) != 0 || s.Spec.ClusterIP != "" {
		t.Errorf("an external name holds %v and %q", srv.claimed, s.Spec.ClusterIP)
	}
}

func TestServiceImmutableAddress(t *testing.T) {
	srv := &server{claimed: map[string]bool{}}
	s := simpleService()
	s.Spec.ClusterIP = "10.96.0.5"
	if f := write(t, single, srv, s, nil); f != nil {
		t.Fatal(f)
	}
	next := s.DeepCopy()
	next.Spec.ClusterIP, next.Spec.ClusterIPs = "10.96.0.6", nil
	want := []string{`spec.clusterIPs[0]: Invalid value: ["10.96.0.6"]: may not change once set`}
	if diff := cmp.Diff(want, write(t, single, srv, next, s)); diff != "" {
		t.Error(diff)
	}
	other := simpleService()
	other.Name, other.Spec.ClusterIP = "other", "10.96.0.6"
	srv.claimed[ipClaim("10.96.0.6")] = true
	want = []string{`Service "other" is invalid: spec.clusterIPs: Invalid value: ["10.96.0.6"]: failed to allocate IP 10.96.0.6: provided IP is already allocated`}
	if diff := cmp.Diff(want, write(t, single, srv, other, nil)); diff != "" {
		t.Error(diff)
	}
}

// TestRangeIsUsedUp allocates a whole range: the upper part first, each address
// once, neither the network's nor the broadcast address, and then no more.
func TestRangeIsUsedUp(t *testing.T) {
	cfg := ServiceConfig{CIDRs: prefixes("10.96.0.0/26"), FirstNodePort: 30000, LastNodePort: 30001}
	srv := &server{claimed: map[string]bool{}}
	for i := range 62 {
		s := simpleService()
		if f := write(t, cfg, srv, s, nil); f != nil {
			t.Fatalf("service %d: %v", i, f)
		}
		n := offsetIn(cfg.CIDRs[0], netip.MustParseAddr(s.Spec.ClusterIP))
		if n < 1 || n > 62 {
			t.Errorf("%s is no host address", s.Spec.ClusterIP)
		}
		if lower := n <= 16; lower != (i >= 62-16) {
			t.Errorf("service %d got %s", i, s.Spec.ClusterIP)
		}
	}
	if f := write(t, cfg, srv, simpleService(), nil); len(f) != 1 {
		t.Errorf("a full range still gives: %v", f)
	}
}

func TestBind(t *testing.T) {
	key := meta.Key{Namespace: "default", Name: "web"}
	fresh := func() *corev1.Pod {
		return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web", UID: "u1"}}
	}
	to := func(node string) *corev1.Binding {
		return &corev1.Binding{ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{"a": "b"}}, Target: corev1.ObjectReference{Kind: "Node", Name: node}}
	}
	srv := &server{objects: map[meta.Key]meta.Object{key: fresh()}}
	if _, err := Bind(t.Context(), srv, key, to("n1")); err != nil {
		t.Fatal(err)
	}
	p := srv.objects[key].(*corev1.Pod)
	if p.Spec.NodeName != "n1" || p.Annotations["a"] != "b" || p.Status.Conditions[0].Status != corev1.ConditionTrue {
		t.Errorf("got %+v", p)
	}
	wrongUID := to("n1")
	wrongUID.UID = types.UID("u2")
	gated := fresh()
	gated.Spec.SchedulingGates = []corev1.PodSchedulingGate{{Name: "x.io/g"}}
	for _, tc := range []struct {
		name string
		pod  *corev1.Pod
		b    *corev1.Binding
		want string
	}{
		{"bound", p, to("n2"), `Operation cannot be fulfilled on pods/binding "web": pod web is already assigned to node "n1"`},
		{"other uid", fresh(), wrongUID, `Operation cannot be fulfilled on pods/binding "web": Precondition failed: UID in precondition: u2, UID in object meta: u1`},
		{"gated", gated, to("n2"), `Operation cannot be fulfilled on pods/binding "web": pod web has non-empty .spec.schedulingGates`},
		{"nowhere", fresh(), to(""), `Binding "web" is invalid: target.name: Required value`},
	} {
		srv.objects[key] = tc.pod
		if _, err := Bind(t.Context(), srv, key, tc.b); err == nil || err.Error() != tc.want {
			t.Errorf("%s: got %v", tc.name, err)
		}
	}
}

func TestPodGrace(t *testing.T) {
	running := func() *corev1.Pod {
		return &corev1.Pod{Spec: corev1.PodSpec{NodeName: "n1", TerminationGracePeriodSeconds: ptr(int64(30))}}
	}
	unbound, done := running(), running()
	unbound.Spec.NodeName, done.Status.Phase = "", corev1.PodSucceeded
	for _, tc := range []struct {
		name  string
		pod   *corev1.Pod
		asked *int64
		want  int64
		now   bool
	}{
		{"as the spec says", running(), nil, 30, false},
		{"as asked", running(), ptr(int64(5)), 5, false},
		{"at once", running(), ptr(int64(0)), 0, true},
		{"negative", running(), ptr(int64(-1)), 1, false},
		{"unbound", unbound, nil, 0, true},
		{"ended", done, ptr(int64(5)), 0, true},
	} {
		if got, now := podGrace(tc.pod, tc.asked); got != tc.want || now != tc.now {
			t.Errorf("%s: got %d, %v", tc.name, got, now)
		}
	}
}
