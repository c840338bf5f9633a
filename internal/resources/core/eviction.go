package core

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"skiff.dev/skiff/internal/meta"
	"skiff.dev/skiff/internal/pod"
	"skiff.dev/skiff/internal/resource"
)

// An EvictionBudget takes one disruption of p from the budgets that cover it,
// or returns the error (429, with a cause of type DisruptionBudget) that the
// client gets. It is asked only about pods whose loss counts.
type EvictionBudget func(ctx context.Context, a resource.Access, p *corev1.Pod) error

// evictionAction is pods/eviction: a delete that heeds disruption budgets.
// https://kubernetes.io/docs/concepts/scheduling-eviction/api-eviction/
func evictionAction(budget EvictionBudget) *resource.Action {
	return &resource.Action{
		Name: "eviction",
		Kind: policyv1.SchemeGroupVersion.WithKind("Eviction"),
		Body: func() runtime.Object { return &policyv1.Eviction{} },
		Do: func(ctx context.Context, a resource.Access, key meta.Key, body runtime.Object) (runtime.Object, error) {
			e := body.(*policyv1.Eviction)
			if e.Name != "" && e.Name != key.Name {
				return nil, apierrors.NewBadRequest("name in URL does not match name in Eviction object")
			}
			return evict(ctx, a, key, e.DeleteOptions, budget)
		},
	}
}

func evict(ctx context.Context, a resource.Access, key meta.Key, options *metav1.DeleteOptions, budget EvictionBudget) (runtime.Object, error) {
	if options == nil {
		options = &metav1.DeleteOptions{}
	}
	obj, err := a.Get(ctx, named("pods"), key)
	if err != nil {
		return nil, err
	}
	p := obj.(*corev1.Pod)
	success := &metav1.Status{Status: metav1.StatusSuccess, Code: 201}
	dryRun := a.DryRun() || len(options.DryRun) > 0
	if dryRun {
		return success, nil
	}
	if budget != nil && lossCounts(p) {
		if err := budget(ctx, a, p); err != nil {
			return nil, err
		}
	}
	if lossCounts(p) {
		if err := markDisrupted(ctx, a, key, p); err != nil {
			return nil, err
		}
	}
	del := resource.DeleteOptions{GraceSeconds: options.GracePeriodSeconds, UID: string(p.UID)}
	if pre := options.Preconditions; pre != nil {
		if pre.UID != nil {
			del.UID = string(*pre.UID)
		}
		if pre.ResourceVersion != nil {
			del.ResourceVersion = *pre.ResourceVersion
		}
	}
	if err := a.Delete(ctx, named("pods"), key, del); err != nil {
		return nil, err
	}
	return success, nil
}

// lossCounts: a pod that has ended, has not started, or is already going is not
// something that a budget protects.
func lossCounts(p *corev1.Pod) bool {
	return !pod.IsTerminal(p) && p.Status.Phase != corev1.PodPending && p.DeletionTimestamp == nil
}

// markDisrupted leaves the reason on a pod that is about to be deleted (KEP-3329).
func markDisrupted(ctx context.Context, a resource.Access, key meta.Key, seen *corev1.Pod) error {
	_, err := a.Modify(ctx, named("pods"), key, func(obj meta.Object) error {
		p := obj.(*corev1.Pod)
		if p.UID != seen.UID {
			return apierrors.NewNotFound(named("pods"), key.Name)
		}
		pod.SetCondition(&p.Status, corev1.PodCondition{
			Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, LastTransitionTime: metav1.Now(),
			ObservedGeneration: p.Generation, Reason: "EvictionByEvictionAPI", Message: "Eviction API: evicting",
		})
		return nil
	})
	return err
}
