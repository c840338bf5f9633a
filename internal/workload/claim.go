package workload

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"skiff.dev/skiff/internal/meta"
)

// A Claimer settles which objects a selecting owner controls: it adopts
// ownerless ones that the selector matches, and releases owned ones that it
// does not match.
// https://kubernetes.io/docs/concepts/workloads/controllers/replicaset/#non-template-pod-acquisitions
type Claimer[T meta.Object] struct {
	Owner    meta.Object
	Kind     schema.GroupVersionKind
	Selector *metav1.LabelSelector
	// Patch writes obj with the given owner references.
	Patch func(ctx context.Context, obj T, refs []metav1.OwnerReference) (T, error)
	// StillThere asks the API, not a cache, whether the owner exists and is not
	// being deleted; nothing is adopted otherwise.
	StillThere func(ctx context.Context) (bool, error)
}

// Claim returns the objects that the owner controls in the end. Objects that
// vanish or change hands meanwhile are left out.
func (c Claimer[T]) Claim(ctx context.Context, all iter.Seq[T]) ([]T, error) {
	selector, err := metav1.LabelSelectorAsSelector(c.Selector)
	if err != nil {
		return nil, fmt.Errorf("reading selector of %s: %w", c.Owner.GetName(), err)
	}
	var claimed []T
	var faults []error
	checked := false
	for obj := range all {
		matches := !selector.Empty() && selector.Matches(labels.Set(obj.GetLabels()))
		ref := meta.ControllerOf(obj)
		switch {
		case ref != nil && ref.UID != c.Owner.GetUID():
		case ref != nil && matches:
			claimed = append(claimed, obj)
		case ref != nil:
			faults = append(faults, c.release(ctx, obj))
		case matches && c.Owner.GetDeletionTimestamp() == nil && obj.GetDeletionTimestamp() == nil:
			if !checked {
				ok, err := c.StillThere(ctx)
				if err != nil || !ok {
					return claimed, err
				}
				checked = true
			}
			adopted, err := c.adopt(ctx, obj)
			faults = append(faults, err)
			if err == nil && adopted != nil {
				claimed = append(claimed, *adopted)
			}
		}
	}
	return claimed, errors.Join(faults...)
}

func (c Claimer[T]) adopt(ctx context.Context, obj T) (*T, error) {
	refs := append(slices.Clone(obj.GetOwnerReferences()), *metav1.NewControllerRef(c.Owner, c.Kind))
	got, err := c.Patch(ctx, obj, refs)
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("adopting %s: %w", obj.GetName(), err)
	}
	return &got, nil
}

func (c Claimer[T]) release(ctx context.Context, obj T) error {
	if c.Owner.GetDeletionTimestamp() != nil {
		return nil // the garbage collector decides
	}
	refs := slices.DeleteFunc(slices.Clone(obj.GetOwnerReferences()), func(r metav1.OwnerReference) bool {
		return r.UID == c.Owner.GetUID()
	})
	_, err := c.Patch(ctx, obj, refs)
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("releasing %s: %w", obj.GetName(), err)
	}
	return nil
}
