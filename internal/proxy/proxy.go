// Package proxy makes Services reachable on a node: connections to a
// Service's addresses go to one of its endpoints.
//
// It reads Services and EndpointSlices (by a Source) and facts about its Node.
// From these it makes Ports, which say what the node has to serve (pure), and
// hands them to the Backend of its mode, which decides a ruleset (pure) and
// brings it into the kernel as one transaction. What one Service's change
// costs does not depend on how many others there are.
//
// It writes the tables named in NFTConfig, deletes connection tracking entries
// of UDP flows whose endpoint is gone, and serves health check node ports.
package proxy

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Key names a Service.
type Key = types.NamespacedName

// Source is where the proxy learns of Services and their endpoints. Objects
// are shared and read-only.
type Source interface {
	// Service returns a Service, nil if there is none.
	Service(Key) *corev1.Service
	// EndpointSlices returns the slices that belong to a Service, by their
	// label kubernetes.io/service-name, in any order.
	EndpointSlices(Key) []*discoveryv1.EndpointSlice
	// Follow calls changed with the keys of Services that came, changed or
	// went, or whose slices did. The first call has the keys of all there
	// are, and comes when everything has been loaded. It returns when ctx
	// ends, or with the error that stopped it.
	Follow(ctx context.Context, changed func([]Key)) error
}

// Backend carries a mode out.
type Backend interface {
	// Sync makes the kernel serve the ports. It either succeeds or leaves
	// what was served before.
	Sync(ctx context.Context, u Update) error
	// Cleanup removes everything the backend has put into the kernel.
	Cleanup(ctx context.Context) error
}

// Update is what a backend is told.
type Update struct {
	Node Node
	// All holds the ports of every Service that has some. Read-only.
	All map[Key][]Port
	// Changed names the Services whose ports may differ from those of the
	// last Sync that succeeded.
	Changed []Key
	// Full asks not to rely on what is believed to be in the kernel.
	Full bool
}

// Config is what a Proxy is made of.
type Config struct {
	Source  Source
	Backend Backend
	Node    Node
	// Conntrack forgets flows to endpoints that are gone; nil to leave them.
	Conntrack Conntrack
	// HealthChecks serves health check node ports; nil to serve none.
	HealthChecks *HealthChecks
	// Metrics, if set, is told of every Sync.
	Metrics *Metrics
	Log     *slog.Logger
}

// Proxy keeps a node's service routing up to date.
type Proxy struct {
	cfg    Config
	ports  map[Key][]Port // owned by Run
	synced chan struct{}  // closed after the first Sync
	wake   chan struct{}  // holds one: something is pending

	mu      sync.Mutex
	node    Node         // under mu
	renew   bool         // under mu: node has changed
	loaded  bool         // under mu: the source has reported once
	pending map[Key]bool // under mu
}

// New returns a Proxy. Run runs it.
func New(cfg Config) *Proxy {
	return &Proxy{
		cfg: cfg, ports: map[Key][]Port{}, node: cfg.Node,
		synced: make(chan struct{}), wake: make(chan struct{}, 1), pending: map[Key]bool{},
	}
}

// Synced is closed when the kernel serves what the source held at the start.
func (p *Proxy) Synced() <-chan struct{} { return p.synced }

// SetNode tells the proxy that facts about the node have changed.
func (p *Proxy) SetNode(n Node) {
	p.mu.Lock()
	p.node, p.renew = n, true
	p.mu.Unlock()
	p.poke()
}

func (p *Proxy) poke() {
	select {
	case p.wake <- struct{}{}:
	default: // a wake-up is pending already
	}
}

func (p *Proxy) changed(keys []Key) {
	p.mu.Lock()
	p.loaded = true
	for _, k := range keys {
		p.pending[k] = true
	}
	p.mu.Unlock()
	p.cfg.Metrics.pending()
	p.poke()
}

// take returns what is pending, ok is false while nothing has been loaded.
func (p *Proxy) take() (node Node, keys map[Key]bool, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.loaded {
		return Node{}, nil, false
	}
	keys, p.pending = p.pending, map[Key]bool{}
	if p.renew {
		p.renew = false
		for k := range p.ports {
			keys[k] = true
		}
	}
	return p.node, keys, true
}

// How long to wait after a failure; doubled up to the maximum.
const (
	retryMin = time.Second
	retryMax = 30 * time.Second
)

// Run keeps the kernel up to date until ctx ends. What is in the kernel stays
// when it returns, so that connections outlive a restart.
func (p *Proxy) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	followed := make(chan error, 1)
	go func() { followed <- p.cfg.Source.Follow(ctx, p.changed) }()
	defer func() {
		cancel()
		if followed != nil {
			<-followed
		}
	}()
	update := Update{All: p.ports, Full: true}
	retry, wait := time.NewTimer(0), retryMin
	retry.Stop()
	defer retry.Stop()
	for {
		select {
		case err := <-followed:
			followed = nil
			if ctx.Err() == nil {
				return fmt.Errorf("following services: %w", err)
			}
			return nil
		case <-p.wake:
		case <-retry.C:
		}
		node, keys, ok := p.take()
		if !ok {
			continue
		}
		update.Node = node
		p.compute(&update, keys)
		began := time.Now()
		err := p.cfg.Backend.Sync(ctx, update)
		p.cfg.Metrics.synced(began, err)
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			p.cfg.Log.Error("Could not update service rules", "err", err, "retryAfter", wait)
			update.Full = true
			retry.Reset(wait)
			wait = min(2*wait, retryMax)
			continue
		}
		wait = retryMin
		retry.Stop()
		p.follow(ctx, &update)
		update.Full, update.Changed = false, nil
		select {
		case <-p.synced:
		default:
			close(p.synced)
		}
	}
}

// compute brings the ports of the Services named up to date, and adds them to
// what a Sync that failed has left.
func (p *Proxy) compute(u *Update, keys map[Key]bool) {
	for _, k := range u.Changed {
		keys[k] = true
	}
	for k := range keys {
		ports := Ports(p.cfg.Source.Service(k), p.cfg.Source.EndpointSlices(k), u.Node)
		if len(ports) == 0 {
			delete(p.ports, k)
		} else {
			p.ports[k] = ports
		}
	}
	u.Changed = u.Changed[:0]
	for k := range maps.Keys(keys) {
		u.Changed = append(u.Changed, k)
	}
}

// follow does what comes after the rules: flows that the old rules began, and
// health checks. Neither can be undone by failing, so errors are told only.
func (p *Proxy) follow(ctx context.Context, u *Update) {
	if p.cfg.Conntrack != nil {
		if flows := staleFlows(u); flows.any() {
			n, err := p.cfg.Conntrack.Forget(ctx, flows)
			if err != nil {
				p.cfg.Log.Error("Could not delete stale connection tracking entries", "err", err)
			} else if n > 0 {
				p.cfg.Log.Debug("Deleted stale connection tracking entries", "count", n)
			}
		}
	}
	if p.cfg.HealthChecks == nil {
		return
	}
	for _, k := range u.Changed {
		if err := p.cfg.HealthChecks.set(k, p.cfg.Source.Service(k), u.All[k]); err != nil {
			p.cfg.Log.Error("Could not serve health check node port", "service", k.String(), "err", err)
		}
	}
}
