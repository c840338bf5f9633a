// Command schedule measures scheduling through the API on pretended nodes,
// twice: pods are created while the scheduler is at work, from the first
// creation to the last binding; then pods that are all there already, but for
// which there is no node, are let in. No kubelet is needed, and none may be
// there that would run the pods. It removes what it has made; --alone=false
// leaves the second load out, and --clean=false what was made where it is, for
// clusters that are thrown away.
//
//	go run ./bench/schedule --kubeconfig ~/.kube/config --nodes 1000 --pods 5000
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
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff.dev/skiff/bench/load"
	"skiff.dev/skiff/bench/measure"
)

const namespace = "bench-schedule"

// pods is where they are.
const pods = "/api/v1/namespaces/" + namespace + "/pods"

// label marks the pretended nodes; the pods select it, so that they land on no other.
const label = "bench.skiff.dev/pretended"

type bench struct {
	client      *load.Client
	watcher     *load.Client
	pids        []int
	nodes, pods int
	concurrency int
	// quiet is how long no node may have changed before the load begins.
	quiet time.Duration
	out   measure.Results
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "bench/schedule:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) (err error) {
	var b bench
	kubeconfig := pflag.String("kubeconfig", os.Getenv("KUBECONFIG"), "cluster to measure")
	list := pflag.String("pids", "", "processes whose CPU time is told")
	patience := pflag.Duration("patience", 5*time.Minute, "how long scheduling may take")
	pflag.DurationVar(&b.quiet, "quiet", 0, "begin when no node has changed for this long: controllers give new nodes ranges of addresses and take taints away")
	alone := pflag.Bool("alone", true, "also measure the scheduling of pods that are all there already")
	clean := pflag.Bool("clean", true, "remove the pods and nodes")
	asJSON := pflag.Bool("json", false, "print JSON lines")
	pflag.IntVar(&b.nodes, "nodes", 5000, "nodes to pretend")
	pflag.IntVar(&b.pods, "pods", 10000, "pods to schedule")
	pflag.IntVar(&b.concurrency, "concurrency", 64, "pods being created at a time")
	pflag.Parse()
	if b.pids, err = measure.ParsePIDs(*list); err != nil {
		return err
	}
	if b.client, err = load.Dial(*kubeconfig, 4); err != nil {
		return err
	}
	if b.watcher, err = load.Dial(*kubeconfig, 1); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, *patience)
	defer cancel()
	if err := b.client.Namespace(ctx, namespace); err != nil {
		return err
	}
	// Without it pods are not admitted; its controller may be quicker, or missing.
	if err := b.client.Account(ctx, namespace); err != nil {
		return err
	}
	if *clean {
		defer func() { err = errors.Join(err, b.clean(context.WithoutCancel(ctx))) }()
	}
	if err := b.register(ctx); err != nil {
		return fmt.Errorf("registering nodes: %w", err)
	}
	if err := b.settle(ctx); err != nil {
		return fmt.Errorf("waiting for the nodes to settle: %w", err)
	}
	if err := b.schedule(ctx); err != nil {
		return err
	}
	if !*alone {
		return b.out.Write(os.Stdout, *asJSON)
	}
	if err := b.client.DeleteAll(ctx, pods); err != nil {
		return fmt.Errorf("removing the pods: %w", err)
	}
	if err := b.alone(ctx); err != nil {
		return fmt.Errorf("scheduling alone: %w", err)
	}
	return b.out.Write(os.Stdout, *asJSON)
}

func nodeName(i int) string { return fmt.Sprintf("bench-node-%05d", i) }

func (b *bench) register(ctx context.Context) error {
	now := metav1.Now()
	much := corev1.ResourceList{
		corev1.ResourceCPU: resource.MustParse("16"), corev1.ResourceMemory: resource.MustParse("64Gi"),
		corev1.ResourceEphemeralStorage: resource.MustParse("100Gi"), corev1.ResourcePods: resource.MustParse("110"),
	}
	_, took, err := load.Parallel(ctx, b.nodes, b.concurrency, func(ctx context.Context, i int) error {
		body, err := load.Encode(load.Protobuf, &corev1.Node{
			ObjectMeta: metav1.ObjectMeta{Name: nodeName(i), Labels: map[string]string{label: "", corev1.LabelHostname: nodeName(i)}},
			Status: corev1.NodeStatus{
				Capacity: much, Allocatable: much,
				Conditions: []corev1.NodeCondition{{
					Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "Pretended",
					LastHeartbeatTime: now, LastTransitionTime: now,
				}},
			},
		})
		if err != nil {
			return err
		}
		_, err = b.client.Discard(ctx, "POST", "/api/v1/nodes", load.Protobuf, body)
		return err
	})
	if err != nil {
		return err
	}
	b.out.Add("schedule.register", "op/s", float64(b.nodes)/took.Seconds(), "nodes registered")
	return nil
}

// settle waits until no pretended node has changed for a while.
func (b *bench) settle(ctx context.Context) error {
	if b.quiet == 0 {
		return nil
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	// A change begins the wait anew; the timer ends it.
	timer := time.AfterFunc(b.quiet, func() { cancel(errDone) })
	defer timer.Stop()
	start := time.Now()
	_, err := b.watcher.Follow(ctx, "/api/v1/nodes?watch=1&resourceVersion=0&labelSelector="+label, load.Protobuf,
		func() {}, func([]byte) error { timer.Reset(b.quiet); return nil })
	if cause := context.Cause(ctx); cause == nil || !errors.Is(cause, errDone) {
		return errors.Join(err, cause)
	}
	b.out.Add("schedule.settle", "s", (time.Since(start) - b.quiet).Seconds(), "nodes registered to the last change of one by a controller")
	return nil
}

func (b *bench) pod() *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "pod-", Labels: map[string]string{"app": "bench"}},
		Spec: corev1.PodSpec{
			NodeSelector: map[string]string{label: ""},
			// Whoever looks after nodes may notice that these have no kubelet.
			Tolerations: []corev1.Toleration{{Operator: corev1.TolerationOpExists}},
			Containers: []corev1.Container{{
				Name: "main", Image: "registry.example/none",
				Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{
					corev1.ResourceCPU: resource.MustParse("100m"), corev1.ResourceMemory: resource.MustParse("100Mi"),
				}},
			}},
		},
	}
}

func (b *bench) schedule(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	before, err := measure.Of(b.pids...)
	if err != nil {
		return err
	}
	opened, bound := make(chan struct{}), make(chan time.Time, 1)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		left := b.pods
		done := errors.New("done")
		_, err := b.watcher.Follow(ctx, pods+"?watch=1&resourceVersion=0&fieldSelector=spec.nodeName%21%3D",
			load.Protobuf, func() { close(opened) }, func(event []byte) error {
				if left--; left == 0 {
					bound <- time.Now()
					return done
				}
				return nil
			})
		if !errors.Is(err, done) {
			cancel(fmt.Errorf("waiting for pods: %w, %d not bound", err, left))
		}
	}()
	defer func() { cancel(nil); <-watched }()
	select {
	case <-opened:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	body, err := load.Encode(load.Protobuf, b.pod())
	if err != nil {
		return err
	}
	start := time.Now()
	times, created, err := load.Parallel(ctx, b.pods, b.concurrency, func(ctx context.Context, _ int) error {
		_, err := b.client.Discard(ctx, "POST", pods, load.Protobuf, body)
		return err
	})
	if err != nil {
		return fmt.Errorf("creating pods: %w", err)
	}
	var end time.Time
	select {
	case end = <-bound:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	n := float64(b.pods)
	b.out.Add("schedule.rate", "pod/s", n/end.Sub(start).Seconds(), "first pod created to last pod bound, %d nodes, %d pods", b.nodes, b.pods)
	b.out.Add("schedule.create", "pod/s", n/created.Seconds(), "of that, creating them over HTTPS, %d at a time", b.concurrency)
	b.out.Add("schedule.create.p50", "s", times.Percentile(50), "creating a pod meanwhile, median")
	b.out.Add("schedule.lag", "s", end.Sub(start).Seconds()-created.Seconds(), "last pod created to last pod bound")
	if len(b.pids) == 0 {
		return nil
	}
	after, err := measure.Of(b.pids...)
	if err != nil {
		return err
	}
	b.out.Add("schedule.cpu", "s", (after.CPU-before.CPU)/n, "server CPU per pod, created and bound")
	b.out.Add("schedule.rss", "MiB", float64(after.RSS)/(1<<20), "resident memory with all of them")
	return nil
}

func (b *bench) clean(ctx context.Context) error {
	if err := b.client.DeleteAll(ctx, pods); err != nil {
		return fmt.Errorf("removing the pods: %w", err)
	}
	if err := b.client.DeleteAll(ctx, "/api/v1/nodes?labelSelector="+label); err != nil {
		return fmt.Errorf("removing the nodes: %w", err)
	}
	return nil
}
