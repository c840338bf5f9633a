// Package cluster runs a whole cluster in virtual time: the API server over a
// store in memory, every controller, the scheduler, and any number of pretended
// nodes, inside a testing/synctest bubble. Any part can be killed and started
// again at any moment, down to a single commit; an hour of the cluster's life
// takes seconds. Meanwhile a checker reads every revision from the store and
// reports each breach of an invariant. Only tests import it. It reads and writes
// nothing outside the process.
//
// What a seed fixes and what it does not is told in
// docs/design/0006-simulation.md.
package cluster

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"skiff.dev/skiff/internal/apiserver/request"
	"skiff.dev/skiff/internal/app/controlplane"
	"skiff.dev/skiff/internal/client"
	"skiff.dev/skiff/internal/resources/core"
	"skiff.dev/skiff/internal/store"
	"skiff.dev/skiff/internal/store/mem"
)

// Config is what a cluster starts with.
type Config struct {
	// Seed fixes what is drawn: how long things take on the nodes, how the
	// scheduler breaks ties.
	Seed uint64
	// Nodes is how many pretended nodes there are.
	Nodes int
	// Verify makes the caches check that nobody changes a shared object. It
	// encodes every object at every read: for small clusters.
	Verify bool
	// Disturb is what happens to the events to one part; nil for nothing.
	Disturb *Disturbance
	// Managers is how many processes of their own run the controllers and the
	// scheduler, of which at most one leads in each; with 0 both run beside the
	// API and without an election.
	Managers int
	// Log takes what the cluster logs; nil for nothing.
	Log io.Writer
}

var serviceCIDR = netip.MustParsePrefix("10.96.0.0/16")

// keepHistory is how much history the store keeps, as in `skiff server`.
const keepHistory = 5 * time.Minute

// Cluster is a running cluster. Its methods are for the goroutine of the test.
type Cluster struct {
	// Nodes are the pretended nodes.
	Nodes []*Node
	// Managers are the processes of Config.Managers.
	Managers []*Manager

	t      *testing.T
	cfg    Config
	ctx    context.Context
	store  *mem.Store
	key    *ecdsa.PrivateKey
	fleet  *fleet
	check  *checker
	lock   chan struct{} // held by who starts or stops the server; holds a token when free
	server *server       // nil while it is down
	life   uint64        // how many servers there have been
	ledger ledger
	wg     sync.WaitGroup
}

// Run runs body with a cluster in a bubble of virtual time. When body returns,
// everything is stopped; breaches of invariants fail the test.
func Run(t *testing.T, cfg Config, body func(c *Cluster)) {
	t.Helper()
	was := slog.Default()
	defer slog.SetDefault(was)
	out := cfg.Log
	if out == nil {
		out = io.Discard
	}
	slog.SetDefault(slog.New(slog.NewTextHandler(out, nil)))
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(context.Background())
		c := &Cluster{t: t, cfg: cfg, ctx: ctx, store: mem.New(), key: key, lock: make(chan struct{}, 1)}
		c.lock <- struct{}{}
		c.check = newChecker(func(breach string) { t.Error(breach) })
		if cfg.Disturb != nil {
			c.check.lately = latelyLate
		}
		watch, err := c.store.Watch(ctx, "/registry/", 0)
		if err != nil {
			t.Fatal(err)
		}
		c.fleet = newFleet(cfg)
		c.Nodes = c.fleet.nodes
		for i := range cfg.Managers {
			c.Managers = append(c.Managers, newManager(c, i))
		}
		done := make(chan struct{}, 2)
		go func() { c.check.run(ctx, watch); done <- struct{}{} }()
		go func() { c.fleet.run(ctx); done <- struct{}{} }()
		defer func() {
			c.wg.Wait()
			c.Kill()
			synctest.Wait() // let the checker read the last revisions
			cancel()
			<-done
			<-done
			if err := c.store.Close(); err != nil {
				t.Error(err)
			}
		}()
		c.Start()
		body(c)
	})
}

// Start starts the server, if it is down: the API first, then the controllers
// and the scheduler, as in `skiff server`.
func (c *Cluster) Start() {
	<-c.lock
	defer func() { c.lock <- struct{}{} }()
	if c.server != nil {
		return
	}
	c.life++
	s, err := c.open()
	if err != nil {
		c.t.Errorf("starting the API server: %v", err)
		return
	}
	c.server = s
	c.fleet.connect(s.plane, s.done)
	for _, p := range s.parts {
		s.run(p)
	}
	for _, m := range c.Managers {
		s.wg.Go(func() { m.run(s) })
	}
}

// Kill ends the server as kill -9 does. Nothing that it was about to write is
// written any more.
func (c *Cluster) Kill() {
	<-c.lock
	defer func() { c.lock <- struct{}{} }()
	if c.server != nil {
		c.server.kill()
		c.server = nil
	}
}

// KillInCommit has the server killed in its n-th commit from now, after that
// has been made or instead of it, and started again after the time down. If the
// commit does not come within a minute the server is killed without one. It
// does not wait for any of this.
func (c *Cluster) KillInCommit(n int, after bool, down time.Duration) {
	<-c.lock
	s := c.server
	c.lock <- struct{}{}
	if s == nil {
		return
	}
	s.fence.killAt(n, after)
	c.wg.Go(func() {
		select {
		case <-s.fence.killed:
		case <-time.After(time.Minute):
		}
		c.Kill()
		time.Sleep(down)
		c.Start()
	})
}

// open starts an API server on what the store has.
func (c *Cluster) open() (*server, error) {
	ctx, cancel := context.WithCancel(c.ctx)
	s := &server{t: c.t, fence: newFence(c.store, &c.ledger), ctx: ctx, cancel: cancel, done: ctx.Done()}
	rights, err := roles()
	if err != nil {
		cancel()
		return nil, err
	}
	s.plane, err = controlplane.Start(ctx, controlplane.Config{
		Store: s.fence, Issuer: "https://kubernetes.default.svc", ServiceAccountKey: c.key,
		Services: core.ServiceConfig{
			CIDRs: []netip.Prefix{serviceCIDR}, FirstNodePort: 30000, LastNodePort: 32767,
		},
		Roles:              rights,
		VerifyImmutability: c.cfg.Verify,
	})
	if err != nil {
		cancel()
		return nil, err
	}
	if err := s.plane.Bootstrap(ctx); err != nil {
		s.kill()
		return nil, fmt.Errorf("making the bootstrap objects: %w", err)
	}
	s.wg.Go(func() {
		store.History{Store: s.fence, Keep: keepHistory, Log: slog.Default()}.Run(ctx)
	})
	if c.cfg.Managers > 0 {
		return s, nil
	}
	events := client.NewRecorder(managerClient(s.plane), "controller-manager", "")
	s.wg.Go(func() { _ = events.Run(ctx) }) // returns nil only
	if err = s.makeParts(c.cfg, events, c.cfg.Seed^c.life); err != nil {
		s.kill()
		return nil, err
	}
	return s, nil
}

// Client returns a client that may do everything, of the server that runs now;
// nil while none does.
func (c *Cluster) Client() *client.Client {
	<-c.lock
	defer func() { c.lock <- struct{}{} }()
	if c.server == nil {
		return nil
	}
	return admin(c.server.plane)
}

func admin(cp *controlplane.ControlPlane) *client.Client {
	return cp.Client(&request.User{Name: "admin", Groups: []string{request.GroupMasters, request.GroupAuthenticated}}, "test")
}

// Do has f done by the server, trying again until it succeeds: users do not
// give up. After two minutes the test fails.
func (c *Cluster) Do(what string, f func(ctx context.Context, api *client.Client) error) {
	c.t.Helper()
	var err error
	for end := time.Now().Add(2 * time.Minute); time.Now().Before(end); time.Sleep(500 * time.Millisecond) {
		api := c.Client()
		if api == nil {
			continue
		}
		if err = f(c.ctx, api); err == nil {
			return
		}
	}
	c.t.Fatalf("%s: %v", what, err)
}

// Eventually waits until f finds nothing wrong, looking every second of virtual
// time. If it still does after limit, the test fails with what f found last.
func (c *Cluster) Eventually(limit time.Duration, what string, f func(ctx context.Context, api *client.Client) error) {
	c.t.Helper()
	var err error
	for end := time.Now().Add(limit); ; time.Sleep(time.Second) {
		if api := c.Client(); api != nil {
			if err = f(c.ctx, api); err == nil {
				return
			}
		}
		if !time.Now().Before(end) {
			c.t.Fatalf("%s: not within %v: %v", what, limit, err)
		}
	}
}

// Crash ends one controller or the scheduler in the middle of what it does;
// Restart starts it anew, knowing nothing. Both do nothing while the server is
// down, for then it is not there.
func (c *Cluster) Crash(part string) { c.withPart(part, (*server).stop) }

// Restart starts a crashed part again.
func (c *Cluster) Restart(part string) { c.withPart(part, (*server).run) }

func (c *Cluster) withPart(name string, do func(*server, *part)) {
	c.t.Helper()
	<-c.lock
	defer func() { c.lock <- struct{}{} }()
	if c.server == nil || c.server.fence.alive() != nil {
		return
	}
	for _, p := range c.server.parts {
		if p.name == name {
			do(c.server, p)
			return
		}
	}
	c.t.Fatalf("there is no part %q", name)
}
