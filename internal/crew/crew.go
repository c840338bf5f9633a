// Package crew lends out goroutines that have worked before. A new goroutine
// begins on a small stack that is copied each time it grows, five times on the
// way down into the API's verbs; one that has done such work has the stack
// already. It reads and writes nothing.
package crew

import "sync"

// Crew is a number of goroutines; the zero value has none yet. They end with
// Close or Dismiss.
type Crew struct {
	mu      sync.Mutex
	idle    []chan func() // the one that worked last is last
	closed  bool
	workers sync.WaitGroup
}

// spare is how many goroutines are kept that have nothing to do.
const spare = 64

// Go has f run by one of the crew and does not wait for it. Of a crew that is
// closed it runs in a goroutine of its own.
func (c *Crew) Go(f func()) {
	c.mu.Lock()
	if n := len(c.idle); n > 0 {
		w := c.idle[n-1]
		c.idle[n-1] = nil
		c.idle = c.idle[:n-1]
		c.mu.Unlock()
		w <- f
		return
	}
	if c.closed {
		c.mu.Unlock()
		go f()
		return
	}
	c.workers.Add(1)
	c.mu.Unlock()
	go c.work(f)
}

func (c *Crew) work(f func()) {
	defer c.workers.Done()
	jobs := make(chan func(), 1)
	for {
		f()
		f = nil
		c.mu.Lock()
		if c.closed || len(c.idle) >= spare {
			c.mu.Unlock()
			return
		}
		c.idle = append(c.idle, jobs)
		c.mu.Unlock()
		var more bool
		if f, more = <-jobs; !more {
			return
		}
	}
}

// Close sends all home, as Dismiss does, and waits until they have gone.
func (c *Crew) Close() {
	c.Dismiss()
	c.workers.Wait()
}

// Dismiss sends home those who have nothing to do, and the others when they are
// done. Work is still taken, but by new goroutines.
func (c *Crew) Dismiss() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	for _, w := range c.idle {
		close(w)
	}
	c.idle = nil
}
