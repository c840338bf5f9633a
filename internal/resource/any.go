package resource

import (
	"context"
	"time"

	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"skiff.dev/skiff/internal/check"
	"skiff.dev/skiff/internal/meta"
)

// Any is a Definition without its type parameter, made by Of: what the verbs
// work with. A nil old is passed on as the nil of the concrete type.
type Any interface {
	Info() Info
	New() meta.Object
	Default(obj meta.Object)
	Prepare(ctx context.Context, obj, old meta.Object)
	Validate(r *check.Report, obj, old meta.Object)
	// SpecChanged reports whether metadata.generation must move.
	SpecChanged(obj, old meta.Object) bool
	// View returns the view by subresource name, or nil.
	View(name string) AnyView
	// KeepViews restores the parts of all views; old nil on create.
	KeepViews(obj, old meta.Object)
	Scale() AnyScale
	SelectableFields(obj meta.Object) fields.Set
	Cells(obj meta.Object) []any
	Allocate(ctx context.Context, a Access, obj, old meta.Object) error
	Claims(obj meta.Object) []Claim
	Grace(obj meta.Object, asked *int64) (seconds int64, now bool)
	BeginDeletion(obj meta.Object)
	Held(obj meta.Object) bool
	TTL(obj meta.Object) time.Duration
	Answer(ctx context.Context, obj meta.Object) error
	Observe(ctx context.Context, a Access, q Query) ([]meta.Object, error)
	// ToHub and FromHub convert to and from the form in which the cache holds
	// the objects; they are the identity but for an alias (see AliasOf).
	ToHub(obj meta.Object) meta.Object
	FromHub(obj meta.Object) meta.Object
}

// AnyView is a View without its type parameter.
type AnyView interface {
	Reset(obj, old meta.Object)
	Prepare(ctx context.Context, obj, old meta.Object)
	Validate(r *check.Report, obj, old meta.Object)
}

// AnyScale is a Scale without its type parameter.
type AnyScale interface {
	Replicas(obj meta.Object) int32
	SetReplicas(obj meta.Object, n int32)
	Status(obj meta.Object) (replicas int32, selector string)
}

// Info is the part of a Definition that has no type parameter.
type Info struct {
	Name  Name
	Scope Scope
	// Hub is the resource whose objects these are, if this is an alias.
	Hub           schema.GroupVersionResource
	StoreKey      string
	NameRule      check.NameRule
	HasStatus     bool
	HasScale      bool
	HasGrace      bool
	Virtual       bool // nothing is stored
	Observed      bool // virtual, and read instead of created
	Upsert        bool
	NeedsVersion  bool
	HasGeneration bool
	Allocates     bool     // Allocate chooses values
	Views         []string // names of the views, status included
	Actions       []*Action
	Connects      []*Connect
	Columns       []ColumnInfo
	Indexes       []meta.Index
}

// The verbs that a resource can know, by what kind of resource it is.
var (
	storedVerbs   = []string{"create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"}
	answeredVerbs = []string{"create"}
	observedVerbs = []string{"get", "list"}
)

// Verbs are what can be done to objects of the resource, sorted; read-only.
func (i Info) Verbs() []string {
	switch {
	case i.Observed:
		return observedVerbs
	case i.Virtual:
		return answeredVerbs
	}
	return storedVerbs
}

// ColumnInfo is the head of a Column.
type ColumnInfo struct {
	Name, Type, Format, Description string
	Wide                            bool
}
