package watchcache

import "sort"

// queue is a first-in first-out list of events in order of seq, whose memory
// follows its length.
type queue struct {
	buf  []*Event
	head int
}

func (q *queue) len() int        { return len(q.buf) - q.head }
func (q *queue) at(i int) *Event { return q.buf[q.head+i] }

func (q *queue) push(e *Event) { q.buf = append(q.buf, e) }

func (q *queue) pop() *Event {
	e := q.buf[q.head]
	q.buf[q.head] = nil
	q.head++
	switch n := q.len(); {
	case n == 0:
		q.buf, q.head = q.buf[:0], 0
		if cap(q.buf) > 64 {
			q.buf = nil
		}
	case q.head >= 16 && q.head > n:
		q.compact(n)
	}
	return e
}

// compact moves the events to the front, into less memory if much is free.
func (q *queue) compact(n int) {
	if cap(q.buf) > 4*n {
		q.buf = append(make([]*Event, 0, 2*n), q.buf[q.head:]...)
	} else {
		copy(q.buf, q.buf[q.head:])
		clear(q.buf[n:])
		q.buf = q.buf[:n]
	}
	q.head = 0
}

// from returns the place of the first event with that seq or a later one.
func (q *queue) from(seq int64) int {
	return sort.Search(q.len(), func(i int) bool { return q.at(i).seq >= seq })
}

// after returns the place of the first event after the revision.
func (q *queue) after(rev int64) int {
	return sort.Search(q.len(), func(i int) bool { return q.at(i).Rev > rev })
}

// prepend puts events before the first.
func (q *queue) prepend(events []*Event) {
	buf := make([]*Event, 0, len(events)+q.len())
	buf = append(append(buf, events...), q.buf[q.head:]...)
	q.buf, q.head = buf, 0
}
