package garbagecollector

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"skiff.dev/skiff/internal/client"
	"skiff.dev/skiff/internal/meta"
	"skiff.dev/skiff/internal/watchcache"
)

// standing is what an owner reference is worth.
type standing int

const (
	solid   standing = iota // the owner is there, or cannot be judged
	waiting                 // it is being deleted and waits for its dependents
	gone                    // there is no such object, or another one by its name
)

// collect deletes o if all its owners are gone or wait for it, and otherwise
// takes out the references to those.
func (g *collector) collect(ctx context.Context, o object) error {
	refs := o.GetOwnerReferences()
	if len(refs) == 0 {
		return nil
	}
	var kept []metav1.OwnerReference
	waits := false
	for _, ref := range refs {
		s, err := g.judge(ctx, o, ref)
		switch {
		case err != nil:
			return err
		case s == solid:
			kept = append(kept, ref)
		case s == waiting:
			waits = true
		}
	}
	switch {
	case len(kept) == len(refs):
		return nil
	case len(kept) > 0:
		return g.patch(ctx, o, map[string]any{"ownerReferences": kept})
	case waits:
		return g.deleteInTurn(ctx, o)
	case meta.HasFinalizer(o, metav1.FinalizerOrphanDependents):
		return g.delete(ctx, o, metav1.DeletePropagationOrphan)
	case meta.HasFinalizer(o, metav1.FinalizerDeleteDependents):
		return g.delete(ctx, o, metav1.DeletePropagationForeground)
	}
	return g.delete(ctx, o, metav1.DeletePropagationBackground)
}

// deleteInTurn deletes an object that an owner waits for: in the foreground if
// it has dependents of its own. If one of them is waiting already there is a
// circle of owners, in which somebody must not wait.
func (g *collector) deleteInTurn(ctx context.Context, o object) error {
	policy := metav1.DeletePropagationBackground
	circle := false
	for _, d := range g.dependents(o.GetUID()) {
		if d.GetUID() == o.GetUID() {
			continue
		}
		policy = metav1.DeletePropagationForeground
		circle = circle || ending(d) == metav1.FinalizerDeleteDependents
	}
	if circle && slices.ContainsFunc(o.GetOwnerReferences(), blocks) {
		refs := slices.Clone(o.GetOwnerReferences())
		for i := range refs {
			refs[i].BlockOwnerDeletion = new(bool)
		}
		return g.patch(ctx, o, map[string]any{"ownerReferences": refs}) // whereupon it is looked at again
	}
	return g.delete(ctx, o, policy)
}

// judge tells what an owner reference of o is worth. That an owner is not there
// is believed of the API only, not of a cache.
func (g *collector) judge(ctx context.Context, o object, ref metav1.OwnerReference) (standing, error) {
	r, ok := g.resource(ref)
	if !ok {
		return solid, nil // of a kind that nothing is known of
	}
	if r.Namespaced && o.GetNamespace() == "" {
		g.reportInvalid(o, ref, "")
		return solid, nil
	}
	namespace := ""
	if r.Namespaced {
		namespace = o.GetNamespace()
	}
	table := g.table(r.GroupVersionResource)
	if item, ok := table.Get(meta.Key{Namespace: namespace, Name: ref.Name}); ok && item.Object.GetUID() == ref.UID {
		return standingOf(item.Object), nil
	}
	if g.knownAbsent(ref.UID) {
		return gone, nil
	}
	owner, err := g.client.Get(ctx, client.Ref{GroupVersionResource: r.GroupVersionResource, Namespace: namespace, Name: ref.Name}, metav1.GetOptions{})
	switch {
	case err == nil && owner.GetUID() == ref.UID:
		return standingOf(owner), nil
	case err != nil && !apierrors.IsNotFound(err):
		return solid, fmt.Errorf("looking for owner %s %s: %w", ref.Kind, ref.Name, err)
	}
	g.noteAbsent(ref.UID)
	if r.Namespaced {
		g.checkElsewhere(o, ref, table)
	}
	return gone, nil
}

func standingOf(owner meta.Object) standing {
	if ending(owner) == metav1.FinalizerDeleteDependents {
		return waiting
	}
	return solid
}

// checkElsewhere tells people if the owner lives in another namespace, where it
// cannot own o.
func (g *collector) checkElsewhere(o object, ref metav1.OwnerReference, table *watchcache.Table) {
	for item := range table.Snapshot().In(watchcache.Scope{}) {
		if item.Object.GetUID() == ref.UID {
			g.reportInvalid(o, ref, item.Object.GetNamespace())
			return
		}
	}
}

func (g *collector) reportInvalid(o object, ref metav1.OwnerReference, namespace string) {
	g.events.Warning(o.Object, "OwnerRefInvalidNamespace", "ownerRef [%s/%s, namespace: %s, name: %s, uid: %s] does not exist in namespace %q",
		ref.APIVersion, ref.Kind, namespace, ref.Name, ref.UID, o.GetNamespace())
}

func (g *collector) knownAbsent(uid types.UID) bool {
	g.mu.RLock()
	defer g.mu.RUnlock()
	return g.absent[uid]
}

// noteAbsent remembers an absent owner; uids never come back.
func (g *collector) noteAbsent(uid types.UID) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for old := range g.absent {
		if len(g.absent) < rememberAbsent {
			break
		}
		delete(g.absent, old)
	}
	g.absent[uid] = true
}

// delete deletes o as it was judged: if it has changed since, it is looked at
// again.
func (g *collector) delete(ctx context.Context, o object, policy metav1.DeletionPropagation) error {
	uid, version := o.GetUID(), o.GetResourceVersion()
	_, err := g.client.Delete(ctx, o.ref(), metav1.DeleteOptions{
		PropagationPolicy: &policy, Preconditions: &metav1.Preconditions{UID: &uid, ResourceVersion: &version},
	})
	return err
}

func (g *collector) unfinalize(ctx context.Context, o object, finalizer string) error {
	left := slices.DeleteFunc(slices.Clone(o.GetFinalizers()), func(f string) bool { return f == finalizer })
	return g.patch(ctx, o, map[string]any{"finalizers": left})
}

// patch changes o's metadata unless o has changed meanwhile.
func (g *collector) patch(ctx context.Context, o object, metadata map[string]any) error {
	metadata["uid"], metadata["resourceVersion"] = o.GetUID(), o.GetResourceVersion()
	data, err := json.Marshal(map[string]any{"metadata": metadata})
	if err != nil {
		return err
	}
	_, err = g.client.Patch(ctx, o.ref(), types.MergePatchType, data, metav1.PatchOptions{})
	return err
}
