package watchcache

import (
	"slices"
	"strings"

	"github.com/google/btree"

	"skiff.dev/skiff/internal/meta"
)

// index is a meta.Index over the items of a table, ordered by value, then key.
type index struct {
	meta.Index
	tree *btree.BTreeG[indexed]
}

type indexed struct {
	value string
	item  *Item
}

func lessIndexed(a, b indexed) bool {
	if c := strings.Compare(a.value, b.value); c != 0 {
		return c < 0
	}
	return compareKeys(a.item.key, b.item.key) < 0
}

func newIndex(ix meta.Index, items *btree.BTreeG[*Item]) *index {
	x := &index{Index: ix, tree: btree.NewG(degree, lessIndexed)}
	items.Ascend(func(item *Item) bool {
		x.replace(nil, item)
		return true
	})
	return x
}

// replace takes old out and puts item in; either may be nil.
func (x *index) replace(old, item *Item) {
	var now []string
	if item != nil {
		now = x.Keys(item.Object)
	}
	if old != nil {
		for _, v := range x.Keys(old.Object) {
			if !slices.Contains(now, v) {
				x.tree.Delete(indexed{v, old})
			}
		}
	}
	for _, v := range now {
		x.tree.ReplaceOrInsert(indexed{v, item})
	}
}
