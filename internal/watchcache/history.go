package watchcache

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"skiff.dev/skiff/internal/meta"
	"skiff.dev/skiff/internal/store"
)

// Watch is Table.Watch for revisions that may be older than what the table
// holds, as after a restart: what is missing is read from the store's history
// once, for all watchers. It fails with ErrTooOld if the store has forgotten
// it, too, or if it is more than a table may hold.
func (c *Cache) Watch(ctx context.Context, name string, scope Scope, from int64) (*Watch, error) {
	r := c.named(name)
	if r == nil {
		return nil, ErrClosed
	}
	w, err := r.table.Watch(scope, from)
	if !errors.Is(err, ErrTooOld) || from <= 0 {
		return w, err
	}
	r.history.Lock()
	defer r.history.Unlock()
	if w, err = r.table.Watch(scope, from); !errors.Is(err, ErrTooOld) {
		return w, err // someone else has read it meanwhile
	}
	if err := c.recall(ctx, r, from); err != nil {
		return nil, err
	}
	return r.table.Watch(scope, from)
}

// recall reads the changes after from that the table does not have, and puts
// them before those that it has.
func (c *Cache) recall(ctx context.Context, r *resource, from int64) error {
	oldest, room := r.table.recallable()
	w, err := c.store.Watch(ctx, r.Prefix, from)
	if err != nil {
		return tooOld("opening the store's history", err)
	}
	defer w.Close()
	if err := w.RequestProgress(ctx); err != nil {
		return fmt.Errorf("reading the store's history: %w", err)
	}
	past := past{resource: r, last: map[string]*Item{}}
	for rev := from; rev < oldest; {
		b, err := nextOrNudge(ctx, w)
		if err != nil {
			return tooOld("reading the store's history", err)
		}
		for _, e := range b.Events {
			if err := c.recallOne(ctx, &past, e); err != nil {
				return err
			}
		}
		rev = max(rev, b.Rev)
		past.rev = rev
		if len(past.events) > room {
			return fmt.Errorf("%d changes since revision %d are more than %s may hold: %w", len(past.events), from, r.Name, ErrTooOld)
		}
	}
	return r.table.prepend(past.events, from, past.rev)
}

// nextOrNudge is Next that asks for progress again while nothing comes.
func nextOrNudge(ctx context.Context, w store.Watcher) (store.Batch, error) {
	for wait := nudgeEvery; ; wait = min(2*wait, nudgeLast) {
		some, cancel := context.WithTimeout(ctx, wait)
		b, err := w.Next(some)
		cancel()
		if err == nil || ctx.Err() != nil || !errors.Is(err, context.DeadlineExceeded) {
			return b, err
		}
		if err := w.RequestProgress(ctx); err != nil {
			return b, err
		}
	}
}

func tooOld(doing string, err error) error {
	if errors.Is(err, store.ErrCompacted) {
		return fmt.Errorf("%s: %w: %w", doing, ErrTooOld, err)
	}
	return fmt.Errorf("%s: %w", doing, err)
}

// past is a piece of history being put together.
type past struct {
	resource *resource
	events   []*Event
	last     map[string]*Item // the latest state of each key seen; nil if deleted
	rev      int64
}

// recallOne turns an event of the store into one of the table.
func (c *Cache) recallOne(ctx context.Context, p *past, e store.Event) error {
	prev, seen := p.last[e.KV.Key]
	if !seen {
		kv, found, _, err := c.store.Get(ctx, e.KV.Key, e.KV.ModRev-1)
		if err != nil {
			return tooOld("reading the state before a change", err)
		}
		if found {
			prev = p.resource.recalled(kv)
		}
	}
	var now *Item
	if !e.Delete {
		now = p.resource.recalled(e.KV)
	}
	p.last[e.KV.Key] = now
	ev := &Event{Item: now, Prev: prev, Rev: e.KV.ModRev}
	switch {
	case now == nil && prev == nil:
		return nil
	case now == nil:
		ev.Type, ev.Item = Deleted, final(prev, e.KV.ModRev)
	case prev == nil:
		ev.Type = Added
	default:
		ev.Type = Modified
	}
	p.events = append(p.events, ev)
	return nil
}

// recalled decodes a past state. One that cannot be decoded was not in the
// table then, either, and was reported by whoever met it live.
func (r *resource) recalled(kv store.KV) *Item {
	obj, err := r.decode(kv)
	if err != nil {
		return nil
	}
	return &Item{Object: obj, Rev: kv.ModRev, key: meta.KeyOf(obj)}
}

// recallable returns the revision up to which events are missing, and how many
// may be added.
func (t *Table) recallable() (oldest int64, room int) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.oldest, t.maxEvents - t.past
}

// prepend puts events, which are all between the revisions from and to, before
// those of the ring.
func (t *Table) prepend(events []*Event, from, to int64) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if to < t.oldest {
		return fmt.Errorf("the table has moved on: %w", ErrTooOld)
	}
	if from >= t.oldest {
		return nil
	}
	for len(events) > 0 && events[len(events)-1].Rev > t.oldest {
		events = events[:len(events)-1]
	}
	start := t.nextSeq
	if t.ring.len() > 0 {
		start = t.ring.at(0).seq
	}
	// The numbers before start may have been used. Whoever has missed one of
	// those must not take the new bearer for it, and whoever has not must not
	// see it.
	for _, tp := range t.topics {
		for w := range tp.watches {
			if w.cursor <= tp.lost {
				w.cut = true
			}
			w.cursor = max(w.cursor, start)
		}
		tp.since = max(tp.since, start)
		tp.lost = math.MinInt64
	}
	now := time.Now().UnixNano()
	for i, e := range events {
		e.seq, e.at = start-int64(len(events)-i), now
	}
	t.ring.prepend(events)
	t.past += len(events)
	t.oldest = from
	return nil
}
