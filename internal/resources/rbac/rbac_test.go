package rbac

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff.dev/skiff/internal/check"
)

func found(r *check.Report) []string {
	var out []string
	for _, e := range r.Errors() {
		out = append(out, e.Error())
	}
	return out
}

func TestValidateRoles(t *testing.T) {
	for _, c := range []struct {
		name    string
		rule    rbacv1.PolicyRule
		role    []string
		cluster []string
	}{
		{name: "good", rule: rbacv1.PolicyRule{Verbs: []string{"get"}, APIGroups: []string{""}, Resources: []string{"pods"}}},
		{
			name:    "empty",
			role:    []string{"rules[0].verbs: Required value: verbs must contain at least one value", "rules[0].apiGroups: Required value: resource rules must supply at least one api group", "rules[0].resources: Required value: resource rules must supply at least one resource"},
			cluster: []string{"rules[0].verbs: Required value: verbs must contain at least one value", "rules[0].apiGroups: Required value: resource rules must supply at least one api group", "rules[0].resources: Required value: resource rules must supply at least one resource"},
		},
		{
			name: "url", rule: rbacv1.PolicyRule{Verbs: []string{"get"}, NonResourceURLs: []string{"/x"}},
			role: []string{`rules[0].nonResourceURLs: Invalid value: ["/x"]: namespaced rules cannot apply to non-resource URLs`},
		},
		{
			name:    "both",
			rule:    rbacv1.PolicyRule{Verbs: []string{"get"}, NonResourceURLs: []string{"/x"}, APIGroups: []string{""}},
			role:    []string{`rules[0].nonResourceURLs: Invalid value: ["/x"]: namespaced rules cannot apply to non-resource URLs`, `rules[0].nonResourceURLs: Invalid value: ["/x"]: rules cannot apply to both regular resources and non-resource URLs`},
			cluster: []string{`rules[0].nonResourceURLs: Invalid value: ["/x"]: rules cannot apply to both regular resources and non-resource URLs`},
		},
	} {
		r := check.NewReport()
		Role.Validate(r, &rbacv1.Role{Rules: []rbacv1.PolicyRule{c.rule}}, nil)
		if diff := cmp.Diff(c.role, found(r)); diff != "" {
			t.Errorf("%s: role: %s", c.name, diff)
		}
		r = check.NewReport()
		ClusterRole.Validate(r, &rbacv1.ClusterRole{Rules: []rbacv1.PolicyRule{c.rule}}, nil)
		if diff := cmp.Diff(c.cluster, found(r)); diff != "" {
			t.Errorf("%s: cluster role: %s", c.name, diff)
		}
	}
}

func TestValidateAggregation(t *testing.T) {
	r := check.NewReport()
	ClusterRole.Validate(r, &rbacv1.ClusterRole{AggregationRule: &rbacv1.AggregationRule{}}, nil)
	want := []string{"aggregationRule.clusterRoleSelectors: Required value: at least one clusterRoleSelector required if aggregationRule is non-nil"}
	if diff := cmp.Diff(want, found(r)); diff != "" {
		t.Error(diff)
	}
}

func TestValidateBindings(t *testing.T) {
	good := rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "r"}
	for _, c := range []struct {
		name    string
		ref     rbacv1.RoleRef
		old     *rbacv1.RoleRef
		subject rbacv1.Subject
		want    []string
	}{
		{name: "good", ref: good, subject: rbacv1.Subject{Kind: "User", APIGroup: rbacv1.GroupName, Name: "u"}},
		{name: "service account", ref: good, subject: rbacv1.Subject{Kind: "ServiceAccount", Name: "u"}},
		{name: "changed", ref: good, old: &rbacv1.RoleRef{}, subject: rbacv1.Subject{Kind: "ServiceAccount", Name: "u"},
			want: []string{`roleRef: Invalid value: {"apiGroup":"rbac.authorization.k8s.io","kind":"Role","name":"r"}: cannot change roleRef`}},
		{name: "empty", want: []string{
			`roleRef.apiGroup: Unsupported value: "": supported values: "rbac.authorization.k8s.io"`,
			`roleRef.kind: Unsupported value: "": supported values: "Role", "ClusterRole"`,
			`roleRef.name: Required value`,
			`subjects[0].name: Required value`,
			`subjects[0].kind: Unsupported value: "": supported values: "ServiceAccount", "User", "Group"`,
		}},
		{name: "bad names", ref: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "a/b"},
			subject: rbacv1.Subject{Kind: "ServiceAccount", APIGroup: "x", Name: "ok"},
			want: []string{
				`roleRef.name: Invalid value: "a/b": may not contain '/'`,
				`subjects[0].apiGroup: Unsupported value: "x": supported values: ""`,
			}},
		{name: "group's group", ref: good, subject: rbacv1.Subject{Kind: "Group", APIGroup: "x", Name: "g"},
			want: []string{`subjects[0].apiGroup: Unsupported value: "x": supported values: "rbac.authorization.k8s.io"`}},
	} {
		b := &rbacv1.RoleBinding{RoleRef: c.ref, Subjects: []rbacv1.Subject{c.subject}}
		var old *rbacv1.RoleBinding
		if c.old != nil {
			old = &rbacv1.RoleBinding{RoleRef: *c.old}
		}
		r := check.NewReport()
		RoleBinding.Validate(r, b, old)
		if diff := cmp.Diff(c.want, found(r)); diff != "" {
			t.Errorf("%s: %s", c.name, diff)
		}
	}
	r := check.NewReport()
	ClusterRoleBinding.Validate(r, &rbacv1.ClusterRoleBinding{RoleRef: good, Subjects: []rbacv1.Subject{{Kind: "ServiceAccount", Name: "u"}}}, nil)
	want := []string{`roleRef.kind: Unsupported value: "Role": supported values: "ClusterRole"`, "subjects[0].namespace: Required value"}
	if diff := cmp.Diff(want, found(r)); diff != "" {
		t.Error(diff)
	}
}

func TestDefaultAndColumns(t *testing.T) {
	b := &rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "b"}, RoleRef: rbacv1.RoleRef{Kind: "Role", Name: "r"}, Subjects: []rbacv1.Subject{
		{Kind: "User", Name: "u"}, {Kind: "Group", Name: "g"}, {Kind: "Group", Name: "h"}, {Kind: "ServiceAccount", Namespace: "n", Name: "s"}}}
	RoleBinding.Default(b)
	if b.RoleRef.APIGroup != rbacv1.GroupName || b.Subjects[0].APIGroup != rbacv1.GroupName || b.Subjects[3].APIGroup != "" {
		t.Errorf("defaults: %+v", b)
	}
	var cells []any
	for _, c := range RoleBinding.Columns {
		if c.Name != "Age" {
			cells = append(cells, c.Value(b))
		}
	}
	if diff := cmp.Diff([]any{"Role/r", "u", "g, h", "n/s"}, cells); diff != "" {
		t.Error(diff)
	}
}
