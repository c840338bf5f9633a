package cluster

import (
	"context"
	"fmt"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"skiff.dev/skiff/internal/meta"
	"skiff.dev/skiff/internal/pod"
	"skiff.dev/skiff/internal/scheme"
	"skiff.dev/skiff/internal/store"
	"skiff.dev/skiff/internal/workload"
)

// checker reads every revision of the store, in order, and holds it against the
// invariants of a cluster. It sees what no client could: also what happened
// while the API was down.
type checker struct {
	report func(breach string)
	rev    int64
	lately time.Duration

	born map[types.UID]string // who ever had the uid
	pods map[string]*corev1.Pod
	sets map[string]*size[*appsv1.ReplicaSet]
	apps map[string]*size[*appsv1.Deployment]

	nodes  map[string]*corev1.Node
	bound  map[string]map[string]*corev1.Pod    // unfinished pods by node and key
	owned  map[types.UID]map[string]*corev1.Pod // active pods by owner and key
	leaves map[types.UID]map[string]*appsv1.ReplicaSet
	// breaches counts what was reported; only the first ones are.
	breaches int
}

// size is an object with the bounds that it sets. Its controller decides by
// those it knows, so until it tells that it has seen the present ones, and for a
// while after, the ones before are good too.
type size[T any] struct {
	now               T
	most, least       int32
	wasMost, wasLeast int32
	changed           time.Time // or seen by the controller, whichever came later
	unseen            bool      // by the controller
	// failed is how many pods were available before some failed at failedAt.
	failed   int32
	failedAt time.Time
}

// lately is how far behind a decision may be. In virtual time only a part that
// is waiting for something is behind at all, or one whose events are late.
const (
	lately     = time.Second
	latelyLate = 3 * time.Minute
)

// set takes the object as it is now, and whether its controller has told that
// it knows it so. When a Deployment becomes smaller in the middle of a rollout
// all its sets shrink in proportion, available pods or not, as upstream's do: so
// much may be missing for a while.
func (s *size[T]) set(now T, most, least int32, seen bool, lately time.Duration) {
	fresh, both := s.changed.IsZero(), s.both(lately)
	s.now = now
	if s.unseen && seen {
		s.changed = time.Now()
	}
	s.unseen = !seen
	if !fresh && s.most == most && s.least == least {
		return
	}
	switch {
	case fresh:
		s.wasMost, s.wasLeast = most, least
	case both:
		s.wasMost, s.wasLeast = max(s.wasMost, s.most), min(s.wasLeast, s.least)
	default:
		s.wasMost, s.wasLeast = s.most, s.least
	}
	if !fresh {
		s.wasLeast = min(s.wasLeast, least) - max(s.most-most, 0)
	}
	s.most, s.least, s.changed = most, least, time.Now()
}

// both reports whether the bounds of before are still good.
func (s *size[T]) both(lately time.Duration) bool {
	return s.unseen || time.Since(s.changed) <= lately
}

// bounds are the widest that are good.
func (s *size[T]) bounds(lately time.Duration) (most, least int32) {
	if !s.both(lately) {
		return s.most, s.least
	}
	return max(s.most, s.wasMost), min(s.least, s.wasLeast)
}

func newChecker(report func(breach string)) *checker {
	return &checker{
		report: report, lately: lately, born: map[types.UID]string{},
		pods: map[string]*corev1.Pod{}, sets: map[string]*size[*appsv1.ReplicaSet]{}, apps: map[string]*size[*appsv1.Deployment]{},
		nodes: map[string]*corev1.Node{}, bound: map[string]map[string]*corev1.Pod{},
		owned: map[types.UID]map[string]*corev1.Pod{}, leaves: map[types.UID]map[string]*appsv1.ReplicaSet{},
	}
}

// run checks what w brings until ctx ends.
func (c *checker) run(ctx context.Context, w store.Watcher) {
	defer w.Close()
	for {
		batch, err := w.Next(ctx)
		if err != nil {
			if ctx.Err() == nil {
				c.breach("", "the checker lost its watch: %v", err)
			}
			return
		}
		for _, e := range batch.Events {
			c.see(e)
		}
	}
}

// breach reports that an invariant does not hold.
func (c *checker) breach(key, format string, args ...any) {
	if c.breaches++; c.breaches <= 20 {
		c.report(fmt.Sprintf("%s revision %d, %s: %s", time.Now().Format("15:04:05.000"), c.rev, key, fmt.Sprintf(format, args...)))
	}
}

func (c *checker) see(e store.Event) {
	if e.KV.ModRev < c.rev {
		c.breach(e.KV.Key, "I4: revision %d comes after %d", e.KV.ModRev, c.rev)
	}
	c.rev = e.KV.ModRev
	resource, key, _ := strings.Cut(strings.TrimPrefix(e.KV.Key, "/registry/"), "/")
	switch resource {
	case "pods":
		seeAs(c, key, e, c.pods[key], c.podIs)
	case "replicasets":
		var was *appsv1.ReplicaSet
		if s := c.sets[key]; s != nil {
			was = s.now
		}
		seeAs(c, key, e, was, c.setIs)
	case "deployments":
		var was *appsv1.Deployment
		if s := c.apps[key]; s != nil {
			was = s.now
		}
		seeAs(c, key, e, was, c.appIs)
	case "minions":
		seeAs(c, key, e, c.nodes[key], c.nodeIs)
	}
}

// seeAs checks what holds for every object, and hands the object on: was or is
// may be nil, not both.
func seeAs[T any, P interface {
	*T
	meta.Object
}](c *checker, key string, e store.Event, was P, is func(key string, is, was P)) {
	if e.Delete {
		if was == nil {
			c.breach(key, "I5: deleted without having been there")
			return
		}
		is(key, nil, was)
		return
	}
	now := P(new(T))
	if _, err := scheme.DecodeProtobuf(e.KV.Value, now); err != nil {
		c.breach(key, "cannot be decoded: %v", err)
		return
	}
	uid := now.GetUID()
	switch {
	case was == nil:
		if first, taken := c.born[uid]; taken {
			c.breach(key, "I10: uid %s was given to %s before", uid, first)
		}
		c.born[uid] = e.KV.Key
	case was.GetUID() != uid:
		c.breach(key, "I10: uid changed from %s to %s", was.GetUID(), uid)
	default:
		c.end(key, now, was)
	}
	is(key, now, was)
}

// end checks that a deletion, once begun, is not put off or taken back (I11).
func (c *checker) end(key string, now, was metav1.Object) {
	before, after := was.GetDeletionTimestamp(), now.GetDeletionTimestamp()
	switch {
	case before == nil:
	case after == nil:
		c.breach(key, "I11: the deletion was taken back")
	case after.After(before.Time):
		c.breach(key, "I11: the deletion was put off from %v to %v", before, after)
	}
	if now.GetGeneration() < was.GetGeneration() {
		c.breach(key, "I11: the generation went back from %d to %d", was.GetGeneration(), now.GetGeneration())
	}
}

func (c *checker) nodeIs(key string, is, _ *corev1.Node) {
	if is == nil {
		delete(c.nodes, key)
		return
	}
	c.nodes[key] = is
}

func (c *checker) podIs(key string, is, was *corev1.Pod) {
	if was != nil {
		c.forgetPod(key, was)
	}
	if is == nil {
		return
	}
	c.pods[key] = is
	if was != nil {
		if pod.IsTerminal(was) && is.Status.Phase != was.Status.Phase {
			c.breach(key, "I26: went from phase %s to %s", was.Status.Phase, is.Status.Phase)
		}
		if was.Spec.NodeName != "" && is.Spec.NodeName != was.Spec.NodeName {
			c.breach(key, "I21: moved from node %s to %s", was.Spec.NodeName, is.Spec.NodeName)
		}
	}
	if n := is.Spec.NodeName; n != "" && !pod.IsTerminal(is) {
		put(c.bound, n, key, is)
		if was == nil || was.Spec.NodeName == "" {
			c.fits(key, n)
		}
	}
	if owner := meta.ControllerOf(is); owner != nil && pod.IsActive(is) {
		put(c.owned, owner.UID, key, is)
		if was == nil {
			c.notTooMany(key, is.Namespace+"/"+owner.Name, owner.UID)
		}
	}
}

func (c *checker) forgetPod(key string, was *corev1.Pod) {
	delete(c.pods, key)
	take(c.bound, was.Spec.NodeName, key)
	if owner := meta.ControllerOf(was); owner != nil {
		take(c.owned, owner.UID, key)
	}
}

// fits checks that the requests of a node's pods are within what it offers.
func (c *checker) fits(key, name string) {
	n := c.nodes[name]
	if n == nil {
		c.breach(key, "I21: bound to node %s, which does not exist", name)
		return
	}
	var cpu, memory int64
	for _, p := range c.bound[name] {
		r := pod.Requests(p)
		cpu += r.Cpu().MilliValue()
		memory += r.Memory().Value()
	}
	offer := n.Status.Allocatable
	if pods := int64(len(c.bound[name])); cpu > offer.Cpu().MilliValue() || memory > offer.Memory().Value() || pods > offer.Pods().Value() {
		c.breach(key, "I21: node %s has %d pods that ask for %dm CPU and %d bytes", name, pods, cpu, memory)
	}
}

// notTooMany checks, when a pod is created, that its ReplicaSet asked for it.
func (c *checker) notTooMany(key, owner string, uid types.UID) {
	s := c.sets[owner]
	if s == nil || s.now.UID != uid {
		return // the owner has gone; garbage collection is to see to it
	}
	most, _ := s.bounds(c.lately)
	if n := len(c.owned[uid]); n > int(most) {
		c.breach(key, "I17: ReplicaSet %s of %d replicas now has %d pods", owner, most, n)
	}
}

func (c *checker) setIs(key string, is, was *appsv1.ReplicaSet) {
	if is == nil {
		delete(c.sets, key)
		if owner := meta.ControllerOf(was); owner != nil {
			take(c.leaves, owner.UID, key)
		}
		return
	}
	if c.sets[key] == nil {
		c.sets[key] = &size[*appsv1.ReplicaSet]{}
	}
	c.sets[key].set(is, *is.Spec.Replicas, *is.Spec.Replicas, is.Status.ObservedGeneration == is.Generation, c.lately)
	owner := meta.ControllerOf(is)
	if owner == nil {
		return
	}
	before := c.available(owner.UID)
	put(c.leaves, owner.UID, key, is)
	app := c.apps[is.Namespace+"/"+owner.Name]
	if app == nil || app.now.UID != owner.UID {
		return
	}
	switch from, to, after := sizeOf(was), *is.Spec.Replicas, c.available(owner.UID); {
	case to > from:
		c.keepsSurge(key, app, owner.UID)
	case to < from:
		c.keepsAvailable(key, app, before, after)
	case after < before:
		app.failed, app.failedAt = before, time.Now()
	}
}

func sizeOf(rs *appsv1.ReplicaSet) int32 {
	if rs == nil {
		return 0
	}
	return *rs.Spec.Replicas
}

// available counts what a Deployment can count on: what its sets say to have
// available, less what they have been told to remove.
func (c *checker) available(app types.UID) (n int32) {
	for _, rs := range c.leaves[app] {
		n += min(rs.Status.AvailableReplicas, *rs.Spec.Replicas)
	}
	return n
}

// keepsSurge checks, when a set grows, that all sets together stay within the
// Deployment's replicas and surge.
func (c *checker) keepsSurge(key string, app *size[*appsv1.Deployment], uid types.UID) {
	most, _ := app.bounds(c.lately)
	var total int32
	for _, rs := range c.leaves[uid] {
		total += *rs.Spec.Replicas
	}
	if total > most {
		c.breach(key, "I17: the Deployment's sets have %d replicas, at most %d may be", total, most)
	}
}

// keepsAvailable checks, when a set shrinks, that it takes nothing available
// away that the Deployment must keep (I19). What is missing already, because
// nodes have failed, may go on missing.
func (c *checker) keepsAvailable(key string, app *size[*appsv1.Deployment], before, after int32) {
	if app.now.Spec.Strategy.Type != appsv1.RollingUpdateDeploymentStrategyType {
		return
	}
	_, least := app.bounds(c.lately)
	seen := before // by the controller, when it decided: what failed since is not its doing
	if time.Since(app.failedAt) <= c.lately {
		seen = max(seen, app.failed)
	}
	if seen-(before-after) < min(least, seen) {
		c.breach(key, "I19: %d pods stay available of %d, at least %d must", after, before, least)
	}
}

// bounds are how many replicas a Deployment's sets may have, and how many of
// them must be available.
func bounds(d *appsv1.Deployment) (most, least int32) {
	want := *d.Spec.Replicas
	if d.Spec.Strategy.RollingUpdate == nil {
		return want, 0
	}
	b := workload.BoundsOf(d.Spec.Strategy.RollingUpdate.MaxSurge, d.Spec.Strategy.RollingUpdate.MaxUnavailable, want)
	return want + b.Surge, want - b.Unavailable
}

func (c *checker) appIs(key string, is, _ *appsv1.Deployment) {
	if is == nil {
		delete(c.apps, key)
		return
	}
	s := c.apps[key]
	if s == nil {
		s = &size[*appsv1.Deployment]{}
		c.apps[key] = s
	}
	most, least := bounds(is)
	s.set(is, most, least, is.Status.ObservedGeneration == is.Generation, c.lately)
}

func put[K comparable, V any](m map[K]map[string]V, k K, key string, v V) {
	if m[k] == nil {
		m[k] = map[string]V{}
	}
	m[k][key] = v
}

func take[K comparable, V any](m map[K]map[string]V, k K, key string) {
	delete(m[k], key)
	if len(m[k]) == 0 {
		delete(m, k)
	}
}
