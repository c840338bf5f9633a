package watchcache

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
)

// clock is a revision that grows, and those who wait for it.
type clock struct {
	rev atomic.Int64

	mu      sync.Mutex
	waiters []*waiter // by rev, ascending
}

type waiter struct {
	rev  int64
	done chan struct{}
}

func (c *clock) now() int64 { return c.rev.Load() }

// advance moves the clock to rev, if that is later, and wakes who waited.
func (c *clock) advance(rev int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if rev <= c.rev.Load() {
		return
	}
	c.rev.Store(rev)
	n := 0
	for n < len(c.waiters) && c.waiters[n].rev <= rev {
		close(c.waiters[n].done)
		n++
	}
	c.waiters = slices.Delete(c.waiters, 0, n)
}

// reset sets the clock back, as after a store has been restored from a backup.
func (c *clock) reset(rev int64) {
	c.mu.Lock()
	c.rev.Store(rev)
	c.mu.Unlock()
}

// wait returns once the clock has reached rev, or ErrClosed once closed is.
func (c *clock) wait(ctx context.Context, rev int64, closed <-chan struct{}) error {
	c.mu.Lock()
	if c.rev.Load() >= rev {
		c.mu.Unlock()
		return nil
	}
	w := &waiter{rev: rev, done: make(chan struct{})}
	at, _ := slices.BinarySearchFunc(c.waiters, rev, func(w *waiter, rev int64) int {
		if w.rev <= rev {
			return -1
		}
		return 1
	})
	c.waiters = slices.Insert(c.waiters, at, w)
	c.mu.Unlock()

	var err error
	select {
	case <-w.done:
		return nil
	case <-ctx.Done():
		err = context.Cause(ctx)
	case <-closed:
		err = ErrClosed
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if i := slices.Index(c.waiters, w); i >= 0 {
		c.waiters = slices.Delete(c.waiters, i, i+1)
	}
	return err
}
