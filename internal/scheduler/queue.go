package scheduler

import (
	"container/heap"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"skiff.dev/skiff/internal/scheduler/framework"
)

// maxParked is after how long a pod that nothing has woken is tried again, in
// case an event was missed or a plugin's hint is wrong.
const maxParked = 5 * time.Minute

// maxEarly is up to how many woken pods are tried before their penalty is over.
const maxEarly = 64

// stage is where a pod stands in the queue.
type stage int

const (
	active   stage = iota // to be tried, by priority
	backoff               // woken; to be tried when its penalty is over or nothing else is to do
	penalty               // broken off; to be tried when its penalty is over
	parked                // turned away; an event has to wake it
	gated                 // must not be tried at all yet
	inFlight              // being decided on or bound
)

// entry is a pod that has no node yet.
type entry struct {
	pod     *framework.Pod
	decider *decider
	stage   stage
	index   int // in its heap
	// since is when the pod last joined the active stage's competition; born
	// is when it first came.
	since, born time.Time
	seq         uint64 // breaks ties in the order of arrival
	attempts    int
	failures    int       // attempts that failed, for the length of the penalty
	failedAt    time.Time // the last of them
	by          []*framework.Any
	broke       bool // the last failure was not about the nodes
	// reported is closed when what was last reported about the pod is written.
	reported <-chan struct{}
	// told is the condition last reported.
	told corev1.PodCondition
}

// queue holds the pods that have no node yet. It is a plain data structure:
// the time is told to it, and it starts nothing.
type queue struct {
	initial, limit time.Duration // penalties
	all            map[types.UID]*entry
	active         entries // a heap by less
	backoff        entries // a heap by end of penalty, as is penalty
	penalty        entries
	parked         entries // a heap by failedAt
	gated          int
	lastSeq        uint64
}

func newQueue(less func(a, b framework.Waiting) bool, initial, limit time.Duration) *queue {
	q := &queue{initial: initial, limit: limit, all: map[types.UID]*entry{}}
	q.active.less = func(a, b *entry) bool {
		wa, wb := framework.Waiting{Pod: a.pod.Pod, Since: a.since}, framework.Waiting{Pod: b.pod.Pod, Since: b.since}
		return less(wa, wb) || !less(wb, wa) && a.seq < b.seq
	}
	q.parked.less = func(a, b *entry) bool { return a.failedAt.Before(b.failedAt) }
	q.backoff.less = func(a, b *entry) bool { return q.until(a).Before(q.until(b)) }
	q.penalty.less = q.backoff.less
	return q
}

// until returns the end of an entry's penalty: it doubles with each failure.
func (q *queue) until(e *entry) time.Time {
	if e.failures == 0 {
		return e.failedAt
	}
	penalty := q.initial
	for i := 1; i < e.failures && penalty < q.limit; i++ {
		penalty *= 2
	}
	return e.failedAt.Add(min(penalty, q.limit))
}

// add takes in a new pod.
func (q *queue) add(pod *framework.Pod, d *decider, now time.Time) *entry {
	q.lastSeq++
	e := &entry{pod: pod, decider: d, since: now, born: now, seq: q.lastSeq, stage: inFlight}
	q.all[pod.UID] = e
	q.enter(e, now)
	return e
}

// enter puts an entry that is in no stage where it may be tried next.
func (q *queue) enter(e *entry, now time.Time) {
	if by := e.decider.profile.holdsBack(e.pod.Pod); by != nil {
		e.stage, e.by = gated, []*framework.Any{by}
		q.gated++
		return
	}
	switch late := q.until(e).After(now); {
	case late && e.broke:
		e.stage = penalty
		heap.Push(&q.penalty, e)
	case late:
		e.stage = backoff
		heap.Push(&q.backoff, e)
	default:
		e.stage, e.since = active, now
		heap.Push(&q.active, e)
	}
}

// leave takes an entry out of its stage.
func (q *queue) leave(e *entry) {
	switch e.stage {
	case active:
		heap.Remove(&q.active, e.index)
	case backoff:
		heap.Remove(&q.backoff, e.index)
	case penalty:
		heap.Remove(&q.penalty, e.index)
	case parked:
		heap.Remove(&q.parked, e.index)
	case gated:
		q.gated--
	case inFlight:
	}
	e.stage = inFlight
}

// update takes in what a pod that is in the queue has become. did says what
// has changed about it.
func (q *queue) update(e *entry, pod *framework.Pod, did framework.Event, now time.Time) {
	switch e.stage {
	case inFlight:
		e.pod = pod
	case active, backoff, penalty:
		was := e.stage
		q.leave(e)
		e.pod = pod
		if was == active {
			e.stage = active
			heap.Push(&q.active, e)
		} else {
			q.enter(e, now)
		}
	case gated:
		q.leave(e)
		e.pod = pod
		q.enter(e, now)
	case parked:
		e.pod = pod
		if did.Action != 0 && q.wakes(e, did) {
			q.leave(e)
			q.enter(e, now)
		}
	}
}

// remove forgets a pod.
func (q *queue) remove(uid types.UID) {
	if e := q.all[uid]; e != nil {
		q.leave(e)
		delete(q.all, uid)
	}
}

// pop returns the next pod to try, nil if there is none yet. Penalties keep
// pods that are hard to place out of the way of others; when there are no
// others, a pod that an event has woken need not sit its penalty out, unless
// there are so many that every event would set off a storm of attempts.
func (q *queue) pop(now time.Time) *entry {
	q.advance(now)
	var e *entry
	switch {
	case q.active.Len() > 0:
		e = heap.Pop(&q.active).(*entry)
	case q.backoff.Len() > 0 && q.backoff.Len() <= maxEarly:
		e = heap.Pop(&q.backoff).(*entry)
	default:
		return nil
	}
	e.stage = inFlight
	e.attempts++
	return e
}

// advance moves what has become due by now.
func (q *queue) advance(now time.Time) {
	for _, h := range []*entries{&q.backoff, &q.penalty} {
		for h.Len() > 0 && !q.until(h.list[0]).After(now) {
			e := h.list[0]
			q.leave(e)
			q.enter(e, now)
		}
	}
	for q.parked.Len() > 0 && now.Sub(q.parked.list[0].failedAt) >= maxParked {
		e := q.parked.list[0]
		q.leave(e)
		q.enter(e, now)
	}
}

// due returns when pop will have something again after it had nothing; false
// if only an event can change that.
func (q *queue) due() (time.Time, bool) {
	var next time.Time
	consider := func(t time.Time) {
		if next.IsZero() || t.Before(next) {
			next = t
		}
	}
	for _, h := range []*entries{&q.backoff, &q.penalty} {
		if h.Len() > 0 {
			consider(q.until(h.list[0]))
		}
	}
	if q.parked.Len() > 0 {
		consider(q.parked.list[0].failedAt.Add(maxParked))
	}
	return next, !next.IsZero()
}

// park puts back a pod that no node can run, until an event wakes it.
func (q *queue) park(e *entry, by []*framework.Any, now time.Time) {
	e.failures++
	e.failedAt, e.by, e.broke, e.stage = now, by, false, parked
	heap.Push(&q.parked, e)
}

// retry puts back a pod whose attempt broke off, to be tried after a penalty.
func (q *queue) retry(e *entry, now time.Time) {
	e.failures++
	e.failedAt, e.broke = now, true
	q.enter(e, now)
}

// happened wakes the parked pods that the event may let in.
func (q *queue) happened(did framework.Event, now time.Time) {
	var woken []*entry
	for _, e := range q.parked.list {
		if q.wakes(e, did) {
			woken = append(woken, e)
		}
	}
	for _, e := range woken {
		q.leave(e)
		q.enter(e, now)
	}
}

func (q *queue) wakes(e *entry, did framework.Event) bool {
	if len(e.by) == 0 {
		return true // no plugin knows why, so anything may help
	}
	for _, p := range e.by {
		for i := range p.Wakes {
			if p.Wakes[i].Wakes(e.pod, did) {
				return true
			}
		}
	}
	return false
}

// entries is a heap.
type entries struct {
	list []*entry
	less func(a, b *entry) bool
}

func (h *entries) Len() int           { return len(h.list) }
func (h *entries) Less(i, j int) bool { return h.less(h.list[i], h.list[j]) }
func (h *entries) Swap(i, j int) {
	h.list[i], h.list[j] = h.list[j], h.list[i]
	h.list[i].index, h.list[j].index = i, j
}

func (h *entries) Push(x any) {
	e := x.(*entry)
	e.index = len(h.list)
	h.list = append(h.list, e)
}

func (h *entries) Pop() any {
	last := len(h.list) - 1
	e := h.list[last]
	h.list[last] = nil
	h.list = h.list[:last]
	return e
}
