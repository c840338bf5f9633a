package node

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/google/go-cmp/cmp"
)

func TestTolerates(t *testing.T) {
	taint := corev1.Taint{Key: "a", Value: "b", Effect: corev1.TaintEffectNoExecute}
	for _, tc := range []struct {
		name string
		t    corev1.Toleration
		want bool
	}{
		{"equal", corev1.Toleration{Key: "a", Value: "b", Operator: corev1.TolerationOpEqual}, true},
		{"equal by default", corev1.Toleration{Key: "a", Value: "b"}, true},
		{"other value", corev1.Toleration{Key: "a", Value: "c"}, false},
		{"exists", corev1.Toleration{Key: "a", Operator: corev1.TolerationOpExists}, true},
		{"everything", corev1.Toleration{Operator: corev1.TolerationOpExists}, true},
		{"other effect", corev1.Toleration{Key: "a", Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoSchedule}, false},
		{"unknown operator", corev1.Toleration{Key: "a", Value: "b", Operator: "Near"}, false},
	} {
		if got := Tolerates(&tc.t, &taint); got != tc.want {
			t.Errorf("%s: got %v", tc.name, got)
		}
	}
	if got := Untolerated([]corev1.Taint{taint}, nil, corev1.TaintEffectNoSchedule); got != nil {
		t.Errorf("a taint of another effect counts: %v", got)
	}
	if got := Untolerated([]corev1.Taint{taint}, nil); got == nil || got.Key != "a" {
		t.Errorf("got %v", got)
	}
}

func TestWithTaint(t *testing.T) {
	a := corev1.Taint{Key: "a", Value: "1", Effect: corev1.TaintEffectNoSchedule}
	b := corev1.Taint{Key: "a", Value: "2", Effect: corev1.TaintEffectNoSchedule}
	had := []corev1.Taint{a}
	got, changed := WithTaint(had, b)
	if diff := cmp.Diff([]corev1.Taint{b}, got); diff != "" || !changed || had[0] != a {
		t.Errorf("changed %v, input %v: %s", changed, had, diff)
	}
	if _, changed := WithTaint(had, a); changed {
		t.Error("the same taint counts as a change")
	}
	if got, changed := WithoutTaint(had, "a", a.Effect); len(got) != 0 || !changed {
		t.Errorf("got %v", got)
	}
}

func TestRoles(t *testing.T) {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{
		"node-role.kubernetes.io/worker": "", "node-role.kubernetes.io/control-plane": "", "kubernetes.io/role": "worker", "x": "y"}}}
	if diff := cmp.Diff([]string{"control-plane", "worker"}, Roles(n)); diff != "" {
		t.Error(diff)
	}
}
