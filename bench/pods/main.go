// Command pods measures pod start on real nodes: from the request to create a
// pod until its status says that it runs and is ready, one pod at a time and
// many at once. The image must be on the node. With --keep it makes pods that
// stay, for measuring a node with pods on it; with --cgroup it also tells what a
// pod costs in CPU time, in all processes of the node.
//
//	go run ./bench/pods --kubeconfig ~/.kube/config
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"time"

	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"skiff.dev/skiff/bench/cluster"
	"skiff.dev/skiff/bench/load"
	"skiff.dev/skiff/bench/measure"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "bench/pods:", err)
		os.Exit(1)
	}
}

type bench struct {
	pods load.Pods
	// group is a control group whose CPU time is told; none if empty.
	group string
	out   measure.Results
}

func run(ctx context.Context) (err error) {
	b := bench{pods: load.Pods{Namespace: "bench-pods"}}
	kubeconfig := pflag.String("kubeconfig", os.Getenv("KUBECONFIG"), "cluster to measure")
	single := pflag.Int("single", 30, "pods to start one at a time")
	burst := pflag.Int("burst", 50, "pods to start at once")
	keep := pflag.Int("keep", 0, "only start that many pods and leave them")
	patience := pflag.Duration("patience", 2*time.Minute, "how long everything may take")
	pflag.StringVar(&b.group, "cgroup", "", "directory of the control group that is charged: the node's")
	asJSON := pflag.Bool("json", false, "print JSON lines")
	pflag.StringVar(&b.pods.Image, "image", cluster.PauseImage, "image to run; it must be on the nodes")
	pflag.Parse()
	if b.pods.Client, err = load.Dial(*kubeconfig, 2); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, *patience)
	defer cancel()
	if err := cluster.WaitNode(ctx, b.pods.Client, *patience); err != nil {
		return err
	}
	if err := b.pods.Prepare(ctx); err != nil {
		return err
	}
	if *keep > 0 {
		_, _, err := b.pods.Start(ctx, *keep)
		return err
	}
	defer func() { err = errors.Join(err, b.clean(context.WithoutCancel(ctx))) }()
	if err := b.one(ctx, *single); err != nil {
		return err
	}
	if err := b.many(ctx, *burst); err != nil {
		return err
	}
	return b.out.Write(os.Stdout, *asJSON)
}

func (b *bench) clean(ctx context.Context) error { return b.pods.Client.DeleteAll(ctx, b.pods.Path()) }

func (b *bench) one(ctx context.Context, n int) error {
	var all measure.Times
	before, err := b.cpu()
	if err != nil {
		return err
	}
	for range n {
		_, took, err := b.pods.Start(ctx, 1)
		if err != nil {
			return err
		}
		all.Add(took)
		if err := b.clean(ctx); err != nil {
			return err
		}
	}
	b.out.Add("pods.single.p50", "s", all.Percentile(50), "one pod at a time: create to Running and ready, median")
	b.out.Add("pods.single.p99", "s", all.Percentile(99), "one pod at a time, 99th percentile of %d", n)
	return b.spent(before, "pods.single.cpu", n, "one pod at a time: CPU of the whole node per pod, started and removed")
}

// cpu is what the charged group has used so far.
func (b *bench) cpu() (float64, error) {
	if b.group == "" {
		return 0, nil
	}
	return measure.GroupCPU(b.group)
}

// spent notes the CPU time since before, for each of n pods.
func (b *bench) spent(before float64, key string, n int, text string) error {
	after, err := b.cpu()
	if err == nil && b.group != "" {
		b.out.Add(key, "s", (after-before)/float64(n), "%s", text)
	}
	return err
}

func (b *bench) many(ctx context.Context, n int) error {
	before, err := b.cpu()
	if err != nil {
		return err
	}
	times, took, err := b.pods.Start(ctx, n)
	if err != nil {
		return err
	}
	b.out.Add("pods.burst.p50", "s", times.Percentile(50), "%d pods at once: create to Running and ready, median", n)
	b.out.Add("pods.burst.p99", "s", times.Percentile(99), "%d pods at once, 99th percentile", n)
	b.out.Add("pods.burst.rate", "pod/s", float64(n)/took.Seconds(), "%d pods at once", n)
	return b.spent(before, "pods.burst.cpu", n, "many pods at once: CPU of the whole node per pod, started")
}
