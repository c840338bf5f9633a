package cluster

import (
	"container/heap"
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"

	"skiff.dev/skiff/internal/apiserver/request"
	"skiff.dev/skiff/internal/app/controlplane"
	"skiff.dev/skiff/internal/client"
	"skiff.dev/skiff/internal/meta"
)

// fleet is all nodes. One goroutine, run, owns them: it takes in what the API
// reports, and lets each node act when its time has come. Times are rounded up
// to a tick, so that a thousand nodes share a timer.
type fleet struct {
	nodes  []*Node
	byName map[string]*Node
	due    schedule
	link   *link
	online bool // the server runs and has told everything

	mu    sync.Mutex
	inbox []func() // for the owner, in order
	wake  chan struct{}
}

const tick = 250 * time.Millisecond

func newFleet(cfg Config) *fleet {
	f := &fleet{byName: map[string]*Node{}, wake: make(chan struct{}, 1)}
	for i := range cfg.Nodes {
		n := newNode(f, i, rand.New(rand.NewPCG(cfg.Seed, uint64(i))))
		f.nodes = append(f.nodes, n)
		f.byName[n.Name] = n
		heap.Push(&f.due, n)
	}
	return f
}

// post has the owner call g.
func (f *fleet) post(g func()) {
	f.mu.Lock()
	f.inbox = append(f.inbox, g)
	f.mu.Unlock()
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// call is post that waits.
func (f *fleet) call(g func()) {
	done := make(chan struct{})
	f.post(func() { g(); close(done) })
	<-done
}

// run owns the nodes until ctx ends.
func (f *fleet) run(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for ctx.Err() == nil {
		f.mu.Lock()
		inbox := f.inbox
		f.inbox = nil
		f.mu.Unlock()
		for _, g := range inbox {
			g()
		}
		now := time.Now()
		for len(f.due) > 0 && !f.due[0].due.After(now) {
			n := f.due[0]
			n.due = n.act(ctx, now)
			heap.Fix(&f.due, 0)
		}
		if len(f.due) > 0 {
			timer.Reset(time.Until(f.due[0].due))
		}
		select {
		case <-timer.C:
		case <-f.wake:
		case <-ctx.Done():
		}
	}
}

// hurry lets n act now.
func (f *fleet) hurry(n *Node) {
	n.due = time.Time{}
	heap.Fix(&f.due, n.index)
}

// connect gives the nodes an API server until down is closed.
func (f *fleet) connect(cp *controlplane.ControlPlane, down <-chan struct{}) {
	var clients []*client.Client
	for _, n := range f.nodes {
		clients = append(clients, cp.Client(&request.User{
			Name: "system:node:" + n.Name, Groups: []string{request.GroupNodes, request.GroupAuthenticated},
		}, "kubelet"))
	}
	l := &link{fleet: f, loaded: make(chan struct{}, 2)}
	f.post(func() {
		f.link, f.online = l, false
		for i, n := range f.nodes {
			n.forget(clients[i])
		}
	})
	ctx, cancel := context.WithCancel(context.Background())
	api := admin(cp)
	go follow(ctx, l, client.For[*corev1.Pod](api), f.podChanged)
	go follow(ctx, l, client.For[*corev1.Node](api), f.nodeChanged)
	go func() {
		defer cancel()
		for range 2 {
			select {
			case <-l.loaded:
			case <-down:
				return
			}
		}
		l.post(f.goOnline)
		<-down
		l.post(func() { f.online = false })
	}()
}

func (f *fleet) goOnline() {
	f.online = true
	for _, n := range f.nodes {
		n.due = time.Time{}
	}
	heap.Init(&f.due)
	for i, n := range f.due {
		n.index = i
	}
}

// link is the connection to one incarnation of the server; what comes over it
// after the next one has connected is ignored.
type link struct {
	fleet  *fleet
	loaded chan struct{} // gets a token when a cache has been read
}

func (l *link) post(g func()) {
	l.fleet.post(func() {
		if l.fleet.link == l {
			g()
		}
	})
}

// follow posts the changes of a kind batch by batch until the server ends.
func follow[T meta.Object](ctx context.Context, l *link, kind client.Kind[T], changed func(client.Change[T])) {
	cache, err := kind.Cache(ctx)
	if err != nil {
		return // the server ended before it began
	}
	var batch []client.Change[T]
	first := true
	_ = cache.Follow(ctx, func(ch client.Change[T]) { batch = append(batch, ch) }, func() {
		changes := batch
		batch = nil
		l.post(func() {
			for _, ch := range changes {
				changed(ch)
			}
		})
		if first {
			first = false
			l.loaded <- struct{}{}
		}
	}) // ends with the server
}

func (f *fleet) podChanged(ch client.Change[*corev1.Pod]) {
	if n := f.byName[ch.Object().Spec.NodeName]; n != nil {
		if ch.Deleted {
			delete(n.wanted, ch.Old.UID)
		} else {
			n.wanted[ch.New.UID] = ch.New
		}
		if ch.Old != nil && ch.New != nil && ch.Old.UID != ch.New.UID {
			delete(n.wanted, ch.Old.UID)
			n.look(ch.Old.UID)
		}
		n.look(ch.Object().UID)
		f.hurry(n)
	}
}

func (f *fleet) nodeChanged(ch client.Change[*corev1.Node]) {
	n := f.byName[ch.Object().Name]
	if n == nil {
		return
	}
	n.seen = ch.New
	if ch.Deleted {
		n.seen = nil
	}
	f.hurry(n)
}

// schedule is a heap of nodes by the time at which they act.
type schedule []*Node

func (s schedule) Len() int { return len(s) }
func (s schedule) Less(i, j int) bool {
	if s[i].due.Equal(s[j].due) {
		return s[i].number < s[j].number
	}
	return s[i].due.Before(s[j].due)
}
func (s schedule) Swap(i, j int) { s[i], s[j] = s[j], s[i]; s[i].index, s[j].index = i, j }
func (s *schedule) Push(x any)   { n := x.(*Node); n.index = len(*s); *s = append(*s, n) }
func (s *schedule) Pop() any     { panic("nodes stay") }

func nodeName(i int) string { return fmt.Sprintf("node-%04d", i) }
