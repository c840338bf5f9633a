// Package replicaset keeps as many pods as a ReplicaSet asks for. It reads
// ReplicaSets and pods; it creates, adopts, releases and deletes pods and
// writes the status of ReplicaSets.
//
// https://kubernetes.io/docs/concepts/workloads/controllers/replicaset/
package replicaset

import (
	"context"
	"fmt"
	"iter"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"skiff.dev/skiff/internal/client"
	"skiff.dev/skiff/internal/controller"
	"skiff.dev/skiff/internal/meta"
	"skiff.dev/skiff/internal/pod"
	"skiff.dev/skiff/internal/workload"
)

// burst is how many pods one reconcile creates or deletes at most.
const burst = 500

var kind = appsv1.SchemeGroupVersion.WithKind("ReplicaSet")

type replicaSets struct {
	client *client.Client
	events client.Events
	sets   client.Cache[*appsv1.ReplicaSet]
	pods   client.Cache[*corev1.Pod]
}

// New returns the replica set controller.
func New(c *client.Client, events client.Events) *controller.Controller {
	r := &replicaSets{client: c, events: events}
	return controller.New(c, "replicaset", &r.sets, r.reconcile,
		controller.Owns(&r.pods, kind.Kind),
		controller.Maps(&r.pods, r.selecting, workload.Orphans),
		controller.Workers(5),
		controller.Gets("apps", "replicasets"),
		controller.Writes("apps", "replicasets/status", "update"),
		controller.Writes("", "pods", "create", "patch", "delete"),
		controller.Reports(),
	)
}

// selecting wakes the ReplicaSets that an ownerless pod could belong to.
func (c *replicaSets) selecting(ch client.Change[*corev1.Pod]) (keys []meta.Key) {
	p := ch.Object()
	if ch.Deleted || meta.ControllerOf(p) != nil || !pod.IsActive(p) {
		return nil
	}
	for rs := range c.sets.All(p.Namespace) {
		s, err := metav1.LabelSelectorAsSelector(rs.Spec.Selector)
		if err == nil && !s.Empty() && s.Matches(labels.Set(p.Labels)) {
			keys = append(keys, meta.KeyOf(rs))
		}
	}
	return keys
}

func (c *replicaSets) reconcile(ctx context.Context, rs *appsv1.ReplicaSet) (controller.Result, error) {
	pods, err := c.claim(ctx, rs)
	if err != nil {
		return controller.Result{}, err
	}
	now := time.Now()
	var failure error
	if rs.DeletionTimestamp == nil {
		failure = c.manage(ctx, rs, pods, now)
	}
	st := status(rs, pods, c.terminating(rs), failure, now)
	if !equality.Semantic.DeepEqual(st, rs.Status) {
		changed := meta.Copy(rs)
		changed.Status = st
		if _, err := client.For[*appsv1.ReplicaSet](c.client).UpdateStatus(ctx, changed); err != nil {
			return controller.Result{}, err
		}
	}
	return controller.Result{After: nextAvailable(rs, pods, now)}, failure
}

// claim returns the active pods of rs.
func (c *replicaSets) claim(ctx context.Context, rs *appsv1.ReplicaSet) ([]*corev1.Pod, error) {
	claimer := workload.Claimer[*corev1.Pod]{
		Owner: rs, Kind: kind, Selector: rs.Spec.Selector,
		Patch: func(ctx context.Context, p *corev1.Pod, refs []metav1.OwnerReference) (*corev1.Pod, error) {
			changed := meta.Copy(p)
			changed.OwnerReferences = refs
			return client.For[*corev1.Pod](c.client).Amend(ctx, p, changed, "")
		},
		StillThere: func(ctx context.Context) (bool, error) {
			now, err := client.For[*appsv1.ReplicaSet](c.client).Get(ctx, rs.Namespace, rs.Name)
			if apierrors.IsNotFound(err) {
				return false, nil
			}
			return err == nil && now.UID == rs.UID && now.DeletionTimestamp == nil, err
		},
	}
	return claimer.Claim(ctx, c.candidates(rs))
}

// candidates yields the active pods that are, or may become, those of rs.
func (c *replicaSets) candidates(rs *appsv1.ReplicaSet) iter.Seq[*corev1.Pod] {
	return func(yield func(*corev1.Pod) bool) {
		for p := range c.owned(rs) {
			if pod.IsActive(p) && !yield(p) {
				return
			}
		}
		for p := range c.pods.ByIndex(workload.Orphans.Name, rs.Namespace) {
			if pod.IsActive(p) && !yield(p) {
				return
			}
		}
	}
}

func (c *replicaSets) owned(rs *appsv1.ReplicaSet) iter.Seq[*corev1.Pod] {
	return func(yield func(*corev1.Pod) bool) {
		for p := range c.pods.ByIndex(meta.ByOwner.Name, string(rs.UID)) {
			if meta.IsControlledBy(p, rs) && p.Namespace == rs.Namespace && !yield(p) {
				return
			}
		}
	}
}

// terminating counts the pods of rs that are on their way out.
func (c *replicaSets) terminating(rs *appsv1.ReplicaSet) (n int32) {
	for p := range c.owned(rs) {
		if p.DeletionTimestamp != nil && !pod.IsTerminal(p) {
			n++
		}
	}
	return n
}

// manage creates the pods that are missing or deletes those that are too many.
func (c *replicaSets) manage(ctx context.Context, rs *appsv1.ReplicaSet, pods []*corev1.Pod, now time.Time) error {
	switch missing := int(*rs.Spec.Replicas) - len(pods); {
	case missing > 0:
		return c.create(ctx, rs, min(missing, burst))
	case missing < 0:
		ranked := workload.DeletionOrder(pods, c.crowd(rs), now)
		return c.delete(ctx, rs, ranked[:min(-missing, burst)])
	}
	return nil
}

func (c *replicaSets) create(ctx context.Context, rs *appsv1.ReplicaSet, n int) error {
	_, err := controller.SlowStart(ctx, n, func(ctx context.Context) error {
		made, err := client.For[*corev1.Pod](c.client).Create(ctx, workload.PodOf(&rs.Spec.Template, rs, kind))
		switch {
		case apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
			return nil // everything here is going, there is nothing to make up for
		case err != nil:
			c.events.Warning(rs, "FailedCreate", "Error creating: %v", err)
			return err
		}
		c.events.Normal(rs, "SuccessfulCreate", "Created pod: %s", made.Name)
		return nil
	})
	return err
}

func (c *replicaSets) delete(ctx context.Context, rs *appsv1.ReplicaSet, pods []*corev1.Pod) error {
	_, err := controller.Parallel(ctx, len(pods), func(ctx context.Context, i int) error {
		p := pods[i]
		err := client.For[*corev1.Pod](c.client).Delete(ctx, p.Namespace, p.Name, metav1.DeleteOptions{
			Preconditions: &metav1.Preconditions{UID: &p.UID},
		})
		switch {
		case apierrors.IsNotFound(err):
			return nil
		case err != nil:
			c.events.Warning(rs, "FailedDelete", "Error deleting: %v", err)
			return fmt.Errorf("deleting pod %s: %w", p.Name, err)
		}
		c.events.Normal(rs, "SuccessfulDelete", "Deleted pod: %s", p.Name)
		return nil
	})
	return err
}

// crowd counts, by node, the active pods of rs and of the other ReplicaSets
// that its own controller owns: those of a rollout.
func (c *replicaSets) crowd(rs *appsv1.ReplicaSet) map[string]int {
	n := map[string]int{}
	count := func(of *appsv1.ReplicaSet) {
		for p := range c.owned(of) {
			if pod.IsActive(p) && p.Spec.NodeName != "" {
				n[p.Spec.NodeName]++
			}
		}
	}
	owner := meta.ControllerOf(rs)
	if owner == nil {
		count(rs)
		return n
	}
	for other := range c.sets.All(rs.Namespace) {
		if ref := meta.ControllerOf(other); ref != nil && ref.UID == owner.UID {
			count(other)
		}
	}
	return n
}
