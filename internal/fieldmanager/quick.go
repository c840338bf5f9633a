package fieldmanager

import (
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
	"sigs.k8s.io/structured-merge-diff/v6/typed"

	"skiff.dev/skiff/internal/meta"
)

// quick records the usual writes without structured-merge-diff's comparison,
// which builds three sets of all that differs and reads and writes every
// manager's fields anew: the fields of a new object are written down straight
// from the object, and an update touches only the entries in which something
// changes. Whatever is unusual (several versions of a kind, too many managers,
// lists with elements that are not distinct, ...) is left to
// structured-merge-diff; both record the same, which is tested.
type quick struct {
	planner planner
	parsed  parsedFields
	spare   sync.Pool // of *changes
}

// maxUpdaters is how many entries of updates an object may have; with more
// the oldest are merged.
const maxUpdaters = 10

// stripped are the fields that are never recorded, below metadata those of
// strippedMeta.
var (
	stripped     = map[string]bool{"apiVersion": true, "kind": true, "metadata": true}
	strippedMeta = map[string]bool{
		"name": true, "namespace": true, "creationTimestamp": true, "selfLink": true, "uid": true, "clusterName": true,
		"generation": true, "managedFields": true, "resourceVersion": true,
	}
)

// write is one write that is being recorded.
type write struct {
	kind    Kind
	as      typed.ParseableType
	plan    *plan
	old     meta.Object
	obj     meta.Object
	manager string
	version string
}

// update brings obj's managedFields up to date, or reports false.
func (q *quick) update(w *write) bool {
	if w.manager == "" {
		w.manager = "unknown"
	}
	w.version = w.kind.GVK.GroupVersion().String()
	w.plan = q.planner.of(reflect.TypeOf(w.obj), w.as)
	if w.plan.shape != structure || reflect.TypeOf(w.old) != reflect.TypeOf(w.obj) {
		return false
	}
	entries := w.obj.GetManagedFields()
	if w.kind.Subresource != "" {
		entries = w.old.GetManagedFields()
	}
	c, _ := q.spare.Get().(*changes)
	if c == nil {
		c = &changes{}
	}
	defer func() {
		clear(c.list)
		c.list = c.list[:0]
		q.spare.Put(c)
	}()
	switch {
	case len(entries) > 0:
		return q.again(w, c, entries)
	case w.old.GetUID() == "" && len(w.old.GetManagedFields()) == 0:
		return q.first(w, c)
	}
	return false
}

// compare finds what the write changes, leaving out what its view cannot own.
func (w *write) compare(c *changes) bool {
	a, b := reflect.ValueOf(w.old).Elem(), reflect.ValueOf(w.obj).Elem()
	for i := range w.plan.fields {
		f := &w.plan.fields[i]
		if w.resets(f.name) {
			continue
		}
		if !c.fields(w.plan.fields[i:i+1], 0, a, b) {
			return false
		}
	}
	return true
}

func (w *write) resets(field string) bool {
	return w.kind.Reset != nil && w.kind.Reset.Members.Has(fieldpath.PathElement{FieldName: &field})
}

// strip forgets the fields that are never recorded for the writer itself.
func (c *changes) strip() {
	inMeta := false
	for i := range c.list {
		e := &c.list[i]
		switch e.depth {
		case 0:
			inMeta = e.name == "metadata"
			e.took = e.took && !stripped[e.name]
		case 1:
			e.took = e.took && !(inMeta && strippedMeta[e.name])
		}
	}
}

// took reports whether anything is set.
func (c *changes) anyTook() bool {
	return slices.ContainsFunc(c.list, func(e change) bool { return e.took })
}

// first records the fields of a new object.
func (q *quick) first(w *write, c *changes) bool {
	if !w.compare(c) || slices.ContainsFunc(c.list, func(e change) bool { return e.lost }) {
		return false
	}
	c.strip()
	if !c.anyTook() {
		w.obj.SetManagedFields(nil)
		return true
	}
	entry := w.entry(c.fieldsV1())
	w.obj.SetManagedFields([]metav1.ManagedFieldsEntry{entry})
	return true
}

// entry is the writer's.
func (w *write) entry(fields *metav1.FieldsV1) metav1.ManagedFieldsEntry {
	return metav1.ManagedFieldsEntry{
		Manager: w.manager, Operation: metav1.ManagedFieldsOperationUpdate, APIVersion: w.version, Subresource: w.kind.Subresource,
		Time: moment(), FieldsType: "FieldsV1", FieldsV1: fields,
	}
}

func moment() *metav1.Time { return &metav1.Time{Time: time.Now().UTC().Truncate(time.Second)} }

// own reports whether an entry is the writer's.
func (w *write) own(e *metav1.ManagedFieldsEntry) bool {
	return e.Operation == metav1.ManagedFieldsOperationUpdate && e.Manager == w.manager && e.Subresource == w.kind.Subresource
}

// again records a write to an object that has entries.
func (q *quick) again(w *write, c *changes, entries []metav1.ManagedFieldsEntry) bool {
	got, sets, ok := q.read(w, entries)
	if !ok || !w.compare(c) {
		return false
	}
	if len(c.list) > 0 {
		if got, ok = c.settle(w, got, sets); !ok {
			return false
		}
	}
	sortEntries(got)
	w.obj.SetManagedFields(got)
	return true
}

// read returns a copy of the entries, and their sets.
func (q *quick) read(w *write, entries []metav1.ManagedFieldsEntry) ([]metav1.ManagedFieldsEntry, []*fieldpath.Set, bool) {
	got := make([]metav1.ManagedFieldsEntry, len(entries), len(entries)+1)
	sets := make([]*fieldpath.Set, len(entries))
	updaters := 0
	for i := range entries {
		e := &got[i]
		*e = entries[i]
		known := e.Operation == metav1.ManagedFieldsOperationApply || e.Operation == metav1.ManagedFieldsOperationUpdate
		if !known || e.APIVersion != w.version || e.FieldsType != "FieldsV1" || e.FieldsV1 == nil {
			return nil, nil, false
		}
		if e.Operation == metav1.ManagedFieldsOperationUpdate {
			updaters++
		}
		for j := range i {
			if o := &got[j]; o.Manager == e.Manager && o.Operation == e.Operation && o.Subresource == e.Subresource {
				return nil, nil, false
			}
		}
		p, ok := q.parsed.get(w, e.FieldsV1)
		if !ok {
			return nil, nil, false
		}
		e.FieldsV1, sets[i] = p.fields, p.set
	}
	return got, sets, updaters <= maxUpdaters
}

// settle gives what changed to the writer and takes it from all others.
func (c *changes) settle(w *write, entries []metav1.ManagedFieldsEntry, sets []*fieldpath.Set) ([]metav1.ManagedFieldsEntry, bool) {
	var took, lost, kept []fieldpath.Path // kept: what is recorded of took
	add := func(to *[]fieldpath.Path) func(fieldpath.Path, *change) {
		return func(p fieldpath.Path, e *change) {
			switch {
			case e.took:
				*to = append(*to, slices.Clone(p))
			case to == &took:
				lost = append(lost, slices.Clone(p))
			}
		}
	}
	if c.paths(add(&took)) != nil {
		return nil, false
	}
	c.strip()
	if c.paths(add(&kept)) != nil {
		return nil, false
	}
	found := false
	updaters := 0
	out := entries[:0]
	for i := range entries {
		e, set := entries[i], sets[i]
		own := w.own(&e) && len(kept) > 0
		if !settled(set, own, took, lost) {
			set = set.Difference(fieldpath.NewSet(took...)).Difference(fieldpath.NewSet(lost...))
			if own {
				set = set.Union(fieldpath.NewSet(kept...))
			}
			if set.Empty() {
				continue
			}
			raw, err := set.ToJSON()
			if err != nil {
				return nil, false
			}
			e.FieldsV1 = metav1.NewFieldsV1(string(raw))
		}
		if own {
			found, e.Time = true, moment()
		}
		if e.Operation == metav1.ManagedFieldsOperationUpdate {
			updaters++
		}
		out = append(out, e)
	}
	if !found && len(kept) > 0 {
		if updaters++; slices.ContainsFunc(c.list, func(e change) bool { return e.lost }) {
			raw, err := fieldpath.NewSet(kept...).ToJSON()
			if err != nil {
				return nil, false
			}
			out = append(out, w.entry(metav1.NewFieldsV1(string(raw))))
		} else {
			out = append(out, w.entry(c.fieldsV1()))
		}
	}
	return out, updaters <= maxUpdaters
}

// settled reports whether a set stays as it is: the writer's holds all that it
// has taken, others' none of it; and none holds anything that is lost.
func settled(set *fieldpath.Set, own bool, took, lost []fieldpath.Path) bool {
	has := func(p fieldpath.Path) bool { return set.Has(p) }
	if slices.ContainsFunc(lost, has) {
		return false
	}
	if own {
		return !slices.ContainsFunc(took, func(p fieldpath.Path) bool { return !set.Has(p) })
	}
	return !slices.ContainsFunc(took, has)
}

// sortEntries puts entries in the order in which they are stored.
func sortEntries(entries []metav1.ManagedFieldsEntry) {
	seconds := func(e *metav1.ManagedFieldsEntry) int64 {
		if e.Time == nil {
			return 0
		}
		return e.Time.Unix()
	}
	slices.SortStableFunc(entries, func(a, b metav1.ManagedFieldsEntry) int {
		if c := strings.Compare(string(a.Operation), string(b.Operation)); c != 0 {
			return c
		}
		if x, y := seconds(&a), seconds(&b); x != y {
			if x < y {
				return -1
			}
			return 1
		}
		if c := strings.Compare(a.Manager, b.Manager); c != 0 {
			return c
		}
		return strings.Compare(a.Subresource, b.Subresource)
	})
}

// fieldsV1 writes down what was taken; nothing may be lost.
func (c *changes) fieldsV1() *metav1.FieldsV1 {
	buf := make([]byte, 0, 64+32*len(c.list))
	buf = append(buf, '{')
	for i := 0; i < len(c.list); {
		buf, i = c.write(buf, i)
	}
	return &metav1.FieldsV1{Raw: append(buf, '}')}
}

// write appends the element at i and those below it, if any is taken, and
// returns where the next begins.
func (c *changes) write(buf []byte, i int) ([]byte, int) {
	e, start := &c.list[i], len(buf)
	if buf[start-1] != '{' {
		buf = append(buf, ',')
	}
	buf = append(buf, '"', e.kind, ':')
	if e.kind == 'f' {
		buf = append(buf, e.name...)
	} else {
		for j := range len(e.name) {
			if e.name[j] == '"' {
				buf = append(buf, '\\')
			}
			buf = append(buf, e.name[j])
		}
	}
	buf = append(buf, `":{`...)
	inside := len(buf)
	if e.took {
		buf = append(buf, `".":{}`...)
	}
	dot := len(buf)
	for i++; i < len(c.list) && c.list[i].depth > e.depth; {
		buf, i = c.write(buf, i)
	}
	switch {
	case len(buf) > dot:
	case e.took:
		buf = buf[:inside]
	default:
		return buf[:start], i
	}
	return append(buf, '}'), i
}
