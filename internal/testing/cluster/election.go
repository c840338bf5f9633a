package cluster

import (
	"context"
	"errors"
	"fmt"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"skiff.dev/skiff/internal/client"
	"skiff.dev/skiff/internal/leaderelection"
	"skiff.dev/skiff/internal/meta"
)

// Manager is a process that runs the controllers and the scheduler, each while
// it holds the Lease. When it loses one it ends, and is started again.
type Manager struct {
	Name string

	c       *Cluster
	mu      sync.Mutex
	stopped chan struct{} // closed by Continue; nil while it runs
	cut     chan struct{} // closed by Mend; nil while it is connected
	leads   map[string]bool

	arm  sync.Mutex // held while then happens
	left int        // requests of its work until then happens
	then func()     // nil for nothing
}

func newManager(c *Cluster, i int) *Manager {
	return &Manager{Name: fmt.Sprint("manager-", i), c: c, leads: map[string]bool{}}
}

// The Leases, by what they are for.
const (
	controllersLease = "kube-controller-manager"
	schedulerLease   = "kube-scheduler"
)

// Stop stops the process as SIGSTOP or a suspended machine does: it takes no
// notice of anything, and then goes on where it was.
func (m *Manager) Stop() { m.set(&m.stopped) }

// Continue is the reverse of Stop.
func (m *Manager) Continue() { m.clear(&m.stopped) }

// Cut takes the process off the network: what it sends hangs, and it learns of
// nothing.
func (m *Manager) Cut() { m.set(&m.cut) }

// Mend connects it again.
func (m *Manager) Mend() { m.clear(&m.cut) }

// InRequest has begin happen when the n-th request from now is about to leave
// the process: in the middle of a reconcile, or of a binding. At a random time
// of an otherwise idle virtual clock nobody would be in the middle of anything.
func (m *Manager) InRequest(n int, begin func()) {
	m.arm.Lock()
	defer m.arm.Unlock()
	m.left, m.then = n, begin
}

// count counts a request.
func (m *Manager) count() {
	m.arm.Lock()
	defer m.arm.Unlock()
	if m.left--; m.then != nil && m.left <= 0 {
		m.then()
		m.then = nil
	}
}

// Leads reports whether the process believes to lead in either.
func (m *Manager) Leads() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.leads[controllersLease] || m.leads[schedulerLease]
}

func (m *Manager) set(gate *chan struct{}) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if *gate == nil {
		*gate = make(chan struct{})
	}
}

func (m *Manager) clear(gate *chan struct{}) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if *gate != nil {
		close(*gate)
		*gate = nil
	}
}

// gate returns what to wait for, or a channel that is closed.
func (m *Manager) gate(gate *chan struct{}) <-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	if *gate != nil {
		return *gate
	}
	return passable
}

// passable is a gate that is not shut.
var passable = func() <-chan struct{} { c := make(chan struct{}); close(c); return c }()

// run runs the process against one incarnation of the server, again and again.
func (m *Manager) run(s *server) {
	var wg sync.WaitGroup
	for lease, job := range map[string]func(way) (func(context.Context) error, error){
		controllersLease: func(by way) (func(context.Context) error, error) { return m.controllers(s, by) },
		schedulerLease: func(by way) (func(context.Context) error, error) {
			return newScheduler(s.plane, by, m.c.cfg.Seed)
		},
	} {
		wg.Go(func() {
			for n := 0; s.ctx.Err() == nil; n++ {
				if err := m.stand(s, lease, n, job); err != nil && !errors.Is(err, leaderelection.ErrLost) && s.ctx.Err() == nil {
					s.t.Errorf("%s, %s: %v", m.Name, lease, err)
					return
				}
			}
		})
	}
	wg.Wait()
}

// stand stands by for the lead and does the job once it has it, as one process
// would.
func (m *Manager) stand(s *server, lease string, n int, job func(way) (func(context.Context) error, error)) error {
	ctx, cancel := context.WithCancel(s.ctx)
	defer cancel()
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	account := managerClient(s.plane)
	if lease == schedulerLease {
		account = schedulerClient(s.plane)
	}
	own := client.New(m.process(m.network(ctx, &wg, account.Transport, nil), func() {}))
	events := client.NewRecorder(own, lease, m.Name)
	wg.Go(func() { _ = events.Run(ctx) }) // returns nil only
	cfg := leaderelection.Default(lease, fmt.Sprintf("%s_%d_%d", m.Name, m.c.life, n))
	elector, err := leaderelection.New(own, events, cfg)
	if err != nil {
		return err
	}
	return elector.Run(ctx, func(leading context.Context) error {
		m.lead(lease, true)
		defer m.lead(lease, false)
		term := m.c.ledger.begin(lease)
		work, err := job(func(t client.Transport) client.Transport {
			return m.process(elector.Fence(m.network(ctx, &wg, t, term)), m.count)
		})
		if err != nil {
			return err
		}
		return work(leading)
	})
}

func (m *Manager) lead(lease string, on bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.leads[lease] = on
}

// controllers makes all controllers of the process.
func (m *Manager) controllers(s *server, by way) (func(context.Context) error, error) {
	events := client.NewRecorder(client.New(by(managerClient(s.plane).Transport)), "controller-manager", "")
	all, err := controllersOf(s.plane, by, events)
	if err != nil {
		return nil, err
	}
	return with(events, func(ctx context.Context) error {
		var wg sync.WaitGroup
		for _, c := range all {
			wg.Go(func() {
				if err := c.Run(ctx); err != nil && ctx.Err() == nil {
					s.t.Errorf("%s, %s: %v", m.Name, c.Name(), err)
				}
			})
		}
		wg.Wait()
		return nil
	}), nil
}

// hold lets an event pass when the process can take it in.
func (m *Manager) hold(ctx context.Context) fate {
	for _, gate := range []*chan struct{}{&m.cut, &m.stopped} {
		select {
		case <-m.gate(gate):
		case <-ctx.Done():
		}
	}
	return arrives
}

// gated is a transport whose requests, all but Table, first pass a gate.
type gated struct {
	client.Transport
	pass func(context.Context) (context.Context, error)
}

// network is what is between a process and the server. A request that cannot
// get through hangs until it can, or until nobody waits for it any more. What
// gets through is noted as written in that term; nil for none.
func (m *Manager) network(ctx context.Context, wg *sync.WaitGroup, t client.Transport, term *term) client.Transport {
	return &gated{newFeeds(ctx, wg, t, m.hold), func(ctx context.Context) (context.Context, error) {
		select {
		case <-m.gate(&m.cut):
		case <-ctx.Done():
		}
		return context.WithValue(ctx, termKey{}, term), ctx.Err()
	}}
}

// process is the process's own end of it: nothing leaves it while it is stopped,
// and then what was about to be sent is sent, before anybody in the process
// notices that the time for it is over.
func (m *Manager) process(t client.Transport, count func()) client.Transport {
	return &gated{t, func(ctx context.Context) (context.Context, error) {
		count()
		gate := m.gate(&m.stopped)
		if gate == passable {
			return ctx, nil
		}
		<-gate
		return context.WithoutCancel(ctx), nil
	}}
}

func guarded[T any](ctx context.Context, g *gated, do func(context.Context) (T, error)) (T, error) {
	ctx, err := g.pass(ctx)
	if err != nil {
		var none T
		return none, err
	}
	return do(ctx)
}

// Get implements client.Transport.
func (g *gated) Get(ctx context.Context, ref client.Ref, opts metav1.GetOptions) (meta.Object, error) {
	return guarded(ctx, g, func(ctx context.Context) (meta.Object, error) { return g.Transport.Get(ctx, ref, opts) })
}

// List implements client.Transport.
func (g *gated) List(ctx context.Context, ref client.Ref, opts metav1.ListOptions) (*client.List, error) {
	return guarded(ctx, g, func(ctx context.Context) (*client.List, error) { return g.Transport.List(ctx, ref, opts) })
}

// Create implements client.Transport.
func (g *gated) Create(ctx context.Context, ref client.Ref, obj runtime.Object, opts metav1.CreateOptions) (runtime.Object, error) {
	return guarded(ctx, g, func(ctx context.Context) (runtime.Object, error) { return g.Transport.Create(ctx, ref, obj, opts) })
}

// Update implements client.Transport.
func (g *gated) Update(ctx context.Context, ref client.Ref, obj meta.Object, opts metav1.UpdateOptions) (meta.Object, error) {
	return guarded(ctx, g, func(ctx context.Context) (meta.Object, error) { return g.Transport.Update(ctx, ref, obj, opts) })
}

// Patch implements client.Transport.
func (g *gated) Patch(ctx context.Context, ref client.Ref, pt types.PatchType, data []byte, opts metav1.PatchOptions) (meta.Object, error) {
	return guarded(ctx, g, func(ctx context.Context) (meta.Object, error) { return g.Transport.Patch(ctx, ref, pt, data, opts) })
}

// Delete implements client.Transport.
func (g *gated) Delete(ctx context.Context, ref client.Ref, opts metav1.DeleteOptions) (string, error) {
	return guarded(ctx, g, func(ctx context.Context) (string, error) { return g.Transport.Delete(ctx, ref, opts) })
}

// DeleteCollection implements client.Transport.
func (g *gated) DeleteCollection(ctx context.Context, ref client.Ref, opts metav1.DeleteOptions, list metav1.ListOptions) error {
	_, err := guarded(ctx, g, func(ctx context.Context) (struct{}, error) {
		return struct{}{}, g.Transport.DeleteCollection(ctx, ref, opts, list)
	})
	return err
}
