package app

import (
	"context"
	"fmt"
	"net/netip"
	"os"

	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/util/uuid"

	"skiff.dev/skiff/internal/apiserver/authz/rbac"
	"skiff.dev/skiff/internal/apiserver/request"
	"skiff.dev/skiff/internal/app/controlplane"
	"skiff.dev/skiff/internal/client"
	"skiff.dev/skiff/internal/controller"
	"skiff.dev/skiff/internal/controllers"
	"skiff.dev/skiff/internal/leaderelection"
	"skiff.dev/skiff/internal/pki"
	"skiff.dev/skiff/internal/resource"
	"skiff.dev/skiff/internal/scheduler"
)

// controllers makes all controllers over the clients that of returns.
func (s *server) controllers(of func(account string) *client.Client, events client.Events) ([]controllers.Controller, error) {
	d := controllers.Default()
	d.Client, d.Events, d.Resources, d.Aggregate = of, events, s.served, rbac.Aggregate
	d.RootCA, d.Signer = pki.EncodeCert(s.cluster.CA.Cert), s.cluster.CA
	d.NodeIPAM.Cluster = []netip.Prefix{netip.MustParsePrefix(s.cfg.ClusterCIDR)} // Validate has read them
	d.NodeIPAM.Services = []netip.Prefix{netip.MustParsePrefix(s.cfg.ServiceCIDR)}
	d.NodeLifecycle.Grace = s.cfg.NodeGrace
	return controllers.All(d)
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

// everyController returns all controllers there can be, to be asked for their
// names and rights; they cannot run.
func everyController() ([]controllers.Controller, error) {
	d := controllers.Default()
	d.Client = func(string) *client.Client { return nil }
	d.Signer = &pki.Authority{}
	d.NodeIPAM.Cluster = []netip.Prefix{netip.MustParsePrefix(Default().ClusterCIDR)}
	return controllers.All(d)
}

// declaredRoles are the rights that the controllers declare, by account.
func declaredRoles() (roles []controlplane.Role, err error) {
	all, err := everyController()
	for _, c := range all {
		roles = append(roles, controlplane.Role{Account: c.Account, Controller: c.Name(), Rules: c.Rules()})
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
	measure := controller.NewMetrics(s.metrics)
	for _, c := range all {
		c.Measure(measure)
		g.Go(func() error { return c.Run(ctx) })
	}
	return g.Wait()
}

func (s *server) runScheduler(ctx context.Context, f fence) error {
	return runSchedulerOn(ctx, client.New(f(s.component("kube-scheduler"))), scheduler.Config{Registry: s.metrics})
}
