package rbac

import (
	"cmp"
	"fmt"
	"iter"
	"slices"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// Aggregate returns the rules that an aggregated cluster role must have: those
// of all other roles that one of its selectors matches, by selector and then by
// name, without duplicates. It is what the aggregation controller writes.
func Aggregate(of *rbacv1.ClusterRole, all iter.Seq[*rbacv1.ClusterRole]) ([]rbacv1.PolicyRule, error) {
	if of.AggregationRule == nil {
		return of.Rules, nil
	}
	roles := slices.SortedFunc(all, func(a, b *rbacv1.ClusterRole) int { return cmp.Compare(a.Name, b.Name) })
	var rules []rbacv1.PolicyRule
	for i := range of.AggregationRule.ClusterRoleSelectors {
		selector, err := metav1.LabelSelectorAsSelector(&of.AggregationRule.ClusterRoleSelectors[i])
		if err != nil {
			return nil, fmt.Errorf("aggregating cluster role %s: %w", of.Name, err)
		}
		for _, r := range roles {
			if r.Name == of.Name || !selector.Matches(labels.Set(r.Labels)) {
				continue
			}
			for _, rule := range r.Rules {
				if !slices.ContainsFunc(rules, func(have rbacv1.PolicyRule) bool { return equality.Semantic.DeepEqual(have, rule) }) {
					rules = append(rules, rule)
				}
			}
		}
	}
	return rules, nil
}
