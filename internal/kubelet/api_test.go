package kubelet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/strategicpatch"

	"skiff.dev/skiff/internal/client"
	"skiff.dev/skiff/internal/meta"
	"skiff.dev/skiff/internal/scheme"
	"skiff.dev/skiff/internal/watchcache"
)

// api is an API server small enough for these tests: objects in tables, with
// versions, uids, graceful deletion of pods, and uid preconditions.
type api struct {
	mu     sync.Mutex
	rev    int64
	tables map[schema.GroupVersionResource]*watchcache.Table
	writes int // status patches
	down   atomic.Bool
}

func refOf(resource, name string) client.Ref {
	return client.Ref{GroupVersionResource: v1.SchemeGroupVersion.WithResource(resource), Namespace: "default", Name: name}
}

func newAPI() *api {
	return &api{rev: 1, tables: map[schema.GroupVersionResource]*watchcache.Table{}}
}

func (a *api) table(gvr schema.GroupVersionResource) *watchcache.Table {
	t := a.tables[gvr]
	if t == nil {
		t = watchcache.NewTable(gvr.Resource)
		t.Replace(nil, a.rev)
		a.tables[gvr] = t
	}
	return t
}

func (a *api) Table(_ context.Context, gvr schema.GroupVersionResource, _ watchcache.Scope) (*watchcache.Table, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.table(gvr), nil
}

func (a *api) put(gvr schema.GroupVersionResource, obj meta.Object) meta.Object {
	a.rev++
	obj.SetResourceVersion(strconv.FormatInt(a.rev, 10))
	a.table(gvr).Apply([]watchcache.Change{{Key: meta.KeyOf(obj), Object: obj, Rev: a.rev}}, a.rev)
	return obj
}

func (a *api) remove(gvr schema.GroupVersionResource, key meta.Key) {
	a.rev++
	a.table(gvr).Apply([]watchcache.Change{{Key: key, Rev: a.rev}}, a.rev)
}

func (a *api) get(ref client.Ref) (meta.Object, error) {
	item, ok := a.table(ref.GroupVersionResource).Get(meta.Key{Namespace: ref.Namespace, Name: ref.Name})
	if !ok {
		return nil, apierrors.NewNotFound(ref.GroupResource(), ref.Name)
	}
	return item.Object, nil
}

func (a *api) Get(_ context.Context, ref client.Ref, _ metav1.GetOptions) (meta.Object, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.get(ref)
}

func (a *api) List(_ context.Context, ref client.Ref, _ metav1.ListOptions) (*client.List, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	out := &client.List{}
	for item := range a.table(ref.GroupVersionResource).Snapshot().All(ref.Namespace, meta.Key{}) {
		out.Items = append(out.Items, item.Object)
	}
	return out, nil
}

func (a *api) Create(_ context.Context, ref client.Ref, obj runtime.Object, _ metav1.CreateOptions) (runtime.Object, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	o := obj.DeepCopyObject().(meta.Object)
	ref.Name = o.GetName()
	if _, err := a.get(ref); err == nil {
		return nil, apierrors.NewAlreadyExists(ref.GroupResource(), ref.Name)
	}
	if o.GetUID() == "" {
		o.SetUID(types.UID(fmt.Sprintf("uid-%d", a.rev)))
	}
	return a.put(ref.GroupVersionResource, o), nil
}

func (a *api) Update(_ context.Context, ref client.Ref, obj meta.Object, _ metav1.UpdateOptions) (meta.Object, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if _, err := a.get(ref); err != nil {
		return nil, err
	}
	return a.put(ref.GroupVersionResource, meta.Copy(obj)), nil
}

func (a *api) Patch(_ context.Context, ref client.Ref, pt types.PatchType, data []byte, _ metav1.PatchOptions) (meta.Object, error) {
	if a.down.Load() {
		return nil, errors.New("connection refused")
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	old, err := a.get(ref)
	if err != nil {
		return nil, err
	}
	if pt != types.StrategicMergePatchType {
		return nil, fmt.Errorf("patch type %s is not in this test", pt)
	}
	before, err := json.Marshal(old)
	if err != nil {
		return nil, err
	}
	merged, err := strategicpatch.StrategicMergePatch(before, data, old)
	if err != nil {
		return nil, err
	}
	next, err := scheme.Known.New(scheme.KindOf(old))
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(merged, next); err != nil {
		return nil, err
	}
	o := next.(meta.Object)
	if o.GetUID() != old.GetUID() {
		return nil, apierrors.NewConflict(ref.GroupResource(), ref.Name, fmt.Errorf("uid"))
	}
	a.writes++
	return a.put(ref.GroupVersionResource, o), nil
}

func (a *api) Delete(_ context.Context, ref client.Ref, opts metav1.DeleteOptions) (string, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	old, err := a.get(ref)
	if err != nil {
		return "", err
	}
	if p := opts.Preconditions; p != nil && p.UID != nil && *p.UID != old.GetUID() {
		return "", apierrors.NewConflict(ref.GroupResource(), ref.Name, fmt.Errorf("uid"))
	}
	pod, ok := old.(*v1.Pod)
	if !ok || opts.GracePeriodSeconds != nil && *opts.GracePeriodSeconds == 0 {
		a.remove(ref.GroupVersionResource, meta.KeyOf(old))
		return "", nil
	}
	pod = pod.DeepCopy()
	grace := int64(30)
	if pod.Spec.TerminationGracePeriodSeconds != nil {
		grace = *pod.Spec.TerminationGracePeriodSeconds
	}
	if opts.GracePeriodSeconds != nil {
		grace = *opts.GracePeriodSeconds
	}
	at := metav1.Now().Add(secondsOf(grace))
	stamp := metav1.NewTime(at)
	pod.DeletionTimestamp, pod.DeletionGracePeriodSeconds = &stamp, &grace
	a.put(ref.GroupVersionResource, pod)
	return "", nil
}

func (a *api) DeleteCollection(context.Context, client.Ref, metav1.DeleteOptions, metav1.ListOptions) error {
	return fmt.Errorf("deleting collections is not in this test")
}
