package client

import (
	"context"
	"errors"
	"fmt"
	"iter"

	"k8s.io/apimachinery/pkg/fields"

	"skiff.dev/skiff/internal/meta"
	"skiff.dev/skiff/internal/watchcache"
)

// Cache is a read-only view of the objects of one kind, kept current by the
// transport. The objects are shared: copy before change.
type Cache[T meta.Object] struct {
	table *watchcache.Table
	scope watchcache.Scope
}

// Cache returns the cache of all objects of the kind, with the given indexes.
func (k Kind[T]) Cache(ctx context.Context, indexes ...meta.Index) (Cache[T], error) {
	return k.CacheWhere(ctx, watchcache.Scope{}, indexes...)
}

// CacheWhere is Cache for the part of the objects that scope selects, such as
// the pods of one node. A remote transport fetches only that part.
func (k Kind[T]) CacheWhere(ctx context.Context, scope watchcache.Scope, indexes ...meta.Index) (Cache[T], error) {
	t, err := k.c.Transport.Table(ctx, k.gvr, scope)
	if err != nil {
		return Cache[T]{}, fmt.Errorf("opening cache of %s: %w", k.gvr.GroupResource(), err)
	}
	for _, ix := range indexes {
		t.EnsureIndex(ix)
	}
	return Cache[T]{table: t, scope: scope}, nil
}

// Sync waits until the cache has been loaded for the first time.
func (c Cache[T]) Sync(ctx context.Context) error {
	select {
	case <-c.table.Ready():
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Table returns the table beneath, for callers that watch it themselves.
func (c Cache[T]) Table() *watchcache.Table { return c.table }

// Get returns one object.
func (c Cache[T]) Get(namespace, name string) (T, bool) {
	item, ok := c.table.Get(meta.Key{Namespace: namespace, Name: name})
	if !ok {
		var none T
		return none, false
	}
	return item.Object.(T), true
}

// All yields the objects of a namespace ("" for all) of one instant, in key order.
func (c Cache[T]) All(namespace string) iter.Seq[T] {
	return objects[T](c.table.Snapshot().All(namespace, meta.Key{}))
}

// ByIndex yields the objects found under value in the index of that name.
func (c Cache[T]) ByIndex(index, value string) iter.Seq[T] {
	return objects[T](c.table.Snapshot().ByIndex(index, value))
}

func objects[T meta.Object](items iter.Seq[*watchcache.Item]) iter.Seq[T] {
	return func(yield func(T) bool) {
		for item := range items {
			if !yield(item.Object.(T)) {
				return
			}
		}
	}
}

// Change is what happened to one object: Old is nil when it came, New is nil
// when it went.
type Change[T meta.Object] struct {
	Old, New T
	// Created and Deleted tell the ends of a life apart from its middle.
	Created, Deleted bool
}

// Object returns the newest state known.
func (ch Change[T]) Object() T {
	if ch.Deleted {
		return ch.Old
	}
	return ch.New
}

// Follow first reports every object there is as created, then every change,
// in order, until ctx ends. If the follower is so slow that changes were
// missed, it is told the difference and goes on. Follow calls f from one goroutine, its
// own caller's; after each batch it calls batch, which may be nil.
func (c Cache[T]) Follow(ctx context.Context, f func(Change[T]), batch func()) error {
	if err := c.Sync(ctx); err != nil {
		return err
	}
	known := map[meta.Key]T{}
	for {
		err := c.follow(ctx, known, f, batch)
		if !errors.Is(err, watchcache.ErrTooOld) {
			return err
		}
	}
}

// follow reports from a snapshot on until the watch ends; known is what has
// been reported, kept only so that a cut-off can be mended.
func (c Cache[T]) follow(ctx context.Context, known map[meta.Key]T, f func(Change[T]), batch func()) error {
	snap, w, err := c.table.WatchFromSnapshot(c.scope)
	if err != nil {
		return err
	}
	defer w.Close()
	c.resync(snap, known, f)
	for {
		if batch != nil {
			batch()
		}
		events, _, err := w.Next(ctx)
		if err != nil {
			return err
		}
		for _, e := range events {
			report(e, known, f)
		}
	}
}

func (c Cache[T]) resync(snap watchcache.Snapshot, known map[meta.Key]T, f func(Change[T])) {
	seen := make(map[meta.Key]bool, len(known))
	for item := range snap.In(c.scope) {
		obj := item.Object.(T)
		key := meta.KeyOf(obj)
		seen[key] = true
		old, had := known[key]
		if had && old.GetResourceVersion() == obj.GetResourceVersion() {
			continue
		}
		known[key] = obj
		f(Change[T]{Old: old, New: obj, Created: !had})
	}
	for key, old := range known {
		if !seen[key] {
			delete(known, key)
			f(Change[T]{Old: old, Deleted: true})
		}
	}
}

func report[T meta.Object](e *watchcache.Event, known map[meta.Key]T, f func(Change[T])) {
	obj := e.Item.Object.(T)
	key := meta.KeyOf(obj)
	old, had := known[key]
	if e.Type == watchcache.Deleted {
		if had {
			delete(known, key)
			f(Change[T]{Old: obj, Deleted: true})
		}
		return
	}
	known[key] = obj
	f(Change[T]{Old: old, New: obj, Created: !had})
}

// FieldSelector is the field selector that asks a server for what a scope
// selects. An index that is to be used in a scope is named after its field.
func FieldSelector(s watchcache.Scope) string {
	switch {
	case s.Index != "":
		return fields.OneTermEqualSelector(s.Index, s.Value).String()
	case s.Name != "":
		return fields.OneTermEqualSelector("metadata.name", s.Name).String()
	}
	return ""
}
