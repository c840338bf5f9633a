package app

import (
	"context"
	"fmt"
	"os"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/sync/errgroup"
	baseconfig "k8s.io/component-base/config/v1alpha1"
	configv1 "k8s.io/kube-scheduler/config/v1"

	"skiff.dev/skiff/internal/client"
	"skiff.dev/skiff/internal/scheduler"
	schedulerconfig "skiff.dev/skiff/internal/scheduler/config"
)

const schedulerPort = 10259

func kubeSchedulerCommand() *cobra.Command {
	ignored := without{
		"authentication-tolerate-lookup-failure": "nothing is looked up",
		"pod-max-in-unschedulable-pods-duration": reasonPush,
	}
	ignored.add(withoutProxies)
	c := newComponent("kube-scheduler", schedulerPort, ignored)
	var file string
	return c.command("Decide where pods run, as upstream's kube-scheduler", func(f *pflag.FlagSet) {
		f.StringVar(&file, "config", "", "a KubeSchedulerConfiguration (kubescheduler.config.k8s.io/v1); flags win over it")
		c.clientFlags(f)
		c.serveFlags(f)
		c.leaderFlags(f)
	}, func(ctx context.Context, f *pflag.FlagSet) error {
		cfg, err := c.schedulerConfig(f, file)
		if err != nil {
			return err
		}
		cl, _, closer, err := c.open()
		if err != nil {
			return err
		}
		defer closer()
		return c.runLeading(ctx, cl, func(ctx context.Context, fenced fence) error {
			return runSchedulerOn(ctx, client.New(fenced(cl.Transport)), scheduler.Config{Configuration: cfg, Registry: c.registry()})
		})
	})
}

// schedulerConfig reads the file, whose settings hold where no flag says
// otherwise.
func (c *component) schedulerConfig(f *pflag.FlagSet, file string) (*configv1.KubeSchedulerConfiguration, error) {
	if file == "" {
		return schedulerconfig.Default(), nil
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("--config: %w", err)
	}
	cfg, err := schedulerconfig.Parse(data)
	if err != nil {
		return nil, fmt.Errorf("--config %s: %w", file, err)
	}
	if c.kubeconfig == "" {
		c.kubeconfig = cfg.ClientConnection.Kubeconfig
	}
	c.leaderFrom(f, &cfg.LeaderElection)
	return cfg, nil
}

// leaderFrom takes what a configuration file says about leader election.
func (c *component) leaderFrom(f *pflag.FlagSet, l *baseconfig.LeaderElectionConfiguration) {
	if l.LeaderElect != nil && !f.Changed("leader-elect") {
		c.lead.LeaderElect = *l.LeaderElect
	}
	if d := l.LeaseDuration.Duration; d > 0 && !f.Changed("leader-elect-lease-duration") {
		c.lead.LeaseDuration = d
	}
	if d := l.RenewDeadline.Duration; d > 0 && !f.Changed("leader-elect-renew-deadline") {
		c.lead.RenewDeadline = d
	}
	if d := l.RetryPeriod.Duration; d > 0 && !f.Changed("leader-elect-retry-period") {
		c.lead.RetryPeriod = d
	}
	if l.ResourceLock != "" && !f.Changed("leader-elect-resource-lock") {
		c.lead.ResourceLock = l.ResourceLock
	}
	if l.ResourceNamespace != "" && !f.Changed("leader-elect-resource-namespace") {
		c.lead.ResourceNamespace = l.ResourceNamespace
	}
	if l.ResourceName != "" && !f.Changed("leader-elect-resource-name") {
		c.lead.ResourceName = l.ResourceName
	}
}

func runSchedulerOn(ctx context.Context, cl *client.Client, cfg scheduler.Config) error {
	events := client.NewRecorder(cl, "default-scheduler", "")
	cfg.Events = events
	sched, err := scheduler.New(cl, cfg)
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return events.Run(ctx) })
	g.Go(func() error { return sched.Run(ctx) })
	return g.Wait()
}
