package watchcache

import (
	"bytes"
	"encoding/json"
	"fmt"
	"sync"
)

// WithMutationDetector makes the table remember what every object looked like
// when it came and panic as soon as one is read, replaced or left at Close
// that someone has changed. It is for tests: it encodes on every read.
func WithMutationDetector() Option {
	return func(t *Table) { t.detector = &detector{table: t.name, was: map[*Item][]byte{}} }
}

// detector is nil when off.
type detector struct {
	table string
	mu    sync.Mutex
	was   map[*Item][]byte
}

func (d *detector) add(item *Item) {
	if d == nil {
		return
	}
	data := look(item)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.was[item] = data
}

// check panics if the object is not what it was. Items that have left the
// table are not checked.
func (d *detector) check(item *Item) {
	if d == nil {
		return
	}
	d.mu.Lock()
	was, known := d.was[item]
	d.mu.Unlock()
	if !known {
		return
	}
	if is := look(item); !bytes.Equal(was, is) {
		panic(fmt.Sprintf("watchcache: object %s of %s at revision %d was changed by someone who reads it\nwas: %s\nis:  %s",
			item.key, d.table, item.Rev, was, is))
	}
}

// drop checks for the last time.
func (d *detector) drop(item *Item) {
	if d == nil {
		return
	}
	d.check(item)
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.was, item)
}

func (d *detector) clear() {
	if d == nil {
		return
	}
	d.mu.Lock()
	items := make([]*Item, 0, len(d.was))
	for item := range d.was {
		items = append(items, item)
	}
	d.mu.Unlock()
	for _, item := range items {
		d.drop(item)
	}
}

func look(item *Item) []byte {
	data, err := json.Marshal(item.Object)
	if err != nil {
		panic(fmt.Sprintf("watchcache: encoding %s to detect changes: %v", item.key, err))
	}
	return data
}
