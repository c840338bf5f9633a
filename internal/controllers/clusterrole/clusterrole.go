// Package clusterrole writes the rules of aggregated ClusterRoles: those of
// all roles that their selectors match. It reads and writes ClusterRoles.
//
// https://kubernetes.io/docs/reference/access-authn-authz/rbac/#aggregated-clusterroles
package clusterrole

import (
	"context"
	"iter"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"skiff.dev/skiff/internal/client"
	"skiff.dev/skiff/internal/controller"
	"skiff.dev/skiff/internal/meta"
)

// Aggregate returns the rules that an aggregated role must have given all roles.
type Aggregate func(of *rbacv1.ClusterRole, all iter.Seq[*rbacv1.ClusterRole]) ([]rbacv1.PolicyRule, error)

type aggregator struct {
	client    *client.Client
	aggregate Aggregate
	roles     client.Cache[*rbacv1.ClusterRole]
}

// New returns the cluster role aggregation controller.
func New(c *client.Client, aggregate Aggregate) *controller.Controller {
	a := &aggregator{client: c, aggregate: aggregate}
	return controller.New(c, "clusterrole-aggregation", &a.roles, a.reconcile,
		controller.Maps(&a.roles, a.aggregating),
		controller.Workers(2),
		controller.Writes("rbac.authorization.k8s.io", "clusterroles", "update", "escalate"),
	)
}

// aggregating wakes the roles that take their rules from the changed one.
func (a *aggregator) aggregating(ch client.Change[*rbacv1.ClusterRole]) (keys []meta.Key) {
	for r := range a.roles.All("") {
		if r.AggregationRule != nil && (!ch.Created && takes(r, ch.Old) || !ch.Deleted && takes(r, ch.New)) {
			keys = append(keys, meta.KeyOf(r))
		}
	}
	return keys
}

func takes(r, from *rbacv1.ClusterRole) bool {
	for i := range r.AggregationRule.ClusterRoleSelectors {
		s, err := metav1.LabelSelectorAsSelector(&r.AggregationRule.ClusterRoleSelectors[i])
		if err == nil && s.Matches(labels.Set(from.Labels)) {
			return true
		}
	}
	return false
}

func (a *aggregator) reconcile(ctx context.Context, r *rbacv1.ClusterRole) (controller.Result, error) {
	if r.AggregationRule == nil {
		return controller.Result{}, nil
	}
	rules, err := a.aggregate(r, a.roles.All(""))
	if err != nil || equality.Semantic.DeepEqual(rules, r.Rules) {
		return controller.Result{}, err
	}
	r = meta.Copy(r)
	r.Rules = rules
	_, err = client.For[*rbacv1.ClusterRole](a.client).Update(ctx, r)
	return controller.Result{}, err
}
