// Package tainteviction deletes the pods that do not tolerate the NoExecute
// taints of their node, those that tolerate them for some time when it is
// over. It reads pods and Nodes; it deletes pods and writes their status.
//
// https://kubernetes.io/docs/concepts/scheduling-eviction/taint-and-toleration/
package tainteviction

import (
	"context"
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

type evictor struct {
	client *client.Client
	events client.Events
	pods   client.Cache[*corev1.Pod]
	nodes  client.Cache[*corev1.Node]

	mu     sync.Mutex
	marked map[meta.Key]bool // pods whose eviction has a date
}

// New returns the taint eviction controller.
func New(c *client.Client, events client.Events) *controller.Controller {
	e := &evictor{client: c, events: events, marked: map[meta.Key]bool{}}
	return controller.New(c, "taint-eviction", &e.pods, e.reconcile,
		controller.Gone(&e.pods, e.gone),
		controller.Reads(&e.pods, pod.ByNode),
		controller.Maps(&e.nodes, e.on),
		controller.Workers(8),
		controller.Writes("", "pods", "delete"),
		controller.Writes("", "pods/status", "patch"),
		controller.Reports(),
	)
}

// on wakes the pods of a node whose taints have changed.
func (e *evictor) on(ch client.Change[*corev1.Node]) (keys []meta.Key) {
	if ch.Deleted || (ch.Created || len(executing(ch.Old)) == 0) && len(executing(ch.New)) == 0 {
		return nil
	}
	for p := range e.pods.ByIndex(pod.ByNode.Name, ch.New.Name) {
		keys = append(keys, meta.KeyOf(p))
	}
	return keys
}

// executing returns the taints that drive pods away.
func executing(n *corev1.Node) (taints []corev1.Taint) {
	for _, t := range n.Spec.Taints {
		if t.Effect == corev1.TaintEffectNoExecute {
			taints = append(taints, t)
		}
	}
	return taints
}

func (e *evictor) gone(_ context.Context, key meta.Key) (controller.Result, error) {
	e.mark(key, false)
	return controller.Result{}, nil
}

// mark notes whether the eviction of a pod has a date, and whether it had.
func (e *evictor) mark(key meta.Key, now bool) (before bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	before = e.marked[key]
	if now {
		e.marked[key] = true
	} else {
		delete(e.marked, key)
	}
	return before
}

func (e *evictor) reconcile(ctx context.Context, p *corev1.Pod) (controller.Result, error) {
	key := meta.KeyOf(p)
	if p.Spec.NodeName == "" || p.DeletionTimestamp != nil || pod.IsTerminal(p) {
		e.mark(key, false)
		return controller.Result{}, nil
	}
	var taints []corev1.Taint
	if n, ok := e.nodes.Get("", p.Spec.NodeName); ok {
		taints = executing(n)
	}
	now := time.Now()
	at, ever := deadline(p, taints)
	switch {
	case !ever:
		if e.mark(key, false) {
			e.events.Normal(p, "TaintManagerEviction", "Cancelling deletion of Pod %s", key)
		}
		return controller.Result{}, nil
	case at.After(now):
		e.mark(key, true)
		return controller.Result{After: at.Sub(now)}, nil
	}
	e.mark(key, false)
	e.events.Normal(p, "TaintManagerEviction", "Marking for deletion Pod %s", key)
	return controller.Result{}, e.evict(ctx, p)
}

// deadline returns when p has to leave a node with these NoExecute taints;
// ever is false if it may stay. The time that a pod tolerates a taint begins
// when both are there.
func deadline(p *corev1.Pod, taints []corev1.Taint) (at time.Time, ever bool) {
	begin := p.CreationTimestamp.Time
	if c := pod.Condition(&p.Status, corev1.PodScheduled); c != nil && c.LastTransitionTime.After(begin) {
		begin = c.LastTransitionTime.Time
	}
	for i := range taints {
		left, tolerated := patience(p.Spec.Tolerations, &taints[i])
		if tolerated && left == nil {
			continue
		}
		since := begin
		if t := taints[i].TimeAdded; t != nil && t.After(since) {
			since = t.Time
		}
		if tolerated {
			since = since.Add(max(0, time.Duration(*left)*time.Second))
		}
		if !ever || since.Before(at) {
			at, ever = since, true
		}
	}
	return at, ever
}

// patience returns for how many seconds the first toleration that matches
// tolerates the taint; nil is for ever.
func patience(tolerations []corev1.Toleration, t *corev1.Taint) (seconds *int64, tolerated bool) {
	for i := range tolerations {
		if node.Tolerates(&tolerations[i], t) {
			return tolerations[i].TolerationSeconds, true
		}
	}
	return nil, false
}

// evict says why and deletes the pod.
func (e *evictor) evict(ctx context.Context, p *corev1.Pod) error {
	kind := client.For[*corev1.Pod](e.client)
	changed := meta.Copy(p)
	if pod.SetCondition(&changed.Status, corev1.PodCondition{
		Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(time.Now().Truncate(time.Second)),
		Reason: "DeletionByTaintManager", Message: "Taint manager: deleting due to NoExecute taint",
		ObservedGeneration: p.Generation,
	}) {
		if _, err := kind.Amend(ctx, p, changed, "status"); err != nil {
			return ignoreGone(err)
		}
	}
	return ignoreGone(kind.Delete(ctx, p.Namespace, p.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &p.UID}}))
}

func ignoreGone(err error) error {
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}
