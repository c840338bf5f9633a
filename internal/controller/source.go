package controller

import (
	"context"
	"errors"
	"fmt"
	"sync"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"skiff.dev/skiff/internal/client"
	"skiff.dev/skiff/internal/meta"
	"skiff.dev/skiff/internal/watchcache"
)

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
	c.tables[client.ResourceOf[T]()] = cached{Table: cache.Table()}
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

// A Resource is one that the API serves.
type Resource struct {
	schema.GroupVersionResource
	Kind       string
	Namespaced bool
}

// Resources lists what the API serves and what can be listed, watched and
// deleted. What could not be found out comes as an error besides what could.
type Resources func(ctx context.Context) ([]Resource, error)

// Follows opens the tables of the resources that list returns when Run starts,
// and wakes the keys that keys returns for each event. Objects that are there
// already come as Added, and may come so again.
func Follows(list func(ctx context.Context) ([]schema.GroupVersionResource, error), opened func(schema.GroupVersionResource, *watchcache.Table), keys func(schema.GroupVersionResource, *watchcache.Event) []meta.Key) Option {
	return func(c *Controller) {
		c.sources = append(c.sources, &tableSource{list: list, opened: opened, keys: keys})
		c.rules = append(c.rules, rbacv1.PolicyRule{APIGroups: []string{"*"}, Resources: []string{"*"}, Verbs: []string{"list", "watch"}})
	}
}

type tableSource struct {
	list   func(ctx context.Context) ([]schema.GroupVersionResource, error)
	opened func(schema.GroupVersionResource, *watchcache.Table)
	keys   func(schema.GroupVersionResource, *watchcache.Event) []meta.Key
	tables map[schema.GroupVersionResource]*watchcache.Table
}

func (s *tableSource) open(ctx context.Context, c *Controller) error {
	gvrs, err := s.list(ctx)
	if err != nil {
		return fmt.Errorf("listing resources: %w", err)
	}
	s.tables = map[schema.GroupVersionResource]*watchcache.Table{}
	for _, gvr := range gvrs {
		t, err := c.client.Table(ctx, gvr, watchcache.Scope{})
		if err != nil {
			return fmt.Errorf("opening cache of %s: %w", gvr.GroupResource(), err)
		}
		t.EnsureIndex(meta.ByOwner)
		s.tables[gvr], c.tables[gvr] = t, cached{Table: t}
		s.opened(gvr, t)
	}
	return nil
}

func (s *tableSource) sync(ctx context.Context) error {
	for _, t := range s.tables {
		select {
		case <-t.Ready():
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// follow runs until ctx ends or any of the tables fails.
func (s *tableSource) follow(ctx context.Context, q *queue) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	failed := make(chan error, len(s.tables))
	for gvr, t := range s.tables {
		wg.Go(func() {
			defer cancel()
			for ctx.Err() == nil {
				if err := s.followTable(ctx, gvr, t, q); !errors.Is(err, watchcache.ErrTooOld) {
					failed <- err
					return
				}
				s.all(q) // deletions may have been missed, which concern the others
			}
		})
	}
	wg.Wait()
	select {
	case err := <-failed:
		return err
	default:
		return nil
	}
}

func (s *tableSource) followTable(ctx context.Context, gvr schema.GroupVersionResource, t *watchcache.Table, q *queue) error {
	snap, w, err := t.WatchFromSnapshot(watchcache.Scope{})
	if err != nil {
		return err
	}
	defer w.Close()
	for item := range snap.In(watchcache.Scope{}) {
		s.add(q, gvr, &watchcache.Event{Type: watchcache.Added, Item: item, Rev: item.Rev})
	}
	for {
		events, _, err := w.Next(ctx)
		if err != nil {
			return err
		}
		for _, e := range events {
			s.add(q, gvr, e)
		}
	}
}

// all adds every object there is.
func (s *tableSource) all(q *queue) {
	for gvr, t := range s.tables {
		for item := range t.Snapshot().In(watchcache.Scope{}) {
			s.add(q, gvr, &watchcache.Event{Type: watchcache.Added, Item: item, Rev: item.Rev})
		}
	}
}

func (s *tableSource) add(q *queue, gvr schema.GroupVersionResource, e *watchcache.Event) {
	for _, key := range s.keys(gvr, e) {
		q.Add(key)
	}
}

// group is the goroutines of one Run.
type group struct {
	mu  sync.Mutex
	ctx context.Context // of the Run; nil outside of one
	wg  sync.WaitGroup
}

func (g *group) start(ctx context.Context) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.ctx = ctx
}

func (g *group) do(f func(ctx context.Context)) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if ctx := g.ctx; ctx != nil {
		g.wg.Go(func() { f(ctx) })
	}
}

// wait returns when ctx has ended and with it every goroutine.
func (g *group) wait(ctx context.Context) {
	<-ctx.Done()
	g.mu.Lock()
	g.ctx = nil
	g.mu.Unlock()
	g.wg.Wait()
}
