package steps

import (
	"container/heap"
	"context"
	"sync"
	"time"
)

// lent is how long a turn lasts at most. A start takes some tens of
// milliseconds of CPU time; one that takes longer waits for something, and the
// others need not wait with it.
const lent = time.Second

// Turns lets few pods start at a time, so that of many the first are not slowed
// down by the last: with all at once, none of 50 pods runs before nearly all
// do. Who asks for a later stage of a start goes first, and the pods that came
// first go first within a stage. It is safe for concurrent use.
type Turns struct {
	mu    sync.Mutex
	free  int
	asked int // how often a turn has been asked for
	queue waiters
}

// NewTurns returns turns for so many at a time.
func NewTurns(abreast int) *Turns { return &Turns{free: abreast} }

// stage is how far a start has come; more is later.
type stage int

const (
	makingSandbox stage = iota
	startingContainer
)

// take waits for a turn and returns the function that gives it back; that may
// be called again. It returns ctx's error when ctx ends before.
func (t *Turns) take(ctx context.Context, s stage) (done func(), err error) {
	t.mu.Lock()
	t.asked++
	w := &waiter{stage: s, since: t.asked, called: make(chan struct{})}
	heap.Push(&t.queue, w)
	t.call()
	t.mu.Unlock()
	select {
	case <-w.called:
	case <-ctx.Done():
		t.leave(w)
		return nil, ctx.Err()
	}
	back := sync.OnceFunc(t.back)
	over := time.AfterFunc(lent, back)
	return func() { over.Stop(); back() }, nil
}

// leave takes out one who waits no more.
func (t *Turns) leave(w *waiter) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if w.place >= 0 {
		heap.Remove(&t.queue, w.place)
		return
	}
	t.free++ // called in the meantime
	t.call()
}

func (t *Turns) back() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.free++
	t.call()
}

// call calls those whose turn it is; the lock is held.
func (t *Turns) call() {
	for t.free > 0 && len(t.queue) > 0 {
		t.free--
		close(heap.Pop(&t.queue).(*waiter).called)
	}
}

// waiter is one who waits for a turn.
type waiter struct {
	stage  stage
	since  int
	place  int // in the queue, -1 when out of it
	called chan struct{}
}

// waiters is a heap, see container/heap.
type waiters []*waiter

func (q waiters) Len() int { return len(q) }

func (q waiters) Less(i, j int) bool {
	if q[i].stage != q[j].stage {
		return q[i].stage > q[j].stage
	}
	return q[i].since < q[j].since
}

func (q waiters) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].place, q[j].place = i, j
}

func (q *waiters) Push(x any) {
	w := x.(*waiter)
	w.place = len(*q)
	*q = append(*q, w)
}

func (q *waiters) Pop() any {
	last := len(*q) - 1
	w := (*q)[last]
	*q = (*q)[:last]
	w.place = -1
	return w
}
