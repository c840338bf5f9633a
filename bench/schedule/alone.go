package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"

	"skiff.dev/skiff/bench/load"
	"skiff.dev/skiff/bench/measure"
)

// open is the label that lets the held pods onto a node.
const open = "bench.skiff.dev/open"

const (
	heldPods  = pods + "?watch=1&resourceVersion=0&labelSelector=app%3Dheld&fieldSelector=spec.nodeName%3D"
	boundPods = pods + "?watch=1&resourceVersion=0&labelSelector=app%3Dheld&fieldSelector=spec.nodeName%21%3D"
)

// alone measures the scheduler by itself. The pods ask for a label that no node
// has; when the scheduler has given up on all of them, all nodes get it. The
// labels are writes, too, one for each node: if pods are left when the last node
// has it, the rate at which these are bound is told as well.
func (b *bench) alone(ctx context.Context) error {
	if err := b.hold(ctx); err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	opened, times := make(chan struct{}), make(chan []time.Time, 1)
	go func() {
		var seen []time.Time
		_, err := b.watcher.Follow(ctx, boundPods, load.Protobuf, func() { close(opened) }, func([]byte) error {
			if seen = append(seen, time.Now()); len(seen) == b.pods {
				return errDone
			}
			return nil
		})
		if !errors.Is(err, errDone) {
			cancel(fmt.Errorf("waiting for pods: %w, %d bound", err, len(seen)))
		}
		times <- seen
	}()
	select {
	case <-opened:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	before, err := measure.Of(b.pids...)
	if err != nil {
		return err
	}
	start := time.Now()
	patch := fmt.Appendf(nil, `{"metadata":{"labels":{%q:""}}}`, open)
	_, _, err = load.Parallel(ctx, b.nodes, b.concurrency, func(ctx context.Context, i int) error {
		return b.client.Patch(ctx, "/api/v1/nodes/"+nodeName(i), patch)
	})
	if err != nil {
		return fmt.Errorf("letting the pods in: %w", err)
	}
	released := time.Now()
	seen := <-times
	if len(seen) < b.pods {
		return context.Cause(ctx)
	}
	return b.tellAlone(start, released, seen, before)
}

var errDone = errors.New("done")

func (b *bench) tellAlone(start, released time.Time, seen []time.Time, before measure.Usage) error {
	end := seen[len(seen)-1]
	after := 0
	for _, t := range seen {
		if t.After(released) {
			after++
		}
	}
	n := float64(b.pods)
	b.out.Add("schedule.alone.rate", "pod/s", n/end.Sub(start).Seconds(), "pods that are there already: first node labelled to last pod bound")
	b.out.Add("schedule.alone.release", "s", released.Sub(start).Seconds(), "of that, labelling %d nodes over HTTPS, %d at a time", b.nodes, b.concurrency)
	if after > b.pods/10 {
		b.out.Add("schedule.alone.rest", "pod/s", float64(after)/end.Sub(released).Seconds(), "the %d pods left then", after)
	}
	if len(b.pids) == 0 {
		return nil
	}
	now, err := measure.Of(b.pids...)
	if err != nil {
		return err
	}
	b.out.Add("schedule.alone.cpu", "s", (now.CPU-before.CPU)/n, "server CPU per pod, labels included")
	return nil
}

// hold creates pods that fit no node, and waits until the scheduler has said so
// of each.
func (b *bench) hold(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	held := b.pod()
	held.Labels["app"] = "held"
	held.Spec.NodeSelector[open] = ""
	body, err := load.Encode(load.Protobuf, held)
	if err != nil {
		return err
	}
	told := make(chan struct{})
	go func() {
		defer close(told)
		names := map[string]struct{}{}
		_, err := b.watcher.Follow(ctx, heldPods, load.JSON, func() {}, func(event []byte) error {
			var pod corev1.Pod
			if err := load.Object(event, &pod); err != nil {
				return err
			}
			for _, c := range pod.Status.Conditions {
				if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse {
					names[pod.Name] = struct{}{}
				}
			}
			if len(names) == b.pods {
				return errDone
			}
			return nil
		})
		if !errors.Is(err, errDone) {
			cancel(fmt.Errorf("waiting until no pod is scheduled: %w, %d are not", err, len(names)))
		}
	}()
	defer func() { cancel(nil); <-told }()
	_, _, err = load.Parallel(ctx, b.pods, b.concurrency, func(ctx context.Context, _ int) error {
		_, err := b.client.Discard(ctx, "POST", pods, load.Protobuf, body)
		return err
	})
	if err != nil {
		return fmt.Errorf("creating pods: %w", err)
	}
	<-told
	return context.Cause(ctx)
}
