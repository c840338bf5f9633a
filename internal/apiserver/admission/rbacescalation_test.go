package admission

import (
	"strings"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"skiff.dev/skiff/internal/apiserver/authz"
	"skiff.dev/skiff/internal/apiserver/authz/rbac"
	"skiff.dev/skiff/internal/apiserver/request"
	"skiff.dev/skiff/internal/meta"
)

func TestRBACEscalation(t *testing.T) {
	rules := func(verbs, resources string) []rbacv1.PolicyRule {
		group := ""
		if strings.HasSuffix(resources, "roles") {
			group = rbacv1.GroupName
		}
		return []rbacv1.PolicyRule{{Verbs: strings.Fields(verbs), APIGroups: []string{group}, Resources: strings.Fields(resources)}}
	}
	role := func(name string, r []rbacv1.PolicyRule) *rbacv1.ClusterRole {
		return &rbacv1.ClusterRole{ObjectMeta: named(name), Rules: r}
	}
	a := rbac.New()
	for user, r := range map[string][]rbacv1.PolicyRule{
		"reader": rules("get", "pods"), "binder": rules("bind", "clusterroles"), "climber": rules("escalate", "roles clusterroles"),
		"root": everything(),
	} {
		o := role(user, r)
		a.Changed(rbac.ClusterRoles, meta.KeyOf(o), o)
		b := &rbacv1.ClusterRoleBinding{ObjectMeta: named(user), RoleRef: rbacv1.RoleRef{Kind: "ClusterRole", Name: user}, Subjects: []rbacv1.Subject{{Kind: "User", Name: user}}}
		a.Changed(rbac.ClusterRoleBindings, meta.KeyOf(b), b)
	}
	plugin := RBACEscalation(a, authz.Union{authz.Superuser{}, a})

	readPods, deletePods := rules("get", "pods"), rules("delete", "pods")
	bind := func(name string) *rbacv1.RoleBinding {
		return &rbacv1.RoleBinding{ObjectMeta: inNS("b"), RoleRef: rbacv1.RoleRef{Kind: "ClusterRole", Name: name}}
	}
	aggregated := role("new", nil)
	aggregated.AggregationRule = &rbacv1.AggregationRule{}
	owned := role("x", deletePods)
	owned.Finalizers = []string{"f"}
	const not = "is attempting to grant RBAC permissions not currently held:\n{APIGroups:[\"\"], Resources:[\"pods\"], Verbs:[\"delete\"]}"
	for _, c := range []struct {
		who  string
		obj  runtime.Object
		old  runtime.Object
		want string
	}{
		{"reader", role("new", readPods), nil, ""},
		{"reader", role("new", deletePods), nil, `clusterroles.rbac.authorization.k8s.io "new" is forbidden: user "reader" (groups=[]) ` + not},
		{"reader", role("new", deletePods), role("new", readPods), not},
		{"reader", &rbacv1.Role{ObjectMeta: inNS("new"), Rules: deletePods}, nil, not},
		{"climber", role("new", deletePods), nil, ""},
		{"climber", &rbacv1.Role{ObjectMeta: inNS("new"), Rules: deletePods}, nil, ""},
		{"reader", owned, role("x", deletePods), ""},
		{"reader", aggregated, nil, "must have cluster-admin privileges to use an aggregationRule"},
		{"root", aggregated, nil, ""},
		{"reader", bind("reader"), nil, ""},
		{"reader", bind("root"), nil, "is attempting to grant RBAC permissions not currently held"},
		{"reader", bind("gone"), nil, `"gone" not found`},
		{"binder", bind("root"), nil, ""},
		{"binder", bind("gone"), nil, ""},
		{"reader", &rbacv1.ClusterRoleBinding{ObjectMeta: named("b"), RoleRef: rbacv1.RoleRef{Kind: "ClusterRole", Name: "root"}}, nil, "is attempting to grant RBAC permissions not currently held"},
	} {
		gr := rbac.ClusterRoles
		switch c.obj.(type) {
		case *rbacv1.Role:
			gr = rbac.Roles
		case *rbacv1.RoleBinding:
			gr = rbac.RoleBindings
		case *rbacv1.ClusterRoleBinding:
			gr = rbac.ClusterRoleBindings
		}
		op := Create
		if c.old != nil {
			op = Update
		}
		at := write(op, gr, "", c.obj, c.old)
		at.User = &request.User{Name: c.who}
		wants(t, c.who, admit(plugin, at), c.want)
		at.User = &request.User{Name: "x", Groups: []string{request.GroupMasters}}
		wants(t, "master", admit(plugin, at), "")
	}
}
