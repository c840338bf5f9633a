package fieldmanager

import (
	"reflect"
	"slices"
	"strconv"
	"strings"

	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
	"sigs.k8s.io/structured-merge-diff/v6/value"
)

// changes are the differences between two objects: a tree of path elements in
// the order of fieldpath.Set, written as a list in which each element stands
// before those below it.
type changes struct {
	list []change
	keys []itemKey // room for the keys of lists, used as a stack
}

// change is an element of a path and what happened to the field there.
type change struct {
	depth int
	kind  byte   // 'f', 'k' or 'v', as in FieldsV1
	name  string // what follows the kind there
	took  bool   // the writer has set it: it is new or has another value
	lost  bool   // it is no longer there
}

// presence is how a value is there: JSON knows "not at all" and "null".
type presence uint8

const (
	absent presence = iota
	null
	there
)

// seen is a value as JSON would show it: what a pointer points to.
func seen(v reflect.Value) (reflect.Value, presence) {
	switch v.Kind() {
	case reflect.Invalid:
		return v, absent
	case reflect.Pointer:
		if v.IsNil() {
			return v, null
		}
		return v.Elem(), there
	case reflect.Map, reflect.Slice:
		if v.IsNil() {
			return v, null
		}
	}
	return v, there
}

// compare adds what is different in b from a, both of which the plan is for;
// an invalid value is one that is not there, at least one is. It reports false
// for what it cannot compare.
func (c *changes) compare(p *plan, depth int, kind byte, name string, a, b reflect.Value) bool {
	if p.shape == leaf {
		c.leaf(depth, kind, name, a, b)
		return true
	}
	if p.shape == beyond {
		return false
	}
	before, wasThere := seen(a)
	after, isThere := seen(b)
	if p.empty(before, wasThere) && p.empty(after, isThere) {
		// Nothing and null are leaves, so that they can be told apart.
		if wasThere == absent || isThere == absent || wasThere != isThere {
			c.add(change{depth: depth, kind: kind, name: name, took: isThere != absent, lost: isThere == absent})
		}
		return true
	}
	at := len(c.list)
	c.add(change{depth: depth, kind: kind, name: name, took: wasThere == absent, lost: isThere == absent})
	if !c.below(p, depth+1, before, after, wasThere, isThere) {
		return false
	}
	if e := c.list[at]; len(c.list) == at+1 && !e.took && !e.lost {
		c.list = c.list[:at]
	}
	return true
}

// empty reports whether a list or map has no elements.
func (p *plan) empty(v reflect.Value, is presence) bool {
	if is != there {
		return true
	}
	if p.shape != structure {
		return v.Len() == 0
	}
	for i := range p.fields {
		f := &p.fields[i]
		if !f.entry.CanOmit(f.entry.GetFrom(v)) {
			return false
		}
	}
	return true
}

func (c *changes) add(e change) { c.list = append(c.list, e) }

func (c *changes) leaf(depth int, kind byte, name string, a, b reflect.Value) {
	switch {
	case !a.IsValid():
		c.add(change{depth: depth, kind: kind, name: name, took: true})
	case !b.IsValid():
		c.add(change{depth: depth, kind: kind, name: name, lost: true})
	case !sameLeaf(a, b):
		c.add(change{depth: depth, kind: kind, name: name, took: true})
	}
}

// sameLeaf reports whether JSON would show both the same.
func sameLeaf(a, b reflect.Value) bool {
	switch a.Kind() {
	case reflect.String:
		return a.String() == b.String()
	case reflect.Bool:
		return a.Bool() == b.Bool()
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return a.Int() == b.Int()
	case reflect.Pointer:
		if a.Pointer() == b.Pointer() {
			return true
		}
	}
	if reflect.DeepEqual(a.Interface(), b.Interface()) {
		return true
	}
	x, err := value.NewValueReflect(pointerTo(a))
	if err != nil {
		return false
	}
	y, err := value.NewValueReflect(pointerTo(b))
	return err == nil && value.Equals(x, y)
}

// pointerTo returns a pointer to v, or v if it is one.
func pointerTo(v reflect.Value) any {
	if v.Kind() == reflect.Pointer {
		return v.Interface()
	}
	p := reflect.New(v.Type())
	p.Elem().Set(v)
	return p.Interface()
}

// below compares the elements of two values, one of which may be missing.
func (c *changes) below(p *plan, depth int, a, b reflect.Value, wasThere, isThere presence) bool {
	if wasThere != there {
		a = reflect.Value{}
	}
	if isThere != there {
		b = reflect.Value{}
	}
	switch p.shape {
	case structure:
		return c.fields(p.fields, depth, a, b)
	case mapping:
		return c.mapping(p, depth, a, b)
	case keyed:
		return c.keyed(p, depth, a, b)
	}
	return c.set(depth, a, b)
}

// fields compares two structs, field by field.
func (c *changes) fields(fields []planField, depth int, a, b reflect.Value) bool {
	for i := range fields {
		f := &fields[i]
		before, after := f.in(a), f.in(b)
		if !before.IsValid() && !after.IsValid() {
			continue
		}
		if !c.compare(f.plan, depth, 'f', f.name, before, after) {
			return false
		}
	}
	return true
}

// in returns the field in a struct; it is not valid if JSON would omit it.
func (f *planField) in(v reflect.Value) reflect.Value {
	if !v.IsValid() {
		return v
	}
	if v = f.entry.GetFrom(v); f.entry.CanOmit(v) {
		return reflect.Value{}
	}
	return v
}

// mapping compares two maps. Only keys at which something differs are put in order.
func (c *changes) mapping(p *plan, depth int, a, b reflect.Value) bool {
	if p.elem.shape == leaf && a.IsValid() && b.IsValid() && sameStrings(a, b) {
		return true
	}
	var room [16]string
	names := room[:0]
	each := func(m, other reflect.Value) {
		for it := m.MapRange(); it.Next(); {
			if k := it.Key(); !other.IsValid() || !other.MapIndex(k).IsValid() {
				names = append(names, k.String())
			}
		}
	}
	if b.IsValid() {
		each(b, reflect.Value{})
	}
	if a.IsValid() {
		each(a, b)
	}
	slices.Sort(names)
	for _, name := range names {
		if !plain(name) || !c.compare(p.elem, depth, 'f', name, at(a, name), at(b, name)) {
			return false
		}
	}
	return true
}

// sameStrings reports whether two maps are the same maps of strings.
func sameStrings(a, b reflect.Value) bool {
	if a.Type() != stringMap {
		return false
	}
	x, y := a.Interface().(map[string]string), b.Interface().(map[string]string)
	if len(x) != len(y) {
		return false
	}
	for k, v := range x {
		if w, ok := y[k]; !ok || v != w {
			return false
		}
	}
	return true
}

var stringMap = reflect.TypeFor[map[string]string]()

// at returns a map's value at a key.
func at(m reflect.Value, key string) reflect.Value {
	if !m.IsValid() {
		return m
	}
	return m.MapIndex(reflect.ValueOf(key).Convert(m.Type().Key()))
}

// plain reports whether JSON writes a string as it is, whoever writes it.
func plain(s string) bool {
	for i := range len(s) {
		switch b := s[i]; {
		case b < ' ', b > '~', b == '"', b == '\\', b == '<', b == '>', b == '&':
			return false
		}
	}
	return true
}

// set compares two lists of distinct strings.
func (c *changes) set(depth int, a, b reflect.Value) bool {
	before, ok := distinct(a)
	if !ok {
		return false
	}
	after, ok := distinct(b)
	if !ok {
		return false
	}
	for len(before) > 0 || len(after) > 0 {
		switch {
		case len(before) > 0 && len(after) > 0 && before[0] == after[0]:
			before, after = before[1:], after[1:]
		case len(before) == 0 || len(after) > 0 && after[0] < before[0]:
			c.add(change{depth: depth, kind: 'v', name: `"` + after[0] + `"`, took: true})
			after = after[1:]
		default:
			c.add(change{depth: depth, kind: 'v', name: `"` + before[0] + `"`, lost: true})
			before = before[1:]
		}
	}
	return true
}

// distinct returns the elements in order, if they are distinct and plain.
func distinct(list reflect.Value) ([]string, bool) {
	if !list.IsValid() {
		return nil, true
	}
	out := make([]string, list.Len())
	for i := range out {
		if out[i] = list.Index(i).String(); !plain(out[i]) {
			return nil, false
		}
	}
	slices.Sort(out)
	return out, len(slices.Compact(slices.Clone(out))) == len(out)
}

// itemKey is what tells an element of a keyed list from the others.
type itemKey struct {
	index  int
	fields [maxKeys]keyField
	n      int
}

const maxKeys = 4

type keyField struct {
	name   string
	text   string
	number int64
	isText bool
}

// compare orders keys as fieldpath does.
func (k *itemKey) compare(o *itemKey) int {
	for i := range min(k.n, o.n) {
		x, y := &k.fields[i], &o.fields[i]
		if c := strings.Compare(x.name, y.name); c != 0 {
			return c
		}
		switch {
		case x.isText && y.isText:
			if c := strings.Compare(x.text, y.text); c != 0 {
				return c
			}
		case x.isText != y.isText: // numbers come first
			if y.isText {
				return -1
			}
			return 1
		case x.number != y.number:
			if x.number < y.number {
				return -1
			}
			return 1
		}
	}
	return k.n - o.n
}

// text is the key as FieldsV1 has it, behind "k:".
func (k *itemKey) text() string {
	b := make([]byte, 0, 64)
	b = append(b, '{')
	for i := range k.n {
		f := &k.fields[i]
		if i > 0 {
			b = append(b, ',')
		}
		b = append(append(append(b, '"'), f.name...), `":`...)
		if f.isText {
			b = append(append(append(b, '"'), f.text...), '"')
		} else {
			b = strconv.AppendInt(b, f.number, 10)
		}
	}
	return string(append(b, '}'))
}

// keyed compares two lists, element by element of the same key.
func (c *changes) keyed(p *plan, depth int, a, b reflect.Value) bool {
	base := len(c.keys)
	defer func() { c.keys = c.keys[:base] }()
	if !c.pushKeys(p, a) {
		return false
	}
	middle := len(c.keys)
	if !c.pushKeys(p, b) {
		return false
	}
	i, j, end := base, middle, len(c.keys)
	for i < middle || j < end {
		order := 0
		switch {
		case i == middle:
			order = 1
		case j == end:
			order = -1
		default:
			order = c.keys[i].compare(&c.keys[j])
		}
		var before, after reflect.Value
		var key itemKey
		if order >= 0 {
			key = c.keys[j]
			after = b.Index(key.index)
			j++
		}
		if order <= 0 {
			key = c.keys[i]
			before = a.Index(key.index)
			i++
		}
		if !c.compare(p.elem, depth, 'k', key.text(), before, after) {
			return false
		}
	}
	return true
}

// pushKeys adds the keys of a list's elements to the stack, in order. It
// reports false if they are not distinct.
func (c *changes) pushKeys(p *plan, list reflect.Value) bool {
	if !list.IsValid() {
		return true
	}
	start := len(c.keys)
	for i := range list.Len() {
		k := itemKey{index: i}
		if len(p.keys) > maxKeys || !k.read(p.keys, list.Index(i)) {
			return false
		}
		c.keys = append(c.keys, k)
	}
	keys := c.keys[start:]
	slices.SortFunc(keys, func(x, y itemKey) int { return x.compare(&y) })
	for i := 1; i < len(keys); i++ {
		if keys[i-1].compare(&keys[i]) == 0 {
			return false
		}
	}
	return true
}

func (k *itemKey) read(keys []planKey, item reflect.Value) bool {
	for i := range keys {
		v := keys[i].entry.GetFrom(item)
		f := keyField{name: keys[i].name}
		if keys[i].entry.CanOmit(v) {
			switch d := keys[i].inPlace.(type) {
			case nil:
				continue
			case string:
				f.text, f.isText = d, true
			case int64:
				f.number = d
			}
		} else if !f.read(v) {
			return false
		}
		k.fields[k.n] = f
		k.n++
	}
	return k.n > 0
}

func (f *keyField) read(v reflect.Value) bool {
	if v.Kind() == reflect.Pointer && !v.IsNil() {
		v = v.Elem()
	}
	switch v.Kind() {
	case reflect.String:
		f.text, f.isText = v.String(), true
		return plain(f.text)
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		f.number = v.Int()
		return true
	}
	return false
}

// paths calls each with the path of every field that was taken or lost.
func (c *changes) paths(each func(path fieldpath.Path, e *change)) error {
	var path fieldpath.Path
	for i := range c.list {
		e := &c.list[i]
		pe, err := e.element()
		if err != nil {
			return err
		}
		path = append(path[:e.depth], pe)
		if e.took || e.lost {
			each(path, e)
		}
	}
	return nil
}

func (e *change) element() (fieldpath.PathElement, error) {
	if e.kind == 'f' {
		return fieldpath.PathElement{FieldName: &e.name}, nil
	}
	return fieldpath.DeserializePathElement(string(e.kind) + ":" + e.name)
}
