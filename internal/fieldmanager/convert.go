package fieldmanager

import (
	"fmt"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"skiff.dev/skiff/internal/meta"
)

// converter makes, defaults and converts objects of one kind between its forms.
// Fields recorded under a form that is not among them are forgotten, as
// upstream does with versions that are no longer served.
type converter struct {
	k     Kind
	forms Forms
}

func newConverter(k Kind) converter {
	same := func(obj meta.Object) meta.Object { return obj }
	c := converter{k: k, forms: k.Forms}
	if c.forms == nil {
		c.forms = Forms{k.GVK.GroupVersion(): {GVK: k.GVK, New: k.New, ToHub: same, FromHub: same}}
	}
	return c
}

func (c converter) Default(in runtime.Object) { c.k.Default(in.(meta.Object)) }

func (c converter) New(kind schema.GroupVersionKind) (runtime.Object, error) {
	f, ok := c.forms[kind.GroupVersion()]
	if !ok || f.GVK != kind {
		return nil, runtime.NewNotRegisteredErrForKind("fieldmanager", kind)
	}
	return f.New(), nil
}

// ConvertToVersion returns in, which may be unstructured, as a typed object of
// the version that target asks for.
func (c converter) ConvertToVersion(in runtime.Object, target runtime.GroupVersioner) (runtime.Object, error) {
	kind := in.GetObjectKind().GroupVersionKind()
	from, ok := c.forms[kind.GroupVersion()]
	if !ok {
		return nil, runtime.NewNotRegisteredErrForKind("fieldmanager", kind)
	}
	obj, typed := in.(meta.Object)
	if u, ok := in.(*unstructured.Unstructured); ok {
		obj, typed = from.New(), true
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, obj); err != nil {
			return nil, err
		}
	}
	if !typed {
		return nil, fmt.Errorf("fieldmanager: %T is no object", in)
	}
	want, ok := target.KindForGroupVersionKinds(c.kinds())
	if !ok {
		return nil, runtime.NewNotRegisteredErrForKind("fieldmanager", kind)
	}
	if want == kind {
		return obj, nil
	}
	out := c.forms[want.GroupVersion()].FromHub(from.ToHub(obj))
	out.GetObjectKind().SetGroupVersionKind(want)
	return out, nil
}

func (c converter) kinds() []schema.GroupVersionKind {
	kinds := make([]schema.GroupVersionKind, 0, len(c.forms))
	for _, f := range c.forms {
		kinds = append(kinds, f.GVK)
	}
	return kinds
}

func (c converter) Convert(in, out, _ any) error {
	return fmt.Errorf("fieldmanager: no conversion from %T to %T", in, out)
}

func (c converter) ConvertFieldLabel(_ schema.GroupVersionKind, label, value string) (string, string, error) {
	return label, value, nil
}
