package app

import (
	"context"

	"golang.org/x/sync/errgroup"

	"skiff.dev/skiff/internal/apiserver/request"
	"skiff.dev/skiff/internal/client"
	"skiff.dev/skiff/internal/controllers/deployment"
	"skiff.dev/skiff/internal/scheduler"
)

// startControllers runs the controllers and the scheduler on in-process
// clients, each under its own identity, once the policy that allows them is there.
func (s *server) startControllers(ctx context.Context, g *errgroup.Group) {
	g.Go(func() error {
		select {
		case <-s.cp.Ready():
		case <-ctx.Done():
			return nil
		}
		events := client.NewRecorder(s.cp.Controller("deployment"), "deployment-controller", "")
		g.Go(func() error { return events.Run(ctx) })
		g.Go(func() error { return deployment.New(s.cp.Controller("deployment"), events).Run(ctx) })
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
