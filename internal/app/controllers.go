package app

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/util/uuid"

	"skiff.dev/skiff/internal/apiserver/authz/rbac"
	"skiff.dev/skiff/internal/apiserver/request"
	"skiff.dev/skiff/internal/app/controlplane"
	"skiff.dev/skiff/internal/client"
	"skiff.dev/skiff/internal/controller"
	"skiff.dev/skiff/internal/controllers/bootstraptoken"
	"skiff.dev/skiff/internal/controllers/clusterrole"
	"skiff.dev/skiff/internal/controllers/csr"
	"skiff.dev/skiff/internal/controllers/deployment"
	"skiff.dev/skiff/internal/controllers/endpoints"
	"skiff.dev/skiff/internal/controllers/endpointslice"
	"skiff.dev/skiff/internal/controllers/garbagecollector"
	"skiff.dev/skiff/internal/controllers/namespace"
	"skiff.dev/skiff/internal/controllers/nodeipam"
	"skiff.dev/skiff/internal/controllers/nodelifecycle"
	"skiff.dev/skiff/internal/controllers/podgc"
	"skiff.dev/skiff/internal/controllers/replicaset"
	"skiff.dev/skiff/internal/controllers/rootca"
	"skiff.dev/skiff/internal/controllers/serviceaccount"
	"skiff.dev/skiff/internal/controllers/tainteviction"
	"skiff.dev/skiff/internal/leaderelection"
	"skiff.dev/skiff/internal/pki"
	"skiff.dev/skiff/internal/resource"
	"skiff.dev/skiff/internal/scheduler"
)

// An account is a service account and a controller that runs under it.
type account struct {
	name       string
	controller *controller.Controller
}

// controllerParts is what controllers are made of, wherever they run.
type controllerParts struct {
	ipam      nodeipam.Config
	lifecycle nodelifecycle.Config
	rootCA    []byte        // PEM
	signer    csr.Authority
	signFor   time.Duration
	threshold int // of terminated pods
	served    controller.Resources
}

// controllers makes all controllers over the clients that of returns, by their
// accounts.
func (s *server) controllers(of func(name string) *client.Client, events client.Events) ([]account, error) {
	return makeControllers(controllerParts{
		ipam: nodeipam.Config{
			Cluster:  []netip.Prefix{netip.MustParsePrefix(s.cfg.ClusterCIDR)},
			Services: []netip.Prefix{netip.MustParsePrefix(s.cfg.ServiceCIDR)},
			Bits4:    24, Bits6: 64,
		},
		lifecycle: nodelifecycle.Default(), threshold: podgc.DefaultThreshold,
		rootCA: pki.EncodeCert(s.cluster.CA.Cert), signer: s.cluster.CA, signFor: pki.DefaultLifetime, served: s.served,
	}, of, events)
}

func makeControllers(p controllerParts, of func(name string) *client.Client, events client.Events) ([]account, error) {
	ipam, err := nodeipam.New(of("node"), client.As(events, "cidrAllocator"), p.ipam)
	if err != nil {
		return nil, err
	}
	return []account{
		{"deployment", deployment.New(of("deployment"), client.As(events, "deployment-controller"))},
		{"replicaset", replicaset.New(of("replicaset"), client.As(events, "replicaset-controller"))},
		{"endpointslice", endpointslice.New(of("endpointslice"), client.As(events, "endpoint-slice-controller"), endpointslice.DefaultMax)},
		{"endpoint", endpoints.New(of("endpoint"), client.As(events, "endpoint-controller"))},
		{"service-account", serviceaccount.New(of("service-account"))},
		{"root-ca-cert-publisher", rootca.New(of("root-ca-cert-publisher"), p.rootCA)},
		{"namespace", namespace.New(of("namespace"), p.served)},
		{"node", ipam},
		{"node", nodelifecycle.New(of("node"), client.As(events, "node-controller"), p.lifecycle)},
		{"node", tainteviction.New(of("node"), client.As(events, "taint-eviction-controller"))},
		{"pod-garbage-collector", podgc.New(of("pod-garbage-collector"), p.threshold)},
		{"generic-garbage-collector", garbagecollector.New(of("generic-garbage-collector"), client.As(events, "garbage-collector-controller"), p.served)},
		{"clusterrole-aggregation", clusterrole.New(of("clusterrole-aggregation"), rbac.Aggregate)},
		{"certificate", csr.NewApprover(of("certificate"))},
		{"certificate", csr.NewSigner(of("certificate"), p.signer, p.signFor)},
		{"certificate", csr.NewCleaner(of("certificate"))},
		{"token-cleaner", bootstraptoken.New(of("token-cleaner"))},
	}, nil
}

// served lists what the API serves, for the controllers that look at all of it.
func (s *server) served(context.Context) (found []controller.Resource, err error) {
	for _, r := range s.cp.Engine.Resources() {
		if i := r.Info(); !i.Virtual {
			found = append(found, controller.Resource{GroupVersionResource: i.Name.GVR(), Kind: i.Name.Kind, Namespaced: i.Scope == resource.Namespaced})
		}
	}
	return found, nil
}

// controllerRoles are the rights that the controllers declare, by account.
func (s *server) controllerRoles() (roles []controlplane.Role, err error) {
	all, err := s.controllers(func(string) *client.Client { return nil }, nil)
	for _, a := range all {
		roles = append(roles, controlplane.Role{Account: a.name, Controller: a.controller.Name(), Rules: a.controller.Rules()})
	}
	return roles, err
}

// startControllers runs the controllers and the scheduler on in-process
// clients, each under its own identity, once the policy that allows them is there.
func (s *server) startControllers(ctx context.Context, g *errgroup.Group) {
	g.Go(func() error {
		select {
		case <-s.cp.Ready():
		case <-ctx.Done():
			return nil
		}
		g.Go(func() error { return s.lead(ctx, "kube-controller-manager", s.runControllers) })
		return s.lead(ctx, "kube-scheduler", s.runScheduler)
	})
}

// A fence lets writes through only while this process leads.
type fence func(client.Transport) client.Transport

// lead runs a component that only one process of the cluster may run at a
// time. The store inside this process has no other server, so that its lock on
// the data directory is election enough; on an etcd elsewhere there may be more.
func (s *server) lead(ctx context.Context, name string, run func(context.Context, fence) error) error {
	if len(s.cfg.EtcdServers) == 0 {
		return run(ctx, func(t client.Transport) client.Transport { return t })
	}
	host, err := os.Hostname()
	if err != nil {
		return fmt.Errorf("reading the host's name: %w", err)
	}
	c := s.component(name)
	events := client.NewRecorder(c, name, host)
	elector, err := leaderelection.New(c, events, leaderelection.Default(name, host+"_"+string(uuid.NewUUID())))
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return events.Run(ctx) })
	g.Go(func() error {
		return elector.Run(ctx, func(ctx context.Context) error { return run(ctx, elector.Fence) })
	})
	return g.Wait()
}

// component is the client of a component under its own name.
func (s *server) component(name string) *client.Client {
	return s.cp.Client(&request.User{Name: "system:" + name, Groups: []string{request.GroupAuthenticated}}, name)
}

func (s *server) runControllers(ctx context.Context, f fence) error {
	events := client.NewRecorder(s.component("kube-controller-manager"), "controller-manager", "")
	all, err := s.controllers(func(account string) *client.Client { return client.New(f(s.cp.Controller(account))) }, events)
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return events.Run(ctx) })
	for _, a := range all {
		g.Go(func() error { return a.controller.Run(ctx) })
	}
	return g.Wait()
}

func (s *server) runScheduler(ctx context.Context, f fence) error {
	c := client.New(f(s.component("kube-scheduler")))
	events := client.NewRecorder(c, "default-scheduler", "")
	sched, err := scheduler.New(c, scheduler.Config{Events: events})
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return events.Run(ctx) })
	g.Go(func() error { return sched.Run(ctx) })
	return g.Wait()
}
