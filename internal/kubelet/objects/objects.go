// Package objects gives the kubelet the ConfigMaps and Secrets of its pods, and
// their service accounts' tokens. Each object that a pod holds is followed by
// itself, as a node may read only what its pods refer to, and only one by one;
// an object that several pods hold is followed once. It writes nothing.
package objects

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"skiff.dev/skiff/internal/client"
	"skiff.dev/skiff/internal/meta"
	"skiff.dev/skiff/internal/pod"
	"skiff.dev/skiff/internal/watchcache"
)

// releaser is what a transport has that fetches every table separately: it
// ends the feed of a table that nobody reads any more.
type releaser interface {
	Release(gvr schema.GroupVersionResource, scope watchcache.Scope)
}

// Objects follows the objects of pods. It is safe for concurrent use.
type Objects struct {
	client *client.Client
	node   string
	log    *slog.Logger

	mu       sync.Mutex
	ctx      context.Context
	stop     context.CancelFunc
	watches  map[ref]*watch
	holds    map[types.UID]map[ref]bool
	changed  map[types.UID]func()
	watching sync.WaitGroup
}

// ref names one object.
type ref struct {
	secret          bool // else a ConfigMap
	namespace, name string
}

// watch follows one object.
type watch struct {
	holders map[types.UID]bool
	cancel  context.CancelFunc
	// looked is set by the first look. Until then read are the versions that
	// holders got; one that differs from the first look's is a change that no
	// event will tell of.
	looked bool
	read   map[string]bool
}

// New returns the objects of a node's pods, read through c, until Close.
func New(c *client.Client, node string, log *slog.Logger) *Objects {
	ctx, stop := context.WithCancel(context.Background())
	return &Objects{
		client: c, node: node, log: log, ctx: ctx, stop: stop,
		watches: map[ref]*watch{}, holds: map[types.UID]map[ref]bool{}, changed: map[types.UID]func(){},
	}
}

// Close ends all following and waits for it.
func (o *Objects) Close() {
	o.stop()
	o.watching.Wait()
}

// ConfigMap reads one ConfigMap as the API has it now; read-only.
func (o *Objects) ConfigMap(ctx context.Context, namespace, name string) (*v1.ConfigMap, error) {
	got, err := client.For[*v1.ConfigMap](o.client).Get(ctx, namespace, name)
	if err != nil {
		return nil, err
	}
	o.note(ref{false, namespace, name}, got)
	return got, nil
}

// Secret reads one Secret as the API has it now; read-only.
func (o *Objects) Secret(ctx context.Context, namespace, name string) (*v1.Secret, error) {
	got, err := client.For[*v1.Secret](o.client).Get(ctx, namespace, name)
	if err != nil {
		return nil, err
	}
	o.note(ref{true, namespace, name}, got)
	return got, nil
}

// note remembers which version was read before the first look.
func (o *Objects) note(r ref, got meta.Object) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if w := o.watches[r]; w != nil && !w.looked {
		w.read[got.GetResourceVersion()] = true
	}
}

// Token asks for a token of a service account.
func (o *Objects) Token(ctx context.Context, namespace, account string, request *authenticationv1.TokenRequest) (*authenticationv1.TokenRequest, error) {
	got, err := client.For[*v1.ServiceAccount](o.client).Do(ctx, namespace, account, "token", request)
	if err != nil {
		return nil, err
	}
	answer, ok := got.(*authenticationv1.TokenRequest)
	if !ok {
		return nil, fmt.Errorf("asking for a token, the API answered with a %T", got)
	}
	return answer, nil
}

// Hold follows the objects that a pod refers to, in place of those held for it
// before; changed is called for each change of one, and must not block. With
// no objects it lets go of all.
func (o *Objects) Hold(uid types.UID, namespace string, configMaps, secrets []string, changed func()) {
	want := map[ref]bool{}
	for _, name := range configMaps {
		want[ref{false, namespace, name}] = true
	}
	for _, name := range secrets {
		want[ref{true, namespace, name}] = true
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	had := o.holds[uid]
	if len(want) == 0 {
		delete(o.holds, uid)
		delete(o.changed, uid)
	} else {
		o.holds[uid], o.changed[uid] = want, changed
	}
	for r := range want {
		if !had[r] {
			o.add(r, uid)
		}
	}
	for r := range had {
		if !want[r] {
			o.drop(r, uid)
		}
	}
}

func (o *Objects) add(r ref, uid types.UID) {
	w := o.watches[r]
	if w == nil {
		ctx, cancel := context.WithCancel(o.ctx)
		w = &watch{holders: map[types.UID]bool{}, cancel: cancel, read: map[string]bool{}}
		o.watches[r] = w
		o.watching.Go(func() { o.follow(ctx, r) })
	}
	w.holders[uid] = true
}

func (o *Objects) drop(r ref, uid types.UID) {
	w := o.watches[r]
	delete(w.holders, uid)
	if len(w.holders) > 0 {
		return
	}
	delete(o.watches, r)
	w.cancel()
	if t, ok := o.client.Transport.(releaser); ok {
		t.Release(r.resource(), r.scope())
	}
}

func (r ref) scope() watchcache.Scope {
	return watchcache.Scope{Namespace: r.namespace, Name: r.name}
}

func (r ref) resource() schema.GroupVersionResource {
	if r.secret {
		return client.ResourceOf[*v1.Secret]()
	}
	return client.ResourceOf[*v1.ConfigMap]()
}

const retry = 5 * time.Second

// follow reports the changes of one object until ctx ends.
func (o *Objects) follow(ctx context.Context, r ref) {
	for ctx.Err() == nil {
		var err error
		if r.secret {
			err = follow(ctx, client.For[*v1.Secret](o.client), r, o)
		} else {
			err = follow(ctx, client.For[*v1.ConfigMap](o.client), r, o)
		}
		if ctx.Err() == nil {
			o.log.Warn("following an object of a pod", "namespace", r.namespace, "name", r.name, "err", err)
			pause(ctx)
		}
	}
}

func pause(ctx context.Context) {
	select {
	case <-ctx.Done():
	case <-time.After(retry):
	}
}

// follow reports every change after the first look.
func follow[T meta.Object](ctx context.Context, kind client.Kind[T], r ref, o *Objects) error {
	cache, err := kind.CacheWhere(ctx, r.scope())
	if err != nil {
		return err
	}
	first, version := true, ""
	return cache.Follow(ctx, func(ch client.Change[T]) {
		if first {
			version = ch.Object().GetResourceVersion()
		} else {
			o.report(r)
		}
	}, func() {
		if first {
			first = false
			o.look(r, version)
		}
	})
}

// look reports a change that fell between reading an object and the first
// look at it; version is "" where the object is not there.
func (o *Objects) look(r ref, version string) {
	o.mu.Lock()
	w := o.watches[r]
	changed := false
	if w != nil {
		delete(w.read, version)
		changed = w.looked || len(w.read) > 0 // a second first look follows a failure
		w.looked, w.read = true, nil
	}
	o.mu.Unlock()
	if changed {
		o.report(r)
	}
}

// report tells the pods that hold an object.
func (o *Objects) report(r ref) {
	o.mu.Lock()
	var all []func()
	if w := o.watches[r]; w != nil {
		for uid := range w.holders {
			all = append(all, o.changed[uid])
		}
	}
	o.mu.Unlock()
	for _, changed := range all {
		changed()
	}
}

// FollowPods calls f with every pod of the node and each change of one, until
// ctx ends.
func (o *Objects) FollowPods(ctx context.Context, f func(*v1.Pod)) {
	kind := client.For[*v1.Pod](o.client)
	scope := watchcache.Scope{Index: pod.ByNode.Name, Value: o.node}
	for ctx.Err() == nil {
		cache, err := kind.CacheWhere(ctx, scope, pod.ByNode)
		if err == nil {
			err = cache.Follow(ctx, func(ch client.Change[*v1.Pod]) {
				if !ch.Deleted {
					f(ch.New)
				}
			}, nil)
		}
		if ctx.Err() == nil {
			o.log.Warn("following the node's pods", "err", err)
			pause(ctx)
		}
	}
}
