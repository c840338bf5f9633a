package watchcache

import (
	"fmt"
	"iter"
	"slices"

	"github.com/google/btree"

	"skiff.dev/skiff/internal/meta"
)

// Snapshot is the content of a table at one revision. It is immutable, safe
// for concurrent use, and keeps what it shows in memory for as long as it lives.
type Snapshot struct {
	rev      int64
	tree     *btree.BTreeG[*Item]
	indexes  []*index
	detector *detector
}

// Snapshot returns the present content. It costs the same for any number of
// objects, and nothing if nothing has changed since the last one.
func (t *Table) Snapshot() Snapshot {
	t.mu.RLock()
	if s := t.snap; s != nil {
		snap := *s
		snap.rev = t.rev()
		t.mu.RUnlock()
		return snap
	}
	t.mu.RUnlock()
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.snapshot()
}

func (t *Table) snapshot() Snapshot {
	if t.snap == nil {
		s := &Snapshot{tree: t.tree.Clone(), detector: t.detector}
		for _, ix := range t.indexes {
			s.indexes = append(s.indexes, &index{Index: ix.Index, tree: ix.tree.Clone()})
		}
		t.snap = s
	}
	snap := *t.snap
	snap.rev = t.rev()
	return snap
}

// Rev returns the revision that the snapshot shows.
func (s Snapshot) Rev() int64 { return s.rev }

// Len returns the number of objects.
func (s Snapshot) Len() int {
	if s.tree == nil {
		return 0
	}
	return s.tree.Len()
}

// Get returns one object.
func (s Snapshot) Get(key meta.Key) (*Item, bool) {
	if s.tree == nil {
		return nil, false
	}
	item, ok := s.tree.Get(&Item{key: key})
	if ok {
		s.detector.check(item)
	}
	return item, ok
}

// All yields the objects of a namespace ("" for all), in the order of their
// keys, after the key after (zero for all).
func (s Snapshot) All(namespace string, after meta.Key) iter.Seq[*Item] {
	return func(yield func(*Item) bool) {
		if s.tree == nil {
			return
		}
		start := &Item{key: after}
		if compareKeys(after, meta.Key{Namespace: namespace}) < 0 {
			start.key = meta.Key{Namespace: namespace}
		}
		s.tree.AscendGreaterOrEqual(start, func(item *Item) bool {
			if namespace != "" && item.key.Namespace != namespace {
				return false
			}
			if item.key == after {
				return true
			}
			s.detector.check(item)
			return yield(item)
		})
	}
}

// ByIndex yields the objects found under value in an index, in the order of
// their keys. It panics if the table did not have the index.
func (s Snapshot) ByIndex(name, value string) iter.Seq[*Item] {
	i := slices.IndexFunc(s.indexes, func(x *index) bool { return x.Name == name })
	if i < 0 {
		panic(fmt.Sprintf("watchcache: no index %q", name))
	}
	tree := s.indexes[i].tree
	return func(yield func(*Item) bool) {
		tree.AscendGreaterOrEqual(indexed{value, new(Item)}, func(e indexed) bool {
			if e.value != value {
				return false
			}
			s.detector.check(e.item)
			return yield(e.item)
		})
	}
}

// In yields the objects that scope selects, in the order of their keys.
func (s Snapshot) In(scope Scope) iter.Seq[*Item] {
	items := s.All(scope.Namespace, meta.Key{})
	if scope.Index != "" {
		items = s.ByIndex(scope.Index, scope.Value)
	} else if scope.Name != "" && scope.Namespace != "" {
		items = s.one(meta.Key{Namespace: scope.Namespace, Name: scope.Name})
	}
	if scope.Name == "" && scope.Index == "" {
		return items
	}
	return func(yield func(*Item) bool) {
		for item := range items {
			if scope.holdsKey(item.key) && !yield(item) {
				return
			}
		}
	}
}

func (s Snapshot) one(key meta.Key) iter.Seq[*Item] {
	return func(yield func(*Item) bool) {
		if item, ok := s.Get(key); ok {
			yield(item)
		}
	}
}
