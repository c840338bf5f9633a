// Package watchcache keeps decoded objects in memory and tells watchers what
// happens to them.
//
// A Table holds the objects of one resource: an ordered copy-on-write tree, so
// that a Snapshot costs nothing and blocks nobody, secondary indexes of the
// same kind, and a bounded ring of the latest events. A Watch is a cursor into
// that ring, not a buffer of its own. Tables know nothing of the store: the
// same type serves the API server and components in other processes.
//
// A Cache feeds the tables of an API server from a store.Store through one
// watch, so that all tables advance along one sequence of revisions.
//
// Reads: the store (Cache only). Writes: nothing.
//
// Objects handed to and by this package are shared and must not be changed by
// anyone; see WithMutationDetector.
package watchcache

import (
	"errors"
	"time"

	"skiff.dev/skiff/internal/meta"
)

var (
	// ErrTooOld means that events after the revision asked for, or events that a
	// watcher has not read yet, are no longer held. List and watch again.
	ErrTooOld = errors.New("watchcache: revision is too old")
	// ErrFuture means that the revision asked for has not been reached yet.
	ErrFuture = errors.New("watchcache: revision is in the future")
	// ErrNotReady means that the table has not been loaded yet.
	ErrNotReady = errors.New("watchcache: not loaded yet")
	// ErrClosed means that the table, the cache or the watch has been closed.
	ErrClosed = errors.New("watchcache: closed")
	// ErrNoIndex means that a scope names an index that the table does not have.
	ErrNoIndex = errors.New("watchcache: no such index")
)

// Item is one object at one revision.
type Item struct {
	Object meta.Object
	// Rev is the revision of the object's last change.
	Rev int64

	key meta.Key
	enc encodings
}

// Key returns the key of the object.
func (i *Item) Key() meta.Key { return i.key }

// Encoded returns the object in a format, which is any string that names all
// that encode depends on, such as a media type and a version. Callers of the
// same format share one encoding; nobody may change the bytes. Encodings last
// until the next garbage collection, or for as long as someone reads them.
func (i *Item) Encoded(format string, encode func(meta.Object) ([]byte, error)) ([]byte, error) {
	return i.enc.get(format, func() ([]byte, error) { return encode(i.Object) })
}

// EventType says what happened to an object.
type EventType uint8

// The types of events.
const (
	Added EventType = iota + 1
	Modified
	Deleted
)

// String returns the type as the watch protocol spells it.
func (t EventType) String() string {
	switch t {
	case Added:
		return "ADDED"
	case Modified:
		return "MODIFIED"
	case Deleted:
		return "DELETED"
	}
	return "UNKNOWN"
}

// Event is one change of one object. Events are shared by all watchers and
// must not be changed.
type Event struct {
	Type EventType
	// Item is the new state. For Deleted it is the last state with the
	// resourceVersion of the deletion.
	Item *Item
	// Prev is the state before; nil for Added.
	Prev *Item
	// Rev is the revision at which the table took the change. After a relist
	// it is the revision of the list, else that of the change itself.
	Rev int64

	seq    int64
	at     int64
	topics []*topic
	enc    encodings
}

// Encoded returns the event as a whole in a format, encoded once for all
// watchers that ask for the same format; see Item.Encoded.
func (e *Event) Encoded(format string, encode func(*Event) ([]byte, error)) ([]byte, error) {
	return e.enc.get(format, func() ([]byte, error) { return encode(e) })
}

// Key returns the key of the object.
func (e *Event) Key() meta.Key { return e.Item.key }

// Change is one change for Table.Apply.
type Change struct {
	Key meta.Key
	// Object is the new state; nil means deleted. Its own key must be Key.
	Object meta.Object
	Rev    int64
}

// Scope selects a part of a table. Empty fields select all; several fields
// must all hold. A Name without a Namespace selects that name in any.
type Scope struct {
	Namespace, Name string
	// Index and Value select the objects found under Value in an index.
	Index, Value string
}

// facet returns the single field of s that selects the least, as a scope.
func (s Scope) facet() Scope {
	switch {
	case s.Name != "":
		return Scope{Namespace: s.Namespace, Name: s.Name}
	case s.Index != "":
		return Scope{Index: s.Index, Value: s.Value}
	}
	return Scope{Namespace: s.Namespace}
}

// holdsKey reports whether the fields of s about the key hold.
func (s Scope) holdsKey(k meta.Key) bool {
	return (s.Namespace == "" || s.Namespace == k.Namespace) && (s.Name == "" || s.Name == k.Name)
}

// Defaults of the event ring.
const (
	// DefaultEvents is how many events a table holds at most.
	DefaultEvents = 4096
	// DefaultAge is how long events are kept; a watcher may be that slow, and a
	// client may be disconnected for that long, whatever the store keeps.
	DefaultAge = 90 * time.Second
)

// Option changes a table from the default.
type Option func(*Table)

// WithEvents bounds the event ring by count.
func WithEvents(n int) Option { return func(t *Table) { t.maxEvents = n } }

// WithAge bounds the event ring by age. Old events are dropped when newer ones
// come or when the table progresses.
func WithAge(d time.Duration) Option { return func(t *Table) { t.maxAge = d } }

// WithIndexes gives the table its first indexes; see Table.EnsureIndex.
func WithIndexes(ixs ...meta.Index) Option {
	return func(t *Table) {
		for _, ix := range ixs {
			t.ensureIndex(ix)
		}
	}
}

// withClock lets several tables share one revision.
func withClock(c *clock) Option { return func(t *Table) { t.clock, t.sharedClock = c, true } }
