package watchcache

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"time"

	"skiff.dev/skiff/internal/meta"
	"skiff.dev/skiff/internal/store"
)

const (
	// A failed watch or load is tried again after that time, doubled each time.
	retryFirst, retryLast = 50 * time.Millisecond, 5 * time.Second
	// sweepEvery is how often tables without changes drop their old events.
	sweepEvery = 30 * time.Second
)

// run keeps one watch on the store open until the cache is closed.
func (c *Cache) run() {
	wait := retryFirst
	for c.ctx.Err() == nil {
		err := c.follow(func() { wait = retryFirst })
		switch {
		case c.ctx.Err() != nil:
			return
		case errors.Is(err, store.ErrClosed):
			c.log.Info("the store has been closed, the cache stays as it is", "revision", c.Rev())
			return
		}
		c.stats.reconnects.Add(1)
		if errors.Is(err, store.ErrCompacted) {
			// The next session starts from a list; there is nothing to wait for.
			c.mu.Lock()
			c.fed = 0
			c.mu.Unlock()
		}
		c.log.Warn("watch of the store failed, opening it again", "err", err, "after", wait)
		if !c.pause(wait) {
			return
		}
		wait = min(2*wait, retryLast)
	}
}

// pause waits for about d and reports whether the cache is still open.
func (c *Cache) pause(d time.Duration) bool {
	timer := time.NewTimer(d/2 + rand.N(d))
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-c.ctx.Done():
		return false
	}
}

// follow opens a watch from where the last one ended, or from now on if that
// is not possible, and delivers it until it fails.
func (c *Cache) follow(connected func()) error {
	now, err := c.store.Revision(c.ctx)
	if err != nil {
		return fmt.Errorf("reading the store's revision: %w", err)
	}
	w, err := c.store.Watch(c.ctx, c.root, c.resume(now))
	if err != nil {
		return fmt.Errorf("opening the watch: %w", err)
	}
	c.watcher.Store(&w)
	defer func() {
		c.watcher.Store(nil)
		w.Close()
	}()
	for {
		batch, err := w.Next(c.ctx)
		if err != nil {
			return fmt.Errorf("reading the watch: %w", err)
		}
		connected()
		c.deliver(batch)
	}
}

// resume returns the revision from which to watch, given the store's present
// one. If the changes since the last session cannot be had, or the store is
// older than the tables, all loaded tables are set to be loaded again.
func (c *Cache) resume(now int64) int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fed != 0 && now >= c.fed {
		return c.fed
	}
	restored := now < max(c.fed, c.clock.now())
	if restored {
		c.log.Error("the store has gone back in time, starting anew", "revision", now, "was", max(c.fed, c.clock.now()))
		c.clock.reset(0)
		c.written.clear()
	}
	c.fed = now
	for _, r := range c.resources {
		if restored {
			r.table.restart()
		}
		c.reload(r)
	}
	c.settle()
	return now
}

// reload makes a resource be listed anew. c.mu is held.
func (c *Cache) reload(r *resource) {
	select {
	case <-r.table.ready:
		c.stats.resyncs.Add(1)
		if !r.stale {
			r.stale = true
			c.stale++
		}
	default:
	}
	if r.loading != nil {
		r.loading.cancel()
	}
	c.startLoad(r)
}

// refreshed says that a resource is up to date with the feed. c.mu is held.
func (c *Cache) refreshed(r *resource) {
	if r.stale {
		r.stale = false
		c.stale--
	}
	c.settle()
}

// settle moves the clock to what has been fed, unless a table lags behind
// because it is being listed anew. c.mu is held.
func (c *Cache) settle() {
	if c.stale == 0 {
		c.clock.advance(c.fed)
	}
}

// deliver brings a batch of the watch to the tables, then moves the clock.
func (c *Cache) deliver(b store.Batch) {
	if len(b.Events) > 0 {
		// Whoever committed learns of it at the same instant; let it go first
		// and hand the object over.
		runtime.Gosched()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	touched := c.batches[:0]
	for _, e := range b.Events {
		r := c.route(e.KV.Key)
		if r == nil {
			continue
		}
		if r.loading != nil {
			r.pending = append(r.pending, e)
			continue
		}
		if len(r.changes) == 0 {
			touched = append(touched, r)
		}
		r.changes = c.change(r, e, r.changes)
	}
	for i, r := range touched {
		r.table.Apply(r.changes, b.Rev)
		clear(r.changes)
		r.changes = r.changes[:0]
		touched[i] = nil
	}
	c.batches = touched[:0]
	c.fed = max(c.fed, b.Rev)
	c.written.seen(c.fed)
	c.settle()
	c.sweep()
}

// sweep lets tables without changes drop old events. c.mu is held.
func (c *Cache) sweep() {
	now := time.Now()
	if now.Sub(c.swept) < sweepEvery {
		return
	}
	c.swept = now
	for _, r := range c.resources {
		r.table.sweep(now)
	}
}

// route returns the resource that a key belongs to, or nil.
func (c *Cache) route(key string) *resource {
	for end := len(key); ; {
		end = strings.LastIndexByte(key[:end], '/')
		if end < len(c.root) {
			return nil
		}
		if r := c.resources[key[:end+1]]; r != nil {
			return r
		}
	}
}

// change appends what e means for the table. A value that cannot be decoded
// counts as a deletion: what was there is no longer true. c.mu is held.
func (c *Cache) change(r *resource, e store.Event, to []Change) []Change {
	delete(r.bad, e.KV.Key)
	key, err := r.key(e.KV.Key)
	if e.Delete {
		if err != nil {
			return to // it was reported when it came
		}
		return append(to, Change{Key: key, Rev: e.KV.ModRev})
	}
	obj := c.written.take(e.KV.Key, e.KV.ModRev)
	if obj != nil {
		c.stats.handed.Add(1)
	} else {
		obj, err = r.decode(e.KV)
		c.stats.decoded.Add(1)
	}
	if err != nil {
		c.report(r, e.KV, err)
		return append(to, Change{Key: key, Rev: e.KV.ModRev})
	}
	return append(to, Change{Key: key, Object: obj, Rev: e.KV.ModRev})
}

// maxWritten bounds the objects handed over that the feed has not seen yet.
const maxWritten = 4096

// written holds the objects that the API server has just committed, for the
// feed to pick up.
type written struct {
	mu    sync.Mutex
	fed   int64
	byKey map[writtenKey]meta.Object
	order []writtenKey
}

type writtenKey struct {
	key string
	rev int64
}

// Written hands over the decoded object that was just committed under key at
// rev, so that the feed need not decode it again. The object must carry its
// resourceVersion and must not be changed any more. It is a hint: calls may
// come late or not at all.
func (c *Cache) Written(key string, rev int64, obj meta.Object) {
	w := &c.written
	w.mu.Lock()
	defer w.mu.Unlock()
	if rev <= w.fed || len(w.order) >= maxWritten {
		return
	}
	if w.byKey == nil {
		w.byKey = map[writtenKey]meta.Object{}
	}
	k := writtenKey{key, rev}
	w.byKey[k] = obj
	w.order = append(w.order, k)
}

func (w *written) take(key string, rev int64) meta.Object {
	w.mu.Lock()
	defer w.mu.Unlock()
	obj := w.byKey[writtenKey{key, rev}]
	delete(w.byKey, writtenKey{key, rev})
	return obj
}

// seen drops what the feed has passed.
func (w *written) seen(rev int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.fed = rev
	n := 0
	for n < len(w.order) && w.order[n].rev <= rev {
		delete(w.byKey, w.order[n])
		n++
	}
	w.order = w.order[n:]
	if len(w.order) == 0 {
		w.order = nil
	}
}

func (w *written) clear() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.fed, w.byKey, w.order = 0, nil, nil
}

// startLoad begins to read a resource whole. c.mu is held.
func (c *Cache) startLoad(r *resource) {
	ctx, cancel := context.WithCancel(c.ctx)
	l := &load{cancel: cancel}
	r.loading, r.pending = l, nil
	c.group.Go(func() {
		defer cancel()
		c.load(ctx, r, l)
	})
}
