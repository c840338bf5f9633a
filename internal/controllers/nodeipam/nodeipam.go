// Package nodeipam gives every Node its range of pod addresses, a part of the
// cluster's. It reads Nodes and writes their spec.podCIDR and spec.podCIDRs,
// once.
package nodeipam

import (
	"context"
	"log/slog"
	"net/netip"
	"sync"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"skiff.dev/skiff/internal/client"
	"skiff.dev/skiff/internal/controller"
	"skiff.dev/skiff/internal/meta"
)

// Config says what the ranges are taken from.
type Config struct {
	// Cluster is the range of all pods, or one of each IP family.
	Cluster []netip.Prefix
	// Services are not given to nodes where they lie within Cluster.
	Services []netip.Prefix
	// Bits4 and Bits6 are the mask sizes of a node's ranges.
	Bits4, Bits6 int
}

// Mask sizes of a node's ranges, unless configured otherwise.
const (
	DefaultBits4 = 24
	DefaultBits6 = 64
)

type allocator struct {
	client *client.Client
	events client.Events
	cfg    Config
	nodes  client.Cache[*corev1.Node]

	mu    sync.Mutex
	pools []*pool
	full  bool // somebody has been told that nothing is left
}

// New returns the controller that gives out pod address ranges.
func New(c *client.Client, events client.Events, cfg Config) (*controller.Controller, error) {
	a := &allocator{client: c, events: events, cfg: cfg}
	if _, err := a.newPools(); err != nil {
		return nil, err
	}
	return controller.New(c, "node-ipam", &a.nodes, a.reconcile,
		controller.Starts(a.start),
		controller.Maps(&a.nodes, a.follow),
		controller.Workers(1),
		controller.Writes("", "nodes", "update"),
		controller.Reports(),
	), nil
}

func (a *allocator) newPools() (pools []*pool, err error) {
	for _, cluster := range a.cfg.Cluster {
		bits := a.cfg.Bits4
		if cluster.Addr().Is6() {
			bits = a.cfg.Bits6
		}
		p, err := newPool(cluster.Masked(), bits, a.cfg.Services)
		if err != nil {
			return nil, err
		}
		pools = append(pools, p)
	}
	return pools, nil
}

// start learns from the nodes what is taken, before anything is given out.
func (a *allocator) start() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.pools, _ = a.newPools() // New has checked that it can be done
	for n := range a.nodes.All("") {
		a.take(n)
	}
}

// follow keeps account of ranges that are taken or come free.
func (a *allocator) follow(ch client.Change[*corev1.Node]) (keys []meta.Key) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if ch.Deleted {
		if !a.release(ch.Old.Name) {
			return nil
		}
		for n := range a.nodes.All("") { // those that nothing was left for
			if len(n.Spec.PodCIDRs) == 0 {
				keys = append(keys, meta.KeyOf(n))
			}
		}
		return keys
	}
	a.take(ch.New)
	return nil
}

func (a *allocator) take(n *corev1.Node) {
	for _, text := range n.Spec.PodCIDRs {
		prefix, err := netip.ParsePrefix(text)
		if err != nil {
			continue // validation admits none
		}
		for _, p := range a.pools {
			p.take(n.Name, prefix)
		}
	}
}

// release frees what a node has, and reports whether others can have it now.
// The lock is held.
func (a *allocator) release(node string) (freed bool) {
	for _, p := range a.pools {
		freed = p.release(node) || freed
	}
	a.full = a.full && !freed
	return freed
}

func (a *allocator) reconcile(ctx context.Context, n *corev1.Node) (controller.Result, error) {
	if len(n.Spec.PodCIDRs) > 0 || n.DeletionTimestamp != nil {
		return controller.Result{}, nil
	}
	ranges, ok := a.reserve(n.Name)
	if !ok {
		a.events.Normal(n, "CIDRNotAvailable", "Node %s status is now: CIDRNotAvailable", n.Name)
		return controller.Result{}, nil // until another node goes, see follow
	}
	changed := meta.Copy(n)
	changed.Spec.PodCIDR, changed.Spec.PodCIDRs = ranges[0], ranges
	_, err := client.For[*corev1.Node](a.client).Update(ctx, changed)
	if err != nil && !apierrors.IsConflict(err) && !apierrors.IsNotFound(err) {
		a.events.Normal(n, "CIDRAssignmentFailed", "Node %s status is now: CIDRAssignmentFailed", n.Name)
	}
	if apierrors.IsNotFound(err) {
		a.forget(n.Name)
		err = nil
	}
	return controller.Result{}, err
}

// reserve returns the ranges of a node, or false if there is not one of each
// family left. Of the nodes that get none, the first is told to people.
func (a *allocator) reserve(node string) (ranges []string, ok bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, p := range a.pools {
		if r, ok := p.reserve(node); ok {
			ranges = append(ranges, r.String())
		}
	}
	ok = len(ranges) == len(a.pools)
	if !ok && !a.full {
		a.full = true
		slog.Warn("no range of pod addresses is left; nodes wait until others are deleted", "node", node, "cluster", a.cfg.Cluster)
	}
	return ranges, ok
}

// forget frees what was meant for a node that has gone meanwhile: its deletion
// may have been seen before. A successor of its name keeps its own.
func (a *allocator) forget(node string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if next, ok := a.nodes.Get("", node); !ok || len(next.Spec.PodCIDRs) == 0 {
		a.release(node)
	}
}
