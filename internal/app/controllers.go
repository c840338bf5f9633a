package app

import (
	"context"
	"net/netip"

	"golang.org/x/sync/errgroup"

	"skiff.dev/skiff/internal/apiserver/request"
	"skiff.dev/skiff/internal/app/controlplane"
	"skiff.dev/skiff/internal/client"
	"skiff.dev/skiff/internal/controller"
	"skiff.dev/skiff/internal/controllers/bootstraptoken"
	"skiff.dev/skiff/internal/controllers/csr"
	"skiff.dev/skiff/internal/controllers/deployment"
	"skiff.dev/skiff/internal/controllers/endpoints"
	"skiff.dev/skiff/internal/controllers/endpointslice"
	"skiff.dev/skiff/internal/controllers/namespace"
	"skiff.dev/skiff/internal/controllers/nodeipam"
	"skiff.dev/skiff/internal/controllers/nodelifecycle"
	"skiff.dev/skiff/internal/controllers/podgc"
	"skiff.dev/skiff/internal/controllers/replicaset"
	"skiff.dev/skiff/internal/controllers/rootca"
	"skiff.dev/skiff/internal/controllers/serviceaccount"
	"skiff.dev/skiff/internal/controllers/tainteviction"
	"skiff.dev/skiff/internal/pki"
	"skiff.dev/skiff/internal/resource"
	"skiff.dev/skiff/internal/scheduler"
)

// An account is a service account and a controller that runs under it.
type account struct {
	name       string
	controller *controller.Controller
}

// controllers makes all controllers over the clients that of returns, by their
// accounts.
func (s *server) controllers(of func(name string) *client.Client, events client.Events) ([]account, error) {
	ipam, err := nodeipam.New(of("node"), events, nodeipam.Config{
		Cluster:  []netip.Prefix{netip.MustParsePrefix(s.cfg.ClusterCIDR)},
		Services: []netip.Prefix{netip.MustParsePrefix(s.cfg.ServiceCIDR)},
		Bits4:    24, Bits6: 64,
	})
	if err != nil {
		return nil, err
	}
	return []account{
		{"deployment", deployment.New(of("deployment"), events)},
		{"replicaset", replicaset.New(of("replicaset"), events)},
		{"endpointslice", endpointslice.New(of("endpointslice"), events, endpointslice.DefaultMax)},
		{"endpoint", endpoints.New(of("endpoint"), events)},
		{"service-account", serviceaccount.New(of("service-account"))},
		{"root-ca-cert-publisher", rootca.New(of("root-ca-cert-publisher"), pki.EncodeCert(s.cluster.CA.Cert))},
		{"namespace", namespace.New(of("namespace"), s.served)},
		{"node", ipam},
		{"node", nodelifecycle.New(of("node"), events, nodelifecycle.Default())},
		{"node", tainteviction.New(of("node"), events)},
		{"pod-garbage-collector", podgc.New(of("pod-garbage-collector"), podgc.DefaultThreshold)},
		{"certificate", csr.NewApprover(of("certificate"))},
		{"certificate", csr.NewSigner(of("certificate"), s.cluster.CA, pki.DefaultLifetime)},
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
		events := client.NewRecorder(s.cp.Client(&request.User{Name: "system:kube-controller-manager", Groups: []string{request.GroupAuthenticated}},
			"kube-controller-manager"), "controller-manager", "")
		g.Go(func() error { return events.Run(ctx) })
		all, err := s.controllers(s.cp.Controller, events)
		if err != nil {
			return err
		}
		for _, a := range all {
			g.Go(func() error { return a.controller.Run(ctx) })
		}
		return s.runScheduler(ctx, g)
	})
}

func (s *server) runScheduler(ctx context.Context, g *errgroup.Group) error {
	c := s.cp.Client(&request.User{Name: "system:kube-scheduler", Groups: []string{request.GroupAuthenticated}}, "kube-scheduler")
	events := client.NewRecorder(c, "default-scheduler", "")
	g.Go(func() error { return events.Run(ctx) })
	sched, err := scheduler.New(c, scheduler.Config{Events: events})
	if err != nil {
		return err
	}
	return sched.Run(ctx)
}
