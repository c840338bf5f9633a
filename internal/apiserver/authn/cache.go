package authn

import (
	"sync"
	"time"
)

// cache holds at most size verified credentials, each until its time. The
// oldest goes first; a credential is asked for in bursts, so order of use
// would gain nothing over order of arrival.
type cache[K comparable, V any] struct {
	mu      sync.RWMutex
	entries map[K]cached[V]
	order   []K // ring of the keys in entries, next is the oldest once full
	next    int
	size    int
}

type cached[V any] struct {
	value V
	until time.Time
}

func newCache[K comparable, V any](size int) *cache[K, V] {
	return &cache[K, V]{entries: map[K]cached[V]{}, size: size}
}

func (c *cache[K, V]) get(k K, now time.Time) (V, bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	e, ok := c.entries[k]
	if !ok || !now.Before(e.until) {
		var none V
		return none, false
	}
	return e.value, true
}

func (c *cache[K, V]) put(k K, v V, until time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, known := c.entries[k]
	c.entries[k] = cached[V]{v, until}
	switch {
	case known:
	case len(c.order) < c.size:
		c.order = append(c.order, k)
	default:
		delete(c.entries, c.order[c.next])
		c.order[c.next] = k
		c.next = (c.next + 1) % c.size
	}
}
