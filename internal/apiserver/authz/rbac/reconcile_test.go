package rbac

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestReconcileClusterRole(t *testing.T) {
	with := func(r *rbacv1.ClusterRole, change func(*rbacv1.ClusterRole)) *rbacv1.ClusterRole {
		change(r)
		return r
	}
	want := with(clusterRole("r", rules("get list", "", "pods")), func(r *rbacv1.ClusterRole) { r.Labels = map[string]string{"a": "b"} })
	for _, c := range []struct {
		name string
		have *rbacv1.ClusterRole
		step Step
		out  *rbacv1.ClusterRole
	}{
		{"none", nil, Create, want},
		{"same", want, Keep, want},
		{"more", with(clusterRole("r", rules("*", "*", "*")), func(r *rbacv1.ClusterRole) { r.Labels = map[string]string{"a": "own"} }), Keep, nil},
		{"less", clusterRole("r", rules("get", "", "pods")), Update, with(
			clusterRole("r", append(rules("get", "", "pods"), rules("list", "", "pods")...)),
			func(r *rbacv1.ClusterRole) { r.Labels = map[string]string{"a": "b"} })},
		{"protected", with(clusterRole("r", nil), func(r *rbacv1.ClusterRole) {
			r.Annotations = map[string]string{rbacv1.AutoUpdateAnnotationKey: "false"}
		}), Keep, nil},
	} {
		before := c.have.DeepCopy()
		out, step := ReconcileClusterRole(want, c.have)
		if step != c.step {
			t.Errorf("%s: step %v", c.name, step)
		}
		if c.out != nil {
			if diff := cmp.Diff(c.out, out, cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("%s: %s", c.name, diff)
			}
		}
		if diff := cmp.Diff(before, c.have); diff != "" {
			t.Errorf("%s: changed what it was given: %s", c.name, diff)
		}
	}
}

func TestReconcileBinding(t *testing.T) {
	want := clusterBinding("b", "r", group("g"))
	out, step := ReconcileClusterRoleBinding(want, clusterBinding("b", "r", user("own")))
	if diff := cmp.Diff(clusterBinding("b", "r", user("own"), group("g")), out); step != Update || diff != "" {
		t.Error(step, diff)
	}
	out, step = ReconcileClusterRoleBinding(want, clusterBinding("b", "other", user("own")))
	if diff := cmp.Diff(clusterBinding("b", "r", group("g"), user("own")), out); step != Recreate || diff != "" {
		t.Error(step, diff)
	}
	if _, step = ReconcileClusterRoleBinding(want, out); step != Keep {
		t.Error(step)
	}
}

func TestAggregate(t *testing.T) {
	labelled := func(name, label string, r []rbacv1.PolicyRule) *rbacv1.ClusterRole {
		o := clusterRole(name, r)
		o.Labels = map[string]string{label: "true"}
		return o
	}
	pods, nodes := rules("get", "", "pods"), rules("get", "", "nodes")
	admin := labelled("admin", "to-admin", nil)
	admin.AggregationRule = &rbacv1.AggregationRule{ClusterRoleSelectors: []metav1.LabelSelector{
		{MatchLabels: map[string]string{"to-admin": "true"}}, {MatchLabels: map[string]string{"to-view": "true"}}}}
	all := []*rbacv1.ClusterRole{
		labelled("z", "to-admin", nodes), labelled("a", "to-admin", pods), admin,
		labelled("v", "to-view", pods), labelled("x", "other", rules("*", "*", "*")),
	}
	got, err := Aggregate(admin, slices.Values(all))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(append(slices.Clone(pods), nodes...), got); diff != "" {
		t.Error(diff)
	}
}
