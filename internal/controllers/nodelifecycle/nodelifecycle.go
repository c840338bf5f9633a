// Package nodelifecycle watches over nodes: it tells those that have stopped
// reporting, taints nodes by their conditions, and takes the pods of nodes
// that are not ready out of service. It reads Nodes, their Leases and pods; it
// writes the status and taints of Nodes and the status of pods. Evicting pods
// from tainted nodes is left to package tainteviction.
//
// https://kubernetes.io/docs/concepts/architecture/nodes/#node-controller
package nodelifecycle

import (
	"context"
	"sync"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff.dev/skiff/internal/client"
	"skiff.dev/skiff/internal/controller"
	"skiff.dev/skiff/internal/meta"
	"skiff.dev/skiff/internal/node"
	"skiff.dev/skiff/internal/pod"
)

// Config holds upstream's settings of the same meaning.
type Config struct {
	// Grace is how long a node may be silent, StartupGrace how long before its
	// first word.
	Grace, StartupGrace time.Duration
	// EvictionRate is how many nodes of a zone are tainted for eviction per
	// second; SecondaryRate replaces it where Unhealthy or more of a zone's nodes
	// are not ready and the zone has more than LargeZone nodes; in a smaller zone
	// it is then 0.
	EvictionRate, SecondaryRate float64
	LargeZone                   int
	Unhealthy                   float64
}

// Default returns upstream's defaults.
func Default() Config {
	return Config{
		Grace: 50 * time.Second, StartupGrace: time.Minute,
		EvictionRate: 0.1, SecondaryRate: 0.01, LargeZone: 50, Unhealthy: 0.55,
	}
}

type lifecycle struct {
	cfg    Config
	client *client.Client
	events client.Events
	ctl    *controller.Controller
	nodes  client.Cache[*corev1.Node]
	leases client.Cache[*coordinationv1.Lease]
	pods   client.Cache[*corev1.Pod]

	mu    sync.Mutex
	heard map[string]heartbeat // by node
	zones *zones
}

// heartbeat is the last sign of life of a node. Its time is when it was seen
// here, so that the clocks of nodes do not matter.
type heartbeat struct {
	at            time.Time
	lease, status metav1.MicroTime // what it said
}

// New returns the node lifecycle controller.
func New(c *client.Client, events client.Events, cfg Config) *controller.Controller {
	l := &lifecycle{cfg: cfg, client: c, events: events}
	l.ctl = controller.New(c, "node-lifecycle", &l.nodes, l.reconcile,
		controller.Gone(&l.nodes, l.gone),
		controller.MapsWithin(&l.leases, corev1.NamespaceNodeLease, l.renewed),
		controller.Maps(&l.pods, l.unready, pod.ByNode),
		controller.Starts(l.start),
		controller.Workers(8),
		controller.Writes("", "nodes", "update"),
		controller.Writes("", "nodes/status", "update"),
		controller.Writes("", "pods/status", "update"),
		controller.Reports(),
	)
	return l.ctl
}

// start counts what there is, and gives every node its grace anew.
func (l *lifecycle) start() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.heard = map[string]heartbeat{}
	l.zones = newZones(l.cfg)
	for n := range l.nodes.All("") {
		l.zones.observe(n.Name, zoneOf(n), node.IsReady(n), time.Now())
	}
}

// renewed notes a heartbeat. Only a node that was given up is looked at for it;
// the others have a timer that reads the note.
func (l *lifecycle) renewed(ch client.Change[*coordinationv1.Lease]) []meta.Key {
	lease := ch.Object()
	if ch.Deleted || lease.Namespace != corev1.NamespaceNodeLease {
		return nil
	}
	l.note(lease.Name, nil, lease)
	n, ok := l.nodes.Get("", lease.Name)
	if c := conditionOf(n, ok); c != nil && c.Status == corev1.ConditionUnknown {
		return []meta.Key{meta.KeyOf(n)}
	}
	return nil
}

func conditionOf(n *corev1.Node, ok bool) *corev1.NodeCondition {
	if !ok {
		return nil
	}
	return node.Condition(&n.Status, corev1.NodeReady)
}

// unready wakes the node of a pod that says to be ready if the node is not.
func (l *lifecycle) unready(ch client.Change[*corev1.Pod]) []meta.Key {
	p := ch.Object()
	if ch.Deleted || p.Spec.NodeName == "" || !pod.IsReady(p) {
		return nil
	}
	n, ok := l.nodes.Get("", p.Spec.NodeName)
	if !ok || node.IsReady(n) {
		return nil
	}
	return []meta.Key{meta.KeyOf(n)}
}

// note records a sign of life if there is a new one, and returns the last.
func (l *lifecycle) note(name string, n *corev1.Node, lease *coordinationv1.Lease) heartbeat {
	l.mu.Lock()
	defer l.mu.Unlock()
	h, known := l.heard[name]
	if !known {
		h.at = time.Now()
		if n != nil && node.Condition(&n.Status, corev1.NodeReady) == nil {
			h.at = n.CreationTimestamp.Time
		}
	}
	if lease != nil && lease.Spec.RenewTime != nil && !lease.Spec.RenewTime.Equal(&h.lease) {
		h.lease, h.at = *lease.Spec.RenewTime, time.Now()
	}
	if n != nil {
		if c := node.Condition(&n.Status, corev1.NodeReady); c != nil && c.Status != corev1.ConditionUnknown {
			if said := metav1.NewMicroTime(c.LastHeartbeatTime.Time); !said.Equal(&h.status) {
				h.status, h.at = said, time.Now()
			}
		}
	}
	l.heard[name] = h
	return h
}

func (l *lifecycle) gone(_ context.Context, key meta.Key) (controller.Result, error) {
	l.mu.Lock()
	delete(l.heard, key.Name)
	woken := l.zones.forget(key.Name)
	l.mu.Unlock()
	l.wake(woken)
	return controller.Result{}, nil
}

func (l *lifecycle) wake(names []string) {
	for _, name := range names {
		l.ctl.Enqueue(meta.Key{Name: name})
	}
}

func (l *lifecycle) reconcile(ctx context.Context, n *corev1.Node) (controller.Result, error) {
	if n.DeletionTimestamp != nil {
		return controller.Result{}, nil
	}
	lease, _ := l.leases.Get(corev1.NamespaceNodeLease, n.Name)
	h := l.note(n.Name, n, lease)
	now := time.Now()
	deadline := h.at.Add(l.grace(n))
	if !now.Before(deadline) {
		changed := meta.Copy(n)
		silence(changed, now)
		if !equality.Semantic.DeepEqual(changed.Status, n.Status) {
			wasReady := node.IsReady(n)
			updated, err := client.For[*corev1.Node](l.client).UpdateStatus(ctx, changed)
			if err != nil {
				return controller.Result{}, ignoreGone(err)
			}
			n = updated
			if wasReady {
				l.events.Normal(n, "NodeNotReady", "Node %s status is now: NodeNotReady", n.Name)
			}
		}
	}
	wait, err := l.taint(ctx, n, now)
	if err != nil {
		return controller.Result{}, ignoreGone(err)
	}
	if !node.IsReady(n) {
		if err := l.markPods(ctx, n, now); err != nil {
			return controller.Result{}, err
		}
	}
	if left := deadline.Sub(now); left > 0 && (wait == 0 || left < wait) {
		wait = left
	}
	return controller.Result{After: wait}, nil
}

func ignoreGone(err error) error {
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

func (l *lifecycle) grace(n *corev1.Node) time.Duration {
	if node.Condition(&n.Status, corev1.NodeReady) == nil {
		return l.cfg.StartupGrace
	}
	return l.cfg.Grace
}

// taint brings the taints of n up to date; wait > 0 says when to look again
// because the zone's rate of evictions did not admit one yet.
func (l *lifecycle) taint(ctx context.Context, n *corev1.Node, now time.Time) (wait time.Duration, err error) {
	l.mu.Lock()
	woken := l.zones.observe(n.Name, zoneOf(n), node.IsReady(n), now)
	evict := eviction(n)
	switch {
	case l.zones.allDown():
		evict = nil
	case evict != nil && !tainted(n):
		var ok bool
		if ok, wait = l.zones.admit(n.Name, now); !ok {
			evict = nil
		}
	}
	l.mu.Unlock()
	l.wake(woken)
	want, differs := taints(n, evict, now)
	if !differs {
		return wait, nil
	}
	changed := meta.Copy(n)
	changed.Spec.Taints = want
	_, err = client.For[*corev1.Node](l.client).Update(ctx, changed)
	return wait, err
}

// markPods says of the pods on n that they are not ready, as nobody there does.
func (l *lifecycle) markPods(ctx context.Context, n *corev1.Node, now time.Time) error {
	var ready []*corev1.Pod
	for p := range l.pods.ByIndex(pod.ByNode.Name, n.Name) {
		if pod.IsReady(p) {
			ready = append(ready, p)
		}
	}
	_, err := controller.Parallel(ctx, len(ready), func(ctx context.Context, i int) error {
		p := meta.Copy(ready[i])
		c := *pod.Condition(&p.Status, corev1.PodReady)
		c.Status, c.LastTransitionTime = corev1.ConditionFalse, metav1.NewTime(now.Truncate(time.Second))
		pod.SetCondition(&p.Status, c)
		_, err := client.For[*corev1.Pod](l.client).UpdateStatus(ctx, p)
		if err == nil {
			l.events.Warning(p, "NodeNotReady", "Node is not ready")
		}
		return ignoreGone(err)
	})
	return err
}
