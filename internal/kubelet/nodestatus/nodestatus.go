// Package nodestatus registers the node with the API, reports its status and
// keeps its lease. It reads the machine, the container runtime and the node's
// own object, and writes that object, its status, its lease in
// kube-node-lease, and events about it.
package nodestatus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"reflect"
	"slices"
	"strconv"
	"sync"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"skiff.dev/skiff/internal/client"
	"skiff.dev/skiff/internal/meta"
	"skiff.dev/skiff/internal/node"
	"skiff.dev/skiff/internal/watchcache"
)

// Runtime is the part of the container runtime that is asked; see package cri.
type Runtime interface {
	Version(ctx context.Context) (*runtimeapi.VersionResponse, error)
	Status(ctx context.Context) (*runtimeapi.StatusResponse, error)
	ListImages(ctx context.Context) ([]*runtimeapi.Image, error)
}

// Config says who the node is and what it has.
type Config struct {
	Client  *client.Client
	Events  client.Events
	Runtime Runtime
	Log     *slog.Logger

	Name     string
	Hostname string          // of the label and the address; the machine's if ""
	HostIPs  func() []string // the node's addresses, its main one first
	Port     int32           // of the kubelet's own API
	Machine  Machine
	MaxPods  int64
	Reserve  Reserve
	// Labels and Taints are given to the node when it is registered.
	Labels        map[string]string
	Taints        []v1.Taint
	Unschedulable bool
	ProviderID    string // of the machine, by whoever provides it
	// LeaseSeconds is how long the node counts as alive without a sign of life.
	LeaseSeconds int32
	// MaxImages is how many images the status lists, -1 for all.
	MaxImages int

	// Pressure tells what the node is short of now; nil for nothing ever.
	Pressure func() Pressure
	// PodCIDRs is told the node's pod networks whenever they are given or
	// changed; nil if nobody wants to know. It must not block.
	PodCIDRs func([]string)
}

const (
	// reportEvery is how often an unchanged status is written.
	reportEvery = 5 * time.Minute
	// While the node is not ready it looks often, as nothing tells when the
	// runtime's network has come, but less so the longer that takes.
	lookUnreadyMin = 100 * time.Millisecond
	lookUnreadyMax = 2 * time.Second
	retryMin       = 200 * time.Millisecond
	retryMax       = 7 * time.Second
)

// Reporter keeps the API informed about the node.
type Reporter struct {
	Config
	nodes  client.Kind[*v1.Node]
	lease  lease
	wake   chan struct{}
	ready  chan struct{} // closed when the node was first reported ready
	booted bool          // the first report was made

	mu     sync.Mutex
	node   *v1.Node // the node's object; nil if there is none
	cidrs  []string
	relist bool // the images have changed

	// The rest belongs to Run.
	unready  time.Time // since when the node is not ready; zero while it is
	images   []v1.ContainerImage
	reported time.Time
	version  *runtimeapi.VersionResponse
}

// New returns a reporter, to be Run.
func New(c Config) *Reporter {
	return &Reporter{
		Config: c, nodes: client.For[*v1.Node](c.Client),
		lease: lease{kind: client.For[*coordinationv1.Lease](c.Client), name: c.Name, seconds: c.LeaseSeconds},
		wake:  make(chan struct{}, 1), ready: make(chan struct{}), relist: true,
	}
}

// Allocatable returns what pods may request of the node.
func (r *Reporter) Allocatable() v1.ResourceList {
	return allocatable(&r.Machine, r.MaxPods, r.Reserve)
}

// ForPods returns what all pods together may use: also what eviction keeps
// free, which is out of reach for requests only.
func (r *Reporter) ForPods() v1.ResourceList {
	reserve := r.Reserve
	reserve.Memory, reserve.Storage = Threshold{}, Threshold{}
	return allocatable(&r.Machine, r.MaxPods, reserve)
}

// Node returns the node's object as the API has it, nil before it is known.
func (r *Reporter) Node() *v1.Node {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.node
}

// RecursiveReadOnly tells whether the runtime can make what is mounted below a
// volume read-only, for pods of the RuntimeClass ("" for none). For a class
// every handler must be able to, as classes do not tell which one they mean.
func (r *Reporter) RecursiveReadOnly(class string) bool {
	n := r.Node()
	if n == nil {
		return false
	}
	able := false
	for _, h := range n.Status.RuntimeHandlers {
		can := h.Features != nil && h.Features.RecursiveReadOnlyMounts != nil && *h.Features.RecursiveReadOnlyMounts
		if class == "" && h.Name == "" {
			return can
		}
		if class != "" && !can {
			return false
		}
		able = can
	}
	return able && class != ""
}

// Ready is closed once the node has been reported as ready.
func (r *Reporter) Ready() <-chan struct{} { return r.ready }

// Changed makes the reporter look at once: pressure, addresses or the runtime
// are not what they were.
func (r *Reporter) Changed() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// ImagesChanged is Changed for the node's images, which are not listed otherwise.
func (r *Reporter) ImagesChanged() {
	r.mu.Lock()
	r.relist = true
	r.mu.Unlock()
	r.Changed()
}

// Run registers the node, anew whenever it is deleted, and reports until ctx
// ends. The lease's clock is the only one that ticks: each time it does, the
// runtime is asked too.
func (r *Reporter) Run(ctx context.Context) {
	var parts sync.WaitGroup
	defer parts.Wait()
	parts.Go(func() { r.follow(ctx) })
	r.Events.Normal(r.self(), "Starting", "Starting kubelet.")
	var renewed time.Time
	for fails := 0; ctx.Err() == nil; {
		ready, err := r.report(ctx)
		if err == nil && time.Since(renewed) >= r.lease.every() {
			if err = r.lease.renew(ctx, r.Node(), time.Now()); err == nil {
				renewed = time.Now()
			}
		}
		if err == nil {
			fails = 0
			r.sleep(ctx, min(time.Until(renewed.Add(r.lease.every())), r.patience(ready, time.Now())))
			continue
		}
		wait := min(retryMin<<min(fails, 10), retryMax)
		wait += rand.N(wait / 4)
		if fails++; fails == 1 && ctx.Err() == nil {
			r.Log.Warn("reporting the node", "err", err, "retryIn", wait)
		}
		r.sleep(ctx, wait)
	}
}

// patience is how long nothing needs to be looked at.
func (r *Reporter) patience(ready bool, now time.Time) time.Duration {
	if ready {
		r.unready = time.Time{}
		return r.lease.every()
	}
	if r.unready.IsZero() {
		r.unready = now
	}
	return min(max(now.Sub(r.unready)/10, lookUnreadyMin), lookUnreadyMax)
}

func (r *Reporter) sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(max(d, time.Millisecond))
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-r.wake:
	case <-t.C:
	}
}

// self is what events are about; they name the node instead of its uid, as
// upstream's do and kubectl describe expects.
func (r *Reporter) self() *v1.Node {
	return &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: r.Name, UID: types.UID(r.Name)}}
}

// follow keeps the node's object and tells of its pod networks.
func (r *Reporter) follow(ctx context.Context) {
	for ctx.Err() == nil {
		cache, err := r.nodes.CacheWhere(ctx, watchcache.Scope{Name: r.Name})
		if err == nil {
			err = cache.Follow(ctx, func(ch client.Change[*v1.Node]) { r.change(ch.Object(), ch.Deleted) }, nil)
		}
		if ctx.Err() != nil {
			return
		}
		r.Log.Warn("following the node's own object", "err", err)
		select {
		case <-ctx.Done():
		case <-time.After(retryMax):
		}
	}
}

// change takes over the node's object.
func (r *Reporter) change(n *v1.Node, deleted bool) {
	r.mu.Lock()
	if deleted {
		if r.node != nil && r.node.UID == n.UID {
			r.node = nil
		}
		r.mu.Unlock()
		r.Changed()
		return
	}
	if r.node != nil && r.node.UID == n.UID && older(n, r.node) {
		r.mu.Unlock()
		return // the answer to a write may come after the event of a later one
	}
	r.node = n
	cidrs := n.Spec.PodCIDRs
	if len(cidrs) == 0 && n.Spec.PodCIDR != "" {
		cidrs = []string{n.Spec.PodCIDR}
	}
	fresh := len(cidrs) > 0 && !slices.Equal(cidrs, r.cidrs)
	if fresh {
		r.cidrs = slices.Clone(cidrs)
	}
	r.mu.Unlock()
	if fresh && r.PodCIDRs != nil {
		r.PodCIDRs(slices.Clone(cidrs))
	}
}

// older tells whether a is an earlier state of the object than b.
func older(a, b *v1.Node) bool {
	x, errX := strconv.ParseUint(a.ResourceVersion, 10, 64)
	y, errY := strconv.ParseUint(b.ResourceVersion, 10, 64)
	return errX == nil && errY == nil && x < y
}

// report looks at the node and writes what has changed, or everything when
// that has not been done for long. It returns whether the node is ready.
func (r *Reporter) report(ctx context.Context) (ready bool, err error) {
	now := time.Now()
	rt := r.look(ctx)
	if err := r.listImages(ctx, now); err != nil {
		r.Log.Warn("listing images for the node's status", "err", err)
	}
	n, err := r.register(ctx, rt, now)
	if err != nil {
		return false, err
	}
	next := r.compute(&n.Status, rt, r.images, now)
	ready = isReady(&next)
	if now.Sub(r.reported) < reportEvery && same(&n.Status, &next) {
		return ready, nil
	}
	patch, err := statusPatch(n, &next)
	if err != nil {
		return ready, fmt.Errorf("reporting the node's status: %w", err)
	}
	got, err := r.nodes.Patch(ctx, meta.Key{Name: r.Name}, "status", types.StrategicMergePatchType, patch)
	if apierrors.IsNotFound(err) {
		r.change(n, true)
	}
	if err != nil {
		return ready, fmt.Errorf("reporting the node's status: %w", err)
	}
	r.reported = now
	r.announce(&n.Status, &next)
	r.change(got, false)
	return ready, nil
}

func isReady(s *v1.NodeStatus) bool {
	c := node.Condition(s, v1.NodeReady)
	return c != nil && c.Status == v1.ConditionTrue
}

// look asks the runtime how it is.
func (r *Reporter) look(ctx context.Context) seen {
	status, err := r.Runtime.Status(ctx)
	if err != nil {
		r.version = nil // it may come back as another
		return seen{err: err}
	}
	if r.version == nil {
		if r.version, err = r.Runtime.Version(ctx); err != nil {
			return seen{err: err}
		}
	}
	return seen{version: r.version, status: status}
}

func (r *Reporter) listImages(ctx context.Context, now time.Time) error {
	r.mu.Lock()
	list := r.relist || now.Sub(r.reported) >= reportEvery
	r.relist = false
	r.mu.Unlock()
	if !list {
		return nil
	}
	images, err := r.Runtime.ListImages(ctx)
	if err != nil {
		r.mu.Lock()
		r.relist = true
		r.mu.Unlock()
		return err
	}
	r.images = imageList(images, r.MaxImages)
	return nil
}

// register returns the node's object; it makes it where there is none, and
// brings the labels of one that is there up to date.
func (r *Reporter) register(ctx context.Context, rt seen, now time.Time) (*v1.Node, error) {
	if n := r.Node(); n != nil && r.booted {
		return n, nil
	}
	n, err := r.nodes.Get(ctx, "", r.Name)
	if apierrors.IsNotFound(err) {
		made, createErr := r.nodes.Create(ctx, r.initial(rt, now))
		if createErr == nil {
			r.Log.Info("registered the node", "node", r.Name)
			r.reported = now
			r.announce(&v1.NodeStatus{}, &made.Status)
		}
		n, err = made, createErr
	} else if err == nil {
		n, err = r.adopt(ctx, n)
	}
	if err != nil {
		return nil, fmt.Errorf("registering the node: %w", err)
	}
	r.booted = true
	r.change(n, false)
	return n, nil
}

// initial is the node as it is first written.
func (r *Reporter) initial(rt seen, now time.Time) *v1.Node {
	return &v1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: r.Name, Labels: r.labels(), Annotations: map[string]string{managedAttach: "true"}},
		Spec:       v1.NodeSpec{Taints: slices.Clone(r.Taints), Unschedulable: r.Unschedulable, ProviderID: r.ProviderID},
		Status:     r.compute(&v1.NodeStatus{}, rt, r.images, now),
	}
}

// managedAttach says that the controller attaches the node's volumes.
const managedAttach = "volumes.kubernetes.io/controller-managed-attach-detach"

// adopt takes over a node that is registered: those labels that say what it is
// must be true, the others are the cluster's.
func (r *Reporter) adopt(ctx context.Context, n *v1.Node) (*v1.Node, error) {
	labels, annotations := map[string]string{}, map[string]string{}
	for k, v := range r.ownLabels() {
		if n.Labels[k] != v {
			labels[k] = v
		}
	}
	if n.Annotations[managedAttach] != "true" {
		annotations[managedAttach] = "true"
	}
	if len(labels)+len(annotations) == 0 {
		return n, nil
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": n.UID, "labels": labels, "annotations": annotations}})
	if err != nil {
		return nil, err
	}
	return r.nodes.Patch(ctx, meta.Key{Name: r.Name}, "", types.StrategicMergePatchType, patch)
}

// announce tells of conditions that have changed.
func (r *Reporter) announce(old, now *v1.NodeStatus) {
	for t, words := range map[v1.NodeConditionType][2]string{
		v1.NodeMemoryPressure: {"NodeHasInsufficientMemory", "NodeHasSufficientMemory"},
		v1.NodeDiskPressure:   {"NodeHasDiskPressure", "NodeHasNoDiskPressure"},
		v1.NodePIDPressure:    {"NodeHasInsufficientPID", "NodeHasSufficientPID"},
		v1.NodeReady:          {"NodeReady", "NodeNotReady"},
	} {
		was, is := node.Condition(old, t), node.Condition(now, t)
		if is == nil || was != nil && was.Status == is.Status {
			continue
		}
		word := words[1]
		if is.Status == v1.ConditionTrue {
			word = words[0]
		}
		r.Events.Normal(r.self(), word, "Node %s status is now: %s", r.Name, word)
	}
	if isReady(now) {
		select {
		case <-r.ready:
		default:
			close(r.ready)
		}
	}
}

// same tells whether nothing but the time of the conditions differs.
func same(a, b *v1.NodeStatus) bool {
	strip := func(s *v1.NodeStatus) *v1.NodeStatus {
		out := s.DeepCopy()
		for i := range out.Conditions {
			out.Conditions[i].LastHeartbeatTime = metav1.Time{}
			out.Conditions[i].LastTransitionTime = metav1.Time{}
		}
		return out
	}
	return equality.Semantic.DeepEqual(strip(a), strip(b))
}

// statusPatch returns the patch from n to the status. Addresses are replaced
// as a whole: their merge key is the type, of which there may be two.
func statusPatch(n *v1.Node, next *v1.NodeStatus) ([]byte, error) {
	before := &v1.Node{Status: *n.Status.DeepCopy()}
	after := &v1.Node{Status: *next}
	sameAddresses := reflect.DeepEqual(before.Status.Addresses, after.Status.Addresses)
	addresses := after.Status.Addresses
	before.Status.Addresses, after.Status.Addresses = nil, nil
	a, errA := json.Marshal(before)
	b, errB := json.Marshal(after)
	if err := errors.Join(errA, errB); err != nil {
		return nil, err
	}
	patch, err := strategicpatch.CreateTwoWayMergePatch(a, b, v1.Node{})
	if err != nil {
		return nil, err
	}
	tree := map[string]any{}
	if err := json.Unmarshal(patch, &tree); err != nil {
		return nil, err
	}
	// It is meant for this node, not for one made anew under the same name.
	tree["metadata"] = map[string]any{"uid": n.UID}
	if !sameAddresses {
		list := []any{map[string]any{"$patch": "replace"}}
		for _, address := range addresses {
			list = append(list, address)
		}
		status, ok := tree["status"].(map[string]any)
		if !ok {
			status = map[string]any{}
			tree["status"] = status
		}
		status["addresses"] = list
	}
	return json.Marshal(tree)
}
