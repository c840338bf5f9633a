// Package deployment rolls Deployments out: it keeps one ReplicaSet per pod
// template and moves the replicas from the old ones to the new one. It reads
// Deployments, their ReplicaSets and the pods of these; it writes ReplicaSets
// and the status and revision of Deployments.
//
// https://kubernetes.io/docs/concepts/workloads/controllers/deployment/
package deployment

import (
	"context"
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
	"skiff.dev/skiff/internal/workload"
)

type deployments struct {
	client      *client.Client
	events      client.Events
	deployments client.Cache[*appsv1.Deployment]
	sets        client.Cache[*appsv1.ReplicaSet]
	pods        client.Cache[*corev1.Pod]
}

// New returns the deployment controller.
func New(c *client.Client, events client.Events) *controller.Controller {
	d := &deployments{client: c, events: events}
	return controller.New(c, "deployment", &d.deployments, d.Reconcile,
		controller.Owns(&d.sets, "Deployment"),
		controller.Maps(&d.sets, d.selectedBy),
		controller.Maps(&d.pods, d.recreated, meta.ByOwner),
		controller.Workers(5),
		controller.Gets("apps", "deployments"),
		controller.Gets("apps", "replicasets"),
		controller.Writes("apps", "replicasets", "create", "update", "patch", "delete"),
		controller.Writes("apps", "deployments", "update"),
		controller.Writes("apps", "deployments/status", "update"),
		controller.Reports(),
	)
}

// selectedBy wakes the Deployments that an ownerless ReplicaSet could belong to.
func (c *deployments) selectedBy(ch client.Change[*appsv1.ReplicaSet]) (keys []meta.Key) {
	rs := ch.Object()
	if ch.Deleted || meta.ControllerOf(rs) != nil {
		return nil
	}
	for d := range c.deployments.All(rs.Namespace) {
		if selects(d, rs) {
			keys = append(keys, meta.KeyOf(d))
		}
	}
	return keys
}

// recreated wakes a Deployment that waits for the last old pod to go before it
// starts the first new one.
func (c *deployments) recreated(ch client.Change[*corev1.Pod]) []meta.Key {
	pod := ch.Object()
	ref := meta.ControllerOf(pod)
	if ref == nil || ref.Kind != "ReplicaSet" || (!ch.Deleted && !ended(pod)) {
		return nil
	}
	rs, ok := c.sets.Get(pod.Namespace, ref.Name)
	if !ok {
		return nil
	}
	owner := meta.ControllerOf(rs)
	if owner == nil || owner.Kind != "Deployment" {
		return nil
	}
	return []meta.Key{{Namespace: pod.Namespace, Name: owner.Name}}
}

func ended(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
}

func selects(d *appsv1.Deployment, rs *appsv1.ReplicaSet) bool {
	s, err := metav1.LabelSelectorAsSelector(d.Spec.Selector)
	return err == nil && !s.Empty() && s.Matches(labels.Set(rs.Labels))
}

// Reconcile moves a Deployment one step on: read, compute, apply, status.
func (c *deployments) Reconcile(ctx context.Context, d *appsv1.Deployment) (controller.Result, error) {
	owned, err := c.claim(ctx, d)
	if err != nil {
		return controller.Result{}, err
	}
	seen := observed{sets: owned, pods: c.podsOf(owned), now: time.Now()}
	if d.DeletionTimestamp != nil {
		return controller.Result{}, c.writeStatus(ctx, d, status(d, seen, nil))
	}
	p := compute(d, seen)
	applied, err := c.apply(ctx, d, p)
	st := status(applied, observed{sets: p.after(owned), pods: seen.pods, now: seen.now}, err)
	if serr := c.writeStatus(ctx, applied, st); serr != nil {
		return controller.Result{}, serr
	}
	return controller.Result{After: nextCheck(applied, st, seen.now)}, err
}

// claim returns the ReplicaSets of d, adopting ownerless ones that it selects
// and releasing those of its own that it no longer does.
func (c *deployments) claim(ctx context.Context, d *appsv1.Deployment) ([]*appsv1.ReplicaSet, error) {
	claimer := workload.Claimer[*appsv1.ReplicaSet]{
		Owner: d, Kind: appsv1.SchemeGroupVersion.WithKind("Deployment"), Selector: d.Spec.Selector,
		Patch: func(ctx context.Context, rs *appsv1.ReplicaSet, refs []metav1.OwnerReference) (*appsv1.ReplicaSet, error) {
			changed := meta.Copy(rs)
			changed.OwnerReferences = refs
			return client.For[*appsv1.ReplicaSet](c.client).Amend(ctx, rs, changed, "")
		},
		StillThere: func(ctx context.Context) (bool, error) {
			now, err := client.For[*appsv1.Deployment](c.client).Get(ctx, d.Namespace, d.Name)
			if apierrors.IsNotFound(err) {
				return false, nil
			}
			return err == nil && now.UID == d.UID && now.DeletionTimestamp == nil, err
		},
	}
	return claimer.Claim(ctx, c.sets.All(d.Namespace))
}

func (c *deployments) podsOf(sets []*appsv1.ReplicaSet) map[string][]*corev1.Pod {
	pods := map[string][]*corev1.Pod{}
	for _, rs := range sets {
		for pod := range c.pods.ByIndex(meta.ByOwner.Name, string(rs.UID)) {
			if meta.IsControlledBy(pod, rs) {
				pods[string(rs.UID)] = append(pods[string(rs.UID)], pod)
			}
		}
	}
	return pods
}

// apply carries the plan out and returns the Deployment as it is then. The
// error of a create is returned after everything else has been done.
func (c *deployments) apply(ctx context.Context, d *appsv1.Deployment, p plan) (*appsv1.Deployment, error) {
	if !equality.Semantic.DeepEqual(p.annotations, d.Annotations) {
		changed := meta.Copy(d)
		changed.Annotations = p.annotations
		updated, err := client.For[*appsv1.Deployment](c.client).Update(ctx, changed)
		if err != nil {
			return d, err
		}
		d = updated
	}
	for _, step := range p.scale {
		if _, err := client.For[*appsv1.ReplicaSet](c.client).Update(ctx, step.set); err != nil {
			return d, err
		}
		c.reportScaled(d, step)
	}
	for _, rs := range p.remove {
		err := client.For[*appsv1.ReplicaSet](c.client).Delete(ctx, rs.Namespace, rs.Name, metav1.DeleteOptions{
			Preconditions:     &metav1.Preconditions{UID: &rs.UID},
			PropagationPolicy: &background,
		})
		if err != nil && !apierrors.IsNotFound(err) {
			return d, err
		}
	}
	if p.create == nil {
		return d, nil
	}
	return c.create(ctx, d, p.create)
}

var background = metav1.DeletePropagationBackground

// create makes the new ReplicaSet. If its name is taken by the set of another
// template the hash has collided: the count of collisions goes into the status
// and with it, next time, into the hash.
func (c *deployments) create(ctx context.Context, d *appsv1.Deployment, rs *appsv1.ReplicaSet) (*appsv1.Deployment, error) {
	made, err := client.For[*appsv1.ReplicaSet](c.client).Create(ctx, rs)
	switch {
	case apierrors.IsAlreadyExists(err):
		have, gerr := client.For[*appsv1.ReplicaSet](c.client).Get(ctx, rs.Namespace, rs.Name)
		if gerr != nil {
			return d, gerr
		}
		if meta.IsControlledBy(have, d) && workload.SameTemplate(&have.Spec.Template, &d.Spec.Template) {
			return d, nil // an earlier try of ours
		}
		d = meta.Copy(d)
		n := int32(1)
		if d.Status.CollisionCount != nil {
			n += *d.Status.CollisionCount
		}
		d.Status.CollisionCount = &n
		if _, uerr := client.For[*appsv1.Deployment](c.client).UpdateStatus(ctx, d); uerr != nil {
			return d, uerr
		}
		return d, err
	case err != nil:
		c.events.Warning(d, "ReplicaSetCreateError", "Failed to create new replica set %q: %v", rs.Name, err)
		return d, &createError{err}
	}
	if n := *made.Spec.Replicas; n > 0 {
		c.events.Normal(d, "ScalingReplicaSet", "Scaled up replica set %s from 0 to %d", made.Name, n)
	}
	return d, nil
}

func (c *deployments) reportScaled(d *appsv1.Deployment, s scaling) {
	from, to := s.from, *s.set.Spec.Replicas
	switch {
	case to > from:
		c.events.Normal(d, "ScalingReplicaSet", "Scaled up replica set %s from %d to %d", s.set.Name, from, to)
	case to < from:
		c.events.Normal(d, "ScalingReplicaSet", "Scaled down replica set %s from %d to %d", s.set.Name, from, to)
	}
}

func (c *deployments) writeStatus(ctx context.Context, d *appsv1.Deployment, st appsv1.DeploymentStatus) error {
	if equality.Semantic.DeepEqual(st, d.Status) {
		return nil
	}
	changed := meta.Copy(d)
	changed.Status = st
	_, err := client.For[*appsv1.Deployment](c.client).UpdateStatus(ctx, changed)
	return err
}

// createError is the failure to create the new ReplicaSet, which the status
// tells of.
type createError struct{ error }

func (e *createError) Unwrap() error { return e.error }
