package verbs

import (
	"context"
	"fmt"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"skiff.dev/skiff/internal/apiserver/admission"
	"skiff.dev/skiff/internal/meta"
	"skiff.dev/skiff/internal/resource"
)

// access is what a definition's functions may use of the server while they
// serve one request. Changes it makes have been admitted as that request.
type access struct {
	e   *Engine
	dry bool
}

func (r *Resource) access(dry bool) resource.Access { return access{e: r.e, dry: dry} }

func (a access) DryRun() bool { return a.dry }

func (a access) resource(gr schema.GroupResource) (*Resource, error) {
	r, ok := a.e.ByGroupResource(gr)
	if !ok {
		return nil, apierrors.NewInternalError(fmt.Errorf("no resource %s", gr))
	}
	return r, nil
}

func (a access) Get(ctx context.Context, gr schema.GroupResource, key meta.Key) (meta.Object, error) {
	r, err := a.resource(gr)
	if err != nil {
		return nil, err
	}
	item, err := r.Get(ctx, key, "")
	if err != nil {
		return nil, err
	}
	return item.Object, nil
}

func (a access) List(ctx context.Context, gr schema.GroupResource, namespace string) ([]meta.Object, error) {
	r, err := a.resource(gr)
	if err != nil {
		return nil, err
	}
	listed, err := r.List(ctx, namespace, ListOptions{})
	if err != nil {
		return nil, err
	}
	objs := make([]meta.Object, len(listed.Items))
	for i, item := range listed.Items {
		objs[i] = item.Object
	}
	return objs, nil
}

// Modify writes without defaulting, preparing or admission: the action that
// calls it is the authority on what changes.
func (a access) Modify(ctx context.Context, gr schema.GroupResource, key meta.Key, change func(meta.Object) error) (meta.Object, error) {
	r, err := a.resource(gr)
	if err != nil {
		return nil, err
	}
	obj, _, err := r.rewrite(ctx, key, func(old meta.Object) (meta.Object, error) {
		obj := meta.Copy(old)
		switch err := change(obj); {
		case err != nil:
			return nil, err
		case a.dry:
			return obj, nil
		case unchanged(obj, old):
			return old, nil
		}
		if r.SpecChanged(obj, old) && r.info.HasGeneration {
			obj.SetGeneration(old.GetGeneration() + 1)
		}
		return r.replace(ctx, obj, old)
	})
	return obj, err
}

func (a access) Delete(ctx context.Context, gr schema.GroupResource, key meta.Key, opts resource.DeleteOptions) error {
	r, err := a.resource(gr)
	if err != nil {
		return err
	}
	del := metav1.DeleteOptions{GracePeriodSeconds: opts.GraceSeconds}
	if opts.UID != "" || opts.ResourceVersion != "" {
		del.Preconditions = &metav1.Preconditions{}
	}
	if opts.UID != "" {
		uid := types.UID(opts.UID)
		del.Preconditions.UID = &uid
	}
	if opts.ResourceVersion != "" {
		del.Preconditions.ResourceVersion = &opts.ResourceVersion
	}
	if a.dry {
		del.DryRun = []string{metav1.DryRunAll}
	}
	_, _, err = r.Delete(ctx, key, del)
	return err
}

func (a access) Claimed(ctx context.Context, key string) (bool, error) {
	_, found, _, err := a.e.store.Get(ctx, claimRoot+key, 0)
	if err != nil {
		return false, unavailable(err)
	}
	return found, nil
}

// Act carries out an action on the object at key and returns its answer.
func (r *Resource) Act(ctx context.Context, key meta.Key, action *resource.Action, body runtime.Object, opts WriteOptions) (runtime.Object, error) {
	attrs := r.attributes(ctx, admission.Create, action.Name, nil, nil, opts)
	attrs.Kind, attrs.Object, attrs.Namespace, attrs.Name = action.Kind, body, key.Namespace, key.Name
	if err := r.e.admission.Mutate(ctx, attrs); err != nil {
		return nil, err
	}
	if err := r.e.admission.Validate(ctx, attrs); err != nil {
		return nil, err
	}
	return action.Do(ctx, r.access(opts.DryRun), key, body)
}

// Connect asks admission whether the connection may be opened.
func (r *Resource) Connect(ctx context.Context, key meta.Key, sub string, options runtime.Object) error {
	attrs := r.attributes(ctx, admission.Connect, sub, nil, nil, WriteOptions{})
	attrs.Kind, attrs.Object, attrs.Namespace, attrs.Name = options.GetObjectKind().GroupVersionKind(), options, key.Namespace, key.Name
	if err := r.e.admission.Mutate(ctx, attrs); err != nil {
		return err
	}
	return r.e.admission.Validate(ctx, attrs)
}

// ScaleOf returns the scale of an object.
func (r *Resource) ScaleOf(obj meta.Object) *autoscalingv1.Scale {
	replicas, selector := r.Scale().Status(obj)
	return &autoscalingv1.Scale{
		TypeMeta: metav1.TypeMeta{APIVersion: "autoscaling/v1", Kind: "Scale"},
		ObjectMeta: metav1.ObjectMeta{
			Name: obj.GetName(), Namespace: obj.GetNamespace(), UID: obj.GetUID(),
			ResourceVersion: obj.GetResourceVersion(), CreationTimestamp: obj.GetCreationTimestamp(),
		},
		Spec:   autoscalingv1.ScaleSpec{Replicas: r.Scale().Replicas(obj)},
		Status: autoscalingv1.ScaleStatus{Replicas: replicas, Selector: selector},
	}
}

// UpdateScale changes the replicas of the object at key. change gets the
// present scale and returns the one wanted.
func (r *Resource) UpdateScale(ctx context.Context, key meta.Key, change func(*autoscalingv1.Scale) (*autoscalingv1.Scale, error), opts WriteOptions) (*autoscalingv1.Scale, error) {
	obj, _, err := r.Update(ctx, key, "scale", func(_ context.Context, old meta.Object, _ bool) (meta.Object, error) {
		scale, err := change(r.ScaleOf(old))
		if err != nil {
			return nil, err
		}
		if err := validateScale(scale); err != nil {
			return nil, err
		}
		obj := meta.Copy(old)
		obj.SetResourceVersion(scale.ResourceVersion)
		if scale.UID != "" {
			obj.SetUID(scale.UID)
		}
		r.Scale().SetReplicas(obj, scale.Spec.Replicas)
		return obj, nil
	}, nil, opts)
	if err != nil {
		return nil, err
	}
	return r.ScaleOf(obj), nil
}
