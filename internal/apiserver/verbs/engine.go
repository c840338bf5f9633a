// Package verbs gives life to resource definitions: create, get, list, watch,
// update, patch, delete over the store and the watch cache. It is what the
// HTTP API and the in-process client both call, after authorization. The
// functions take and return decoded objects; those returned are shared and
// read-only.
package verbs

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"skiff.dev/skiff/internal/apiserver/admission"
	"skiff.dev/skiff/internal/fieldmanager"
	"skiff.dev/skiff/internal/meta"
	"skiff.dev/skiff/internal/resource"
	"skiff.dev/skiff/internal/scheme"
	"skiff.dev/skiff/internal/store"
	"skiff.dev/skiff/internal/watchcache"
)

// Root is the prefix of all keys, as in upstream's layout.
const Root = "/registry/"

// Config is what an Engine is made of.
type Config struct {
	Store     store.Store
	Resources []resource.Any
	// Admission returns the plugins; it is called once the caches exist.
	Admission func(*Engine) admission.Chain
	// VerifyImmutability makes the caches check that nobody changes an object.
	VerifyImmutability bool
}

// Engine carries out verbs on all resources of one API server.
type Engine struct {
	store     store.Store
	cache     *watchcache.Cache
	admission admission.Chain
	managers  *fieldmanager.Managers

	mu   sync.RWMutex
	byID map[schema.GroupVersionResource]*Resource
	list []*Resource
}

// Resource is one definition, living.
type Resource struct {
	resource.Any
	info  resource.Info
	e     *Engine
	hub   *Resource          // whose objects these are; itself but for an alias
	forms fieldmanager.Forms // of a hub and its aliases; nil for most
	kinds sync.Map           // by view, of which a definition has few: what the field manager must know
	table *watchcache.Table  // the hub's; nil for virtual resources
	pages pages
}

// Open loads the caches and starts to follow the store. Close ends it.
func Open(ctx context.Context, cfg Config) (*Engine, error) {
	e := &Engine{
		store: cfg.Store, managers: fieldmanager.New(),
		byID: map[schema.GroupVersionResource]*Resource{},
	}
	var cached []watchcache.Resource
	seen := map[string]bool{}
	for _, def := range cfg.Resources {
		r := &Resource{Any: def, info: def.Info(), e: e}
		e.byID[r.info.Name.GVR()] = r
		e.list = append(e.list, r)
		if !r.info.Virtual && r.info.Hub.Empty() && !seen[r.prefix()] {
			seen[r.prefix()] = true
			cached = append(cached, r.cached())
		}
	}
	if err := e.joinAliases(); err != nil {
		return nil, err
	}
	var options []watchcache.Option
	if cfg.VerifyImmutability {
		options = append(options, watchcache.WithMutationDetector())
	}
	cache, err := watchcache.Open(ctx, watchcache.Config{Store: cfg.Store, Resources: cached, Table: options})
	if err != nil {
		return nil, fmt.Errorf("opening watch cache: %w", err)
	}
	e.cache = cache
	if err := cache.Sync(ctx); err != nil {
		cache.Close()
		return nil, fmt.Errorf("loading the caches: %w", err)
	}
	for _, r := range e.list {
		if !r.info.Virtual {
			r.table, _ = cache.Table(r.hub.cacheName())
		}
	}
	if cfg.Admission != nil {
		e.admission = cfg.Admission(e)
	}
	return e, nil
}

// joinAliases connects aliases with their hubs.
func (e *Engine) joinAliases() error {
	for _, r := range e.list {
		r.hub = r
		if r.info.Hub.Empty() {
			continue
		}
		if r.hub = e.byID[r.info.Hub]; r.hub == nil {
			return fmt.Errorf("%s is an alias of %s, which is not among the resources", r.info.Name.GVR(), r.info.Hub)
		}
		if r.hub.forms == nil {
			r.hub.forms = fieldmanager.Forms{r.hub.info.Name.GVK().GroupVersion(): r.hub.form()}
		}
		r.forms = r.hub.forms
		r.forms[r.info.Name.GVK().GroupVersion()] = r.form()
	}
	return nil
}

func (r *Resource) form() fieldmanager.Form {
	return fieldmanager.Form{GVK: r.info.Name.GVK(), New: r.New, ToHub: r.ToHub, FromHub: r.FromHub}
}

// shown is an object of the hub's cache as this resource shows it.
func (r *Resource) shown(item *watchcache.Item) *watchcache.Item {
	if r.hub == r || item == nil {
		return item
	}
	return &watchcache.Item{Object: r.FromHub(item.Object), Rev: item.Rev}
}

// Close stops following the store; the store stays open.
func (e *Engine) Close() { e.cache.Close() }

// Resource returns the resource by group, version and plural.
func (e *Engine) Resource(gvr schema.GroupVersionResource) (*Resource, bool) {
	e.mu.RLock()
	defer e.mu.RUnlock()
	r, ok := e.byID[gvr]
	return r, ok
}

// ByGroupResource returns the resource in whatever version it has.
func (e *Engine) ByGroupResource(gr schema.GroupResource) (*Resource, bool) {
	e.mu.RLock()
	defer e.mu.RUnlock()
	for _, r := range e.list {
		if r.info.Name.Plural == gr.Resource && r.info.Name.Group == gr.Group {
			return r, true
		}
	}
	return nil, false
}

// Resources returns all resources in the order of the list they came from.
func (e *Engine) Resources() []*Resource {
	e.mu.RLock()
	defer e.mu.RUnlock()
	return append([]*Resource(nil), e.list...)
}

// Table returns the cache of a resource, nil if it has none of its own.
func (e *Engine) Table(gr schema.GroupResource) *watchcache.Table {
	if r, ok := e.ByGroupResource(gr); ok {
		return r.Table()
	}
	return nil
}

// Info returns what the definition says of itself.
func (r *Resource) Info() resource.Info { return r.info }

// Table returns the cache of the resource. An alias has none: its hub's holds
// objects of another type.
func (r *Resource) Table() *watchcache.Table {
	if r.hub != r {
		return nil
	}
	return r.table
}

func (r *Resource) cacheName() string { return r.info.Name.GroupResource().String() }

func (r *Resource) prefix() string { return Root + r.info.StoreKey + "/" }

// key returns the etcd key of an object.
func (r *Resource) key(k meta.Key) string {
	if r.info.Scope == resource.Namespaced {
		return r.prefix() + k.Namespace + "/" + k.Name
	}
	return r.prefix() + k.Name
}

func (r *Resource) cached() watchcache.Resource {
	return watchcache.Resource{
		Name: r.cacheName(), Prefix: r.prefix(),
		Namespaced: r.info.Scope == resource.Namespaced,
		Indexes:    append([]meta.Index{meta.ByOwner}, r.info.Indexes...),
		Decode: func(_ string, value []byte, rev int64) (meta.Object, error) {
			return r.decode(value, rev)
		},
	}
}

// decode reads a stored value; the revision becomes the resourceVersion.
func (r *Resource) decode(value []byte, rev int64) (meta.Object, error) {
	if r.hub != r {
		obj, err := r.hub.decode(value, rev)
		if err != nil {
			return nil, err
		}
		return r.FromHub(obj), nil
	}
	obj := r.New()
	if _, err := scheme.DecodeProtobuf(value, obj); err != nil {
		return nil, fmt.Errorf("decoding stored %s: %w", r.info.Name.Kind, err)
	}
	obj.GetObjectKind().SetGroupVersionKind(r.info.Name.GVK())
	r.Default(obj)
	obj.SetResourceVersion(formatRev(rev))
	return obj, nil
}

// encode writes the stored form; resourceVersion is the store's, not the value's.
func (r *Resource) encode(obj meta.Object) ([]byte, error) {
	rv := obj.GetResourceVersion()
	obj.SetResourceVersion("")
	data, err := scheme.EncodeProtobuf(r.ToHub(obj))
	obj.SetResourceVersion(rv)
	return data, err
}

// notFound is the 404 for an object of the resource.
func (r *Resource) notFound(name string) error {
	return apierrors.NewNotFound(r.info.Name.GroupResource(), name)
}

func (r *Resource) conflict(name string, detail string) error {
	return apierrors.NewConflict(r.info.Name.GroupResource(), name, fmt.Errorf("%s", detail))
}

// expiry turns a remaining life into the TTL of the store's key.
func expiry(ttl time.Duration) time.Duration { return max(ttl, 0) }

// holder is what a claim's value says: who holds it.
func (r *Resource) holder(k meta.Key) []byte {
	return []byte(strings.Join([]string{r.hub.info.Name.GroupResource().String(), k.Namespace, k.Name}, "/"))
}
