// Package scheduler gives every pod without a node the best one there is. It
// reads nodes and pods; it writes bindings, the PodScheduled condition of pods
// it can find no node for, and events.
//
// What it decides is in core, a state machine without goroutines; Scheduler is
// the shell that feeds it with what the caches report and carries out what it
// decides. The rules are plugins: package framework says what one is, package
// plugins holds them.
package scheduler

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	configv1 "k8s.io/kube-scheduler/config/v1"

	"skiff.dev/skiff/internal/client"
	"skiff.dev/skiff/internal/meta"
	"skiff.dev/skiff/internal/scheduler/config"
)

// Config is what a Scheduler is made from.
type Config struct {
	// Configuration holds profiles, plugins and back-off; nil for the default.
	Configuration *configv1.KubeSchedulerConfiguration
	// Events tells people what became of their pods. Required.
	Events client.Events
	// Registry takes the metrics; nil for none.
	Registry prometheus.Registerer
	// Random breaks ties between equally good nodes; nil for a random seed.
	Random rand.Source
}

// maxTurn is how many pods are decided on before looking at what has changed.
const maxTurn = 64

// Scheduler decides where pods run.
type Scheduler struct {
	client  *client.Client
	config  Config
	pods    client.Kind[*corev1.Pod]
	events  client.Events
	metrics *metrics
	core    *core
	work    *work // bindings and conditions being written

	mu    sync.Mutex
	inbox []func(now time.Time) // for the core's owner, in order
	wake  chan struct{}         // has an element if inbox has
}

// New returns a scheduler that Run starts.
func New(c *client.Client, cfg Config) (*Scheduler, error) {
	if cfg.Configuration == nil {
		cfg.Configuration = config.Default()
	}
	if cfg.Random == nil {
		cfg.Random = rand.NewPCG(rand.Uint64(), rand.Uint64())
	}
	s := &Scheduler{
		client: c, config: cfg, pods: client.For[*corev1.Pod](c), events: cfg.Events, metrics: newMetrics(),
		wake: make(chan struct{}, 1),
	}
	if err := s.reset(); err != nil {
		return nil, err
	}
	if cfg.Registry != nil {
		if err := s.metrics.register(cfg.Registry); err != nil {
			return nil, fmt.Errorf("registering scheduler metrics: %w", err)
		}
	}
	return s, nil
}

// reset forgets everything about the cluster.
func (s *Scheduler) reset() error {
	made, err := newCore(s.client, s.config.Configuration, rand.New(s.config.Random))
	if err != nil {
		return err
	}
	s.core, s.inbox, s.work = made, nil, newWork()
	return nil
}

// Run schedules until ctx ends. Only the leader may run; it may run again
// after it has lost and regained the lead.
func (s *Scheduler) Run(ctx context.Context) error {
	if err := s.reset(); err != nil {
		return err
	}
	nodes, err := client.For[*corev1.Node](s.client).Cache(ctx)
	if err != nil {
		return err
	}
	pods, err := s.pods.Cache(ctx)
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	loaded := make(chan struct{}, 2)
	g.Go(func() error { return follow(ctx, s, nodes, s.core.nodeChanged, loaded) })
	g.Go(func() error { return follow(ctx, s, pods, s.core.podChanged, loaded) })
	g.Go(func() error { return s.loop(ctx, loaded) })
	err = g.Wait()
	s.work.end()
	return err
}

// follow has the core's owner call f for every change of the cache, a batch at
// a time, and says on loaded when the first has been handed over.
func follow[T meta.Object](ctx context.Context, s *Scheduler, cache client.Cache[T], f func(client.Change[T], time.Time), loaded chan<- struct{}) error {
	var batch []client.Change[T]
	first := true
	return cache.Follow(ctx, func(ch client.Change[T]) { batch = append(batch, ch) }, func() {
		changes := batch
		batch = nil
		if len(changes) > 0 {
			s.post(func(now time.Time) {
				for _, ch := range changes {
					f(ch, now)
				}
			})
		}
		if first {
			first = false
			loaded <- struct{}{}
		}
	})
}

// post has the core's owner call f.
func (s *Scheduler) post(f func(now time.Time)) {
	s.mu.Lock()
	s.inbox = append(s.inbox, f)
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// loop owns the core.
func (s *Scheduler) loop(ctx context.Context, loaded <-chan struct{}) error {
	for range 2 { // nodes and pods: deciding on half of the cluster would be wrong
		select {
		case <-loaded:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		more := s.turn(ctx)
		s.metrics.waiting(s.core.queue)
		if more {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			continue
		}
		var alarm <-chan time.Time
		if due, ok := s.core.queue.due(); ok {
			timer.Reset(time.Until(due))
			alarm = timer.C
		}
		select {
		case <-s.wake:
		case <-alarm:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// turn takes in what has come and decides on some pods; it reports whether
// there may be more to decide on.
func (s *Scheduler) turn(ctx context.Context) bool {
	s.mu.Lock()
	inbox := s.inbox
	s.inbox = nil
	s.mu.Unlock()
	now := time.Now()
	for _, f := range inbox {
		f(now)
	}
	for range maxTurn {
		began := time.Now()
		a, ok := s.core.next(began)
		if !ok {
			return false
		}
		s.carryOut(ctx, a, began)
	}
	return true
}

// carryOut does what follows from an attempt. It waits if too much is under way.
func (s *Scheduler) carryOut(ctx context.Context, a attempt, began time.Time) {
	decided := time.Now()
	s.metrics.deciding.Observe(decided.Sub(began).Seconds())
	if a.err == nil {
		s.bind(ctx, a, began)
		return
	}
	result := resultUnschedulable
	if _, ok := a.err.(*FitError); !ok && a.err != errNoNodes {
		result = resultError
	}
	s.metrics.done(result, a.decider.profile.name, decided.Sub(began))
	s.failed(ctx, a, decided)
}
