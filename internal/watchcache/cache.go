package watchcache

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"skiff.dev/skiff/internal/meta"
	"skiff.dev/skiff/internal/store"
)

// Resource is one kind of stored object.
type Resource struct {
	// Name identifies the resource in the cache, such as "deployments.apps".
	Name string
	// Prefix is where the objects lie, with a slash at its end. What follows is
	// namespace/name or name.
	Prefix     string
	Namespaced bool
	// Decode turns stored bytes into an object whose resourceVersion is modRev.
	// It must be safe for concurrent use.
	Decode  func(key string, value []byte, modRev int64) (meta.Object, error)
	Indexes []meta.Index
}

func (r Resource) validate(root string) error {
	switch {
	case r.Name == "":
		return errors.New("watchcache: resource without a name")
	case r.Decode == nil:
		return fmt.Errorf("watchcache: resource %s cannot be decoded", r.Name)
	case !strings.HasSuffix(r.Prefix, "/") || !strings.HasPrefix(r.Prefix, root) || r.Prefix == root:
		return fmt.Errorf("watchcache: resource %s: prefix %q must lie below %q and end with a slash", r.Name, r.Prefix, root)
	}
	return nil
}

// key splits a store key, whose prefix is that of r, into namespace and name.
func (r Resource) key(storeKey string) (meta.Key, error) {
	rest := storeKey[len(r.Prefix):]
	namespace, name, nested := strings.Cut(rest, "/")
	if !r.Namespaced {
		namespace, name = "", rest
	}
	if name == "" || strings.Contains(name, "/") || r.Namespaced && (!nested || namespace == "") {
		return meta.Key{}, fmt.Errorf("key %q does not name an object of %s", storeKey, r.Name)
	}
	return meta.Key{Namespace: namespace, Name: name}, nil
}

// decode also checks that the object is what its key says.
func (r Resource) decode(kv store.KV) (meta.Object, error) {
	key, err := r.key(kv.Key)
	if err != nil {
		return nil, err
	}
	obj, err := r.Decode(kv.Key, kv.Value, kv.ModRev)
	if err != nil {
		return nil, fmt.Errorf("decoding: %w", err)
	}
	if is := meta.KeyOf(obj); is != key {
		return nil, fmt.Errorf("object says that it is %q", is)
	}
	return obj, nil
}

// Config says what a Cache holds.
type Config struct {
	Store store.Store
	// Root is the prefix of all resources; "" means "/registry/".
	Root      string
	Resources []Resource
	// Log is told what goes wrong; nil means slog.Default().
	Log *slog.Logger
	// Table options apply to all tables, such as WithMutationDetector in tests.
	Table []Option
}

// Cache keeps a table for each resource of a store, fed by one watch, so that
// all tables advance along one sequence of revisions.
type Cache struct {
	store  store.Store
	root   string
	log    *slog.Logger
	opts   []Option
	clock  *clock
	ctx    context.Context
	cancel context.CancelFunc
	group  sync.WaitGroup
	loads  chan struct{} // bounds concurrent loads

	byName sync.Map // name to *resource; written under mu, read without

	mu        sync.Mutex
	resources map[string]*resource // by prefix
	// fed is the revision that the feed has delivered. The clock follows it,
	// but for the time in which loaded tables are brought up to date by a list.
	fed     int64
	stale   int
	swept   time.Time
	batches []*resource // scratch of deliver

	watcher  atomic.Pointer[store.Watcher]
	written  written
	barriers barriers
	stats    counters
}

// resource is a Resource that is being cached. Guarded by Cache.mu.
type resource struct {
	Resource
	table *Table
	// loading is the load that is under way, or nil; until it is done, the
	// feed's events are kept in pending.
	loading *load
	pending []store.Event
	stale   bool
	changes []Change // scratch of deliver
	bad     map[string]Undecodable

	history sync.Mutex // one reading of history at a time
}

// load is one attempt to read a resource whole.
type load struct{ cancel context.CancelFunc }

// Undecodable is a stored value that is not in its table.
type Undecodable struct {
	Resource, Key string
	Rev           int64
	Err           error
}

// Stats counts what a cache has done since it was opened.
type Stats struct {
	// Decoded and Handed count the feed's objects that were decoded, and those
	// that Written had handed over.
	Decoded, Handed int64
	// Undecodable counts the values that could not be decoded.
	Undecodable int64
	// Reconnects counts failed watches, Resyncs those where a relist was needed.
	Reconnects, Resyncs int64
	// Barriers counts the calls of Fresh, RevisionReads what they cost the store.
	Barriers, RevisionReads int64
}

type counters struct {
	decoded, handed, undecodable, reconnects, resyncs, barriers, revisionReads atomic.Int64
}

// Open starts to fill a cache and returns at once; see Sync. While the store
// cannot be reached it tries again. The feed ends with ctx, or with Close, which
// also ends the watches and must be called.
func Open(ctx context.Context, cfg Config) (*Cache, error) {
	c := &Cache{
		store: cfg.Store, log: cfg.Log, opts: cfg.Table,
		root:      cmp.Or(cfg.Root, "/registry/"),
		clock:     new(clock),
		loads:     make(chan struct{}, 4),
		resources: map[string]*resource{},
	}
	if c.log == nil {
		c.log = slog.Default()
	}
	c.ctx, c.cancel = context.WithCancel(ctx)
	for _, r := range cfg.Resources {
		if _, err := c.AddResource(r); err != nil {
			c.Close()
			return nil, err
		}
	}
	c.group.Go(c.run)
	return c, nil
}

// Close ends the feed and all watches, and waits for both.
func (c *Cache) Close() {
	// Under the locks, so that nothing is started once the group is waited for.
	c.mu.Lock()
	c.barriers.mu.Lock()
	c.cancel()
	c.barriers.mu.Unlock()
	c.mu.Unlock()
	c.group.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, r := range c.resources {
		r.table.Close()
	}
}

// AddResource starts to cache one more resource and returns its table, which
// becomes ready later. Its revision is that of the cache.
func (c *Cache) AddResource(r Resource) (*Table, error) {
	if err := r.validate(c.root); err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.resources[r.Prefix] != nil || c.named(r.Name) != nil {
		return nil, fmt.Errorf("watchcache: resource %s (%s) is cached already", r.Name, r.Prefix)
	}
	if err := c.ctx.Err(); err != nil {
		return nil, ErrClosed
	}
	opts := append([]Option{withClock(c.clock), WithIndexes(r.Indexes...)}, c.opts...)
	res := &resource{Resource: r, table: NewTable(r.Name, opts...), bad: map[string]Undecodable{}}
	c.resources[r.Prefix] = res
	c.byName.Store(r.Name, res)
	if c.fed != 0 {
		c.startLoad(res)
	} // else the feed does, once it knows from where it watches
	return res.table, nil
}

// RemoveResource stops caching a resource. Its watches end with ErrClosed.
func (c *Cache) RemoveResource(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := c.named(name)
	if r == nil {
		return
	}
	c.byName.Delete(name)
	delete(c.resources, r.Prefix)
	if r.loading != nil {
		r.loading.cancel()
		r.loading = nil
	}
	c.refreshed(r)
	r.table.Close()
}

// Table returns the table of a resource.
func (c *Cache) Table(name string) (*Table, bool) {
	r := c.named(name)
	if r == nil {
		return nil, false
	}
	return r.table, true
}

func (c *Cache) named(name string) *resource {
	r, _ := c.byName.Load(name)
	res, _ := r.(*resource)
	return res
}

// Sync waits until all present resources have been loaded.
func (c *Cache) Sync(ctx context.Context) error {
	c.mu.Lock()
	var tables []*Table
	for _, r := range c.resources {
		tables = append(tables, r.table)
	}
	c.mu.Unlock()
	for _, t := range tables {
		select {
		case <-t.Ready():
		case <-t.closed:
		case <-ctx.Done():
			return fmt.Errorf("waiting for %s to be loaded: %w", t.name, context.Cause(ctx))
		case <-c.ctx.Done():
			return ErrClosed
		}
	}
	return nil
}

// Rev returns the revision that all loaded tables have reached.
func (c *Cache) Rev() int64 { return c.clock.now() }

// Stats returns the counters.
func (c *Cache) Stats() Stats {
	s := &c.stats
	return Stats{
		Decoded: s.decoded.Load(), Handed: s.handed.Load(), Undecodable: s.undecodable.Load(),
		Reconnects: s.reconnects.Load(), Resyncs: s.resyncs.Load(),
		Barriers: s.barriers.Load(), RevisionReads: s.revisionReads.Load(),
	}
}

// Undecodable lists the stored values that are kept out of the tables because
// they cannot be decoded, in the order of their keys.
func (c *Cache) Undecodable() []Undecodable {
	c.mu.Lock()
	defer c.mu.Unlock()
	var all []Undecodable
	for _, r := range c.resources {
		for _, b := range r.bad {
			all = append(all, b)
		}
	}
	slices.SortFunc(all, func(a, b Undecodable) int { return strings.Compare(a.Key, b.Key) })
	return all
}

// report records a value that cannot be decoded. c.mu is held.
func (c *Cache) report(r *resource, kv store.KV, err error) {
	c.stats.undecodable.Add(1)
	c.log.Error("stored object cannot be decoded and is left out",
		"resource", r.Name, "key", kv.Key, "revision", kv.ModRev, "err", err)
	r.bad[kv.Key] = Undecodable{Resource: r.Name, Key: kv.Key, Rev: kv.ModRev, Err: err}
}
