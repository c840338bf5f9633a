// Package namespace empties namespaces that are being deleted and then lets
// them go. It reads Namespaces and everything in them; it deletes the latter,
// pods before what guards or feeds them, and writes the status and finalizers
// of Namespaces.
//
// https://kubernetes.io/docs/concepts/overview/working-with-objects/namespaces/
// KEP-5080 (ordered namespace deletion)
package namespace

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"skiff.dev/skiff/internal/client"
	"skiff.dev/skiff/internal/controller"
	"skiff.dev/skiff/internal/meta"
)

type namespaces struct {
	client     *client.Client
	resources  controller.Resources
	namespaces client.Cache[*corev1.Namespace]
	pods       client.Cache[*corev1.Pod]
}

// New returns the namespace controller. resources says what there may be in a
// namespace.
func New(c *client.Client, resources controller.Resources) *controller.Controller {
	n := &namespaces{client: c, resources: resources}
	return controller.New(c, "namespace", &n.namespaces, n.reconcile,
		controller.Maps(&n.pods, n.emptied),
		controller.Workers(10),
		controller.Writes("", "namespaces", "get", "delete"),
		controller.Writes("", "namespaces/status", "update"),
		controller.Writes("", "namespaces/finalize", "update"),
		controller.Writes("*", "*", "list", "deletecollection"),
	)
}

// emptied wakes a namespace that is being deleted when its last pod has gone.
func (n *namespaces) emptied(ch client.Change[*corev1.Pod]) []meta.Key {
	if !ch.Deleted {
		return nil
	}
	ns, ok := n.namespaces.Get("", ch.Old.Namespace)
	if !ok || ns.DeletionTimestamp == nil {
		return nil
	}
	for range n.pods.All(ns.Name) {
		return nil
	}
	return []meta.Key{meta.KeyOf(ns)}
}

// look is how often the contents that others still hold are looked at again.
const look = 5 * time.Second

func (n *namespaces) reconcile(ctx context.Context, ns *corev1.Namespace) (controller.Result, error) {
	if ns.DeletionTimestamp == nil || !slices.Contains(ns.Spec.Finalizers, corev1.FinalizerKubernetes) {
		return controller.Result{}, nil
	}
	seen := n.empty(ctx, ns.Name)
	if ctx.Err() != nil {
		return controller.Result{}, ctx.Err()
	}
	ns, err := n.writeStatus(ctx, ns, seen)
	switch {
	case apierrors.IsNotFound(err):
		return controller.Result{}, nil
	case err != nil:
		return controller.Result{}, err
	case seen.err() != nil:
		return controller.Result{}, seen.err()
	case len(seen.remaining) > 0:
		return controller.Result{After: look}, nil
	}
	return controller.Result{}, n.finalize(ctx, ns)
}

func (n *namespaces) writeStatus(ctx context.Context, ns *corev1.Namespace, seen contents) (*corev1.Namespace, error) {
	changed := meta.Copy(ns)
	changed.Status.Phase = corev1.NamespaceTerminating
	changed.Status.Conditions = conditions(ns.Status.Conditions, seen, time.Now())
	if equality.Semantic.DeepEqual(changed.Status, ns.Status) {
		return ns, nil
	}
	return client.For[*corev1.Namespace](n.client).UpdateStatus(ctx, changed)
}

// finalize takes the finalizer off that has kept the namespace.
func (n *namespaces) finalize(ctx context.Context, ns *corev1.Namespace) error {
	ns = meta.Copy(ns)
	ns.Spec.Finalizers = slices.DeleteFunc(ns.Spec.Finalizers, func(f corev1.FinalizerName) bool { return f == corev1.FinalizerKubernetes })
	ref := client.Ref{GroupVersionResource: client.ResourceOf[*corev1.Namespace](), Name: ns.Name, Subresource: "finalize"}
	_, err := n.client.Update(ctx, ref, ns, metav1.UpdateOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// contents is what was found in a namespace.
type contents struct {
	discovery error   // of finding out which resources there are
	failed    []error // of deleting
	// remaining counts what is still there by resource, finalizers what is held
	// by each of them.
	remaining  map[schema.GroupResource]int
	finalizers map[string]int
}

func (c contents) err() error { return errors.Join(c.discovery, errors.Join(c.failed...)) }

// empty deletes everything in a namespace and reports what is left: as long as
// there are pods, only pods, so that nothing that guards them is taken away
// while they still run (I12).
func (n *namespaces) empty(ctx context.Context, name string) contents {
	seen := contents{remaining: map[schema.GroupResource]int{}, finalizers: map[string]int{}}
	resources, err := n.resources(ctx)
	seen.discovery = err
	pods := client.ResourceOf[*corev1.Pod]()
	n.emptyOf(ctx, name, pods, &seen)
	if len(seen.remaining) > 0 || len(seen.failed) > 0 {
		return seen
	}
	for _, r := range resources {
		if r.Namespaced && r.GroupVersionResource != pods {
			n.emptyOf(ctx, name, r.GroupVersionResource, &seen)
		}
	}
	return seen
}

func (n *namespaces) emptyOf(ctx context.Context, name string, gvr schema.GroupVersionResource, seen *contents) {
	ref := client.Ref{GroupVersionResource: gvr, Namespace: name}
	background := metav1.DeletePropagationBackground
	list, err := n.client.List(ctx, ref, metav1.ListOptions{})
	if err == nil && len(list.Items) > 0 {
		err = n.client.DeleteCollection(ctx, ref, metav1.DeleteOptions{PropagationPolicy: &background}, metav1.ListOptions{})
		if err == nil {
			list, err = n.client.List(ctx, ref, metav1.ListOptions{})
		}
	}
	switch {
	case apierrors.IsNotFound(err) || apierrors.IsMethodNotSupported(err):
		return // the resource is not served any more, or not deletable
	case err != nil:
		seen.failed = append(seen.failed, fmt.Errorf("deleting %s: %w", gvr.GroupResource(), err))
		return
	}
	for _, obj := range list.Items {
		seen.remaining[gvr.GroupResource()]++
		for _, f := range obj.GetFinalizers() {
			seen.finalizers[f]++
		}
	}
}
