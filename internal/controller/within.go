package controller

import (
	"context"

	"skiff.dev/skiff/internal/client"
	"skiff.dev/skiff/internal/meta"
	"skiff.dev/skiff/internal/watchcache"
)

// within is a source that reads one namespace only.
type within[T meta.Object] struct {
	typedSource[T]
	namespace string
}

func (s *within[T]) open(ctx context.Context, c *Controller) error {
	cache, err := client.For[T](c.client).CacheWhere(ctx, watchcache.Scope{Namespace: s.namespace}, s.indexes...)
	if err != nil {
		return err
	}
	*s.cache = cache
	c.tables[client.ResourceOf[T]()] = cached{cache.Table(), s.namespace}
	return nil
}

// MapsWithin is Maps for controllers that may read one namespace only. In a
// process that shares the server's objects the cache may hold others too, so
// keys must look at the namespace.
func MapsWithin[T meta.Object](cache *client.Cache[T], namespace string, keys func(client.Change[T]) []meta.Key, indexes ...meta.Index) Option {
	return func(c *Controller) {
		c.sources = append(c.sources, &within[T]{
			typedSource: typedSource[T]{cache: cache, indexes: indexes, keys: keys}, namespace: namespace,
		})
		c.rules = append(c.rules, readRule(client.ResourceOf[T]()))
	}
}
