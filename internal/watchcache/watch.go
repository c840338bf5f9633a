package watchcache

import (
	"context"
	"math"
	"slices"
	"sync/atomic"
	"time"
)

// topic is the events of the ring that one facet of a scope selects, and the
// watches that want them. A topic exists while it has watches.
type topic struct {
	scope   Scope
	all     bool // the ring itself; events is not used
	events  queue
	watches map[*Watch]struct{}
	// since: events holds everything from this seq on that is in the ring.
	since int64
	// lost is the seq of the latest event that has left the ring.
	lost int64
	// wake is closed and renewed when events come; dirty says that it is due.
	wake  chan struct{}
	dirty bool
}

// Watch is a cursor into the events of a table. It may be used by one
// goroutine at a time; Close may be called by any.
type Watch struct {
	table *Table
	scope Scope
	topic *topic
	index *index // of the scope, or nil
	// waiting is set while Next may sleep, so that Close knows whether to wake
	// the topic. A channel of the watch's own would do, but each more in the
	// select of 10,000 watches is a fifth more work per delivery.
	waiting atomic.Bool

	// Guarded by the table's lock: written by the owner under a read lock, by
	// the table under the write lock.
	cursor int64 // seq of the next event to look at
	cut    bool
	closed bool
	buf    []*Event
}

// Watch returns the changes after the revision from. It fails with ErrTooOld
// if some of them have left the ring, ErrFuture if from is not reached yet,
// ErrNotReady before the table is loaded. The watch must be closed.
func (t *Table) Watch(scope Scope, from int64) (*Watch, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.watch(scope, from)
}

// WatchFromSnapshot returns the present content and the changes after it.
func (t *Table) WatchFromSnapshot(scope Scope) (Snapshot, *Watch, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	w, err := t.watch(scope, t.rev())
	if err != nil {
		return Snapshot{}, nil, err
	}
	return t.snapshot(), w, nil
}

func (t *Table) watch(scope Scope, from int64) (*Watch, error) {
	switch {
	case t.isClosed():
		return nil, ErrClosed
	case !t.loaded:
		return nil, ErrNotReady
	case from > t.rev():
		return nil, ErrFuture
	case from < t.oldest || t.inGap(from):
		return nil, ErrTooOld
	}
	w := &Watch{table: t, scope: scope}
	if scope.Index != "" {
		if w.index = t.index(scope.Index); w.index == nil {
			return nil, ErrNoIndex
		}
	}
	w.cursor = t.nextSeq
	if i := t.ring.after(from); i < t.ring.len() {
		w.cursor = t.ring.at(i).seq
	}
	w.topic = t.topic(scope.facet(), w.cursor)
	w.topic.watches[w] = struct{}{}
	return w, nil
}

// gap is a span of revisions of which only the difference between its ends is
// known, because the table was listed anew.
type gap struct{ from, to int64 }

// inGap reports whether the state at rev is one that the table has never had,
// so that its events do not lead on from there.
func (t *Table) inGap(rev int64) bool {
	return slices.ContainsFunc(t.gaps, func(g gap) bool { return g.from < rev && rev < g.to })
}

// topic returns the topic of a facet, with all events from seq on in it.
func (t *Table) topic(facet Scope, seq int64) *topic {
	tp := t.topics[facet]
	if tp == nil {
		tp = &topic{
			scope: facet, all: facet == Scope{}, watches: map[*Watch]struct{}{},
			since: t.nextSeq, lost: math.MinInt64, wake: make(chan struct{}),
		}
		t.topics[facet] = tp
	}
	if seq < tp.since {
		t.fill(tp, seq)
	}
	return tp
}

// fill builds the events of tp anew, from seq on.
func (t *Table) fill(tp *topic, seq int64) {
	tp.since = seq
	if tp.all {
		return
	}
	for i := range tp.events.len() {
		e := tp.events.at(i)
		e.topics = slices.DeleteFunc(e.topics, func(x *topic) bool { return x == tp })
	}
	tp.events = queue{}
	ix := t.index(tp.scope.Index)
	for i := t.ring.from(seq); i < t.ring.len(); i++ {
		if e := t.ring.at(i); tp.scope.touches(e, ix) {
			tp.events.push(e)
			e.topics = append(e.topics, tp)
		}
	}
}

// touches reports whether the object was or is in the scope.
func (s Scope) touches(e *Event, ix *index) bool {
	if !s.holdsKey(e.Item.key) {
		return false
	}
	if s.Index == "" {
		return true
	}
	return slices.Contains(ix.Keys(e.Item.Object), s.Value) ||
		e.Prev != nil && slices.Contains(ix.Keys(e.Prev.Object), s.Value)
}

// emit adds an event to the ring and to the topics that it touches.
func (t *Table) emit(e *Event, now int64) {
	e.seq, e.at = t.nextSeq, now
	t.nextSeq++
	t.ring.push(e)
	if len(t.topics) == 0 {
		return
	}
	key := e.Item.key
	t.publish(Scope{}, e)
	t.publish(Scope{Name: key.Name}, e)
	if key.Namespace != "" {
		t.publish(Scope{Namespace: key.Namespace}, e)
		t.publish(Scope{Namespace: key.Namespace, Name: key.Name}, e)
	}
	for _, ix := range t.indexes {
		now := ix.Keys(e.Item.Object)
		for _, v := range now {
			t.publish(Scope{Index: ix.Name, Value: v}, e)
		}
		if e.Type != Modified {
			continue
		}
		for _, v := range ix.Keys(e.Prev.Object) {
			if !slices.Contains(now, v) {
				t.publish(Scope{Index: ix.Name, Value: v}, e)
			}
		}
	}
}

func (t *Table) publish(facet Scope, e *Event) {
	tp := t.topics[facet]
	if tp == nil {
		return
	}
	if !tp.all {
		if n := tp.events.len(); n > 0 && tp.events.at(n-1) == e {
			return // an index may name a value twice
		}
		tp.events.push(e)
		e.topics = append(e.topics, tp)
	}
	t.wakeTopic(tp)
}

func (t *Table) wakeTopic(tp *topic) {
	if !tp.dirty {
		tp.dirty = true
		t.dirty = append(t.dirty, tp)
	}
}

// unlockAndWake releases the write lock, then wakes the watchers of what has
// changed, so that they do not run into the lock.
func (t *Table) unlockAndWake() {
	var few [8]chan struct{}
	wakes := few[:0]
	for i, tp := range t.dirty {
		wakes = append(wakes, tp.wake)
		tp.wake, tp.dirty = make(chan struct{}), false
		t.dirty[i] = nil
	}
	t.dirty = t.dirty[:0]
	t.mu.Unlock()
	for _, wake := range wakes {
		close(wake)
	}
}

// trim drops the oldest events until the ring is within its bounds. Events of
// one revision go together.
func (t *Table) trim(now int64) {
	for n := t.ring.len(); n > 0; n = t.ring.len() {
		first := t.ring.at(0)
		if n <= t.maxEvents+t.past && now-first.at <= int64(t.maxAge) {
			return
		}
		for t.ring.len() > 0 && t.ring.at(0).Rev == first.Rev {
			t.forget()
		}
		t.oldest = max(t.oldest, first.Rev)
		t.gaps = slices.DeleteFunc(t.gaps, func(g gap) bool { return g.to <= t.oldest })
	}
}

// forget drops the oldest event.
func (t *Table) forget() {
	e := t.ring.pop()
	t.past = max(0, t.past-1)
	for _, tp := range e.topics {
		if tp.events.len() > 0 && tp.events.at(0) == e {
			tp.events.pop()
			tp.lost = e.seq
		}
	}
	e.topics = nil
	if tp := t.topics[Scope{}]; tp != nil {
		tp.lost = e.seq
	}
}

// cutAll ends all watches with ErrTooOld.
func (t *Table) cutAll() {
	for _, tp := range t.topics {
		for w := range tp.watches {
			w.cut = true
		}
		tp.events = queue{}
		t.wakeTopic(tp)
	}
}

// Next blocks until there are events and returns them in order, with the
// revision up to which the watcher now knows everything. Revisions are never
// split. The slice is valid until the following call. It fails with ErrTooOld
// if the watcher was too slow, ErrClosed, or the cause of the context's end.
func (w *Watch) Next(ctx context.Context) (events []*Event, rev int64, err error) {
	return w.next(ctx, nil)
}

// NextOrProgress is Next that also returns when tick fires: then, if there are
// no events, only with the revision up to which the watcher knows everything.
// That is what a bookmark may say.
func (w *Watch) NextOrProgress(ctx context.Context, tick <-chan time.Time) (events []*Event, rev int64, err error) {
	return w.next(ctx, tick)
}

func (w *Watch) next(ctx context.Context, tick <-chan time.Time) ([]*Event, int64, error) {
	clear(w.buf)
	w.buf = w.buf[:0]
	if cap(w.buf) > 64 {
		w.buf = nil
	}
	w.waiting.Store(true)
	defer w.waiting.Store(false)
	ticked := false
	for {
		if ctx.Err() != nil {
			return nil, 0, context.Cause(ctx)
		}
		rev, wake, err := w.poll()
		if err != nil || len(w.buf) > 0 || ticked {
			return w.buf, rev, err
		}
		select {
		case <-wake:
		case <-tick:
			ticked = true
		case <-ctx.Done():
		}
	}
}

// poll collects the events that the watch wants, if any, into buf.
func (w *Watch) poll() (rev int64, wake <-chan struct{}, err error) {
	t := w.table
	t.mu.RLock()
	defer t.mu.RUnlock()
	switch {
	case w.closed || t.isClosed():
		return 0, nil, ErrClosed
	case w.cut || w.cursor <= w.topic.lost:
		return 0, nil, ErrTooOld
	}
	q := &w.topic.events
	if w.topic.all {
		q = &t.ring
	}
	for i := q.from(w.cursor); i < q.len(); i++ {
		if e := q.at(i); w.wants(e) {
			w.buf = append(w.buf, e)
		}
	}
	w.cursor = t.nextSeq
	return t.rev(), w.topic.wake, nil
}

// wants reports whether e is for the watch, as far as its topic leaves that open.
func (w *Watch) wants(e *Event) bool {
	return w.topic.all || w.scope == w.topic.scope || w.scope.touches(e, w.index)
}

// Close ends the watch; a Next that blocks returns ErrClosed.
func (w *Watch) Close() {
	t := w.table
	t.mu.Lock()
	defer t.unlockAndWake()
	if w.closed {
		return
	}
	w.closed = true
	if w.waiting.Load() {
		t.wakeTopic(w.topic)
	}
	delete(w.topic.watches, w)
	if len(w.topic.watches) > 0 {
		return
	}
	delete(t.topics, w.topic.scope)
	for i := range w.topic.events.len() {
		e := w.topic.events.at(i)
		e.topics = slices.DeleteFunc(e.topics, func(x *topic) bool { return x == w.topic })
	}
	w.topic.events = queue{}
}
