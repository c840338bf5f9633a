package admission

import (
	"context"
	"errors"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff.dev/skiff/internal/apiserver/authz"
	"skiff.dev/skiff/internal/apiserver/authz/rbac"
	"skiff.dev/skiff/internal/apiserver/request"
	"skiff.dev/skiff/internal/meta"
)

// RBACEscalation refuses to let anybody give away rights by RBAC that they do
// not have themselves, unless they hold the verb escalate on the role, or bind
// for a binding. It always runs.
// https://kubernetes.io/docs/reference/access-authn-authz/rbac/#privilege-escalation-prevention-and-bootstrapping
func RBACEscalation(rules *rbac.Authorizer, a authz.Authorizer) *Plugin {
	e := escalation{rules, a}
	return &Plugin{
		Name: "RBACEscalation",
		Handles: func(a *Attributes) bool {
			return a.Resource.Group == rbacv1.GroupName && a.Subresource == "" && (a.Operation == Create || a.Operation == Update)
		},
		Validate: func(ctx context.Context, at *Attributes) error {
			if at.User != nil && at.User.InGroup(request.GroupMasters) {
				return nil
			}
			if at.User == nil {
				return forbidden(at, errors.New("no user on context"))
			}
			return e.check(ctx, at)
		},
	}
}

type escalation struct {
	rules      *rbac.Authorizer
	authorizer authz.Authorizer
}

func (e escalation) check(ctx context.Context, a *Attributes) error {
	switch o := a.Object.(type) {
	case *rbacv1.Role:
		old, _ := a.Old.(*rbacv1.Role)
		if onlyOwners(o, old) {
			return nil
		}
		return e.role(ctx, a, o.Rules)
	case *rbacv1.ClusterRole:
		old, _ := a.Old.(*rbacv1.ClusterRole)
		if onlyOwners(o, old) {
			return nil
		}
		aggregated := o.AggregationRule != nil || (old != nil && old.AggregationRule != nil)
		return e.clusterRole(ctx, a, o.Rules, aggregated)
	case *rbacv1.RoleBinding:
		old, _ := a.Old.(*rbacv1.RoleBinding)
		if onlyOwners(o, old) {
			return nil
		}
		return e.binding(ctx, a, o.RoleRef)
	case *rbacv1.ClusterRoleBinding:
		old, _ := a.Old.(*rbacv1.ClusterRoleBinding)
		if onlyOwners(o, old) {
			return nil
		}
		return e.binding(ctx, a, o.RoleRef)
	}
	return nil
}

// onlyOwners reports whether an update changes nothing but what the garbage
// collector changes: owner references and finalizers.
func onlyOwners[T interface {
	meta.Object
	comparable
}](o, old T) bool {
	var none T
	if old == none {
		return false
	}
	now, was := meta.Copy(o), meta.Copy(old)
	for _, c := range []metav1.Object{now, was} {
		c.SetOwnerReferences(nil)
		c.SetFinalizers(nil)
		c.SetManagedFields(nil)
		c.SetResourceVersion("")
		c.SetGeneration(0)
	}
	return equality.Semantic.DeepEqual(now, was)
}

// holds reports whether the user has the verb on a role; an error of the
// authorizer counts as no.
func (e escalation) holds(ctx context.Context, a *Attributes, verb, resource, namespace, name string) bool {
	d, _, _ := e.authorizer.Authorize(ctx, a.User, &request.Info{
		IsResource: true, Verb: verb, Group: rbacv1.GroupName, Version: "v1",
		Resource: resource, Namespace: namespace, Name: name,
	})
	return d == authz.Allow
}

func (e escalation) role(ctx context.Context, a *Attributes, rules []rbacv1.PolicyRule) error {
	if e.holds(ctx, a, "escalate", a.Resource.Resource, a.Namespace, objectName(a)) {
		return nil
	}
	if err := e.rules.CheckEscalation(a.User, a.Namespace, rules); err != nil {
		return forbidden(a, err)
	}
	return nil
}

func (e escalation) clusterRole(ctx context.Context, a *Attributes, rules []rbacv1.PolicyRule, aggregated bool) error {
	if e.holds(ctx, a, "escalate", a.Resource.Resource, "", objectName(a)) {
		return nil
	}
	if err := e.rules.CheckEscalation(a.User, "", rules); err != nil {
		return forbidden(a, err)
	}
	// Roles that nobody has written yet will add to it.
	if aggregated && e.rules.CheckEscalation(a.User, "", everything()) != nil {
		return forbidden(a, errors.New("must have cluster-admin privileges to use an aggregationRule"))
	}
	return nil
}

func everything() []rbacv1.PolicyRule {
	all := []string{"*"}
	return []rbacv1.PolicyRule{
		{Verbs: all, APIGroups: all, Resources: all},
		{Verbs: all, NonResourceURLs: all},
	}
}

func (e escalation) binding(ctx context.Context, a *Attributes, ref rbacv1.RoleRef) error {
	resource, namespace := "clusterroles", ""
	if ref.Kind == "Role" {
		resource, namespace = "roles", a.Namespace
	}
	// The right to bind a cluster role may be given for one namespace.
	if e.holds(ctx, a, "bind", resource, a.Namespace, ref.Name) {
		return nil
	}
	rules, err := e.rules.RoleRules(ref, namespace)
	if err != nil {
		return err
	}
	if err := e.rules.CheckEscalation(a.User, a.Namespace, rules); err != nil {
		return forbidden(a, err)
	}
	return nil
}

func objectName(a *Attributes) string {
	if a.Name != "" {
		return a.Name
	}
	if o, ok := a.Object.(metav1.Object); ok {
		return o.GetName()
	}
	return ""
}
