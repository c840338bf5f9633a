package apiserver

import (
	"sync"
	"time"
)

// A cutter ends what a client takes too long for. Deadlines of HTTP/2 streams
// are kept by the goroutine of the connection, which has to be woken to set and
// to clear one; a cutter bothers it only when the time has come.
type cutter struct {
	mu    sync.Mutex
	ended bool
	cut   func()
	timer *time.Timer
}

// past is a deadline that is over.
var past = time.Unix(1, 0)

// newCutter returns a cutter that calls cut, if it must, unless it has ended.
func newCutter(cut func()) *cutter {
	c := &cutter{cut: cut}
	c.timer = time.AfterFunc(time.Hour, c.fire)
	c.timer.Stop()
	return c
}

func (c *cutter) fire() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.ended {
		c.cut()
	}
}

// within allows what now begins that time.
func (c *cutter) within(d time.Duration) { c.timer.Reset(d) }

// done says that it is done.
func (c *cutter) done() { c.timer.Stop() }

// end returns when cut is not running and will not be called any more.
func (c *cutter) end() {
	c.timer.Stop()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended = true
}
