package verbs

import (
	"context"
	"slices"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"skiff.dev/skiff/internal/apiserver/admission"
	"skiff.dev/skiff/internal/meta"
	"skiff.dev/skiff/internal/store"
)

// Delete deletes the object at key, or begins to: gone tells whether nothing
// is left. The object returned is its last, or its present, state.
func (r *Resource) Delete(ctx context.Context, key meta.Key, opts metav1.DeleteOptions) (obj meta.Object, gone bool, err error) {
	if errs := metavalidation.ValidateDeleteOptions(&opts); len(errs) > 0 {
		return nil, false, apierrors.NewInvalid(schema.GroupKind{Group: "meta.k8s.io", Kind: "DeleteOptions"}, "", errs)
	}
	obj, _, err = r.rewrite(ctx, key, func(old meta.Object) (obj meta.Object, err error) {
		obj, gone, err = r.delete(ctx, old, opts)
		return obj, err
	})
	return obj, gone && err == nil, err
}

func (r *Resource) delete(ctx context.Context, old meta.Object, opts metav1.DeleteOptions) (meta.Object, bool, error) {
	if err := r.checkPreconditions(old, opts.Preconditions); err != nil {
		return nil, false, err
	}
	dry := len(opts.DryRun) > 0
	attrs := r.attributes(ctx, admission.Delete, "", nil, old, WriteOptions{DryRun: dry, Options: &opts})
	if err := r.e.admission.Mutate(ctx, attrs); err != nil {
		return nil, false, err
	}
	if err := r.e.admission.Validate(ctx, attrs); err != nil {
		return nil, false, err
	}
	obj := meta.Copy(old)
	propagate(obj, opts)
	r.beginEnd(obj, old, opts.GracePeriodSeconds)
	gone := r.finished(obj)
	switch {
	case dry:
		return obj, gone, nil
	case gone:
		obj, err := r.remove(ctx, obj, old)
		return obj, true, err
	case unchanged(obj, old):
		return old, false, nil
	}
	obj, err := r.replace(ctx, obj, old)
	return obj, false, err
}

// beginEnd sets the deletion timestamp and grace on the first delete; later
// ones can only shorten the grace.
func (r *Resource) beginEnd(obj, old meta.Object, asked *int64) {
	grace, immediate := r.Grace(old, asked)
	if immediate {
		grace = 0
	}
	begun := old.GetDeletionTimestamp()
	if begun == nil {
		at := metav1.NewTime(now().Add(time.Duration(grace) * time.Second))
		obj.SetDeletionTimestamp(&at)
		obj.SetDeletionGracePeriodSeconds(&grace)
		if obj.GetGeneration() > 0 {
			obj.SetGeneration(obj.GetGeneration() + 1)
		}
		r.BeginDeletion(obj)
		return
	}
	was := old.GetDeletionGracePeriodSeconds()
	if asked == nil || was == nil || grace >= *was {
		return
	}
	at := metav1.NewTime(begun.Add(time.Duration(grace-*was) * time.Second))
	obj.SetDeletionTimestamp(&at)
	obj.SetDeletionGracePeriodSeconds(&grace)
}

// propagate sets or clears the garbage collector's finalizers as the
// propagation policy asks. https://kubernetes.io/docs/concepts/architecture/garbage-collection/
func propagate(obj meta.Object, opts metav1.DeleteOptions) {
	var want string
	switch {
	case opts.OrphanDependents != nil: //nolint:staticcheck // still part of the API
		if *opts.OrphanDependents {
			want = metav1.FinalizerOrphanDependents
		}
	case opts.PropagationPolicy == nil:
		return // keep what finalizers there are
	case *opts.PropagationPolicy == metav1.DeletePropagationOrphan:
		want = metav1.FinalizerOrphanDependents
	case *opts.PropagationPolicy == metav1.DeletePropagationForeground:
		want = metav1.FinalizerDeleteDependents
	}
	finalizers := slices.DeleteFunc(slices.Clone(obj.GetFinalizers()), func(f string) bool {
		return f == metav1.FinalizerOrphanDependents || f == metav1.FinalizerDeleteDependents
	})
	if want != "" {
		finalizers = append(finalizers, want)
	}
	if !slices.Equal(finalizers, obj.GetFinalizers()) {
		obj.SetFinalizers(finalizers)
	}
}

// remove deletes the key of old, and releases its claims.
func (r *Resource) remove(ctx context.Context, obj, old meta.Object) (meta.Object, error) {
	key := r.key(meta.KeyOf(old))
	cond := store.Cond{Key: key, ModRev: mustRev(old.GetResourceVersion())}
	txn := store.Txn{If: []store.Cond{cond}, Do: []store.Op{{Key: key, Delete: true}}}
	release(&txn, r.Claims(old))
	res, err := r.e.store.Commit(ctx, txn)
	if err != nil {
		return nil, unavailable(err)
	}
	if !res.OK {
		now, _ := racedOn(res, key, cond.ModRev)
		return nil, &race{now: now}
	}
	obj.SetResourceVersion(formatRev(res.Rev))
	return obj, nil
}

// DeleteCollection deletes what the list options select, one by one, and
// returns the objects as they were. What vanishes meanwhile is passed over.
func (r *Resource) DeleteCollection(ctx context.Context, namespace string, opts metav1.DeleteOptions, list ListOptions) ([]meta.Object, error) {
	found, err := r.List(ctx, namespace, list)
	if err != nil {
		return nil, err
	}
	var deleted []meta.Object
	for _, item := range found.Items {
		obj, _, err := r.Delete(ctx, meta.KeyOf(item.Object), opts)
		if apierrors.IsNotFound(err) {
			continue
		}
		if err != nil {
			return deleted, err
		}
		deleted = append(deleted, obj)
	}
	return deleted, nil
}
