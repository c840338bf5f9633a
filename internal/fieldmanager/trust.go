package fieldmanager

import (
	"slices"
	"sync"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"sigs.k8s.io/structured-merge-diff/v6/typed"
	"sigs.k8s.io/structured-merge-diff/v6/value"
)

// trusting does not check objects that come as Go types against the schema
// that was made from these same types: that walk, twice for each write, costs
// more than the comparison it precedes. What a Go type cannot rule out, list
// items without their key, the comparison itself refuses. Configurations that
// are applied are checked, since duplicates are refused there.
type trusting struct {
	managedfields.TypeConverter
	mu    sync.RWMutex
	types map[schema.GroupVersionKind]typed.ParseableType
}

func trust(c managedfields.TypeConverter) *trusting {
	return &trusting{TypeConverter: c, types: map[schema.GroupVersionKind]typed.ParseableType{}}
}

// ObjectToTyped implements managedfields.TypeConverter. The first object of a
// kind is checked, which finds the kind's schema.
func (t *trusting) ObjectToTyped(obj runtime.Object, opts ...typed.ValidationOptions) (*typed.TypedValue, error) {
	if _, ok := obj.(*unstructured.Unstructured); ok || !slices.Contains(opts, typed.AllowDuplicates) {
		return t.TypeConverter.ObjectToTyped(obj, opts...)
	}
	gvk := obj.GetObjectKind().GroupVersionKind()
	known, ok := t.known(gvk)
	if !ok {
		return t.learn(gvk, obj, opts)
	}
	v, err := value.NewValueReflect(obj)
	if err != nil {
		return nil, err
	}
	return typed.AsTypedUnvalidated(v, known.Schema, known.TypeRef), nil
}

// known returns the schema's type of a kind of which an object has been seen.
func (t *trusting) known(gvk schema.GroupVersionKind) (typed.ParseableType, bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	known, ok := t.types[gvk]
	return known, ok
}

func (t *trusting) learn(gvk schema.GroupVersionKind, obj runtime.Object, opts []typed.ValidationOptions) (*typed.TypedValue, error) {
	v, err := t.TypeConverter.ObjectToTyped(obj, opts...)
	if err != nil {
		return nil, err
	}
	t.mu.Lock()
	t.types[gvk] = typed.ParseableType{Schema: v.Schema(), TypeRef: v.TypeRef()}
	t.mu.Unlock()
	return v, nil
}
