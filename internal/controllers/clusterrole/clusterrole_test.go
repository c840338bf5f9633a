package clusterrole

import (
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff.dev/skiff/internal/apiserver/authz/rbac"
	"skiff.dev/skiff/internal/testing/controltest"
)

func part(name, resource string) *rbacv1.ClusterRole {
	return &rbacv1.ClusterRole{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"to": "all"}},
		Rules:      []rbacv1.PolicyRule{{APIGroups: []string{""}, Resources: []string{resource}, Verbs: []string{"get"}}},
	}
}

func TestAggregatesAndFollows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := controltest.New(t)
		defer w.Close()
		w.Run(New(w.Client, rbac.Aggregate))
		controltest.Create(w, &rbacv1.ClusterRole{
			ObjectMeta:      metav1.ObjectMeta{Name: "all"},
			AggregationRule: &rbacv1.AggregationRule{ClusterRoleSelectors: []metav1.LabelSelector{{MatchLabels: map[string]string{"to": "all"}}}},
		})
		resources := func() (list []string) {
			w.Settle()
			for _, r := range controltest.Get[*rbacv1.ClusterRole](w, "", "all").Rules {
				list = append(list, r.Resources...)
			}
			return list
		}
		pods, nodes := controltest.Create(w, part("a", "pods")), controltest.Create(w, part("b", "nodes"))
		if diff := cmp.Diff([]string{"pods", "nodes"}, resources()); diff != "" {
			t.Error(diff)
		}
		controltest.Update(w, pods, func(r *rbacv1.ClusterRole) { r.Labels = nil })
		if diff := cmp.Diff([]string{"nodes"}, resources()); diff != "" {
			t.Error(diff)
		}
		controltest.Delete[*rbacv1.ClusterRole](w, "", nodes.Name, "")
		if got := resources(); len(got) > 0 {
			t.Errorf("rules of roles that are gone: %v", got)
		}
	})
}
