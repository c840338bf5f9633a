package app

import (
	"context"

	"golang.org/x/sync/errgroup"

	"skiff.dev/skiff/internal/apiserver/request"
	"skiff.dev/skiff/internal/app/controlplane"
	"skiff.dev/skiff/internal/client"
	"skiff.dev/skiff/internal/controller"
	"skiff.dev/skiff/internal/controllers/deployment"
	"skiff.dev/skiff/internal/controllers/endpoints"
	"skiff.dev/skiff/internal/controllers/endpointslice"
	"skiff.dev/skiff/internal/controllers/replicaset"
	"skiff.dev/skiff/internal/controllers/rootca"
	"skiff.dev/skiff/internal/controllers/serviceaccount"
	"skiff.dev/skiff/internal/pki"
	"skiff.dev/skiff/internal/scheduler"
)

// controllers makes all controllers over the clients that of returns, keyed by
// the service account under which each runs.
func (s *server) controllers(of func(name string) *client.Client, events client.Events) map[string]*controller.Controller {
	return map[string]*controller.Controller{
		"deployment":             deployment.New(of("deployment"), events),
		"replicaset":             replicaset.New(of("replicaset"), events),
		"endpointslice":          endpointslice.New(of("endpointslice"), events, endpointslice.DefaultMax),
		"endpoint":               endpoints.New(of("endpoint"), events),
		"service-account":        serviceaccount.New(of("service-account")),
		"root-ca-cert-publisher": rootca.New(of("root-ca-cert-publisher"), pki.EncodeCert(s.cluster.CA.Cert)),
	}
}

// controllerRoles are the rights that the controllers declare.
func (s *server) controllerRoles() (roles []controlplane.Role) {
	for account, c := range s.controllers(func(string) *client.Client { return nil }, nil) {
		roles = append(roles, controlplane.Role{Controller: account, Rules: c.Rules()})
	}
	return roles
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
		for _, c := range s.controllers(s.cp.Controller, events) {
			g.Go(func() error { return c.Run(ctx) })
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
