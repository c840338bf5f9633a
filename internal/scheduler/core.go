package scheduler

import (
	"fmt"
	"math/rand/v2"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	configv1 "k8s.io/kube-scheduler/config/v1"

	"skiff.dev/skiff/internal/client"
	"skiff.dev/skiff/internal/pod"
	"skiff.dev/skiff/internal/scheduler/framework"
)

// core is the scheduler without its surroundings: what it knows of the
// cluster, the pods that wait, and the decisions. It has one owner, starts
// nothing, reads no clock and does no I/O, so that a run of it can be repeated
// exactly.
//
// A decision and its consequence (the pod is placed, or parked) are one step.
// No change of the cluster can come between them, and so none can be lost.
type core struct {
	snap     *framework.Snapshot
	queue    *queue
	deciders map[string]*decider // by scheduler name
	signer   framework.Signer
}

func newCore(c *client.Client, cfg *configv1.KubeSchedulerConfiguration, r *rand.Rand) (*core, error) {
	made := &core{snap: framework.NewSnapshot(), deciders: map[string]*decider{}}
	var order *framework.Any
	for i := range cfg.Profiles {
		p, err := newProfile(c, cfg, &cfg.Profiles[i])
		if err != nil {
			return nil, fmt.Errorf("creating profile %s: %w", *cfg.Profiles[i].SchedulerName, err)
		}
		if order != nil && p.less.Name != order.Name {
			return nil, fmt.Errorf("different queue sort plugins for profile %q: %q, first: %q", p.name, p.less.Name, order.Name)
		}
		order = p.less
		made.deciders[p.name] = newDecider(p, made.snap, r)
	}
	seconds := func(n int64) time.Duration { return time.Duration(n) * time.Second }
	made.queue = newQueue(order.Less, seconds(*cfg.PodInitialBackoffSeconds), seconds(*cfg.PodMaxBackoffSeconds))
	return made, nil
}

// nodeChanged takes in what happened to a node.
func (c *core) nodeChanged(ch client.Change[*corev1.Node], now time.Time) {
	if ch.Deleted {
		c.snap.DeleteNode(ch.Old.Name)
		c.queue.happened(framework.Event{Action: framework.NodeDeleted, Old: ch.Old}, now)
		return
	}
	c.snap.SetNode(ch.New)
	did := framework.Event{Action: framework.NodeAdded, New: ch.New}
	if !ch.Created {
		did.Action, did.Old = nodeActions(ch.Old, ch.New), ch.Old
	}
	c.queue.happened(did, now)
}

func nodeActions(old, new *corev1.Node) framework.Action {
	did := framework.NodeOther
	if !equality.Semantic.DeepEqual(old.Status.Allocatable, new.Status.Allocatable) {
		did |= framework.NodeAllocatable
	}
	if !equality.Semantic.DeepEqual(old.Labels, new.Labels) {
		did |= framework.NodeLabels
	}
	if !equality.Semantic.DeepEqual(old.Spec.Taints, new.Spec.Taints) || old.Spec.Unschedulable != new.Spec.Unschedulable {
		did |= framework.NodeTaints
	}
	return did
}

// podChanged takes in what happened to a pod.
func (c *core) podChanged(ch client.Change[*corev1.Pod], now time.Time) {
	switch {
	case ch.Old != nil && ch.New != nil && ch.Old.UID != ch.New.UID:
		c.podGone(ch.Old, now)
		c.podIs(nil, ch.New, now)
	case ch.Deleted || pod.IsTerminal(ch.New):
		c.podGone(ch.Object(), now)
	default:
		c.podIs(ch.Old, ch.New, now)
	}
}

func (c *core) podGone(obj *corev1.Pod, now time.Time) {
	c.queue.remove(obj.UID)
	if placed, _, ok := c.snap.Pod(obj.UID); ok {
		c.snap.RemovePod(obj.UID)
		c.queue.happened(framework.Event{Action: framework.PodDeleted, Old: placed.Pod}, now)
	}
}

// podIs takes in a pod that exists; old is nil if it is new.
func (c *core) podIs(old, obj *corev1.Pod, now time.Time) {
	if obj.Spec.NodeName != "" {
		c.podPlaced(obj, now)
		return
	}
	d := c.deciders[obj.Spec.SchedulerName]
	if d == nil {
		return
	}
	e := c.queue.all[obj.UID]
	if obj.DeletionTimestamp != nil && (e == nil || e.stage != inFlight) {
		c.queue.remove(obj.UID) // it will never run
		return
	}
	p := framework.NewPod(obj)
	d.sign(p, &c.signer)
	if e == nil {
		c.queue.add(p, d, now)
		return
	}
	c.queue.update(e, p, framework.Event{Action: selfActions(e.pod, p), Old: old, New: obj}, now)
}

func selfActions(old, new *framework.Pod) framework.Action {
	did := framework.Action(0)
	if len(old.Spec.SchedulingGates) > len(new.Spec.SchedulingGates) {
		did |= framework.SelfGates
	}
	if !equality.Semantic.DeepEqual(old.Spec.Tolerations, new.Spec.Tolerations) {
		did |= framework.SelfTolerations
	}
	if !equality.Semantic.DeepEqual(old.Labels, new.Labels) {
		did |= framework.SelfLabels
	}
	if old.Requests.AnyAbove(&new.Requests) {
		did |= framework.SelfScaledDown
	}
	return did
}

// podPlaced takes in a pod that has a node: one that another scheduler or an
// earlier run placed, or the confirmation of a decision made here.
func (c *core) podPlaced(obj *corev1.Pod, now time.Time) {
	decided := c.queue.all[obj.UID]
	c.queue.remove(obj.UID)
	was, node, known := c.snap.Pod(obj.UID)
	is := framework.NewPod(obj)
	c.snap.SetPod(is, obj.Spec.NodeName)
	did := framework.Event{Action: framework.PodAdded, New: obj}
	if known && node == obj.Spec.NodeName {
		did = framework.Event{Old: was.Pod, New: obj}
		if decided != nil {
			did.Action |= framework.PodAdded
		}
		if was.Requests.AnyAbove(&is.Requests) {
			did.Action |= framework.PodScaledDown
		}
		if !equality.Semantic.DeepEqual(was.Labels, obj.Labels) {
			did.Action |= framework.PodLabels
		}
	} else if known {
		c.queue.happened(framework.Event{Action: framework.PodDeleted, Old: was.Pod}, now)
	}
	if did.Action != 0 {
		c.queue.happened(did, now)
	}
}

// attempt is what came of trying to find a node for a pod.
type attempt struct {
	*entry
	node string
	err  error
}

// next decides on the next pod; false if none is to be tried now. If a node
// was found the pod counts as placed there, and the caller must say with bound
// or bindFailed what came of it.
func (c *core) next(now time.Time) (attempt, bool) {
	e := c.queue.pop(now)
	if e == nil {
		return attempt{}, false
	}
	node, err := e.decider.decide(e.pod)
	switch failure := err.(type) {
	case nil:
		c.snap.SetPod(e.pod, node)
	case *FitError:
		c.queue.park(e, failure.By, now)
	default:
		if err == errNoNodes {
			c.queue.park(e, nil, now)
		} else {
			c.queue.retry(e, now)
		}
	}
	return attempt{entry: e, node: node, err: err}, true
}

// bindFailed takes back a decision. False if the pod has meanwhile been bound
// or is gone.
func (c *core) bindFailed(a attempt, now time.Time) bool {
	if c.queue.all[a.pod.UID] != a.entry {
		return false
	}
	c.snap.RemovePod(a.pod.UID)
	c.queue.happened(framework.Event{Action: framework.PodDeleted, Old: a.pod.Pod}, now)
	if a.pod.DeletionTimestamp != nil {
		c.queue.remove(a.pod.UID)
	} else {
		c.queue.retry(a.entry, now)
	}
	return true
}
