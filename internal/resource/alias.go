package resource

import (
	"context"
	"reflect"
	"time"

	"k8s.io/apimachinery/pkg/fields"

	"skiff.dev/skiff/internal/check"
	"skiff.dev/skiff/internal/meta"
)

// AliasOf is a further group or version in which the objects of hub are read
// and written: events.k8s.io/v1 Event is stored as v1 Event. d needs to say
// only what differs; what it leaves out is hub's, applied to the converted
// object. The conversions may share memory between their argument and result;
// they must lose nothing on the way to the hub and back.
func AliasOf[T, H meta.Object](hub *Definition[H], d *Definition[T], toHub func(T) H, fromHub func(H) T) Any {
	h := &erased[H]{d: hub, info: infoOf(hub), views: viewsOf(hub)}
	own := &erased[T]{d: d, info: infoOf(d), views: viewsOf(d)}
	a := &alias{
		Any: own, hub: h, own: own.own(),
		to:   func(obj meta.Object) meta.Object { return toHub(obj.(T)) },
		from: func(obj meta.Object) meta.Object { return fromHub(obj.(H)) },
	}
	a.info = h.info
	a.info.Allocates = h.info.Allocates || own.info.Allocates
	a.info.Name, a.info.Hub = own.info.Name, h.info.Name.GVR()
	a.info.Actions, a.info.Connects = append(own.info.Actions, h.info.Actions...), append(own.info.Connects, h.info.Connects...)
	if own.info.Columns != nil {
		a.info.Columns = own.info.Columns
	}
	return a
}

// own says which functions a definition has itself.
type own struct {
	prepare, validate, spec, allocate, claims, ttl, fields, columns bool
}

func (e *erased[T]) own() own {
	d := e.d
	return own{
		prepare: d.Prepare != nil, validate: d.Validate != nil, spec: d.Spec != nil, allocate: d.Allocate != nil,
		claims: d.Claims != nil, ttl: d.TTL != nil, fields: d.Fields != nil, columns: d.Columns != nil,
	}
}

// alias is a definition whose objects are stored as those of hub.
type alias struct {
	Any
	hub      Any
	own      own
	info     Info
	to, from func(meta.Object) meta.Object
}

func (a *alias) Info() Info { return a.info }

func (a *alias) ToHub(obj meta.Object) meta.Object   { return a.to(obj) }
func (a *alias) FromHub(obj meta.Object) meta.Object { return a.from(obj) }

// old converts what may be nil.
func (a *alias) old(obj meta.Object) meta.Object {
	if obj == nil {
		return nil
	}
	return a.to(obj)
}

// through lets the hub's function change obj by way of its converted form.
func (a *alias) through(obj meta.Object, change func(hub meta.Object) error) error {
	h := a.to(obj)
	if err := change(h); err != nil {
		return err
	}
	reflect.ValueOf(obj).Elem().Set(reflect.ValueOf(a.from(h)).Elem())
	return nil
}

func (a *alias) Default(obj meta.Object) {
	a.Any.Default(obj)
	_ = a.through(obj, func(h meta.Object) error { a.hub.Default(h); return nil }) // no error to return
}

func (a *alias) Prepare(ctx context.Context, obj, old meta.Object) {
	if a.own.prepare {
		a.Any.Prepare(ctx, obj, old)
		return
	}
	_ = a.through(obj, func(h meta.Object) error { a.hub.Prepare(ctx, h, a.old(old)); return nil }) // no error to return
}

func (a *alias) Validate(r *check.Report, obj, old meta.Object) {
	if a.own.validate {
		a.Any.Validate(r, obj, old)
		return
	}
	a.hub.Validate(r, a.to(obj), a.old(old))
}

func (a *alias) SpecChanged(obj, old meta.Object) bool {
	if a.own.spec {
		return a.Any.SpecChanged(obj, old)
	}
	return a.hub.SpecChanged(a.to(obj), a.to(old))
}

func (a *alias) View(name string) AnyView {
	if v := a.Any.View(name); v != nil {
		return v
	}
	if v := a.hub.View(name); v != nil {
		return aliasView{a, v}
	}
	return nil
}

func (a *alias) KeepViews(obj, old meta.Object) {
	if old == nil {
		old = a.New()
	}
	_ = a.through(obj, func(h meta.Object) error { a.hub.KeepViews(h, a.to(old)); return nil }) // no error to return
}

func (a *alias) Scale() AnyScale {
	if s := a.Any.Scale(); s != nil {
		return s
	}
	if s := a.hub.Scale(); s != nil {
		return aliasScale{a, s}
	}
	return nil
}

func (a *alias) SelectableFields(obj meta.Object) fields.Set {
	if a.own.fields {
		return a.Any.SelectableFields(obj)
	}
	return a.hub.SelectableFields(a.to(obj))
}

func (a *alias) Cells(obj meta.Object) []any {
	if a.own.columns {
		return a.Any.Cells(obj)
	}
	return a.hub.Cells(a.to(obj))
}

func (a *alias) Allocate(ctx context.Context, access Access, obj, old meta.Object) error {
	if a.own.allocate {
		return a.Any.Allocate(ctx, access, obj, old)
	}
	return a.through(obj, func(h meta.Object) error { return a.hub.Allocate(ctx, access, h, a.old(old)) })
}

func (a *alias) Claims(obj meta.Object) []Claim {
	if a.own.claims {
		return a.Any.Claims(obj)
	}
	return a.hub.Claims(a.old(obj))
}

func (a *alias) Grace(obj meta.Object, asked *int64) (int64, bool) {
	return a.hub.Grace(a.to(obj), asked)
}

func (a *alias) BeginDeletion(obj meta.Object) {
	_ = a.through(obj, func(h meta.Object) error { a.hub.BeginDeletion(h); return nil }) // no error to return
}

func (a *alias) Held(obj meta.Object) bool { return a.hub.Held(a.to(obj)) }

func (a *alias) TTL(obj meta.Object) time.Duration {
	if a.own.ttl {
		return a.Any.TTL(obj)
	}
	return a.hub.TTL(a.to(obj))
}

// aliasView is a view of the hub's, written through the alias.
type aliasView struct {
	a *alias
	v AnyView
}

func (v aliasView) Reset(obj, old meta.Object) {
	_ = v.a.through(obj, func(h meta.Object) error { v.v.Reset(h, v.a.to(old)); return nil }) // no error to return
}

func (v aliasView) Prepare(ctx context.Context, obj, old meta.Object) {
	_ = v.a.through(obj, func(h meta.Object) error { v.v.Prepare(ctx, h, v.a.to(old)); return nil }) // no error to return
}

func (v aliasView) Validate(r *check.Report, obj, old meta.Object) {
	v.v.Validate(r, v.a.to(obj), v.a.to(old))
}

type aliasScale struct {
	a *alias
	s AnyScale
}

func (s aliasScale) Replicas(obj meta.Object) int32 { return s.s.Replicas(s.a.to(obj)) }

func (s aliasScale) SetReplicas(obj meta.Object, n int32) {
	_ = s.a.through(obj, func(h meta.Object) error { s.s.SetReplicas(h, n); return nil }) // no error to return
}

func (s aliasScale) Status(obj meta.Object) (int32, string) { return s.s.Status(s.a.to(obj)) }
