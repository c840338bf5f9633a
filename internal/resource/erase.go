package resource

import (
	"context"
	"reflect"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/fields"

	"skiff.dev/skiff/internal/check"
	"skiff.dev/skiff/internal/meta"
)

// Of hides the type parameter of a definition.
func Of[T meta.Object](d *Definition[T]) Any {
	return &erased[T]{d: d, info: infoOf(d), views: viewsOf(d)}
}

type erased[T meta.Object] struct {
	d     *Definition[T]
	info  Info
	views []*View[T]
}

func viewsOf[T meta.Object](d *Definition[T]) []*View[T] {
	var views []*View[T]
	if d.Status != nil {
		views = append(views, d.Status)
	}
	return append(views, d.Views...)
}

func (v *View[T]) name() string {
	if v.Name == "" {
		return "status"
	}
	return v.Name
}

func infoOf[T meta.Object](d *Definition[T]) Info {
	n := d.Name
	if n.Singular == "" {
		n.Singular = strings.ToLower(n.Kind)
	}
	info := Info{
		Name: n, Scope: d.Scope, StoreKey: d.StoreKey, NameRule: d.NameRule,
		HasStatus: d.Status != nil, HasScale: d.Scale != nil,
		HasGrace: d.Deletion != nil && d.Deletion.Grace != nil,
		Virtual:  d.Answer != nil || d.Observe != nil, Observed: d.Observe != nil,
		Upsert: d.Upsert, NeedsVersion: d.NeedsVersion,
		HasGeneration: d.Spec != nil, Allocates: d.Allocate != nil,
		Actions: d.Actions, Connects: d.Connects, Indexes: d.Indexes,
	}
	if info.StoreKey == "" {
		info.StoreKey = n.Plural
	}
	if info.NameRule == nil {
		info.NameRule = check.DNSSubdomain
	}
	for _, v := range viewsOf(d) {
		info.Views = append(info.Views, v.name())
	}
	for _, c := range d.Columns {
		typ := c.Type
		if typ == "" {
			typ = "string"
		}
		info.Columns = append(info.Columns, ColumnInfo{Name: c.Name, Type: typ, Format: c.Format, Description: c.Description, Wide: c.Wide})
	}
	return info
}

func as[T meta.Object](obj meta.Object) T {
	if obj == nil {
		var none T
		return none
	}
	return obj.(T)
}

func (e *erased[T]) Info() Info { return e.info }

func (e *erased[T]) New() meta.Object {
	var t T
	obj := reflect.New(reflect.TypeOf(t).Elem()).Interface().(meta.Object)
	obj.GetObjectKind().SetGroupVersionKind(e.d.Name.GVK())
	return obj
}

func (e *erased[T]) Default(obj meta.Object) {
	if e.d.Default != nil {
		e.d.Default(obj.(T))
	}
}

func (e *erased[T]) Prepare(ctx context.Context, obj, old meta.Object) {
	if e.d.Prepare != nil {
		e.d.Prepare(ctx, obj.(T), as[T](old))
	}
}

func (e *erased[T]) Validate(r *check.Report, obj, old meta.Object) {
	if e.d.Validate != nil {
		e.d.Validate(r, obj.(T), as[T](old))
	}
}

func (e *erased[T]) SpecChanged(obj, old meta.Object) bool {
	return e.d.Spec != nil && !equality.Semantic.DeepEqual(e.d.Spec(obj.(T)), e.d.Spec(old.(T)))
}

func (e *erased[T]) View(name string) AnyView {
	for _, v := range e.views {
		if v.name() == name {
			return erasedView[T]{v}
		}
	}
	return nil
}

func (e *erased[T]) KeepViews(obj, old meta.Object) {
	if len(e.views) == 0 {
		return
	}
	if old == nil {
		old = e.New()
	}
	for _, v := range e.views {
		if v.Keep != nil {
			v.Keep(obj.(T), old.(T))
		}
	}
}

func (e *erased[T]) Scale() AnyScale {
	if e.d.Scale == nil {
		return nil
	}
	return erasedScale[T]{e.d.Scale}
}

func (e *erased[T]) SelectableFields(obj meta.Object) fields.Set {
	set := fields.Set{}
	if e.d.Fields != nil {
		set = e.d.Fields(obj.(T))
	}
	set["metadata.name"] = obj.GetName()
	if e.d.Scope == Namespaced {
		set["metadata.namespace"] = obj.GetNamespace()
	}
	return set
}

func (e *erased[T]) Cells(obj meta.Object) []any {
	cells := make([]any, len(e.d.Columns))
	for i, c := range e.d.Columns {
		cells[i] = c.Value(obj.(T))
	}
	return cells
}

func (e *erased[T]) Allocate(ctx context.Context, a Access, obj, old meta.Object) error {
	if e.d.Allocate == nil {
		return nil
	}
	return e.d.Allocate(ctx, a, obj.(T), as[T](old))
}

func (e *erased[T]) Claims(obj meta.Object) []Claim {
	if e.d.Claims == nil || obj == nil {
		return nil
	}
	return e.d.Claims(obj.(T))
}

func (e *erased[T]) Grace(obj meta.Object, asked *int64) (int64, bool) {
	if !e.info.HasGrace {
		return 0, true
	}
	return e.d.Deletion.Grace(obj.(T), asked)
}

func (e *erased[T]) BeginDeletion(obj meta.Object) {
	if e.d.Deletion != nil && e.d.Deletion.Begin != nil {
		e.d.Deletion.Begin(obj.(T))
	}
}

func (e *erased[T]) Held(obj meta.Object) bool {
	return e.d.Deletion != nil && e.d.Deletion.Hold != nil && e.d.Deletion.Hold(obj.(T))
}

func (e *erased[T]) TTL(obj meta.Object) time.Duration {
	if e.d.TTL == nil {
		return 0
	}
	return e.d.TTL(obj.(T))
}

func (e *erased[T]) Answer(ctx context.Context, obj meta.Object) error {
	return e.d.Answer(ctx, obj.(T))
}

func (e *erased[T]) Observe(ctx context.Context, a Access, q Query) ([]meta.Object, error) {
	seen, err := e.d.Observe(ctx, a, q)
	objs := make([]meta.Object, len(seen))
	for i, obj := range seen {
		obj.GetObjectKind().SetGroupVersionKind(e.d.Name.GVK())
		objs[i] = obj
	}
	return objs, err
}

func (e *erased[T]) ToHub(obj meta.Object) meta.Object   { return obj }
func (e *erased[T]) FromHub(obj meta.Object) meta.Object { return obj }

type erasedView[T meta.Object] struct{ v *View[T] }

func (e erasedView[T]) Reset(obj, old meta.Object) {
	if e.v.Reset != nil {
		e.v.Reset(obj.(T), old.(T))
	}
}

func (e erasedView[T]) Prepare(ctx context.Context, obj, old meta.Object) {
	if e.v.Prepare != nil {
		e.v.Prepare(ctx, obj.(T), old.(T))
	}
}

func (e erasedView[T]) Validate(r *check.Report, obj, old meta.Object) {
	if e.v.Validate != nil {
		e.v.Validate(r, obj.(T), old.(T))
	}
}

type erasedScale[T meta.Object] struct{ s *Scale[T] }

func (e erasedScale[T]) Replicas(obj meta.Object) int32       { return e.s.Replicas(obj.(T)) }
func (e erasedScale[T]) SetReplicas(obj meta.Object, n int32) { e.s.SetReplicas(obj.(T), n) }
func (e erasedScale[T]) Status(obj meta.Object) (int32, string) {
	return e.s.Status(obj.(T))
}
