package bootstrap

import (
	"context"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"

	"skiff.dev/skiff/internal/apiserver/authz"
	"skiff.dev/skiff/internal/apiserver/authz/rbac"
	"skiff.dev/skiff/internal/apiserver/request"
	"skiff.dev/skiff/internal/check"
	"skiff.dev/skiff/internal/meta"
	resources "skiff.dev/skiff/internal/resources/rbac"
)

// Every object of the policy is one the API server would accept, once, and
// every binding finds its role.
func TestDefaultIsValid(t *testing.T) {
	p := Default()
	seen := map[string]bool{}
	try := func(kind string, o meta.Object, validate func(*check.Report)) {
		r := check.NewReport()
		validate(r)
		if r.Failed() {
			t.Errorf("%s %s: %v", kind, o.GetName(), r.Errors())
		}
		id := kind + "/" + o.GetNamespace() + "/" + o.GetName()
		if seen[id] {
			t.Errorf("%s: twice", id)
		}
		seen[id] = true
	}
	for _, o := range p.ClusterRoles {
		try("ClusterRole", o, func(r *check.Report) { resources.ClusterRole.Validate(r, o, nil) })
		for _, rule := range o.Rules {
			if len(rule.Verbs) == 0 {
				t.Errorf("%s: a rule without verbs", o.Name)
			}
		}
	}
	for _, o := range p.Roles {
		try("Role", o, func(r *check.Report) { resources.Role.Validate(r, o, nil) })
	}
	for _, o := range p.ClusterRoleBindings {
		try("ClusterRoleBinding", o, func(r *check.Report) { resources.ClusterRoleBinding.Validate(r, o, nil) })
		if !seen["ClusterRole//"+o.RoleRef.Name] {
			t.Errorf("%s: no role %s", o.Name, o.RoleRef.Name)
		}
	}
	for _, o := range p.RoleBindings {
		try("RoleBinding", o, func(r *check.Report) { resources.RoleBinding.Validate(r, o, nil) })
		if !seen["Role/"+o.Namespace+"/"+o.RoleRef.Name] {
			t.Errorf("%s: no role %s", o.Name, o.RoleRef.Name)
		}
	}
}

// What the policy allows, and above all what not.
func TestWhoMayWhat(t *testing.T) {
	p := Default()
	a := rbac.New()
	for _, o := range p.ClusterRoles {
		a.Changed(rbac.ClusterRoles, meta.KeyOf(o), o)
	}
	for _, o := range p.ClusterRoleBindings {
		a.Changed(rbac.ClusterRoleBindings, meta.KeyOf(o), o)
	}
	sa := func(name string) *request.User {
		return &request.User{Name: "system:serviceaccount:kube-system:" + name, Groups: []string{request.GroupServiceAccounts, request.GroupAuthenticated}}
	}
	nobody := &request.User{Name: request.Anonymous, Groups: []string{request.GroupUnauthenticated}}
	ann := &request.User{Name: "ann", Groups: []string{request.GroupAuthenticated}}
	node := &request.User{Name: "system:node:n1", Groups: []string{request.GroupNodes, request.GroupAuthenticated}}
	for _, role := range []string{"view", "edit", "admin"} {
		b := &rbacv1.RoleBinding{ObjectMeta: named("dev", role), RoleRef: rbacv1.RoleRef{Kind: "ClusterRole", Name: role}, Subjects: []rbacv1.Subject{user(role + "er")}}
		a.Changed(rbac.RoleBindings, meta.KeyOf(b), b)
	}
	viewer, editor, admin := &request.User{Name: "viewer"}, &request.User{Name: "editer"}, &request.User{Name: "adminer"}
	on := func(verb, group, resource, sub, namespace, name string) *request.Info {
		return &request.Info{IsResource: true, Verb: verb, Group: group, Resource: resource, Subresource: sub, Namespace: namespace, Name: name}
	}
	at := func(path string) *request.Info { return &request.Info{Verb: "get", Path: path} }
	for _, c := range []struct {
		who  *request.User
		what *request.Info
		want bool
	}{
		{nobody, at("/livez"), true},
		{nobody, at("/version"), true},
		{nobody, at("/apis"), false},
		{nobody, at("/metrics"), false},
		{nobody, on("list", "", "pods", "", "", ""), false},
		{ann, at("/apis/apps/v1"), true},
		{ann, on("create", "authorization.k8s.io", "selfsubjectaccessreviews", "", "", ""), true},
		{ann, on("create", "authorization.k8s.io", "subjectaccessreviews", "", "", ""), false},
		{ann, on("get", "", "pods", "", "default", "p"), false},
		{ann, at("/metrics"), false},
		{viewer, on("get", "apps", "deployments", "", "dev", "d"), true},
		{viewer, on("get", "", "secrets", "", "dev", "s"), false},
		{viewer, on("get", "apps", "deployments", "", "prod", "d"), false},
		{editor, on("get", "", "configmaps", "", "dev", "c"), true},
		{editor, on("create", "", "pods", "exec", "dev", "p"), true},
		{editor, on("create", rbacv1.GroupName, "rolebindings", "", "dev", ""), false},
		{admin, on("create", rbacv1.GroupName, "rolebindings", "", "dev", ""), true},
		{admin, on("update", "", "secrets", "", "dev", "s"), true},
		{admin, on("update", "", "resourcequotas", "", "dev", "q"), false},
		{node, on("get", "", "secrets", "", "default", "s"), false},
		{sa("deployment-controller"), on("create", "apps", "replicasets", "", "x", ""), true},
		{sa("deployment-controller"), on("create", "", "pods", "", "x", ""), false},
		{sa("endpoint-controller"), on("update", "", "endpoints", "", "x", "e"), true},
		{sa("horizontal-pod-autoscaler"), on("update", "apps", "deployments", "scale", "x", "d"), true},
		{sa("horizontal-pod-autoscaler"), on("update", "apps", "deployments", "", "x", "d"), false},
		{sa("clusterrole-aggregation-controller"), on("escalate", rbacv1.GroupName, "clusterroles", "", "", "admin"), true},
		{&request.User{Name: "system:kube-scheduler"}, on("create", "", "pods", "binding", "x", "p"), true},
		{&request.User{Name: "system:kube-scheduler"}, on("get", "", "secrets", "", "x", "s"), false},
		{&request.User{Name: "root", Groups: []string{request.GroupMasters}}, on("delete", "", "nodes", "", "", "n"), true},
	} {
		d, _, err := a.Authorize(context.Background(), c.who, c.what)
		if (d == authz.Allow) != c.want || err != nil {
			t.Errorf("%s %+v: %v %v", c.who.Name, c.what, d, err)
		}
	}
}
