package mem

import (
	"context"
	"sort"
	"strings"

	"skiff.dev/skiff/internal/store"
)

// maxBatch is the number of events after which a batch ends, at the next whole revision.
const maxBatch = 1000

// watcher is a cursor in the store's log. It holds no events, so a slow one
// costs nothing and can only fail by compaction. All fields are the store's
// mu's but wake.
type watcher struct {
	s      *Store
	prefix string
	// after: everything up to it is delivered or of no interest.
	after int64
	// next is the revision of the first event to deliver, 0 if there is none.
	next     int64
	progress bool
	closed   bool
	wake     chan struct{}
}

// Watch implements store.Store.
func (s *Store) Watch(ctx context.Context, prefix string, from int64) (store.Watcher, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.readable(ctx, 0); err != nil {
		return nil, err
	}
	w := &watcher{s: s, prefix: prefix, after: from, wake: make(chan struct{}, 1)}
	if from == 0 {
		w.after = s.rev
	}
	if w.after+1 < s.compacted {
		w.next = w.after + 1 // gone: Next will say so
	} else {
		w.next = s.firstMatch(prefix, w.after)
	}
	set := s.watchers[prefix]
	if set == nil {
		set = map[*watcher]struct{}{}
		s.watchers[prefix] = set
	}
	set[w] = struct{}{}
	return w, nil
}

// after returns the index of the first logged event later than rev.
func (s *Store) after(rev int64) int {
	return sort.Search(len(s.log), func(i int) bool { return s.log[i].KV.ModRev > rev })
}

// firstMatch returns the revision of the first event under prefix later than rev, or 0.
func (s *Store) firstMatch(prefix string, rev int64) int64 {
	for _, ev := range s.log[s.after(rev):] {
		if strings.HasPrefix(ev.KV.Key, prefix) {
			return ev.KV.ModRev
		}
	}
	return 0
}

// saw notes an event under the prefix.
func (w *watcher) saw(rev int64) {
	if w.next == 0 && rev > w.after {
		w.next = rev
		w.signal()
	}
}

func (w *watcher) signal() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// Next implements store.Watcher.
func (w *watcher) Next(ctx context.Context) (store.Batch, error) {
	for {
		if err := ctx.Err(); err != nil {
			return store.Batch{}, err
		}
		if b, ready, err := w.take(); ready || err != nil {
			return b, err
		}
		select {
		case <-w.wake:
		case <-ctx.Done():
		}
	}
}

// take returns what there is to deliver now.
func (w *watcher) take() (b store.Batch, ready bool, err error) {
	w.s.mu.Lock()
	defer w.s.mu.Unlock()
	switch {
	case w.closed || w.s.closed:
		return b, false, store.ErrClosed
	case w.next != 0 && w.next < w.s.compacted:
		return b, false, store.ErrCompacted
	case w.next != 0:
		return w.collect(), true, nil
	case w.progress:
		w.progress = false
		w.after = max(w.after, w.s.rev)
		return store.Batch{Rev: w.s.rev}, true, nil
	}
	return b, false, nil
}

// collect gathers the events from next on and moves the cursor past them.
func (w *watcher) collect() store.Batch {
	b := store.Batch{Rev: w.s.rev}
	start := w.next
	w.next = 0
	for _, ev := range w.s.log[w.s.after(start-1):] {
		if !strings.HasPrefix(ev.KV.Key, w.prefix) {
			continue
		}
		if n := len(b.Events); n >= maxBatch && b.Events[n-1].KV.ModRev != ev.KV.ModRev {
			w.next = ev.KV.ModRev
			b.Rev = ev.KV.ModRev - 1
			break
		}
		b.Events = append(b.Events, ev.Event)
	}
	w.after = b.Rev
	return b
}

// RequestProgress implements store.Watcher.
func (w *watcher) RequestProgress(ctx context.Context) error {
	w.s.mu.Lock()
	defer w.s.mu.Unlock()
	if w.closed || w.s.closed {
		return store.ErrClosed
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	w.progress = true
	w.signal()
	return nil
}

// Close implements store.Watcher.
func (w *watcher) Close() {
	w.s.mu.Lock()
	defer w.s.mu.Unlock()
	if w.closed {
		return
	}
	w.closed = true
	set := w.s.watchers[w.prefix]
	delete(set, w)
	if len(set) == 0 {
		delete(w.s.watchers, w.prefix)
	}
	w.signal()
}
