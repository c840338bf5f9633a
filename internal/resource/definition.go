// Package resource says what a resource of the API is: its names, defaults,
// validation, subresources and table columns, as one Definition per kind. The
// definitions are data and pure functions; package verbs gives them life.
package resource

import (
	"context"
	"time"

	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"skiff.dev/skiff/internal/check"
	"skiff.dev/skiff/internal/meta"
)

// Scope says whether objects of a resource live in namespaces.
type Scope int

const (
	Namespaced Scope = iota
	Cluster
)

// Name is how a resource is addressed.
type Name struct {
	Group, Version, Kind string
	Plural, Singular     string // Singular defaults to the lower-case kind
	Short, Categories    []string
}

// GroupResource returns the name without the version.
func (n Name) GroupResource() schema.GroupResource {
	return schema.GroupResource{Group: n.Group, Resource: n.Plural}
}

// GVK returns group, version and kind.
func (n Name) GVK() schema.GroupVersionKind {
	return schema.GroupVersionKind{Group: n.Group, Version: n.Version, Kind: n.Kind}
}

// GVR returns group, version and plural.
func (n Name) GVR() schema.GroupVersionResource {
	return schema.GroupVersionResource{Group: n.Group, Version: n.Version, Resource: n.Plural}
}

// A Definition is one resource: everything that is special about it. The life
// of a write calls, in this order: Default, (mutating admission), Prepare,
// Allocate, Validate, (validating admission), Claims. Functions left nil do
// nothing. In all of them old is the stored object, nil on create, and must
// not be changed.
type Definition[T meta.Object] struct {
	Name  Name
	Scope Scope
	// StoreKey is the part of the etcd key after /registry/ where it is not the
	// plural: upstream's layout keeps e.g. nodes under "minions".
	StoreKey string

	// Default fills in the defaults of the API documentation.
	Default func(obj T)
	// Prepare sets what the server owns and clears what the client may not set.
	Prepare func(ctx context.Context, obj, old T)
	// Validate reports every fault of obj, and of the change from old.
	Validate func(r *check.Report, obj, old T)
	// NameRule checks metadata.name; nil means a DNS subdomain.
	NameRule check.NameRule
	// Spec returns what metadata.generation counts the changes of; nil where
	// the kind has no generation.
	Spec func(obj T) any

	// Status is the status subresource; nil where there is none.
	Status *View[T]
	// Views are further subresources that show a part of the object itself.
	Views []*View[T]
	// Scale is the scale subresource; nil where there is none.
	Scale *Scale[T]
	// Actions are subresources that are created (POST) on an object.
	Actions []*Action
	// Connects are subresources that open a connection to what the object stands for.
	Connects []*Connect

	// Columns are those of kubectl get after the name, age included.
	Columns []Column[T]
	// Fields are the field selectors beyond metadata.name and metadata.namespace.
	Fields func(obj T) fields.Set
	// Indexes are kept by every cache of the resource.
	Indexes []meta.Index

	// Allocate fills in values that are unique in the cluster (addresses, ports).
	Allocate func(ctx context.Context, a Access, obj, old T) error
	// Claims lists what obj holds exclusively. Claims are taken and released in
	// the very transaction that writes obj, so that none leaks or is held twice.
	Claims func(obj T) []Claim

	// Deletion is how the kind is deleted, where that takes more than one step.
	Deletion *Deletion[T]
	// TTL is how long an object lives; nil for ever.
	TTL func(obj T) time.Duration
	// Answer makes the kind virtual: nothing is stored, create answers.
	Answer func(ctx context.Context, obj T) error
	// Observe makes the kind virtual too, but to be read: its objects, made anew
	// for each get and list, say what is seen of the cluster. It may return more
	// than q asks for.
	Observe func(ctx context.Context, a Access, q Query) ([]T, error)

	// Upsert lets an update create what is not there.
	Upsert bool
	// NeedsVersion refuses updates without a resourceVersion.
	NeedsVersion bool
}

// A View is a subresource that is a part of the object: status,
// ephemeralcontainers, resize, approval, finalize. Writing through the view
// changes that part only; writing the object itself leaves it alone. What Keep
// and Reset take from old they must copy: obj goes on to be changed.
type View[T meta.Object] struct {
	Name string // "status" where empty
	// Keep puts back into obj, written as a whole, the part that belongs to the
	// view. On create old is an empty object.
	Keep func(obj, old T)
	// Reset puts back into obj, written through the view, all but its part.
	Reset func(obj, old T)
	// Prepare and Validate work as in the Definition.
	Prepare  func(ctx context.Context, obj, old T)
	Validate func(r *check.Report, obj, old T)
}

// Scale says where a kind keeps what the scale subresource shows.
type Scale[T meta.Object] struct {
	Replicas    func(obj T) int32
	SetReplicas func(obj T, n int32)
	// Status returns the observed replicas and the selector in string form.
	Status func(obj T) (replicas int32, selector string)
}

// An Action is a subresource that is POSTed to an object: binding, eviction, token.
type Action struct {
	Name string
	Kind schema.GroupVersionKind
	// Body returns an empty request body.
	Body func() runtime.Object
	// Do carries the action out and returns the answer. The change it makes has
	// passed admission with body as the object.
	Do func(ctx context.Context, a Access, key meta.Key, body runtime.Object) (runtime.Object, error)
}

// A Connect is a subresource that turns a request into a connection: log,
// exec, attach, portforward, proxy.
type Connect struct {
	Name    string
	Methods []string // HTTP methods, e.g. GET and POST
	// Options returns an empty options object (query parameters); its kind is
	// what discovery shows.
	Options func() runtime.Object
	// TakesPath lets the URL go on after the subresource's name.
	TakesPath bool
}

// A Column of kubectl get.
type Column[T meta.Object] struct {
	Name        string
	Type        string // "string" where empty; else integer, number, boolean, date
	Format      string
	Description string
	// Wide columns are shown by -o wide only (priority 1).
	Wide  bool
	Value func(obj T) any
}

// A Claim is one thing held exclusively: an address, a port. Its key, unique in
// the cluster, is written below /registry/skiff.dev/claims/ with the holder's
// resource, namespace and name as the value.
type Claim struct {
	Key string
	// Conflict is the error if someone else holds it.
	Conflict error
}

// Deletion is how a kind with a graceful end is deleted.
type Deletion[T meta.Object] struct {
	// Grace decides on the first delete of obj how many seconds it may take;
	// asked is what the client asked for, nil if nothing. now says to remove it
	// at once.
	Grace func(obj T, asked *int64) (seconds int64, now bool)
	// Begin changes the object as its end begins (a namespace's phase).
	Begin func(obj T)
	// Hold says that obj must stay although no metadata.finalizers hold it
	// (a namespace's spec.finalizers).
	Hold func(obj T) bool
}

// A Query says which objects of a kind are read. Empty parts select all.
type Query struct {
	Namespace, Name string
	Labels          labels.Selector
}

// Access is what a definition's functions may use of the running server.
type Access interface {
	// Get returns the stored object, read-only, as of now.
	Get(ctx context.Context, gr schema.GroupResource, key meta.Key) (meta.Object, error)
	// List returns all objects of a namespace ("" for all), read-only.
	List(ctx context.Context, gr schema.GroupResource, namespace string) ([]meta.Object, error)
	// Modify reads, changes and writes an object until the write goes through.
	// change gets a copy; its error ends the attempt and is returned as it is.
	Modify(ctx context.Context, gr schema.GroupResource, key meta.Key, change func(meta.Object) error) (meta.Object, error)
	// Delete deletes with preconditions and grace as given in options.
	Delete(ctx context.Context, gr schema.GroupResource, key meta.Key, opts DeleteOptions) error
	// Claimed reports whether someone holds the claim.
	Claimed(ctx context.Context, key string) (bool, error)
	// DryRun reports whether nothing of this request may be kept.
	DryRun() bool
}

// DeleteOptions is the part of metav1.DeleteOptions an action may set.
type DeleteOptions struct {
	UID             string
	ResourceVersion string
	GraceSeconds    *int64
}

// Age is the column that closes most tables.
func Age[T meta.Object]() Column[T] {
	return Column[T]{
		Name:        "Age",
		Description: "CreationTimestamp is the server time when this object was created; it is shown as an age.",
		Value:       func(obj T) any { return obj.GetCreationTimestamp() },
	}
}
