// Package rbac defines the resources of the API group
// rbac.authorization.k8s.io: roles, cluster roles and their bindings. It is
// data and pure functions; that nobody gives away rights of others is checked
// by the admission plugin RBACEscalation.
package rbac

import (
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"

	"skiff.dev/skiff/internal/check"
	"skiff.dev/skiff/internal/meta"
	"skiff.dev/skiff/internal/resource"
)

// Role is rbac.authorization.k8s.io/v1 Role.
var Role = &resource.Definition[*rbacv1.Role]{
	Name:     resource.Name{Group: rbacv1.GroupName, Version: "v1", Kind: "Role", Plural: "roles"},
	NameRule: check.PathSegment,
	Upsert:   true,
	Validate: func(r *check.Report, role, _ *rbacv1.Role) {
		validateRules(r.At("rules"), role.Rules, true)
	},
	Columns: []resource.Column[*rbacv1.Role]{createdAt[*rbacv1.Role]()},
}

// ClusterRole is rbac.authorization.k8s.io/v1 ClusterRole.
var ClusterRole = &resource.Definition[*rbacv1.ClusterRole]{
	Name:     resource.Name{Group: rbacv1.GroupName, Version: "v1", Kind: "ClusterRole", Plural: "clusterroles"},
	Scope:    resource.Cluster,
	NameRule: check.PathSegment,
	Upsert:   true,
	Validate: func(r *check.Report, role, _ *rbacv1.ClusterRole) {
		validateRules(r.At("rules"), role.Rules, false)
		if role.AggregationRule != nil {
			validateAggregation(r.At("aggregationRule", "clusterRoleSelectors"), role.AggregationRule)
		}
	},
	Columns: []resource.Column[*rbacv1.ClusterRole]{createdAt[*rbacv1.ClusterRole]()},
}

func createdAt[T meta.Object]() resource.Column[T] {
	return resource.Column[T]{
		Name: "Created At", Type: "date",
		Description: metav1.ObjectMeta{}.SwaggerDoc()["creationTimestamp"],
		Value: func(obj T) any {
			at := obj.GetCreationTimestamp()
			return at.UTC().Format(time.RFC3339)
		},
	}
}

func validateRules(r *check.Report, rules []rbacv1.PolicyRule, namespaced bool) {
	for i := range rules {
		validateRule(r.Index(i), &rules[i], namespaced)
	}
}

func validateRule(r *check.Report, rule *rbacv1.PolicyRule, namespaced bool) {
	if len(rule.Verbs) == 0 {
		r.At("verbs").Required("verbs must contain at least one value")
	}
	if len(rule.NonResourceURLs) > 0 {
		at := r.At("nonResourceURLs")
		if namespaced {
			at.Invalid(rule.NonResourceURLs, "namespaced rules cannot apply to non-resource URLs")
		}
		if len(rule.APIGroups)+len(rule.Resources)+len(rule.ResourceNames) > 0 {
			at.Invalid(rule.NonResourceURLs, "rules cannot apply to both regular resources and non-resource URLs")
		}
		return
	}
	if len(rule.APIGroups) == 0 {
		r.At("apiGroups").Required("resource rules must supply at least one api group")
	}
	if len(rule.Resources) == 0 {
		r.At("resources").Required("resource rules must supply at least one resource")
	}
}

func validateAggregation(r *check.Report, rule *rbacv1.AggregationRule) {
	if len(rule.ClusterRoleSelectors) == 0 {
		r.Required("at least one clusterRoleSelector required if aggregationRule is non-nil")
	}
	for i := range rule.ClusterRoleSelectors {
		s, at := &rule.ClusterRoleSelectors[i], r.Index(i)
		at.Add(metavalidation.ValidateLabelSelector(s, metavalidation.LabelSelectorValidationOptions{}, at.Path())...)
		if _, err := metav1.LabelSelectorAsSelector(s); err != nil {
			at.Invalid(s, "invalid label selector.")
		}
	}
}
