// Package garbagecollector deletes objects whose owners are gone, and carries
// out the deletions that wait for dependents or orphan them. It reads every
// resource, by indexes on the owners' uids instead of a graph of its own; it
// deletes objects and writes their owner references and finalizers.
//
// https://kubernetes.io/docs/concepts/architecture/garbage-collection/
package garbagecollector

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"skiff.dev/skiff/internal/client"
	"skiff.dev/skiff/internal/controller"
	"skiff.dev/skiff/internal/meta"
	"skiff.dev/skiff/internal/watchcache"
)

type collector struct {
	client    *client.Client
	events    client.Events
	ctl       *controller.Controller
	resources controller.Resources

	mu     sync.RWMutex
	byKind map[schema.GroupKind]controller.Resource
	tables map[schema.GroupVersionResource]*watchcache.Table
	absent map[types.UID]bool // owners that the API has said are not there
}

// rememberAbsent is how many absent owners are remembered.
const rememberAbsent = 1000

// New returns the garbage collector of all resources. They are listed when Run
// starts: it is to be run again when others have come.
func New(c *client.Client, events client.Events, resources controller.Resources) *controller.Controller {
	g := &collector{
		client: c, events: events, resources: resources,
		tables: map[schema.GroupVersionResource]*watchcache.Table{}, absent: map[types.UID]bool{},
	}
	g.ctl = controller.Keyed(c, "garbage-collector", g.reconcile,
		controller.Follows(g.list, g.opened, g.concerned),
		controller.Workers(20),
		controller.Writes("*", "*", "get", "patch", "delete"),
		controller.Reports(),
	)
	return g.ctl
}

// list returns what is collected: everything but events, which own nothing and
// go by themselves. A resource that cannot be listed must not look empty, so
// that nothing is started without it.
func (g *collector) list(ctx context.Context) (gvrs []schema.GroupVersionResource, err error) {
	all, err := g.resources(ctx)
	if err != nil {
		return nil, err
	}
	byKind := map[schema.GroupKind]controller.Resource{}
	for _, r := range all {
		if r.Resource == "events" {
			continue
		}
		byKind[schema.GroupKind{Group: r.Group, Kind: r.Kind}] = r
		gvrs = append(gvrs, r.GroupVersionResource)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.byKind = byKind
	g.tables = map[schema.GroupVersionResource]*watchcache.Table{}
	return gvrs, nil
}

func (g *collector) opened(gvr schema.GroupVersionResource, t *watchcache.Table) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.tables[gvr] = t
}

func (g *collector) table(gvr schema.GroupVersionResource) *watchcache.Table {
	g.mu.RLock()
	defer g.mu.RUnlock()
	return g.tables[gvr]
}

// object is an object and the resource it is of.
type object struct {
	meta.Object
	gvr schema.GroupVersionResource
}

func (o object) ref() client.Ref {
	return client.Ref{GroupVersionResource: o.gvr, Namespace: o.GetNamespace(), Name: o.GetName()}
}

// A key's name is "group/version/resource/name"; none of these has a slash.
func keyOf(gvr schema.GroupVersionResource, namespace, name string) meta.Key {
	return meta.Key{Namespace: namespace, Name: gvr.Group + "/" + gvr.Version + "/" + gvr.Resource + "/" + name}
}

func (g *collector) get(key meta.Key) (o object, ok bool) {
	parts := strings.SplitN(key.Name, "/", 4)
	gvr := schema.GroupVersionResource{Group: parts[0], Version: parts[1], Resource: parts[2]}
	table := g.table(gvr)
	if table == nil {
		return object{}, false
	}
	item, ok := table.Get(meta.Key{Namespace: key.Namespace, Name: parts[3]})
	if !ok {
		return object{}, false
	}
	return object{item.Object, gvr}, true
}

// dependents returns the objects that refer to uid as an owner.
func (g *collector) dependents(uid types.UID) (all []object) {
	g.mu.RLock()
	defer g.mu.RUnlock()
	for gvr, t := range g.tables {
		for item := range t.Snapshot().ByIndex(meta.ByOwner.Name, string(uid)) {
			all = append(all, object{item.Object, gvr})
		}
	}
	return all
}

// concerned returns which objects must be looked at after an event.
func (g *collector) concerned(gvr schema.GroupVersionResource, e *watchcache.Event) (keys []meta.Key) {
	obj := e.Item.Object
	if e.Type == watchcache.Deleted {
		for _, d := range g.dependents(obj.GetUID()) {
			keys = append(keys, keyOf(d.gvr, d.GetNamespace(), d.GetName()))
		}
		return append(keys, g.owners(obj)...)
	}
	self := keyOf(gvr, obj.GetNamespace(), obj.GetName())
	if e.Prev == nil {
		if len(obj.GetOwnerReferences()) > 0 || ending(obj) != "" {
			keys = append(keys, self)
		}
		return keys
	}
	if !slices.EqualFunc(obj.GetOwnerReferences(), e.Prev.Object.GetOwnerReferences(), sameRef) {
		keys = append(append(keys, self), g.owners(e.Prev.Object)...)
	} else if end := ending(obj); end != "" && end != ending(e.Prev.Object) {
		keys = append(keys, self)
	}
	return keys
}

func sameRef(a, b metav1.OwnerReference) bool {
	return a.UID == b.UID && a.Name == b.Name && a.Kind == b.Kind && a.APIVersion == b.APIVersion && blocks(a) == blocks(b)
}

func blocks(r metav1.OwnerReference) bool {
	return r.BlockOwnerDeletion != nil && *r.BlockOwnerDeletion
}

// ending returns the finalizer by which a deletion waits for this collector.
func ending(o meta.Object) string {
	switch {
	case o.GetDeletionTimestamp() == nil:
		return ""
	case meta.HasFinalizer(o, metav1.FinalizerDeleteDependents):
		return metav1.FinalizerDeleteDependents
	case meta.HasFinalizer(o, metav1.FinalizerOrphanDependents):
		return metav1.FinalizerOrphanDependents
	}
	return ""
}

// owners returns the keys of o's owners that may wait for o to go.
func (g *collector) owners(o meta.Object) (keys []meta.Key) {
	for _, ref := range o.GetOwnerReferences() {
		r, ok := g.resource(ref)
		if !ok {
			continue
		}
		namespace := ""
		if r.Namespaced {
			namespace = o.GetNamespace()
		}
		keys = append(keys, keyOf(r.GroupVersionResource, namespace, ref.Name))
	}
	return keys
}

func (g *collector) resource(ref metav1.OwnerReference) (controller.Resource, bool) {
	gv, err := schema.ParseGroupVersion(ref.APIVersion)
	if err != nil {
		return controller.Resource{}, false
	}
	g.mu.RLock()
	defer g.mu.RUnlock()
	r, ok := g.byKind[schema.GroupKind{Group: gv.Group, Kind: ref.Kind}]
	return r, ok
}

func (g *collector) reconcile(ctx context.Context, key meta.Key) (controller.Result, error) {
	o, ok := g.get(key)
	if !ok {
		return controller.Result{}, nil
	}
	var err error
	switch {
	case ending(o) == metav1.FinalizerDeleteDependents:
		err = g.foreground(ctx, o)
	case ending(o) == metav1.FinalizerOrphanDependents:
		err = g.orphan(ctx, o)
	case o.GetDeletionTimestamp() == nil:
		err = g.collect(ctx, o)
	}
	if apierrors.IsNotFound(err) {
		err = nil
	}
	return controller.Result{}, err
}

// foreground lets o go once nothing that blocks it is left, and has its
// dependents looked at, which o does not hold any more.
func (g *collector) foreground(ctx context.Context, o object) error {
	blocked := false
	for _, d := range g.dependents(o.GetUID()) {
		if d.GetUID() == o.GetUID() {
			continue
		}
		blocked = blocked || slices.ContainsFunc(d.GetOwnerReferences(), func(r metav1.OwnerReference) bool { return r.UID == o.GetUID() && blocks(r) })
		if d.GetDeletionTimestamp() == nil {
			g.ctl.Enqueue(keyOf(d.gvr, d.GetNamespace(), d.GetName()))
		}
	}
	if blocked {
		return nil
	}
	return g.unfinalize(ctx, o, metav1.FinalizerDeleteDependents)
}

// orphan takes o out of the owners of its dependents and lets it go. For that
// it must know of them all: one that was missed would be deleted.
func (g *collector) orphan(ctx context.Context, o object) error {
	if err := g.ctl.Freshen(ctx, o.GetNamespace()); err != nil {
		return err
	}
	all := g.dependents(o.GetUID())
	_, err := controller.Parallel(ctx, len(all), func(ctx context.Context, i int) error {
		refs := slices.DeleteFunc(slices.Clone(all[i].GetOwnerReferences()), func(r metav1.OwnerReference) bool { return r.UID == o.GetUID() })
		err := g.patch(ctx, all[i], map[string]any{"ownerReferences": refs})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("orphaning the dependents of %s: %w", o.GetName(), err)
	}
	return g.unfinalize(ctx, o, metav1.FinalizerOrphanDependents)
}
