// Package podgc deletes pods that nobody else will: ended ones beyond a
// number, those bound to nodes that are gone, those on nodes taken out of
// service, and deleted ones that were never scheduled. It reads pods and
// Nodes; it deletes pods and writes their status.
//
// https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/#pod-garbage-collection
package podgc

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff.dev/skiff/internal/client"
	"skiff.dev/skiff/internal/controller"
	"skiff.dev/skiff/internal/meta"
	"skiff.dev/skiff/internal/node"
	"skiff.dev/skiff/internal/pod"
)

// DefaultThreshold is how many ended pods are kept unless configured otherwise.
const DefaultThreshold = 12500

// quarantine is how long a node must have been unknown before its pods are
// orphans.
const quarantine = 40 * time.Second

// ended is the key under which the ended pods are counted. It is nobody's, as
// pods have a namespace.
var ended = meta.Key{Name: "ended"}

type collector struct {
	client    *client.Client
	ctl       *controller.Controller
	threshold int
	pods      client.Cache[*corev1.Pod]
	nodes     client.Cache[*corev1.Node]

	mu      sync.Mutex
	missing map[string]time.Time // since when a node has not been there
	ended   int
}

// New returns the pod garbage collector. It keeps threshold ended pods, all
// where that is 0 or less.
func New(c *client.Client, threshold int) *controller.Controller {
	p := &collector{client: c, threshold: threshold}
	p.ctl = controller.Keyed(c, "pod-garbage-collector", p.reconcile,
		controller.Starts(p.start),
		controller.Maps(&p.pods, p.concerned, pod.ByNode),
		controller.Maps(&p.nodes, p.on),
		controller.Gets("", "nodes"),
		controller.Writes("", "pods", "delete"),
		controller.Writes("", "pods/status", "patch"),
	)
	return p.ctl
}

func (c *collector) start() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.missing, c.ended = map[string]time.Time{}, 0
}

// concerned wakes a pod that may have to go, and counts those that have ended.
func (c *collector) concerned(ch client.Change[*corev1.Pod]) (keys []meta.Key) {
	was := !ch.Created && pod.IsTerminal(ch.Old)
	is := !ch.Deleted && pod.IsTerminal(ch.New)
	if was != is {
		c.mu.Lock()
		if is {
			c.ended++
		} else {
			c.ended--
		}
		if c.threshold > 0 && c.ended > c.threshold {
			keys = append(keys, ended)
		}
		c.mu.Unlock()
	}
	if ch.Deleted {
		return keys
	}
	p := ch.New
	_, there := c.nodes.Get("", p.Spec.NodeName)
	switch {
	case p.Spec.NodeName == "" && p.DeletionTimestamp == nil:
	case !there, p.DeletionTimestamp != nil:
		keys = append(keys, meta.KeyOf(p))
	}
	return keys
}

// on wakes the pods of a node that has gone, come, or been taken out of service.
func (c *collector) on(ch client.Change[*corev1.Node]) (keys []meta.Key) {
	name := ch.Object().Name
	if !ch.Deleted && !ch.Created && outOfService(ch.Old) == outOfService(ch.New) && node.IsReady(ch.Old) == node.IsReady(ch.New) {
		return nil
	}
	if !ch.Deleted {
		c.mu.Lock()
		delete(c.missing, name)
		c.mu.Unlock()
	}
	for p := range c.pods.ByIndex(pod.ByNode.Name, name) {
		keys = append(keys, meta.KeyOf(p))
	}
	return keys
}

func outOfService(n *corev1.Node) bool {
	return slices.ContainsFunc(n.Spec.Taints, func(t corev1.Taint) bool { return t.Key == corev1.TaintNodeOutOfService })
}

func (c *collector) reconcile(ctx context.Context, key meta.Key) (controller.Result, error) {
	if key == ended {
		return c.trim(ctx)
	}
	p, ok := c.pods.Get(key.Namespace, key.Name)
	if !ok {
		return controller.Result{}, nil
	}
	if p.Spec.NodeName == "" {
		if p.DeletionTimestamp != nil {
			return controller.Result{}, c.remove(ctx, p, nil)
		}
		return controller.Result{}, nil
	}
	n, ok := c.nodes.Get("", p.Spec.NodeName)
	if ok {
		if p.DeletionTimestamp != nil && !node.IsReady(n) && outOfService(n) {
			return controller.Result{}, c.remove(ctx, p, nil)
		}
		return controller.Result{}, nil
	}
	return c.orphan(ctx, p)
}

// orphan removes a pod whose node has not been there for a while, once the API
// itself has said that it is not.
func (c *collector) orphan(ctx context.Context, p *corev1.Pod) (controller.Result, error) {
	now := time.Now()
	c.mu.Lock()
	since, known := c.missing[p.Spec.NodeName]
	if !known {
		since = now
		c.missing[p.Spec.NodeName] = since
	}
	c.mu.Unlock()
	if left := since.Add(quarantine).Sub(now); left > 0 {
		return controller.Result{After: left}, nil
	}
	_, err := client.For[*corev1.Node](c.client).Get(ctx, "", p.Spec.NodeName)
	if !apierrors.IsNotFound(err) {
		return controller.Result{}, err
	}
	return controller.Result{}, c.remove(ctx, p, &corev1.PodCondition{
		Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(now.Truncate(time.Second)),
		Reason: "DeletionByPodGC", Message: "PodGC: node no longer exists", ObservedGeneration: p.Generation,
	})
}

// remove says of a pod that has not ended that it has failed, which nobody
// else will, and deletes it without grace.
func (c *collector) remove(ctx context.Context, p *corev1.Pod, why *corev1.PodCondition) error {
	kind := client.For[*corev1.Pod](c.client)
	if !pod.IsTerminal(p) {
		changed := meta.Copy(p)
		changed.Status.Phase = corev1.PodFailed
		if why != nil {
			pod.SetCondition(&changed.Status, *why)
		}
		if _, err := kind.Amend(ctx, p, changed, "status"); err != nil {
			return ignoreGone(err)
		}
	}
	none := int64(0)
	return ignoreGone(kind.Delete(ctx, p.Namespace, p.Name, metav1.DeleteOptions{
		GracePeriodSeconds: &none, Preconditions: &metav1.Preconditions{UID: &p.UID},
	}))
}

// trim deletes the oldest of the ended pods that are too many: those first that
// were evicted, as theirs are the least to be missed.
func (c *collector) trim(ctx context.Context) (controller.Result, error) {
	var all []*corev1.Pod
	for p := range c.pods.All("") {
		if pod.IsTerminal(p) {
			all = append(all, p)
		}
	}
	excess := len(all) - c.threshold
	if excess <= 0 {
		return controller.Result{}, nil
	}
	slices.SortFunc(all, func(a, b *corev1.Pod) int {
		return cmp.Or(
			cmp.Compare(rank(a), rank(b)), a.CreationTimestamp.Compare(b.CreationTimestamp.Time),
			cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name),
		)
	})
	_, err := controller.Parallel(ctx, min(excess, batch), func(ctx context.Context, i int) error { return c.remove(ctx, all[i], nil) })
	if err == nil && excess > batch {
		c.ctl.Enqueue(ended)
	}
	return controller.Result{}, err
}

// batch is how many pods are deleted at once.
const batch = 500

func rank(p *corev1.Pod) int {
	if p.Status.Phase == corev1.PodFailed && p.Status.Reason == "Evicted" {
		return 0
	}
	return 1
}

func ignoreGone(err error) error {
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}
