package fieldmanager

import (
	"reflect"
	"slices"
	"sync"

	"sigs.k8s.io/structured-merge-diff/v6/schema"
	"sigs.k8s.io/structured-merge-diff/v6/typed"
	"sigs.k8s.io/structured-merge-diff/v6/value"
)

// A plan says how two values of one Go type are compared under one type of the
// schema: what structured-merge-diff finds out anew for each value, found out
// once.
type plan struct {
	shape  shape
	fields []planField // of a struct, by name
	elem   *plan       // of a map's or list's elements
	keys   []planKey   // of a keyed list, by name
}

type shape uint8

const (
	// beyond is what plans do not cover; a value of it is compared by
	// structured-merge-diff.
	beyond shape = iota
	// leaf is owned as a whole: scalars, atomic lists and maps.
	leaf
	structure
	mapping
	keyed // a list whose elements have keys
	set   // a list of distinct scalars
)

// planField is a field of a struct.
type planField struct {
	name  string
	entry *value.FieldCacheEntry // finds it in a value
	plan  *plan
}

// planKey is one of the fields that tell the elements of a list apart.
type planKey struct {
	name    string
	entry   *value.FieldCacheEntry
	inPlace any // a string or an int64 for elements without the field; nil if there is none
}

// planner makes plans, each once.
type planner struct {
	mu   sync.Mutex
	made map[planID]*plan
}

type planID struct {
	typ    reflect.Type
	schema *schema.Schema
	named  string
	list   schema.ElementRelationship // that the reference asks for, if it does
}

// of returns the plan for objects of a Go type under a type of the schema.
func (p *planner) of(typ reflect.Type, as typed.ParseableType) *plan {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.made == nil {
		p.made = map[planID]*plan{}
	}
	return p.plan(typ, as.Schema, as.TypeRef)
}

// plan makes the plan of what typ, perhaps a pointer, points to. p.mu is held.
func (p *planner) plan(typ reflect.Type, s *schema.Schema, ref schema.TypeRef) *plan {
	atom, ok := s.Resolve(ref)
	if !ok {
		return &plan{}
	}
	if ref.NamedType == nil {
		made := &plan{}
		p.fill(made, typ, s, atom)
		return made
	}
	id := planID{typ: typ, schema: s, named: *ref.NamedType}
	if ref.ElementRelationship != nil {
		id.list = *ref.ElementRelationship
	}
	made := p.made[id]
	if made == nil {
		made = &plan{}
		p.made[id] = made // before it is filled: types may contain themselves
		p.fill(made, typ, s, atom)
	}
	return made
}

func (p *planner) fill(made *plan, typ reflect.Type, s *schema.Schema, atom schema.Atom) {
	if typ.Kind() == reflect.Pointer {
		typ = typ.Elem()
	}
	own := value.TypeReflectEntryOf(typ).CanConvertToUnstructured()
	switch {
	case whole(atom):
		if typ.Kind() != reflect.Pointer && typ.Kind() != reflect.Interface {
			made.shape = leaf
		}
	case own || alternatives(atom) > 1:
		// It has a form of its own, or several: look at each value.
	case atom.Map != nil && typ.Kind() == reflect.Struct:
		made.shape = structure
		p.fillStruct(made, typ, s, atom.Map)
	case atom.Map != nil && typ.Kind() == reflect.Map && typ.Key().Kind() == reflect.String && len(atom.Map.Fields) == 0:
		made.shape, made.elem = mapping, p.plan(typ.Elem(), s, atom.Map.ElementType)
	case atom.List != nil && typ.Kind() == reflect.Slice && typ.Elem().Kind() != reflect.Uint8:
		p.fillList(made, typ, s, atom.List)
	}
}

// whole reports whether values of the atom are leaves whatever they are.
func whole(a schema.Atom) bool {
	return alternatives(a) > 0 &&
		(a.List == nil || a.List.ElementRelationship == schema.Atomic) &&
		(a.Map == nil || a.Map.ElementRelationship == schema.Atomic)
}

func alternatives(a schema.Atom) (n int) {
	for _, there := range []bool{a.Scalar != nil, a.List != nil, a.Map != nil} {
		if there {
			n++
		}
	}
	return n
}

func (p *planner) fillStruct(made *plan, typ reflect.Type, s *schema.Schema, m *schema.Map) {
	zero := reflect.New(typ).Elem()
	for _, e := range value.TypeReflectEntryOf(typ).OrderedFields() {
		ref := m.ElementType
		if f, ok := m.FindField(e.JsonName); ok {
			ref = f.Type
		}
		made.fields = append(made.fields, planField{name: e.JsonName, entry: e, plan: p.plan(e.GetFrom(zero).Type(), s, ref)})
	}
}

func (p *planner) fillList(made *plan, typ reflect.Type, s *schema.Schema, l *schema.List) {
	elem := typ.Elem()
	if len(l.Keys) == 0 {
		if elem.Kind() == reflect.String {
			made.shape, made.elem = set, &plan{shape: leaf}
		}
		return
	}
	if elem.Kind() != reflect.Struct {
		return
	}
	atom, ok := s.Resolve(l.ElementType)
	if !ok || atom.Map == nil {
		return
	}
	fields := value.TypeReflectEntryOf(elem).Fields()
	for _, name := range slices.Sorted(slices.Values(l.Keys)) {
		e := fields[name]
		if e == nil {
			return
		}
		key := planKey{name: name, entry: e}
		if f, ok := atom.Map.FindField(name); ok && f.Default != nil {
			if key.inPlace, ok = keyDefault(f.Default); !ok {
				return
			}
		}
		made.keys = append(made.keys, key)
	}
	made.shape, made.elem = keyed, p.plan(elem, s, l.ElementType)
}

func keyDefault(v any) (any, bool) {
	switch v := v.(type) {
	case string:
		return v, true
	case int:
		return int64(v), true
	case int64:
		return v, true
	}
	return nil, false
}
