package watchcache

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// nudgeEvery is how long a barrier waits for the feed before it asks the store
// for a progress notice again, doubled each time up to nudgeLast; a store may
// ignore a request while a watch catches up.
const nudgeEvery, nudgeLast = 2 * time.Millisecond, 100 * time.Millisecond

// barriers lets callers of Fresh share reads of the store's revision.
type barriers struct {
	mu      sync.Mutex
	reading bool
	next    *barrier // has not been started
	// nudged is the latest revision for which progress was asked, and when.
	nudged   int64
	nudgedAt time.Time
}

type barrier struct {
	done chan struct{}
	rev  int64
	err  error
}

// Fresh returns once the loaded tables show everything that was committed
// before the call. Callers that come while the store is being asked share the
// next answer.
func (c *Cache) Fresh(ctx context.Context) error {
	c.stats.barriers.Add(1)
	bs := &c.barriers
	bs.mu.Lock()
	if c.ctx.Err() != nil {
		bs.mu.Unlock()
		return ErrClosed
	}
	if bs.next == nil {
		bs.next = &barrier{done: make(chan struct{})}
	}
	b := bs.next
	if !bs.reading {
		bs.reading = true
		c.group.Go(c.readRevisions)
	}
	bs.mu.Unlock()
	select {
	case <-b.done:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if b.err != nil {
		return fmt.Errorf("reading the store's revision: %w", b.err)
	}
	return c.reach(ctx, b.rev)
}

// readRevisions answers barriers until there are none.
func (c *Cache) readRevisions() {
	bs := &c.barriers
	for {
		bs.mu.Lock()
		b := bs.next
		bs.next = nil
		bs.reading = b != nil
		bs.mu.Unlock()
		if b == nil {
			return
		}
		c.stats.revisionReads.Add(1)
		b.rev, b.err = c.store.Revision(c.ctx)
		close(b.done)
	}
}

// reach waits until the clock shows rev, asking the feed for progress.
func (c *Cache) reach(ctx context.Context, rev int64) error {
	for wait := nudgeEvery; c.clock.now() < rev; wait = min(2*wait, nudgeLast) {
		c.nudge(rev, wait)
		some, cancel := context.WithTimeout(ctx, wait)
		err := c.clock.wait(some, rev, c.ctx.Done())
		cancel()
		if err == nil || errors.Is(err, ErrClosed) {
			return err
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
	return nil
}

// nudge asks the feed's watch for a progress notice, unless someone has done
// so for rev or a later revision less than every ago.
func (c *Cache) nudge(rev int64, every time.Duration) {
	w := c.watcher.Load()
	if w == nil {
		return
	}
	bs := &c.barriers
	bs.mu.Lock()
	now := time.Now()
	due := rev > bs.nudged || now.Sub(bs.nudgedAt) >= every
	if due {
		bs.nudged, bs.nudgedAt = max(bs.nudged, rev), now
	}
	bs.mu.Unlock()
	if due {
		if err := (*w).RequestProgress(c.ctx); err != nil {
			c.log.Debug("asking the store for progress failed", "err", err)
		}
	}
}
