package core

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff.dev/skiff/internal/check"
	"skiff.dev/skiff/internal/meta"
	"skiff.dev/skiff/internal/pod"
	"skiff.dev/skiff/internal/resource"
)

// validated takes obj through defaults, views, preparation and validation.
func validated(t *testing.T, d resource.Any, obj, old meta.Object) []string {
	t.Helper()
	d.Default(obj)
	d.KeepViews(obj, old)
	d.Prepare(t.Context(), obj, old)
	r := check.NewReport()
	d.Validate(r, obj, old)
	return faults(r)
}

func TestConfigMap(t *testing.T) {
	d := resource.Of(ConfigMap)
	sealedMap := &corev1.ConfigMap{Immutable: ptr(true), Data: map[string]string{"a": "1"}}
	for _, tc := range []struct {
		name     string
		obj, old *corev1.ConfigMap
		want     []string
	}{
		{"valid", &corev1.ConfigMap{Data: map[string]string{"a.b-c_D": "1"}}, nil, nil},
		{"bad key", &corev1.ConfigMap{Data: map[string]string{"a b": "1"}}, nil, []string{
			`data[a b]: Invalid value: "a b": a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')`}},
		{"key in both", &corev1.ConfigMap{Data: map[string]string{"a": "1"}, BinaryData: map[string][]byte{"a": nil}}, nil,
			[]string{`data[a]: Invalid value: "a": duplicate of key present in binaryData`}},
		{"too long", &corev1.ConfigMap{Data: map[string]string{"a": strings.Repeat("x", 1<<20+1)}}, nil,
			[]string{`[]: Too long: may not be more than 1048576 bytes`}},
		{"sealed and changed", &corev1.ConfigMap{Immutable: ptr(true), Data: map[string]string{"a": "2"}}, sealedMap,
			[]string{"data: Forbidden: field is immutable when `immutable` is set"}},
		{"unsealed", &corev1.ConfigMap{Data: map[string]string{"a": "1"}}, sealedMap,
			[]string{"immutable: Forbidden: field is immutable when `immutable` is set"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var old meta.Object
			if tc.old != nil {
				old = tc.old
			}
			if diff := cmp.Diff(tc.want, validated(t, d, tc.obj, old)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestSecret(t *testing.T) {
	d := resource.Of(Secret)
	typed := func(typ corev1.SecretType, data map[string]string) *corev1.Secret {
		return &corev1.Secret{Type: typ, StringData: data}
	}
	for _, tc := range []struct {
		name string
		obj  *corev1.Secret
		want []string
	}{
		{"opaque", typed("", map[string]string{"a": "b"}), nil},
		{"token of nobody", typed(corev1.SecretTypeServiceAccountToken, nil),
			[]string{"metadata.annotations[kubernetes.io/service-account.name]: Required value"}},
		{"no docker config", typed(corev1.SecretTypeDockerConfigJson, nil), []string{"data[.dockerconfigjson]: Required value"}},
		{"bad docker config", typed(corev1.SecretTypeDockerConfigJson, map[string]string{".dockerconfigjson": "secret"}),
			[]string{`data[.dockerconfigjson]: Invalid value: "<secret contents redacted>": invalid character 's' looking for beginning of value`}},
		{"password only", typed(corev1.SecretTypeBasicAuth, map[string]string{"password": "p"}), nil},
		{"neither", typed(corev1.SecretTypeBasicAuth, nil), []string{"data[username]: Required value", "data[password]: Required value"}},
		{"half a certificate", typed(corev1.SecretTypeTLS, map[string]string{"tls.crt": ""}), []string{"data[tls.key]: Required value"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, validated(t, d, tc.obj, nil)); diff != "" {
				t.Error(diff)
			}
			if tc.obj.StringData != nil {
				t.Error("stringData is kept")
			}
		})
	}
	old := &corev1.Secret{Type: corev1.SecretTypeOpaque}
	want := []string{`type: Invalid value: "x/y": field is immutable`}
	if diff := cmp.Diff(want, validated(t, d, typed("x/y", nil), old)); diff != "" {
		t.Error(diff)
	}
}

func TestNamespaceLife(t *testing.T) {
	d := resource.Of(Namespace)
	n := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "team", UID: "u"}}
	if f := validated(t, d, n, nil); f != nil {
		t.Fatal(f)
	}
	if n.Status.Phase != corev1.NamespaceActive || n.Labels["kubernetes.io/metadata.name"] != "team" || !d.Held(n) {
		t.Errorf("got %+v", n)
	}
	emptied := n.DeepCopy()
	emptied.Spec.Finalizers = nil
	if f := validated(t, d, emptied, n); f != nil || len(emptied.Spec.Finalizers) != 1 {
		t.Errorf("an update emptied the finalizers: %v %v", f, emptied.Spec)
	}
	ending := n.DeepCopy()
	d.BeginDeletion(ending)
	ending.DeletionTimestamp = &metav1.Time{Time: time.Now()}
	done := ending.DeepCopy()
	done.Spec.Finalizers = nil
	d.View("finalize").Reset(done, ending)
	if d.Held(done) || done.Status.Phase != corev1.NamespaceTerminating {
		t.Errorf("got %+v", done)
	}
	r := check.NewReport()
	active := ending.DeepCopy()
	active.Status.Phase = corev1.NamespaceActive
	d.View("status").Validate(r, active, ending)
	want := []string{"status.Phase: Invalid value: \"Active\": may only be 'Terminating' if `deletionTimestamp` is not empty"}
	if diff := cmp.Diff(want, faults(r)); diff != "" {
		t.Error(diff)
	}
}

func TestNode(t *testing.T) {
	d := resource.Of(Node)
	taint := corev1.Taint{Key: "a", Effect: corev1.TaintEffectNoSchedule}
	node := func(s corev1.NodeSpec) *corev1.Node {
		return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1", UID: "u"}, Spec: s}
	}
	for _, tc := range []struct {
		name     string
		spec     corev1.NodeSpec
		old      *corev1.NodeSpec
		want     []string
		wantCIDR string
	}{
		{name: "valid", spec: corev1.NodeSpec{PodCIDR: "10.0.1.0/24"}, wantCIDR: "10.0.1.0/24"},
		{name: "other way round", spec: corev1.NodeSpec{PodCIDRs: []string{"10.0.1.0/24", "fd00::/64"}}, wantCIDR: "10.0.1.0/24"},
		{name: "two of a family", spec: corev1.NodeSpec{PodCIDRs: []string{"10.0.1.0/24", "10.0.2.0/24"}}, wantCIDR: "10.0.1.0/24",
			want: []string{`spec.podCIDRs: Invalid value: ["10.0.1.0/24","10.0.2.0/24"]: may specify no more than one CIDR for each IP family`}},
		{name: "taint twice", spec: corev1.NodeSpec{Taints: []corev1.Taint{taint, taint}},
			want: []string{`spec.taints[1]: Duplicate value: {"key":"a","effect":"NoSchedule"}: taints must be unique by key and effect pair`}},
		{name: "unknown effect", spec: corev1.NodeSpec{Taints: []corev1.Taint{{Key: "a", Effect: "Odd"}}},
			want: []string{`spec.taints[0].effect: Unsupported value: "Odd": supported values: "NoSchedule", "PreferNoSchedule", "NoExecute"`}},
		{name: "range changed", spec: corev1.NodeSpec{PodCIDR: "10.0.2.0/24"}, wantCIDR: "10.0.2.0/24",
			old:  &corev1.NodeSpec{PodCIDR: "10.0.1.0/24", PodCIDRs: []string{"10.0.1.0/24"}},
			want: []string{`spec.podCIDRs: Forbidden: node updates may not change podCIDR except from "" to valid`}},
		{name: "provider changed", spec: corev1.NodeSpec{ProviderID: "b"}, old: &corev1.NodeSpec{ProviderID: "a"},
			want: []string{`spec.providerID: Forbidden: node updates may not change providerID except from "" to valid`}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			n := node(tc.spec)
			var old meta.Object
			if tc.old != nil {
				old = node(*tc.old)
			}
			if diff := cmp.Diff(tc.want, validated(t, d, n, old)); diff != "" {
				t.Error(diff)
			}
			if n.Spec.PodCIDR != tc.wantCIDR {
				t.Errorf("podCIDR is %q", n.Spec.PodCIDR)
			}
		})
	}
	withStatus := node(corev1.NodeSpec{})
	withStatus.Status.NodeInfo.KubeletVersion = "v1.37.0"
	validated(t, d, withStatus, nil)
	if withStatus.Status.NodeInfo.KubeletVersion == "" {
		t.Error("a node loses the status it registers with")
	}
}

func TestPodStatusIsKept(t *testing.T) {
	d := resource.Of(Pods(nil))
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "default"}, Spec: corev1.PodSpec{
		Containers:      []corev1.Container{{Name: "web", Image: "web:1"}},
		SchedulingGates: []corev1.PodSchedulingGate{{Name: "x.io/g"}},
	}, Status: corev1.PodStatus{Phase: corev1.PodRunning, PodIP: "10.1.1.1"}}
	if f := validated(t, d, p, nil); f != nil {
		t.Fatal(f)
	}
	want := corev1.PodStatus{Phase: corev1.PodPending, QOSClass: corev1.PodQOSBestEffort, Conditions: []corev1.PodCondition{{
		Type: corev1.PodScheduled, Status: corev1.ConditionFalse, ObservedGeneration: 1,
		Reason: corev1.PodReasonSchedulingGated, Message: "Scheduling is blocked due to non-empty scheduling gates"}}}
	if diff := cmp.Diff(want, p.Status); diff != "" {
		t.Error(diff)
	}
	moved := p.DeepCopy()
	moved.Spec.NodeName = "n1"
	if d.SpecChanged(moved, p) {
		t.Error("binding counts as a change of the spec")
	}
}

func TestEvict(t *testing.T) {
	key := meta.Key{Namespace: "default", Name: "web"}
	asked := 0
	budget := EvictionBudget(func(context.Context, resource.Access, *corev1.Pod) error { asked++; return nil })
	evictPod := func(phase corev1.PodPhase, body *policyv1.Eviction) (*server, error) {
		srv := &server{objects: map[meta.Key]meta.Object{key: &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web", UID: "u1"}, Status: corev1.PodStatus{Phase: phase}}}}
		_, err := evictionAction(budget).Do(t.Context(), srv, key, body)
		return srv, err
	}
	srv, err := evictPod(corev1.PodRunning, &policyv1.Eviction{DeleteOptions: &metav1.DeleteOptions{GracePeriodSeconds: ptr(int64(7))}})
	if err != nil || len(srv.deleted) != 1 || *srv.deleted[0].GraceSeconds != 7 || srv.deleted[0].UID != "u1" || asked != 1 {
		t.Errorf("got %v, deleted %+v, budget asked %d times", err, srv.deleted, asked)
	}
	c := pod.Condition(&srv.objects[key].(*corev1.Pod).Status, corev1.DisruptionTarget)
	if c == nil || c.Reason != "EvictionByEvictionAPI" {
		t.Errorf("got condition %+v", c)
	}
	if srv, err := evictPod(corev1.PodPending, &policyv1.Eviction{}); err != nil || len(srv.deleted) != 1 || asked != 1 {
		t.Errorf("pending: got %v, budget asked %d times", err, asked)
	}
	if srv, err := evictPod(corev1.PodRunning, &policyv1.Eviction{DeleteOptions: &metav1.DeleteOptions{DryRun: []string{"All"}}}); err != nil || len(srv.deleted) != 0 {
		t.Errorf("dry run: got %v, deleted %v", err, srv.deleted)
	}
	if _, err := evictPod(corev1.PodRunning, &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: "other"}}); err == nil {
		t.Error("an eviction of another name is carried out")
	}
}
