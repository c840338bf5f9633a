package cluster

import (
	"context"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"

	"skiff.dev/skiff/internal/apiserver/authz/rbac"
	"skiff.dev/skiff/internal/apiserver/request"
	"skiff.dev/skiff/internal/app/controlplane"
	"skiff.dev/skiff/internal/client"
	"skiff.dev/skiff/internal/controller"
	"skiff.dev/skiff/internal/controllers"
	"skiff.dev/skiff/internal/resource"
	"skiff.dev/skiff/internal/scheduler"
)

// server is one incarnation of the server process: the API and the parts that
// live in the same process.
type server struct {
	t      *testing.T
	fence  *fence
	plane  *controlplane.ControlPlane
	ctx    context.Context
	cancel context.CancelFunc
	done   <-chan struct{}
	wg     sync.WaitGroup
	parts  []*part
}

// part is a controller or the scheduler. start makes it anew, without memory.
type part struct {
	name  string
	start func() (run func(context.Context) error, err error)
	// While it runs:
	cancel context.CancelFunc
	ended  chan struct{}
}

// kill ends everything; nothing reaches the store any more.
func (s *server) kill() {
	s.fence.kill()
	s.cancel()
	s.plane.Close()
	s.wg.Wait()
}

// run starts p if it is not running.
func (s *server) run(p *part) {
	if p.cancel != nil {
		return
	}
	run, err := p.start()
	if err != nil {
		s.t.Errorf("%s: %v", p.name, err)
		return
	}
	ctx, cancel := context.WithCancel(s.ctx)
	p.cancel, p.ended = cancel, make(chan struct{})
	ended := p.ended
	s.wg.Go(func() {
		defer close(ended)
		if err := run(ctx); err != nil && ctx.Err() == nil && s.fence.alive() == nil {
			s.t.Errorf("%s ended: %v", p.name, err)
		}
	})
}

// stop ends p and waits for it.
func (s *server) stop(p *part) {
	if p.cancel == nil {
		return
	}
	p.cancel()
	<-p.ended
	p.cancel = nil
}

// way is how a part's requests go to the server.
type way func(client.Transport) client.Transport

func direct(t client.Transport) client.Transport { return t }

// controllersOf makes every controller. Without a control plane they can be asked
// what they are called and what they need, but not run.
func controllersOf(cp *controlplane.ControlPlane, by way, events client.Events) ([]controllers.Controller, error) {
	d := controllers.Default()
	d.Client = func(account string) *client.Client {
		if cp == nil {
			return nil
		}
		return client.New(by(cp.Controller(strings.TrimSuffix(account, accountSuffix)).Transport))
	}
	d.Events = events
	d.Resources = resourcesOf(cp)
	d.RootCA = []byte("pretended")
	d.Aggregate = rbac.Aggregate
	d.NodeIPAM.Cluster = []netip.Prefix{netip.MustParsePrefix("10.128.0.0/12")}
	d.NodeIPAM.Services = []netip.Prefix{serviceCIDR}
	return controllers.All(d)
}

const accountSuffix = "-controller"

// roles are the rights that the controllers declare.
func roles() (roles []controlplane.Role, err error) {
	all, err := controllersOf(nil, direct, nil)
	for _, c := range all {
		roles = append(roles, controlplane.Role{
			Account: strings.TrimSuffix(c.Account, accountSuffix), Controller: c.Name(), Rules: c.Rules(),
		})
	}
	return roles, err
}

const schedulerName = "scheduler"

// Parts returns the names of what Crash can crash: the controllers, and the
// scheduler.
func Parts() ([]string, error) {
	all, err := controllersOf(nil, direct, nil)
	return append(controllers.Names(all), schedulerName), err
}

// makeParts makes everything that runs beside the API.
func (s *server) makeParts(cfg Config, events client.Events, seed uint64) error {
	names, err := Parts()
	for _, name := range names {
		by := direct
		if d := cfg.Disturb; d != nil && d.Part == name {
			by = func(t client.Transport) client.Transport { return newFeeds(s.ctx, &s.wg, t, d.tell) }
		}
		if name == schedulerName {
			s.parts = append(s.parts, &part{name: name, start: func() (func(context.Context) error, error) { return newScheduler(s.plane, by, seed) }})
			continue
		}
		s.parts = append(s.parts, &part{name: name, start: func() (func(context.Context) error, error) {
			// All are made for the one, so that none can be forgotten here.
			made, err := controllersOf(s.plane, by, events)
			if err != nil {
				return nil, err
			}
			i := slices.IndexFunc(made, func(c controllers.Controller) bool { return c.Name() == name })
			return made[i].Run, nil
		}})
	}
	return err
}

// resourcesOf lists what the server stores, as discovery would.
func resourcesOf(cp *controlplane.ControlPlane) controller.Resources {
	return func(context.Context) (all []controller.Resource, err error) {
		for _, r := range cp.Engine.Resources() {
			info := r.Info()
			if !info.Virtual && info.Hub.Empty() {
				all = append(all, controller.Resource{
					GroupVersionResource: info.Name.GVR(), Kind: info.Name.Kind, Namespaced: info.Scope == resource.Namespaced,
				})
			}
		}
		return all, nil
	}
}

func newScheduler(cp *controlplane.ControlPlane, by way, seed uint64) (func(context.Context) error, error) {
	c := client.New(by(schedulerClient(cp).Transport))
	events := client.NewRecorder(c, "default-scheduler", "")
	s, err := scheduler.New(c, scheduler.Config{Events: events, Random: rand.NewPCG(seed, 1)})
	if err != nil {
		return nil, err
	}
	return with(events, s.Run), nil
}

func schedulerClient(cp *controlplane.ControlPlane) *client.Client {
	return cp.Client(&request.User{Name: "system:kube-scheduler", Groups: []string{request.GroupAuthenticated}}, "kube-scheduler")
}

func managerClient(cp *controlplane.ControlPlane) *client.Client {
	return cp.Client(&request.User{Name: "system:kube-controller-manager", Groups: []string{request.GroupAuthenticated}}, "kube-controller-manager")
}

// with runs a part together with its recorder.
func with(events *client.Recorder, run func(context.Context) error) func(context.Context) error {
	return func(ctx context.Context) error {
		ctx, cancel := context.WithCancel(ctx)
		var wg sync.WaitGroup
		wg.Go(func() { _ = events.Run(ctx) }) // returns nil only
		err := run(ctx)
		cancel()
		wg.Wait()
		return err
	}
}
