package cluster

import (
	"context"
	"math/rand/v2"
	"sync"
	"testing"

	"skiff.dev/skiff/internal/apiserver/request"
	"skiff.dev/skiff/internal/app/controlplane"
	"skiff.dev/skiff/internal/client"
	"skiff.dev/skiff/internal/controller"
	"skiff.dev/skiff/internal/controllers/deployment"
	"skiff.dev/skiff/internal/controllers/endpoints"
	"skiff.dev/skiff/internal/controllers/endpointslice"
	"skiff.dev/skiff/internal/controllers/namespace"
	"skiff.dev/skiff/internal/controllers/nodelifecycle"
	"skiff.dev/skiff/internal/controllers/podgc"
	"skiff.dev/skiff/internal/controllers/replicaset"
	"skiff.dev/skiff/internal/controllers/rootca"
	"skiff.dev/skiff/internal/controllers/serviceaccount"
	"skiff.dev/skiff/internal/controllers/tainteviction"
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

// parts are everything that runs beside the API.
func parts(cp *controlplane.ControlPlane, seed uint64) []*part {
	var all []*part
	for _, name := range partNames {
		if name == schedulerName {
			all = append(all, &part{name: name, start: func() (func(context.Context) error, error) { return newScheduler(cp, seed) }})
			continue
		}
		all = append(all, &part{name: name, start: func() (func(context.Context) error, error) {
			c := cp.Controller(name)
			events := client.NewRecorder(c, name+"-controller", "")
			return with(events, newController(name, c, events, resourcesOf(cp)).Run), nil
		}})
	}
	return all
}

const schedulerName = "scheduler"

// partNames are the accounts of the controllers, and the scheduler.
var partNames = []string{
	"deployment", "replicaset", "endpoint", "endpointslice", "namespace", "service-account", "root-ca-cert-publisher",
	"node", "taint-eviction", "pod-garbage-collector", schedulerName,
}

func newController(name string, c *client.Client, events client.Events, resources controller.Resources) *controller.Controller {
	switch name {
	case "deployment":
		return deployment.New(c, events)
	case "replicaset":
		return replicaset.New(c, events)
	case "endpoint":
		return endpoints.New(c, events)
	case "endpointslice":
		return endpointslice.New(c, events, endpointslice.DefaultMax)
	case "namespace":
		return namespace.New(c, resources)
	case "service-account":
		return serviceaccount.New(c)
	case "root-ca-cert-publisher":
		return rootca.New(c, []byte("pretended"))
	case "node":
		return nodelifecycle.New(c, events, nodelifecycle.Default())
	case "taint-eviction":
		return tainteviction.New(c, events)
	case "pod-garbage-collector":
		return podgc.New(c, finishedPods)
	}
	panic("no controller " + name)
}

// finishedPods is how many finished pods may lie about.
const finishedPods = 12500

// roles are the rights that the controllers declare.
func roles() (all []controlplane.Role) {
	for _, name := range partNames {
		if name != schedulerName {
			all = append(all, controlplane.Role{Account: name, Controller: name, Rules: newController(name, nil, nil, nil).Rules()})
		}
	}
	return all
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

func newScheduler(cp *controlplane.ControlPlane, seed uint64) (func(context.Context) error, error) {
	c := cp.Client(&request.User{Name: "system:kube-scheduler", Groups: []string{request.GroupAuthenticated}}, "kube-scheduler")
	events := client.NewRecorder(c, "default-scheduler", "")
	s, err := scheduler.New(c, scheduler.Config{Events: events, Random: rand.NewPCG(seed, 1)})
	if err != nil {
		return nil, err
	}
	return with(events, s.Run), nil
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
