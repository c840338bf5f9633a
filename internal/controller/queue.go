package controller

import (
	"container/heap"
	"context"
	"sync"
	"time"

	"skiff.dev/skiff/internal/meta"
)

// queue hands out keys to workers: each key once at a time, at its time, and
// again if it was added while being worked on. One timer serves all delays.
type queue struct {
	mu      sync.Mutex
	ready   []meta.Key
	states  map[meta.Key]*state
	waiting delays
	timer   *time.Timer
	wake    chan struct{} // holds one token per possible piece of work, at most one
	measure *measure
}

// state is what the queue knows of a key; it is forgotten when there is
// nothing to know.
type state struct {
	queued, working, again bool
	failures               int
	due                    *delay
	since                  time.Time // queued or working
}

// The back-off after failures doubles from minBackoff to maxBackoff.
const (
	minBackoff = 5 * time.Millisecond
	maxBackoff = 1000 * time.Second
)

func newQueue() *queue {
	return &queue{states: map[meta.Key]*state{}, wake: make(chan struct{}, 1)}
}

// Add asks for key to be worked on as soon as possible.
func (q *queue) Add(key meta.Key) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.add(key)
}

func (q *queue) add(key meta.Key) {
	s := q.state(key)
	q.cancelDelay(s)
	switch {
	case s.queued:
	case s.working:
		s.again = true
	default:
		s.queued, s.since = true, time.Now()
		q.ready = append(q.ready, key)
		q.measure.added()
		q.signal()
	}
}

// AddAfter asks for key to be worked on after d, unless that happens sooner.
func (q *queue) AddAfter(key meta.Key, d time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	s := q.state(key)
	if s.queued {
		return
	}
	q.measure.delayed()
	at := time.Now().Add(d)
	if s.due != nil && s.due.at.Before(at) {
		return
	}
	q.cancelDelay(s)
	s.due = &delay{key: key, at: at}
	heap.Push(&q.waiting, s.due)
	q.arm()
}

// Get blocks for the next key; ok is false when ctx has ended.
func (q *queue) Get(ctx context.Context) (key meta.Key, ok bool) {
	for {
		q.mu.Lock()
		if len(q.ready) > 0 && ctx.Err() == nil {
			key = q.ready[0]
			q.ready = q.ready[1:]
			s := q.states[key]
			now := time.Now()
			q.measure.began(now.Sub(s.since))
			s.queued, s.working, s.since = false, true, now
			if len(q.ready) > 0 {
				q.signal()
			}
			q.mu.Unlock()
			return key, true
		}
		q.mu.Unlock()
		select {
		case <-q.wake:
		case <-ctx.Done():
			return key, false
		}
	}
}

// Done says that the work on key has ended. A failure is tried again after the
// back-off of the key.
func (q *queue) Done(key meta.Key, failed bool) {
	q.mu.Lock()
	s := q.states[key]
	s.working = false
	q.measure.done(time.Since(s.since))
	again := s.again
	s.again = false
	if failed {
		s.failures++
	} else {
		s.failures = 0
	}
	failures := s.failures
	if again { // something has changed since, which may help
		q.add(key)
	}
	q.forget(key, s)
	q.mu.Unlock()
	if failed && !again {
		q.AddAfter(key, backoff(failures))
	}
}

func backoff(failures int) time.Duration {
	d := minBackoff
	for i := 1; i < failures && d < maxBackoff; i++ {
		d *= 2
	}
	return min(d, maxBackoff)
}

func (q *queue) state(key meta.Key) *state {
	s := q.states[key]
	if s == nil {
		s = &state{}
		q.states[key] = s
	}
	return s
}

func (q *queue) forget(key meta.Key, s *state) {
	if !s.queued && !s.working && s.due == nil && s.failures == 0 {
		delete(q.states, key)
	}
}

func (q *queue) signal() {
	select {
	case q.wake <- struct{}{}:
	default: // a token is there already
	}
}

func (q *queue) cancelDelay(s *state) {
	if s.due != nil {
		heap.Remove(&q.waiting, s.due.index)
		s.due = nil
	}
}

// arm sets the timer to the earliest delay.
func (q *queue) arm() {
	if len(q.waiting) == 0 {
		return
	}
	d := time.Until(q.waiting[0].at)
	if q.timer == nil {
		q.timer = time.AfterFunc(d, q.expire)
		return
	}
	q.timer.Reset(d)
}

func (q *queue) expire() {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.waiting) > 0 && !q.waiting[0].at.After(time.Now()) {
		q.add(q.waiting[0].key)
	}
	q.arm()
}

// stop ends the timer.
func (q *queue) stop() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.timer != nil {
		q.timer.Stop()
	}
}

// delay is a key that waits for its time.
type delay struct {
	key   meta.Key
	at    time.Time
	index int
}

// delays is a heap by time.
type delays []*delay

func (d delays) Len() int           { return len(d) }
func (d delays) Less(i, j int) bool { return d[i].at.Before(d[j].at) }
func (d delays) Swap(i, j int)      { d[i], d[j] = d[j], d[i]; d[i].index, d[j].index = i, j }
func (d *delays) Push(x any)        { e := x.(*delay); e.index = len(*d); *d = append(*d, e) }
func (d *delays) Pop() any {
	old := *d
	e := old[len(old)-1]
	*d = old[:len(old)-1]
	return e
}
