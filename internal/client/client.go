// Package client is how every component talks to the API: one generic client
// and one cache, over two transports. In the API server's own process the
// transport is a function call and the cache is the server's (package
// inprocess); elsewhere it is HTTPS (package https). A component cannot tell
// which it has.
package client

import (
	"context"
	"encoding/json"
	"fmt"
	"reflect"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"skiff.dev/skiff/internal/meta"
	"skiff.dev/skiff/internal/scheme"
	"skiff.dev/skiff/internal/watchcache"
)

// Ref addresses a collection, an object or a subresource of an object.
type Ref struct {
	schema.GroupVersionResource
	Namespace, Name, Subresource string
}

// List is the answer to a List call. The items are read-only.
type List struct {
	Items           []meta.Object
	ResourceVersion string
	Continue        string
	Remaining       *int64
}

// Transport carries requests to an API server under one identity. All errors
// are *apierrors.StatusError or transport errors. Objects given are not
// changed; objects returned may be shared and must not be changed either.
type Transport interface {
	Get(ctx context.Context, ref Ref, opts metav1.GetOptions) (meta.Object, error)
	List(ctx context.Context, ref Ref, opts metav1.ListOptions) (*List, error)
	Create(ctx context.Context, ref Ref, obj runtime.Object, opts metav1.CreateOptions) (runtime.Object, error)
	Update(ctx context.Context, ref Ref, obj meta.Object, opts metav1.UpdateOptions) (meta.Object, error)
	Patch(ctx context.Context, ref Ref, pt types.PatchType, data []byte, opts metav1.PatchOptions) (meta.Object, error)
	// Delete returns the resourceVersion that the deletion got, "" if the
	// server does not tell.
	Delete(ctx context.Context, ref Ref, opts metav1.DeleteOptions) (resourceVersion string, err error)
	DeleteCollection(ctx context.Context, ref Ref, opts metav1.DeleteOptions, list metav1.ListOptions) error
	// Table returns a table of the objects that scope selects, kept current
	// until the transport is closed. It may hold more than the scope asks for.
	// The table may not be loaded yet; see its Ready.
	Table(ctx context.Context, gvr schema.GroupVersionResource, scope watchcache.Scope) (*watchcache.Table, error)
}

// Client is a transport plus what is done the same way over all of them.
type Client struct {
	Transport
}

// New returns a client over t.
func New(t Transport) *Client { return &Client{Transport: t} }

// Written is told of every successful write made under a context, so that
// the controller frame can wait until its caches have seen it.
type Written func(gvr schema.GroupVersionResource, resourceVersion string)

type writtenKey struct{}

// WithWritten returns a context whose writes are reported to f.
func WithWritten(ctx context.Context, f Written) context.Context {
	return context.WithValue(ctx, writtenKey{}, f)
}

func written(ctx context.Context, gvr schema.GroupVersionResource, obj runtime.Object) {
	f, _ := ctx.Value(writtenKey{}).(Written)
	if f == nil || obj == nil {
		return
	}
	if o, ok := obj.(metav1.Object); ok {
		f(gvr, o.GetResourceVersion())
	}
}

// Kind is the client of one kind of object.
type Kind[T meta.Object] struct {
	c   *Client
	gvr schema.GroupVersionResource
}

// For returns the client of the kind that T is. T must be in package scheme.
func For[T meta.Object](c *Client) Kind[T] {
	return Kind[T]{c: c, gvr: ResourceOf[T]()}
}

// ResourceOf returns the resource that holds objects of type T.
func ResourceOf[T meta.Object]() schema.GroupVersionResource {
	var t T
	obj := reflect.New(reflect.TypeOf(t).Elem()).Interface().(runtime.Object)
	gvr, _ := apimeta.UnsafeGuessKindToResource(scheme.KindOf(obj))
	return gvr
}

func (k Kind[T]) ref(namespace, name, sub string) Ref {
	return Ref{GroupVersionResource: k.gvr, Namespace: namespace, Name: name, Subresource: sub}
}

func result[T meta.Object](obj runtime.Object, err error) (T, error) {
	if err != nil {
		var none T
		return none, err
	}
	return obj.(T), nil
}

// Get reads one object.
func (k Kind[T]) Get(ctx context.Context, namespace, name string) (T, error) {
	obj, err := k.c.Transport.Get(ctx, k.ref(namespace, name, ""), metav1.GetOptions{})
	return result[T](obj, err)
}

// List reads all objects of a namespace ("" for all) that opts select.
func (k Kind[T]) List(ctx context.Context, namespace string, opts metav1.ListOptions) ([]T, error) {
	l, err := k.c.Transport.List(ctx, k.ref(namespace, "", ""), opts)
	if err != nil {
		return nil, err
	}
	items := make([]T, len(l.Items))
	for i, o := range l.Items {
		items[i] = o.(T)
	}
	return items, nil
}

// Create writes a new object.
func (k Kind[T]) Create(ctx context.Context, obj T) (T, error) {
	got, err := k.c.Transport.Create(ctx, k.ref(obj.GetNamespace(), "", ""), obj, metav1.CreateOptions{})
	if err == nil {
		written(ctx, k.gvr, got)
	}
	return result[T](got, err)
}

// Update replaces the object; its resourceVersion guards against lost updates.
func (k Kind[T]) Update(ctx context.Context, obj T) (T, error) {
	return k.update(ctx, obj, "")
}

// UpdateStatus replaces the object's status.
func (k Kind[T]) UpdateStatus(ctx context.Context, obj T) (T, error) {
	return k.update(ctx, obj, "status")
}

func (k Kind[T]) update(ctx context.Context, obj T, sub string) (T, error) {
	got, err := k.c.Transport.Update(ctx, k.ref(obj.GetNamespace(), obj.GetName(), sub), obj, metav1.UpdateOptions{})
	if err == nil {
		written(ctx, k.gvr, got)
	}
	return result[T](got, err)
}

// Patch changes part of an object, or of a subresource ("" for the object).
func (k Kind[T]) Patch(ctx context.Context, key meta.Key, sub string, pt types.PatchType, data []byte) (T, error) {
	got, err := k.c.Transport.Patch(ctx, k.ref(key.Namespace, key.Name, sub), pt, data, metav1.PatchOptions{})
	if err == nil {
		written(ctx, k.gvr, got)
	}
	return result[T](got, err)
}

// Amend writes what differs between from and to, a changed copy of it, of an
// object or a subresource ("" for the object), as a merge patch that fails with
// Conflict when the object is no longer from. It does what Update does where a
// role has no update.
func (k Kind[T]) Amend(ctx context.Context, from, to T, sub string) (T, error) {
	patch, err := amendment(from, to)
	if err != nil {
		var none T
		return none, fmt.Errorf("telling what changes in %s: %w", from.GetName(), err)
	}
	return k.Patch(ctx, meta.KeyOf(from), sub, types.MergePatchType, patch)
}

func amendment(from, to meta.Object) ([]byte, error) {
	from = meta.Copy(from)
	from.SetUID("") // as if these changed, too: the patch is to name them
	from.SetResourceVersion("")
	was, err := json.Marshal(from)
	if err != nil {
		return nil, err
	}
	will, err := json.Marshal(to)
	if err != nil {
		return nil, err
	}
	return jsonpatch.CreateMergePatch(was, will)
}

// Delete deletes an object. Give the uid in opts.Preconditions where the
// decision was made about one particular object (I10).
func (k Kind[T]) Delete(ctx context.Context, namespace, name string, opts metav1.DeleteOptions) error {
	rv, err := k.c.Transport.Delete(ctx, k.ref(namespace, name, ""), opts)
	if f, _ := ctx.Value(writtenKey{}).(Written); f != nil && err == nil && rv != "" {
		f(k.gvr, rv)
	}
	return err
}

// Do POSTs an action (binding, eviction, token) to an object.
func (k Kind[T]) Do(ctx context.Context, namespace, name, action string, body runtime.Object) (runtime.Object, error) {
	got, err := k.c.Transport.Create(ctx, k.ref(namespace, name, action), body, metav1.CreateOptions{})
	if err == nil {
		written(ctx, k.gvr, got)
	}
	return got, err
}
