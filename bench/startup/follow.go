package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/pflag"

	"skiff.dev/skiff/bench/cluster"
	"skiff.dev/skiff/bench/load"
	"skiff.dev/skiff/bench/measure"
)

// follower looks on while somebody else starts a cluster.
type follower struct {
	server, kubeconfig, group string
	since                     int64
	patience                  time.Duration
	out                       measure.Results
}

func (f *follower) flags() {
	pflag.StringVar(&f.server, "watch", "", "URL of a control plane that somebody else starts; nothing is started")
	pflag.StringVar(&f.kubeconfig, "kubeconfig", "", "with --watch: its kubeconfig, which may appear later")
	pflag.Int64Var(&f.since, "since", time.Now().UnixNano(), "with --watch: when its start began, in nanoseconds of Unix time")
	pflag.StringVar(&f.group, "cgroup", "", "with --watch: directory of the control group that is charged")
	pflag.DurationVar(&f.patience, "patience", 5*time.Minute, "with --watch: how long everything may take")
}

func (f *follower) follow(ctx context.Context, node bool) error {
	ctx, cancel := context.WithTimeout(ctx, f.patience)
	defer cancel()
	before := 0.0
	if f.group != "" {
		var err error
		if before, err = measure.GroupCPU(f.group); err != nil {
			return err
		}
	}
	if err := cluster.Await(ctx, f.server); err != nil {
		return fmt.Errorf("waiting for /readyz: %w", err)
	}
	if err := f.tell("startup.ready", "start to /readyz, fresh data", before); err != nil || !node {
		return err
	}
	if err := cluster.AwaitFile(ctx, f.kubeconfig); err != nil {
		return fmt.Errorf("waiting for the kubeconfig: %w", err)
	}
	client, err := load.Dial(f.kubeconfig, 1)
	if err != nil {
		return err
	}
	if err := cluster.WaitNode(ctx, client, f.patience); err != nil {
		return err
	}
	return f.tell("startup.node", "start to node Ready, fresh data", before)
}

// tell notes the time since the start, and what was spent meanwhile.
func (f *follower) tell(key, text string, before float64) error {
	f.out.Add(key, "s", time.Since(time.Unix(0, f.since)).Seconds(), "%s", text)
	if f.group == "" {
		return nil
	}
	after, err := measure.GroupCPU(f.group)
	if err == nil {
		f.out.Add(key+".cpu", "s", after-before, "%s: CPU of everything", text)
	}
	return err
}
