// Package controller is the frame that every reconcile loop uses. A controller
// says which objects it is about, which others concern it, and what it writes;
// the frame queues, retries with back-off, and runs the reconciles. Per key it
// remembers what was written and starts the next reconcile only when the
// caches have seen it (the read-your-writes barrier), so that a reconcile
// always sees the effects of the one before. The first reconciles, and those
// after a write whose outcome is unknown, wait for caches that are as new as
// the API, so that neither a restart nor a lost answer makes anything twice.
package controller

import (
	"context"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"skiff.dev/skiff/internal/client"
	"skiff.dev/skiff/internal/meta"
	"skiff.dev/skiff/internal/watchcache"
)

// Result says when a reconcile wants to run again without being woken.
type Result struct {
	// After > 0 runs the reconcile again that much later, at the latest.
	After time.Duration
}

// Controller is one reconcile loop.
type Controller struct {
	name      string
	client    *client.Client
	workers   int
	sources   []source
	starts    []func()
	rules     []rbacv1.PolicyRule
	reconcile func(ctx context.Context, key meta.Key) (Result, error)

	queue  *queue
	tables map[schema.GroupVersionResource]cached
	group  group
	mu     sync.Mutex
	wrote  map[meta.Key]map[schema.GroupResource]int64
	unsure map[meta.Key]bool // a write of the key may or may not have happened
}

// cached is a cache's table and the only namespace it has to hold, "" for all.
type cached struct {
	*watchcache.Table
	namespace string
}

// An Option adds to a controller.
type Option func(*Controller)

// New returns the controller of that name which calls reconcile for every
// object of primary that is new, has changed, or is concerned by a change of
// others. Objects that are gone are not reconciled; see Gone.
func New[T meta.Object](c *client.Client, name string, primary *client.Cache[T], reconcile func(context.Context, T) (Result, error), opts ...Option) *Controller {
	ctl := Keyed(c, name, func(ctx context.Context, key meta.Key) (Result, error) {
		obj, ok := primary.Get(key.Namespace, key.Name)
		if !ok {
			return Result{}, nil
		}
		return reconcile(ctx, obj)
	})
	Maps(primary, func(ch client.Change[T]) []meta.Key { return []meta.Key{meta.KeyOf(ch.Object())} })(ctl)
	for _, o := range opts {
		o(ctl)
	}
	return ctl
}

// Keyed returns a controller whose keys are not those of one kind of object:
// reconcile is called with the keys that Maps, Follows and Enqueue bring.
func Keyed(c *client.Client, name string, reconcile func(context.Context, meta.Key) (Result, error), opts ...Option) *Controller {
	ctl := &Controller{
		name: name, client: c, workers: 2, queue: newQueue(), reconcile: reconcile,
		tables: map[schema.GroupVersionResource]cached{},
		wrote:  map[meta.Key]map[schema.GroupResource]int64{},
		unsure: map[meta.Key]bool{},
	}
	for _, o := range opts {
		o(ctl)
	}
	return ctl
}

// Workers sets how many keys are reconciled at once; 2 without it.
func Workers(n int) Option { return func(c *Controller) { c.workers = n } }

// Starts calls f at the start of each Run, when the caches are loaded and
// nothing has been reconciled yet.
func Starts(f func()) Option { return func(c *Controller) { c.starts = append(c.starts, f) } }

// Gone calls f instead for keys whose object of the primary kind is not there.
func Gone[T meta.Object](primary *client.Cache[T], f func(ctx context.Context, key meta.Key) (Result, error)) Option {
	return func(c *Controller) {
		there := c.reconcile
		c.reconcile = func(ctx context.Context, key meta.Key) (Result, error) {
			if _, ok := primary.Get(key.Namespace, key.Name); !ok {
				return f(ctx, key)
			}
			return there(ctx, key)
		}
	}
}

// Reads opens the cache, with indexes, without being woken by it.
func Reads[T meta.Object](cache *client.Cache[T], indexes ...meta.Index) Option {
	return func(c *Controller) {
		c.sources = append(c.sources, &typedSource[T]{cache: cache, indexes: indexes})
		c.rules = append(c.rules, readRule(client.ResourceOf[T]()))
	}
}

// Maps opens the cache, with indexes, and wakes the keys that keys returns for
// each change.
func Maps[T meta.Object](cache *client.Cache[T], keys func(client.Change[T]) []meta.Key, indexes ...meta.Index) Option {
	return func(c *Controller) {
		c.sources = append(c.sources, &typedSource[T]{cache: cache, indexes: indexes, keys: keys})
		c.rules = append(c.rules, readRule(client.ResourceOf[T]()))
	}
}

// Owns opens the cache and wakes the controlling owner of the given kind of
// each object that changes, also the former owner.
func Owns[T meta.Object](cache *client.Cache[T], ownerKind string, indexes ...meta.Index) Option {
	return Maps(cache, func(ch client.Change[T]) []meta.Key {
		var keys []meta.Key
		if !ch.Created {
			keys = appendOwner(keys, ch.Old, ownerKind)
		}
		if !ch.Deleted {
			keys = appendOwner(keys, ch.New, ownerKind)
		}
		return keys
	}, append([]meta.Index{meta.ByOwner}, indexes...)...)
}

func appendOwner(keys []meta.Key, obj meta.Object, kind string) []meta.Key {
	if ref := meta.ControllerOf(obj); ref != nil && ref.Kind == kind {
		keys = append(keys, meta.Key{Namespace: obj.GetNamespace(), Name: ref.Name})
	}
	return keys
}

// Gets declares that the controller reads single objects of a resource from
// the API rather than from a cache.
func Gets(group, resource string) Option { return Writes(group, resource, "get") }

// Reports declares that the controller records events.
func Reports() Option { return Writes("", "events", "create", "patch") }

// Writes declares what the controller writes: verbs on a resource, possibly
// with a subresource ("deployments/status"). Its role is made of it.
func Writes(group, resource string, verbs ...string) Option {
	return func(c *Controller) {
		c.rules = append(c.rules, rbacv1.PolicyRule{APIGroups: []string{group}, Resources: []string{resource}, Verbs: verbs})
	}
}

func readRule(gvr schema.GroupVersionResource) rbacv1.PolicyRule {
	return rbacv1.PolicyRule{APIGroups: []string{gvr.Group}, Resources: []string{gvr.Resource}, Verbs: []string{"list", "watch"}}
}

// Name returns the controller's name.
func (c *Controller) Name() string { return c.name }

// Rules returns what the controller declared to read and write.
func (c *Controller) Rules() []rbacv1.PolicyRule { return c.rules }

// Enqueue asks for a reconcile of key.
func (c *Controller) Enqueue(key meta.Key) { c.queue.Add(key) }

// Go runs f until it returns or Run ends; Run waits for it. It may be called
// from a reconcile.
func (c *Controller) Go(f func(ctx context.Context)) { c.group.do(f) }

// Run opens the caches and reconciles until ctx ends or a cache fails. It may
// be called again after it has returned.
func (c *Controller) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if err := c.open(ctx); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return fmt.Errorf("starting controller %s: %w", c.name, err)
	}
	defer c.queue.stop()
	for _, f := range c.starts {
		f()
	}
	failed := make(chan error, len(c.sources))
	c.group.start(ctx)
	for _, s := range c.sources {
		c.Go(func(ctx context.Context) {
			if err := s.follow(ctx, c.queue); err != nil && ctx.Err() == nil {
				failed <- err
				cancel()
			}
		})
	}
	for range c.workers {
		c.Go(c.work)
	}
	c.group.wait(ctx)
	select {
	case err := <-failed:
		return fmt.Errorf("controller %s lost its cache: %w", c.name, err)
	default:
		return nil
	}
}

// open opens the caches and brings them up to what the API has now.
func (c *Controller) open(ctx context.Context) error {
	for _, s := range c.sources {
		if err := s.open(ctx, c); err != nil {
			return err
		}
	}
	for _, s := range c.sources {
		if err := s.sync(ctx); err != nil {
			return err
		}
	}
	return c.Freshen(ctx, "")
}

// Freshen waits until every cache has all objects of a namespace ("" for all)
// that the API has now.
func (c *Controller) Freshen(ctx context.Context, namespace string) error {
	for gvr, table := range c.tables {
		if err := c.freshen(ctx, gvr, table, namespace); err != nil {
			return fmt.Errorf("bringing the cache of %s up to date: %w", gvr.GroupResource(), err)
		}
	}
	return nil
}

// freshWait is how long a cache gets to reach the API's own revision. A remote
// one reaches it only when the server tells of progress, which it seldom does
// for resources that do not change.
const freshWait = 200 * time.Millisecond

func (c *Controller) freshen(ctx context.Context, gvr schema.GroupVersionResource, table cached, namespace string) error {
	list, err := c.client.List(ctx, client.Ref{GroupVersionResource: gvr, Namespace: table.namespace}, metav1.ListOptions{Limit: 1})
	if err != nil {
		return err
	}
	rev, err := strconv.ParseInt(list.ResourceVersion, 10, 64)
	if err != nil {
		return nil // not a revision of ours: the cache is all there is
	}
	short, cancel := context.WithTimeout(ctx, freshWait)
	err = table.WaitFor(short, rev)
	cancel()
	if err == nil || ctx.Err() != nil {
		return err
	}
	if table.namespace != "" {
		namespace = table.namespace
	}
	list, err = c.client.List(ctx, client.Ref{GroupVersionResource: gvr, Namespace: namespace}, metav1.ListOptions{})
	if err != nil {
		return err
	}
	rev = 0
	for _, obj := range list.Items {
		if at, err := strconv.ParseInt(obj.GetResourceVersion(), 10, 64); err == nil {
			rev = max(rev, at)
		}
	}
	return table.WaitFor(ctx, rev)
}

func (c *Controller) work(ctx context.Context) {
	for {
		key, ok := c.queue.Get(ctx)
		if !ok {
			return
		}
		result, err := c.one(ctx, key)
		failed := err != nil && ctx.Err() == nil
		if failed {
			c.log(ctx, key, err)
		}
		c.queue.Done(key, failed)
		if !failed && result.After > 0 {
			c.queue.AddAfter(key, result.After)
		}
	}
}

// log tells of a failed reconcile. Conflicts are the normal course of things:
// the next try sees the newer object.
func (c *Controller) log(ctx context.Context, key meta.Key, err error) {
	level := slog.LevelWarn
	if apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) {
		level = slog.LevelDebug
	}
	slog.Log(ctx, level, "reconcile failed, will be tried again", "controller", c.name, "key", key.String(), "err", err)
}

// one runs a single reconcile, once the caches have seen the last one's writes.
func (c *Controller) one(ctx context.Context, key meta.Key) (res Result, err error) {
	if err := c.barrier(ctx, key); err != nil {
		return Result{}, err
	}
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
			slog.ErrorContext(ctx, "reconcile panicked", "controller", c.name, "key", key.String(), "panic", p)
		}
	}()
	defer func() { c.noteOutcome(key, err) }()
	return c.reconcile(client.WithWritten(ctx, func(gvr schema.GroupVersionResource, rv string) { c.noteWrite(key, gvr.GroupResource(), rv) }), key)
}

// noteOutcome remembers errors after which a write may have happened or not.
func (c *Controller) noteOutcome(key meta.Key, err error) {
	if err == nil || known(err) {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.unsure[key] = true
}

// known reports whether err is the answer of a server that refused the write.
func known(err error) bool {
	switch apierrors.ReasonForError(err) {
	case metav1.StatusReasonUnknown, metav1.StatusReasonTimeout, metav1.StatusReasonServerTimeout,
		metav1.StatusReasonInternalError, metav1.StatusReasonServiceUnavailable:
		return false
	}
	return true
}

func (c *Controller) noteWrite(key meta.Key, gr schema.GroupResource, rv string) {
	rev, err := strconv.ParseInt(rv, 10, 64)
	if err != nil {
		return // not one of ours: nothing to wait for
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.keepWrite(key, gr, rev)
}

func (c *Controller) keepWrite(key meta.Key, gr schema.GroupResource, rev int64) {
	if c.wrote[key] == nil {
		c.wrote[key] = map[schema.GroupResource]int64{}
	}
	c.wrote[key][gr] = max(c.wrote[key][gr], rev)
}

// barrierWait is how long a cache may lag before a reconcile is put off.
const barrierWait = 10 * time.Second

func (c *Controller) barrier(ctx context.Context, key meta.Key) error {
	c.mu.Lock()
	wrote, unsure := c.wrote[key], c.unsure[key]
	delete(c.wrote, key)
	delete(c.unsure, key)
	c.mu.Unlock()
	if len(wrote) == 0 && !unsure {
		return nil
	}
	limited, cancel := context.WithTimeout(ctx, barrierWait)
	defer cancel()
	if err := c.caughtUp(limited, key, wrote, unsure); err != nil {
		c.mu.Lock()
		for gr, rev := range wrote {
			c.keepWrite(key, gr, rev)
		}
		c.unsure[key] = c.unsure[key] || unsure
		c.mu.Unlock()
		return err
	}
	return nil
}

func (c *Controller) caughtUp(ctx context.Context, key meta.Key, wrote map[schema.GroupResource]int64, unsure bool) error {
	for gvr, table := range c.tables {
		rev, ok := wrote[gvr.GroupResource()]
		if !ok {
			continue
		}
		if err := table.WaitFor(ctx, rev); err != nil {
			return fmt.Errorf("waiting for the cache of %s to reach revision %d: %w", gvr.GroupResource(), rev, err)
		}
	}
	if unsure {
		return c.Freshen(ctx, key.Namespace)
	}
	return nil
}
