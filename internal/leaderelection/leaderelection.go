// Package leaderelection lets one of several processes do a job: the one that
// holds a Lease. It reads and writes that Lease. It depends on no clock but
// the process's own monotonic one, so that clocks that differ or jump make no
// second leader; and a leader that cannot renew stops before anyone else may
// begin.
//
// https://kubernetes.io/docs/concepts/architecture/leases/#leader-election
package leaderelection

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff.dev/skiff/internal/client"
	"skiff.dev/skiff/internal/meta"
)

// Config is upstream's seven settings (--leader-elect and its kin), and who
// this process is.
type Config struct {
	LeaderElect bool
	// LeaseDuration is how long others wait for a sign of life before one of
	// them takes over, RenewDeadline how long the leader goes on without having
	// been able to give one, RetryPeriod the time between tries.
	LeaseDuration, RenewDeadline, RetryPeriod time.Duration
	// ResourceLock is the kind of object that is held; only "leases" exists.
	ResourceLock                    string
	ResourceNamespace, ResourceName string
	// Identity must differ between all processes there ever are.
	Identity string
}

// Default returns upstream's defaults for the component of that name.
func Default(name, identity string) Config {
	return Config{
		LeaderElect: true, LeaseDuration: 15 * time.Second, RenewDeadline: 10 * time.Second, RetryPeriod: 2 * time.Second,
		ResourceLock: "leases", ResourceNamespace: metav1.NamespaceSystem, ResourceName: name, Identity: identity,
	}
}

// jitter spreads retries over RetryPeriod to RetryPeriod * (1 + jitter).
const jitter = 1.2

// Validate reports every setting that cannot work.
func (c Config) Validate() error {
	if !c.LeaderElect {
		return nil
	}
	var faults []error
	need := func(ok bool, text string) {
		if !ok {
			faults = append(faults, errors.New(text))
		}
	}
	need(c.LeaseDuration >= time.Second, "leaseDuration must be at least one second")
	need(c.LeaseDuration > c.RenewDeadline, "leaseDuration must be greater than renewDeadline")
	need(c.RenewDeadline > time.Duration(jitter*float64(c.RetryPeriod)), "renewDeadline must be greater than retryPeriod*JitterFactor")
	need(c.RetryPeriod > 0, "retryPeriod must be greater than zero")
	need(c.ResourceLock == "leases", `resourceLock must be "leases"`)
	need(c.ResourceNamespace != "" && c.ResourceName != "", "resourceNamespace and resourceName are required")
	need(c.Identity != "", "identity is required")
	return errors.Join(faults...)
}

// ErrLost is how Run ends if the lead was lost, and how writes fail that are
// tried afterwards. The process should exit, or Run again to stand by.
var ErrLost = errors.New("leader election lost")

// Elector takes part in one election.
type Elector struct {
	client *client.Client
	events client.Events
	cfg    Config

	mu      sync.Mutex
	seen    observation
	watched bool          // changes of the Lease are seen as they happen
	free    chan struct{} // holds a token when the Lease may have come free
	renewed time.Time     // when the last successful renewal was begun; zero when not leading
}

// observation is the Lease as last seen. What counts is when it was seen to
// change, by this process's clock.
type observation struct {
	version, holder string
	duration        time.Duration
	at              time.Time
}

// New returns an elector; cfg must be valid.
func New(c *client.Client, events client.Events, cfg Config) (*Elector, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("leader election: %w", err)
	}
	return &Elector{client: c, events: events, cfg: cfg, free: make(chan struct{}, 1)}, nil
}

// Run waits for the lead, then calls lead, whose context ends when the lead is
// lost. When lead has returned, or ctx has ended, the Lease is released. Run
// returns what lead returned, or ErrLost.
func (e *Elector) Run(ctx context.Context, lead func(context.Context) error) error {
	if !e.cfg.LeaderElect {
		return lead(ctx)
	}
	lease, err := e.acquire(ctx)
	if err != nil {
		return err
	}
	if lease == nil {
		return nil // ctx has ended
	}
	slog.InfoContext(ctx, "leading", "lease", e.cfg.ResourceName, "identity", e.cfg.Identity)
	e.events.Normal(lease, "LeaderElection", "%s became leader", e.cfg.Identity)
	return e.lead(ctx, lease, lead)
}

// Leading reports whether this process leads now.
func (e *Elector) Leading() bool {
	_, ok := e.until()
	return ok
}

// until returns until when nobody else can lead.
func (e *Elector) until() (time.Time, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.cfg.LeaderElect {
		return time.Time{}, true
	}
	if e.renewed.IsZero() || time.Since(e.renewed) >= e.cfg.RenewDeadline {
		return time.Time{}, false
	}
	return e.renewed.Add(e.cfg.LeaseDuration), true
}

func (e *Elector) kind() client.Kind[*coordinationv1.Lease] {
	return client.For[*coordinationv1.Lease](e.client)
}

// acquire returns the Lease once it is ours, nil if ctx ends before.
func (e *Elector) acquire(ctx context.Context) (*coordinationv1.Lease, error) {
	watching, stop := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer stop()
	wg.Go(func() { e.watch(watching) })
	for ctx.Err() == nil {
		var err error
		if e.mayBeFree() {
			var lease *coordinationv1.Lease
			if lease, err = e.try(ctx); lease != nil {
				return lease, nil
			}
		}
		if err != nil && ctx.Err() == nil {
			slog.DebugContext(ctx, "the lease could not be had", "lease", e.cfg.ResourceName, "err", err)
		}
		timer := time.NewTimer(e.pause(err))
		select {
		case <-e.free:
		case <-timer.C:
		case <-ctx.Done():
		}
		timer.Stop()
	}
	return nil, nil
}

// mayBeFree reports whether it is worth asking for the Lease: not if it has
// been seen to be renewed within its duration.
func (e *Elector) mayBeFree() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return !e.watched || e.seen.holder == "" || e.seen.holder == e.cfg.Identity || time.Since(e.seen.at) >= e.seen.duration
}

// pause is how long to wait before the next try: until the Lease expires if
// its changes are seen as they happen.
func (e *Elector) pause(failed error) time.Duration {
	retry := e.cfg.RetryPeriod + time.Duration(rand.Float64()*jitter*float64(e.cfg.RetryPeriod))
	e.mu.Lock()
	defer e.mu.Unlock()
	if failed != nil || !e.watched {
		return retry
	}
	return max(time.Until(e.seen.at.Add(e.seen.duration)), time.Millisecond)
}

// watch observes the Lease until ctx ends. Without the right to watch it ends
// at once, and the Lease is read now and then instead.
func (e *Elector) watch(ctx context.Context) {
	cache, err := e.kind().CacheWhere(ctx, scope(e.cfg))
	if err != nil || cache.Sync(ctx) != nil {
		return
	}
	e.setWatched(true)
	defer e.setWatched(false)
	err = cache.Follow(ctx, func(ch client.Change[*coordinationv1.Lease]) {
		if lease := ch.Object(); lease.Name == e.cfg.ResourceName && lease.Namespace == e.cfg.ResourceNamespace {
			if ch.Deleted || e.observe(lease).holder == "" {
				e.wake()
			}
		}
	}, nil)
	if err != nil && ctx.Err() == nil {
		slog.Debug("the lease is no longer watched", "lease", e.cfg.ResourceName, "err", err)
	}
}

func (e *Elector) setWatched(on bool) {
	e.mu.Lock()
	e.watched = on
	e.mu.Unlock()
	e.wake()
}

func (e *Elector) wake() {
	select {
	case e.free <- struct{}{}:
	default: // a token is there already
	}
}

// observe notes the state of the Lease and returns what is known of it.
func (e *Elector) observe(l *coordinationv1.Lease) observation {
	e.mu.Lock()
	defer e.mu.Unlock()
	if l.ResourceVersion == e.seen.version {
		return e.seen
	}
	o := observation{version: l.ResourceVersion, duration: e.cfg.LeaseDuration, at: time.Now()}
	if l.Spec.HolderIdentity != nil {
		o.holder = *l.Spec.HolderIdentity
	}
	if s := l.Spec.LeaseDurationSeconds; s != nil && *s > 0 {
		o.duration = time.Duration(*s) * time.Second
	}
	e.seen = o
	return o
}

// try takes the Lease if it is free. It returns nil if another has it.
func (e *Elector) try(ctx context.Context) (*coordinationv1.Lease, error) {
	ctx, cancel := context.WithTimeout(ctx, e.cfg.RenewDeadline)
	defer cancel()
	begun := time.Now()
	have, err := e.kind().Get(ctx, e.cfg.ResourceNamespace, e.cfg.ResourceName)
	var got *coordinationv1.Lease
	switch {
	case apierrors.IsNotFound(err):
		got, err = e.kind().Create(ctx, e.claim(&coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{
			Namespace: e.cfg.ResourceNamespace, Name: e.cfg.ResourceName,
		}}))
	case err != nil:
	default:
		o := e.observe(have)
		if o.holder != "" && o.holder != e.cfg.Identity && time.Since(o.at) < o.duration {
			return nil, nil
		}
		got, err = e.kind().Update(ctx, e.claim(meta.Copy(have)))
	}
	if err != nil {
		return nil, err
	}
	e.note(got, begun)
	return got, nil
}

// claim makes l this process's.
func (e *Elector) claim(l *coordinationv1.Lease) *coordinationv1.Lease {
	now := metav1.NowMicro()
	seconds := int32(e.cfg.LeaseDuration / time.Second)
	if was := l.Spec.HolderIdentity; was == nil || *was != e.cfg.Identity {
		l.Spec.AcquireTime = &now
		transitions := int32(0)
		if l.ResourceVersion != "" {
			transitions = 1
			if n := l.Spec.LeaseTransitions; n != nil {
				transitions += *n
			}
		}
		l.Spec.LeaseTransitions = &transitions
	}
	l.Spec.HolderIdentity, l.Spec.RenewTime, l.Spec.LeaseDurationSeconds = &e.cfg.Identity, &now, &seconds
	return l
}

// note records a renewal that was begun then: others may not have seen it
// before, so the lead lasts from there at least.
func (e *Elector) note(l *coordinationv1.Lease, begun time.Time) {
	e.observe(l)
	e.mu.Lock()
	defer e.mu.Unlock()
	e.renewed = begun
}
