// Package bootstrap is the policy that every cluster has from the start: the
// default cluster roles, roles and their bindings. It is data, with upstream's
// names and rights, so that documentation, tools and existing clusters agree
// with it. It reads and writes nothing; see rbac.Reconcile… for what is done
// with it. https://kubernetes.io/docs/reference/access-authn-authz/rbac/#default-roles-and-role-bindings
package bootstrap

import (
	"fmt"
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff.dev/skiff/internal/apiserver/authz/rbac"
)

// Policy is a set of RBAC objects.
type Policy struct {
	ClusterRoles        []*rbacv1.ClusterRole
	ClusterRoleBindings []*rbacv1.ClusterRoleBinding
	Roles               []*rbacv1.Role
	RoleBindings        []*rbacv1.RoleBinding
}

// Default returns the whole policy. The objects are the caller's own.
func Default() *Policy {
	p := &Policy{}
	p.userRoles()
	p.metricsRole()
	p.discoveryRoles()
	p.componentRoles()
	p.nodeRoles()
	p.certificateRoles()
	p.controllerRoles()
	p.namespacedRoles()
	p.fillAggregated()
	return p
}

// fillAggregated gives the aggregated roles the rules they begin with, so that
// they work before the aggregation controller first runs. A role comes after
// those that it is made of.
func (p *Policy) fillAggregated() {
	for _, name := range []string{"view", "edit", "admin"} {
		i := slices.IndexFunc(p.ClusterRoles, func(r *rbacv1.ClusterRole) bool { return r.Name == name })
		rules, err := rbac.Aggregate(p.ClusterRoles[i], slices.Values(p.ClusterRoles))
		if err != nil {
			panic(fmt.Sprintf("the default policy's own selectors are invalid: %v", err))
		}
		p.ClusterRoles[i].Rules = rules
	}
}

// The sets of verbs that the roles speak of.
const (
	read      = "get list watch"
	write     = "create delete deletecollection patch update"
	readWrite = "create delete deletecollection get list patch update watch"
)

// verbs begins a rule: can(read).on("apps", "deployments").
type verbs []string

func can(list string) verbs { return strings.Fields(list) }

// on names API groups, separated by commas, and resources, by spaces. The core
// group is the empty string.
func (v verbs) on(groups, resources string) rbacv1.PolicyRule {
	return rbacv1.PolicyRule{Verbs: v, APIGroups: strings.Split(groups, ","), Resources: strings.Fields(resources)}
}

// only restricts the rule to objects of these names.
func (v verbs) only(groups, resources, names string) rbacv1.PolicyRule {
	r := v.on(groups, resources)
	r.ResourceNames = strings.Fields(names)
	return r
}

// at names paths that are not resources.
func (v verbs) at(paths string) rbacv1.PolicyRule {
	return rbacv1.PolicyRule{Verbs: v, NonResourceURLs: strings.Fields(paths)}
}

// events lets a component tell what it does.
func events() rbacv1.PolicyRule {
	return can("create patch update").on(",events.k8s.io", "events")
}

// named marks an object as one of ours, kept up to date on every start.
func named(namespace, name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{
		Namespace: namespace, Name: name,
		Labels:      map[string]string{"kubernetes.io/bootstrapping": "rbac-defaults"},
		Annotations: map[string]string{rbacv1.AutoUpdateAnnotationKey: "true"},
	}
}

func (p *Policy) clusterRole(name string, rules ...rbacv1.PolicyRule) *rbacv1.ClusterRole {
	r := &rbacv1.ClusterRole{ObjectMeta: named("", name), Rules: rules}
	p.ClusterRoles = append(p.ClusterRoles, r)
	return r
}

// aggregate adds a role without rules of its own, made of those that carry the
// label.
func (p *Policy) aggregate(name, label string) *rbacv1.ClusterRole {
	r := p.clusterRole(name)
	r.AggregationRule = &rbacv1.AggregationRule{ClusterRoleSelectors: []metav1.LabelSelector{
		{MatchLabels: map[string]string{label: "true"}},
	}}
	return r
}

func (p *Policy) bindCluster(name, role string, subjects ...rbacv1.Subject) {
	p.ClusterRoleBindings = append(p.ClusterRoleBindings, &rbacv1.ClusterRoleBinding{
		ObjectMeta: named("", name), Subjects: subjects,
		RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role},
	})
}

func (p *Policy) role(namespace, name string, rules ...rbacv1.PolicyRule) {
	p.Roles = append(p.Roles, &rbacv1.Role{ObjectMeta: named(namespace, name), Rules: rules})
}

func (p *Policy) bindRole(namespace, name, role string, subjects ...rbacv1.Subject) {
	p.RoleBindings = append(p.RoleBindings, &rbacv1.RoleBinding{
		ObjectMeta: named(namespace, name), Subjects: subjects,
		RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: role},
	})
}

func user(name string) rbacv1.Subject {
	return rbacv1.Subject{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: name}
}

func group(name string) rbacv1.Subject {
	return rbacv1.Subject{APIGroup: rbacv1.GroupName, Kind: rbacv1.GroupKind, Name: name}
}

func serviceAccount(name string) rbacv1.Subject {
	return rbacv1.Subject{Kind: rbacv1.ServiceAccountKind, Namespace: metav1.NamespaceSystem, Name: name}
}
