// Package controller is the frame that every reconcile loop uses. A controller
// says which objects it is about, which others concern it, and what it writes;
// the frame queues, retries with back-off, and runs the reconciles. Per key it
// remembers what was written and starts the next reconcile only when the
// caches have seen it (the read-your-writes barrier), so that a reconcile
// always sees the effects of the one before.
package controller

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
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
	rules     []rbacv1.PolicyRule
	reconcile func(ctx context.Context, key meta.Key) (Result, error)

	queue  *queue
	tables map[schema.GroupResource]*watchcache.Table
	mu     sync.Mutex
	wrote  map[meta.Key]map[schema.GroupResource]int64
}

// An Option adds to a controller.
type Option func(*Controller)

// New returns the controller of that name which calls reconcile for every
// object of primary that is new, has changed, or is concerned by a change of
// others. Objects that are gone are not reconciled; see Gone.
func New[T meta.Object](c *client.Client, name string, primary *client.Cache[T], reconcile func(context.Context, T) (Result, error), opts ...Option) *Controller {
	ctl := &Controller{
		name: name, client: c, workers: 2, queue: newQueue(),
		tables: map[schema.GroupResource]*watchcache.Table{},
		wrote:  map[meta.Key]map[schema.GroupResource]int64{},
	}
	ctl.reconcile = func(ctx context.Context, key meta.Key) (Result, error) {
		obj, ok := primary.Get(key.Namespace, key.Name)
		if !ok {
			return Result{}, nil
		}
		return reconcile(ctx, obj)
	}
	Maps(primary, func(ch client.Change[T]) []meta.Key { return []meta.Key{meta.KeyOf(ch.Object())} })(ctl)
	for _, o := range opts {
		o(ctl)
	}
	return ctl
}

// Workers sets how many keys are reconciled at once; 2 without it.
func Workers(n int) Option { return func(c *Controller) { c.workers = n } }

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

// Writes declares what the controller writes: verbs on a resource, possibly
// with a subresource ("deployments/status"). Its role is made of it.
func Writes(group, resource string, verbs ...string) Option {
	return func(c *Controller) {
		c.rules = append(c.rules, rbacv1.PolicyRule{APIGroups: []string{group}, Resources: []string{resource}, Verbs: verbs})
	}
}

func readRule(gvr schema.GroupVersionResource) rbacv1.PolicyRule {
	return rbacv1.PolicyRule{APIGroups: []string{gvr.Group}, Resources: []string{gvr.Resource}, Verbs: []string{"get", "list", "watch"}}
}

// Name returns the controller's name, as in its identity
// system:serviceaccount:kube-system:<name>-controller.
func (c *Controller) Name() string { return c.name }

// Rules returns what the controller declared to read and write.
func (c *Controller) Rules() []rbacv1.PolicyRule { return c.rules }

// Enqueue asks for a reconcile of key.
func (c *Controller) Enqueue(key meta.Key) { c.queue.Add(key) }

// Run opens the caches and reconciles until ctx ends or a cache fails.
func (c *Controller) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for _, s := range c.sources {
		if err := s.open(ctx, c); err != nil {
			return fmt.Errorf("starting controller %s: %w", c.name, err)
		}
	}
	for _, s := range c.sources {
		if err := s.sync(ctx); err != nil {
			return err
		}
	}
	defer c.queue.stop()
	var wg sync.WaitGroup
	failed := make(chan error, len(c.sources))
	for _, s := range c.sources {
		wg.Go(func() {
			if err := s.follow(ctx, c.queue); err != nil && ctx.Err() == nil {
				failed <- err
				cancel()
			}
		})
	}
	for range c.workers {
		wg.Go(func() { c.work(ctx) })
	}
	wg.Wait()
	select {
	case err := <-failed:
		return fmt.Errorf("controller %s lost its cache: %w", c.name, err)
	default:
		return nil
	}
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
	return c.reconcile(client.WithWritten(ctx, func(gvr schema.GroupVersionResource, rv string) { c.noteWrite(key, gvr.GroupResource(), rv) }), key)
}

func (c *Controller) noteWrite(key meta.Key, gr schema.GroupResource, rv string) {
	rev, err := strconv.ParseInt(rv, 10, 64)
	if err != nil {
		return // not one of ours: nothing to wait for
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.wrote[key] == nil {
		c.wrote[key] = map[schema.GroupResource]int64{}
	}
	c.wrote[key][gr] = max(c.wrote[key][gr], rev)
}

// barrierWait is how long a cache may lag before a reconcile is put off.
const barrierWait = 10 * time.Second

func (c *Controller) barrier(ctx context.Context, key meta.Key) error {
	c.mu.Lock()
	wrote := c.wrote[key]
	delete(c.wrote, key)
	c.mu.Unlock()
	if len(wrote) == 0 {
		return nil
	}
	limited, cancel := context.WithTimeout(ctx, barrierWait)
	defer cancel()
	for gr, rev := range wrote {
		table := c.tables[gr]
		if table == nil {
			continue
		}
		if err := table.WaitFor(limited, rev); err != nil {
			c.noteWrite(key, gr, strconv.FormatInt(rev, 10))
			if errors.Is(err, context.DeadlineExceeded) {
				return fmt.Errorf("the cache of %s has not reached revision %d in %s", gr, rev, barrierWait)
			}
			return err
		}
	}
	return nil
}

// source is one cache that a controller reads, and may be woken by.
type source interface {
	open(ctx context.Context, c *Controller) error
	sync(ctx context.Context) error
	follow(ctx context.Context, q *queue) error
}

type typedSource[T meta.Object] struct {
	cache   *client.Cache[T]
	indexes []meta.Index
	keys    func(client.Change[T]) []meta.Key
}

func (s *typedSource[T]) open(ctx context.Context, c *Controller) error {
	cache, err := client.For[T](c.client).Cache(ctx, s.indexes...)
	if err != nil {
		return err
	}
	*s.cache = cache
	c.tables[client.ResourceOf[T]().GroupResource()] = cache.Table()
	return nil
}

func (s *typedSource[T]) sync(ctx context.Context) error { return s.cache.Sync(ctx) }

func (s *typedSource[T]) follow(ctx context.Context, q *queue) error {
	if s.keys == nil {
		<-ctx.Done()
		return nil
	}
	return s.cache.Follow(ctx, func(ch client.Change[T]) {
		for _, key := range s.keys(ch) {
			q.Add(key)
		}
	}, nil)
}
