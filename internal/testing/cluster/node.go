package cluster

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"skiff.dev/skiff/internal/client"
	"skiff.dev/skiff/internal/meta"
	"skiff.dev/skiff/internal/node"
	"skiff.dev/skiff/internal/pod"
	"skiff.dev/skiff/internal/testing/build"
)

// The figures of a kubelet.
const (
	renewEvery  = 10 * time.Second
	leaseLasts  = 40 * time.Second
	statusEvery = 5 * time.Minute
	retryAfter  = time.Second
)

// Node is a pretended machine with a kubelet: it registers, renews its lease,
// runs the pods bound to it and lets them go, all by the API under its own
// identity. What it runs goes on without the API and is lost when the power is.
type Node struct {
	Name   string
	number int
	fleet  *fleet
	rand   *rand.Rand
	// due is when it acts next, index where it is in the fleet's schedule.
	due   time.Time
	index int

	// The machine.
	off, cut bool
	slow     time.Duration
	skew     time.Duration // how far its clock is ahead
	running  map[types.UID]*sandbox
	nextIP   int

	// What the API has told, and what is to be told to it.
	api     *client.Client
	seen    *corev1.Node
	wanted  map[types.UID]*corev1.Pod
	pending []types.UID // pods to look at, in the order of their news
	lease   *coordinationv1.Lease
	renewAt time.Time
	tellAt  time.Time
}

// sandbox is a pod as it is on the machine.
type sandbox struct {
	state    sandboxState
	at       time.Time // when starting or stopping is over
	ip       string
	since    time.Time // running since
	restarts int32
}

type sandboxState int

const (
	starting sandboxState = iota
	up
	stopping
	gone
)

func newNode(f *fleet, i int, r *rand.Rand) *Node {
	return &Node{
		Name: nodeName(i), number: i, fleet: f, rand: r,
		running: map[types.UID]*sandbox{}, wanted: map[types.UID]*corev1.Pod{},
	}
}

// PowerOff stops the machine: what runs on it is lost.
func (n *Node) PowerOff() {
	n.fleet.call(func() { n.off, n.running = true, map[types.UID]*sandbox{} })
}

// PowerOn boots it again.
func (n *Node) PowerOn() { n.fleet.call(func() { n.off = false; n.resume() }) }

// Cut takes the node off the network; its pods run on.
func (n *Node) Cut() { n.fleet.call(func() { n.cut = true }) }

// Mend connects it again.
func (n *Node) Mend() { n.fleet.call(func() { n.cut = false; n.resume() }) }

// Slow makes everything on the node take d longer; 0 ends that.
func (n *Node) Slow(d time.Duration) { n.fleet.call(func() { n.slow = d }) }

// SetClock sets the node's clock that far ahead of the others', or behind.
func (n *Node) SetClock(ahead time.Duration) { n.fleet.call(func() { n.skew = ahead }) }

// clock is what the node's clock shows.
func (n *Node) clock(now time.Time) time.Time { return now.Add(n.skew) }

// resume looks at everything anew.
func (n *Node) resume() {
	n.renewAt, n.tellAt = time.Time{}, time.Time{}
	n.lookAtAll()
	n.fleet.hurry(n)
}

// forget makes the node ready to be told everything by another server.
func (n *Node) forget(api *client.Client) {
	n.api, n.seen, n.wanted, n.pending = api, nil, map[types.UID]*corev1.Pod{}, nil
	n.lookAtAll()
}

func (n *Node) look(uid types.UID) {
	if !slices.Contains(n.pending, uid) {
		n.pending = append(n.pending, uid)
	}
}

func (n *Node) lookAtAll() {
	var all []types.UID
	for uid := range n.running {
		all = append(all, uid)
	}
	for uid := range n.wanted {
		all = append(all, uid)
	}
	slices.Sort(all)
	for _, uid := range slices.Compact(all) {
		n.look(uid)
	}
}

// draw is a time from least to most, and more on a slow node.
func (n *Node) draw(least, most time.Duration) time.Duration {
	return least + time.Duration(n.rand.Int64N(int64(most-least)+1)) + n.slow
}

// act does what is due and returns when there is more to do.
func (n *Node) act(ctx context.Context, now time.Time) time.Time {
	next := now.Add(time.Hour)
	sooner := func(t time.Time) {
		if t = t.Truncate(tick).Add(tick); t.Before(next) {
			next = t
		}
	}
	if n.off {
		return next
	}
	for uid, s := range n.running {
		if s.state != starting && s.state != stopping {
			continue
		}
		if s.at.After(now) {
			sooner(s.at)
			continue
		}
		if s.state == stopping {
			s.state = gone
		} else {
			s.state, s.since = up, now
		}
		n.look(uid)
	}
	if n.cut || !n.fleet.online {
		return next
	}
	if err := n.report(ctx, now); err != nil {
		sooner(now.Add(retryAfter))
		return next
	}
	sooner(n.renewAt)
	for _, uid := range n.take() {
		if err := n.sync(ctx, uid, now); err != nil {
			n.look(uid)
			sooner(now.Add(retryAfter))
		}
		if s := n.running[uid]; s != nil && (s.state == starting || s.state == stopping) {
			sooner(s.at)
		}
	}
	return next
}

func (n *Node) take() []types.UID {
	all := n.pending
	n.pending = nil
	return all
}

// report registers the node, renews its lease and tells its status.
func (n *Node) report(ctx context.Context, now time.Time) error {
	if n.seen == nil {
		created, err := client.For[*corev1.Node](n.api).Create(ctx, build.Node(n.Name))
		if err != nil {
			return err
		}
		n.seen, n.tellAt = created, now.Add(n.draw(0, statusEvery))
		n.renewAt = now.Add(n.draw(0, renewEvery)) // not all at once
		return n.renew(ctx, now)
	}
	if !now.Before(n.renewAt) {
		if err := n.renew(ctx, now); err != nil {
			return err
		}
		n.renewAt = now.Add(renewEvery + n.slow)
	}
	if node.IsReady(n.seen) && now.Before(n.tellAt) {
		return nil
	}
	status := meta.Copy(n.seen)
	node.SetCondition(&status.Status, corev1.NodeCondition{
		Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "KubeletReady", Message: "kubelet is posting ready status",
		LastHeartbeatTime: metav1.NewTime(n.clock(now)), LastTransitionTime: metav1.NewTime(n.clock(now)),
	})
	told, err := client.For[*corev1.Node](n.api).UpdateStatus(ctx, status)
	if apierrors.IsConflict(err) {
		return nil // newer news is on its way
	}
	if err == nil {
		n.seen, n.tellAt = told, now.Add(statusEvery)
	}
	return err
}

// renew says that the node lives.
func (n *Node) renew(ctx context.Context, now time.Time) error {
	kind := client.For[*coordinationv1.Lease](n.api)
	seconds, at := int32(leaseLasts/time.Second), metav1.NewMicroTime(n.clock(now))
	var err error
	if n.lease == nil {
		if n.lease, err = kind.Get(ctx, corev1.NamespaceNodeLease, n.Name); apierrors.IsNotFound(err) {
			n.lease, err = kind.Create(ctx, &coordinationv1.Lease{
				ObjectMeta: metav1.ObjectMeta{Name: n.Name, Namespace: corev1.NamespaceNodeLease, OwnerReferences: []metav1.OwnerReference{{
					APIVersion: "v1", Kind: "Node", Name: n.Name, UID: n.seen.UID,
				}}},
				Spec: coordinationv1.LeaseSpec{HolderIdentity: &n.Name, LeaseDurationSeconds: &seconds, RenewTime: &at},
			})
			return n.renewed(err)
		}
		if err != nil {
			return n.renewed(err)
		}
	}
	lease := meta.Copy(n.lease)
	lease.Spec.RenewTime = &at
	n.lease, err = kind.Update(ctx, lease)
	return n.renewed(err)
}

// renewed forgets the lease if writing it has failed.
func (n *Node) renewed(err error) error {
	if err != nil {
		n.lease = nil
	}
	return err
}

// sync brings one pod a step on: the machine to what the API wants, the API to
// what the machine has.
func (n *Node) sync(ctx context.Context, uid types.UID, now time.Time) error {
	want, s := n.wanted[uid], n.running[uid]
	switch {
	case want == nil || pod.IsTerminal(want) && want.DeletionTimestamp == nil:
		delete(n.running, uid)
		return nil
	case want.DeletionTimestamp != nil && (s == nil || s.state == gone):
		return n.finish(ctx, want, s)
	case want.DeletionTimestamp != nil && s.state != stopping:
		grace := time.Second
		if g := want.DeletionGracePeriodSeconds; g != nil {
			grace = min(grace, time.Duration(*g)*time.Second)
		}
		s.state, s.at = stopping, now.Add(n.draw(0, grace))
		return nil
	case s == nil:
		s = &sandbox{state: starting, at: now.Add(n.draw(time.Second, 5*time.Second)), ip: n.address()}
		if len(want.Status.ContainerStatuses) > 0 { // it ran here before the power went
			s.restarts = want.Status.ContainerStatuses[0].RestartCount + 1
		}
		n.running[uid] = s
	}
	return n.tell(ctx, want, s, now)
}

// tell writes the status of a pod that lives, if the API has another.
func (n *Node) tell(ctx context.Context, want *corev1.Pod, s *sandbox, now time.Time) error {
	ready := s.state == up
	if pod.IsReady(want) == ready && (!ready || want.Status.PodIP == s.ip) || want.DeletionTimestamp != nil {
		return nil
	}
	told := meta.Copy(want)
	st := &told.Status
	st.Phase = corev1.PodRunning
	st.HostIP, st.PodIP, st.PodIPs = n.hostIP(), s.ip, []corev1.PodIP{{IP: s.ip}}
	if st.StartTime == nil {
		st.StartTime = &metav1.Time{Time: n.clock(now)}
	}
	n.setConditions(st, ready, now)
	c := corev1.ContainerStatus{Name: want.Spec.Containers[0].Name, Image: want.Spec.Containers[0].Image, Ready: ready, Started: &ready, RestartCount: s.restarts}
	if ready {
		c.State.Running = &corev1.ContainerStateRunning{StartedAt: metav1.NewTime(n.clock(s.since))}
	} else {
		c.State.Waiting = &corev1.ContainerStateWaiting{Reason: "ContainerCreating"}
	}
	st.ContainerStatuses = []corev1.ContainerStatus{c}
	return n.write(ctx, told)
}

func (n *Node) setConditions(st *corev1.PodStatus, ready bool, now time.Time) {
	status := corev1.ConditionFalse
	if ready {
		status = corev1.ConditionTrue
	}
	for _, t := range []corev1.PodConditionType{corev1.ContainersReady, corev1.PodReady} {
		pod.SetCondition(st, corev1.PodCondition{Type: t, Status: status, LastTransitionTime: metav1.NewTime(n.clock(now))})
	}
}

// finish tells the end of a pod and lets its object go.
func (n *Node) finish(ctx context.Context, want *corev1.Pod, s *sandbox) error {
	if s != nil && !pod.IsTerminal(want) {
		told := meta.Copy(want)
		told.Status.Phase = corev1.PodSucceeded
		n.setConditions(&told.Status, false, time.Now())
		if err := n.write(ctx, told); err != nil {
			return err
		}
	}
	delete(n.running, want.UID)
	var now int64
	err := client.For[*corev1.Pod](n.api).Delete(ctx, want.Namespace, want.Name, metav1.DeleteOptions{
		GracePeriodSeconds: &now, Preconditions: &metav1.Preconditions{UID: &want.UID},
	})
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil // gone, or another pod has its name
	}
	return err
}

// write updates a pod's status. If the pod has changed meanwhile the news of
// that is on its way and will have it looked at again.
func (n *Node) write(ctx context.Context, p *corev1.Pod) error {
	got, err := client.For[*corev1.Pod](n.api).UpdateStatus(ctx, p)
	switch {
	case err == nil:
		n.wanted[p.UID] = got
		return nil
	case apierrors.IsNotFound(err):
		return nil
	}
	return err
}

// address returns an address that no other pod of the node has.
func (n *Node) address() string {
	for {
		n.nextIP = n.nextIP%250 + 1
		ip := fmt.Sprintf("10.%d.%d.%d", 128+n.number>>8, n.number&255, n.nextIP+1)
		taken := false
		for _, s := range n.running {
			taken = taken || s.ip == ip
		}
		if !taken {
			return ip
		}
	}
}

func (n *Node) hostIP() string { return fmt.Sprintf("192.168.%d.%d", n.number>>8, n.number&255) }
