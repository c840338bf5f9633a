package verbs

import (
	"context"
	"errors"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"skiff.dev/skiff/internal/fieldmanager"
	"skiff.dev/skiff/internal/meta"
	"skiff.dev/skiff/internal/patch"
	"skiff.dev/skiff/internal/scheme"
)

// isApply reports whether the write is a server-side apply: its managed fields
// are made by the merge, not afterwards.
func isApply(opts WriteOptions) bool { return opts.applied }

// manage records in managedFields what this write sets. sent is what the
// client sent: an empty list, as opposed to none, clears the record.
func (r *Resource) manage(view string, old, obj meta.Object, opts WriteOptions, sent []metav1.ManagedFieldsEntry) (meta.Object, error) {
	if opts.applied {
		return obj, nil
	}
	if sent != nil && fieldmanager.Check(sent) == nil {
		obj.SetManagedFields(sent)
	} else if old != nil {
		obj.SetManagedFields(old.GetManagedFields())
	} else {
		obj.SetManagedFields(nil)
	}
	if old == nil {
		old = r.New()
	}
	got, err := r.e.managers.Update(r.managed(view), old, obj, opts.Manager)
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	return got, nil
}

func (r *Resource) managed(view string) fieldmanager.Kind {
	if k, ok := r.kinds.Load(view); ok {
		return k.(fieldmanager.Kind)
	}
	k := fieldmanager.Kind{
		GVK: r.info.Name.GVK(), Subresource: view, Reset: r.resetFields(view),
		Default: r.Default, New: r.New, Forms: r.forms,
	}
	r.kinds.Store(view, k)
	return k
}

// resetFields are the paths that a write through view does not own: the status
// when writing the object, all but the status when writing that.
func (r *Resource) resetFields(view string) *fieldpath.Set {
	switch {
	case view == "" && r.info.HasStatus:
		return fieldpath.NewSet(fieldpath.MakePathOrDie("status"))
	case view == "status":
		return fieldpath.NewSet(fieldpath.MakePathOrDie("spec"))
	}
	return nil
}

// Patch changes the object at key, or its view, by one of the four patch
// types. strict is told of faults of form in the result (unknown fields); its
// error ends the request.
func (r *Resource) Patch(ctx context.Context, key meta.Key, view string, pt types.PatchType, data []byte, force bool, strict func([]error) error, opts WriteOptions) (meta.Object, bool, error) {
	if pt == types.ApplyPatchType {
		return r.apply(ctx, key, view, data, force, strict, opts)
	}
	transform := func(_ context.Context, old meta.Object, _ bool) (meta.Object, error) {
		doc, err := scheme.EncodeJSON(old)
		if err != nil {
			return nil, apierrors.NewInternalError(err)
		}
		changed, err := patch.Apply(pt, doc, data, r.New())
		if err != nil {
			return nil, err
		}
		obj := r.New()
		faults, err := scheme.DecodeJSON(changed, obj)
		if err != nil {
			return nil, badPatch(changed, err)
		}
		if got, want := obj.GetObjectKind().GroupVersionKind(), r.info.Name.GVK(); got != want {
			return nil, badPatch(changed, fmt.Errorf("converting (%s) to (%s): unknown conversion", got, want))
		}
		if err := sameKey(obj, key); err != nil {
			return nil, err
		}
		if err := strict(faults); err != nil {
			return nil, badPatch(changed, err)
		}
		return obj, nil
	}
	return r.Update(ctx, key, view, transform, nil, opts)
}

// badPatch is the 422 for a patch whose result is no object of the kind.
func badPatch(result []byte, why error) error {
	return apierrors.NewInvalid(schema.GroupKind{}, "", field.ErrorList{
		field.Invalid(field.NewPath("patch"), string(result), why.Error()),
	})
}

// sameKey refuses a patch that makes its object another one.
func sameKey(obj metav1.Object, key meta.Key) error {
	if obj.GetName() != key.Name {
		return apierrors.NewBadRequest(fmt.Sprintf("the name of the object (%s) does not match the name on the URL (%s)", obj.GetName(), key.Name))
	}
	if obj.GetNamespace() != key.Namespace {
		return apierrors.NewBadRequest(fmt.Sprintf("the namespace of the object (%s) does not match the namespace on the request (%s)", obj.GetNamespace(), key.Namespace))
	}
	return nil
}

func (r *Resource) apply(ctx context.Context, key meta.Key, view string, data []byte, force bool, strict func([]error) error, opts WriteOptions) (meta.Object, bool, error) {
	var config map[string]any
	faults, err := scheme.DecodeYAML(data, &config)
	if err != nil {
		return nil, false, apierrors.NewBadRequest("error decoding YAML: " + err.Error())
	}
	typed, err := scheme.DecodeYAML(data, r.New())
	if err != nil {
		return nil, false, apierrors.NewBadRequest("error decoding YAML: " + err.Error())
	}
	if err := strict(append(faults, typed...)); err != nil {
		return nil, false, apierrors.NewBadRequest("error strict decoding YAML: " + err.Error())
	}
	if config == nil {
		return nil, false, apierrors.NewBadRequest("error decoding YAML: an object is expected")
	}
	u := &unstructured.Unstructured{Object: config}
	if u.GetName() == "" {
		u.SetName(key.Name)
	}
	if u.GetNamespace() == "" && key.Namespace != "" {
		u.SetNamespace(key.Namespace)
	}
	if err := sameKey(u, key); err != nil {
		return nil, false, err
	}
	if u.GetAPIVersion() == "" || u.GetKind() == "" {
		return nil, false, apierrors.NewBadRequest("the configuration that is applied must say apiVersion and kind")
	}
	opts.applied = true
	transform := func(_ context.Context, old meta.Object, exists bool) (meta.Object, error) {
		return r.merge(old, exists, u, view, force, opts)
	}
	return r.Update(ctx, key, view, transform, nil, opts)
}

func (r *Resource) merge(old meta.Object, exists bool, u *unstructured.Unstructured, view string, force bool, opts WriteOptions) (meta.Object, error) {
	base := meta.Copy(old)
	if !exists {
		base = r.New() // names come from the configuration
	}
	got, err := r.e.managers.Apply(r.managed(view), base, u.DeepCopy(), opts.Manager, force)
	var api apierrors.APIStatus
	if err != nil && !errors.As(err, &api) { // the configuration does not fit the schema
		return nil, apierrors.NewBadRequest(err.Error())
	}
	if err != nil {
		return nil, err
	}
	if exists && u.GetUID() == "" {
		got.SetUID(old.GetUID())
	}
	return got, nil
}
