package verbs

import (
	"context"
	"errors"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apimachinery/pkg/watch"

	"skiff.dev/skiff/internal/meta"
	"skiff.dev/skiff/internal/watchcache"
)

// WatchOptions select what a watch sees and from when.
type WatchOptions struct {
	ListOptions
	// Bookmarks asks for a bookmark about once a minute.
	Bookmarks bool
	// SendInitial asks for all present objects first, closed by a bookmark that
	// says so (KEP-3157); nil leaves it to ResourceVersion.
	SendInitial *bool
}

// bookmarkEvery is how often a watch that asked for bookmarks gets one when
// nothing else happens.
const bookmarkEvery = time.Minute

// Frame is one event of a watch. For a bookmark Item is nil.
type Frame struct {
	Type watch.EventType
	Item *watchcache.Item
	Rev  int64
	// InitialEnd marks the bookmark that ends the initial events.
	InitialEnd bool
}

// Watch is a running watch. It is used by one goroutine.
type Watch struct {
	r       *Resource
	opts    WatchOptions
	w       *watchcache.Watch
	pending []Frame
	rev     int64
	next    time.Time   // when the next bookmark is due
	due     *time.Timer // fires then; nil until somebody waits for it
}

// Watch starts a watch on a namespace ("" for all). What it delivers first
// follows resourceVersion: "" and "0" start with all present objects, others
// with what came after. Too old a version is a 410.
func (r *Resource) Watch(ctx context.Context, namespace string, opts WatchOptions) (*Watch, error) {
	w := &Watch{r: r, opts: opts, next: time.Now().Add(bookmarkEvery)}
	scope := r.scope(namespace, &opts.ListOptions)
	rev, err := parseRev(opts.ResourceVersion)
	if err != nil {
		kind := schema.GroupKind{Group: r.info.Name.Group, Kind: r.info.Name.Plural}
		return nil, apierrors.NewInvalid(kind, "", field.ErrorList{badRev(opts.ResourceVersion)})
	}
	initial := rev == 0
	if opts.SendInitial != nil {
		initial = *opts.SendInitial
	}
	if !initial && rev > 0 {
		if err := r.waitFor(ctx, rev); err != nil {
			return nil, err
		}
		w.rev = rev
		w.w, err = r.e.cache.Watch(ctx, r.hub.cacheName(), scope, rev)
		return w, r.watchError(err, rev)
	}
	if err := r.reach(ctx, opts.ResourceVersion); err != nil {
		return nil, err
	}
	snap, inner, err := r.table.WatchFromSnapshot(scope)
	if err != nil {
		return nil, r.watchError(err, rev)
	}
	w.w, w.rev = inner, snap.Rev()
	if initial {
		w.initial(snap, namespace)
	}
	return w, nil
}

// initial queues the present objects as added.
func (w *Watch) initial(snap watchcache.Snapshot, namespace string) {
	for item := range w.r.candidates(snap, namespace, &w.opts.ListOptions, meta.Key{}) {
		if item = w.r.shown(item); w.r.Matches(&w.opts.ListOptions, item.Object) {
			w.pending = append(w.pending, Frame{Type: watch.Added, Item: item, Rev: item.Rev})
		}
	}
	if w.opts.SendInitial != nil && w.opts.Bookmarks {
		w.pending = append(w.pending, Frame{Type: watch.Bookmark, Rev: snap.Rev(), InitialEnd: true})
	}
}

// Next blocks until there is something to send. It returns the context's
// error, or a 410 when the watch has fallen too far behind.
func (w *Watch) Next(ctx context.Context) ([]Frame, error) {
	for {
		if len(w.pending) > 0 {
			frames := w.pending
			w.pending = nil
			return frames, nil
		}
		if err := w.wait(ctx); err != nil {
			return nil, err
		}
	}
}

func (w *Watch) wait(ctx context.Context) error {
	var due <-chan time.Time
	if w.opts.Bookmarks {
		if w.due == nil {
			w.due = time.NewTimer(time.Until(w.next))
		}
		due = w.due.C
	}
	events, rev, err := w.w.NextOrProgress(ctx, due)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		return w.r.watchError(err, w.rev)
	}
	w.rev = rev
	for _, e := range events {
		w.add(e)
	}
	switch {
	case len(events) == 0:
		w.next = time.Now().Add(bookmarkEvery)
		w.due.Reset(bookmarkEvery)
		w.pending = append(w.pending, Frame{Type: watch.Bookmark, Rev: rev})
	case w.due != nil && !time.Now().Before(w.next):
		w.due.Reset(0) // it has fired, and the bookmark is still due
	}
	return nil
}

// add queues what an event is to this watch's selectors: an object that comes
// to match is added, one that ceases to is deleted.
func (w *Watch) add(e *watchcache.Event) {
	opts, item := &w.opts.ListOptions, w.r.shown(e.Item)
	if !opts.selects() {
		w.pending = append(w.pending, Frame{Type: frameType(e.Type), Item: item, Rev: e.Rev})
		return
	}
	prev := w.r.shown(e.Prev)
	was := prev != nil && w.r.Matches(opts, prev.Object)
	is := e.Type != watchcache.Deleted && w.r.Matches(opts, item.Object)
	switch {
	case is && was:
		w.pending = append(w.pending, Frame{Type: watch.Modified, Item: item, Rev: e.Rev})
	case is:
		w.pending = append(w.pending, Frame{Type: watch.Added, Item: item, Rev: e.Rev})
	case was && e.Type == watchcache.Deleted:
		w.pending = append(w.pending, Frame{Type: watch.Deleted, Item: item, Rev: e.Rev})
	case was:
		last := meta.Copy(prev.Object)
		last.SetResourceVersion(formatRev(e.Rev))
		w.pending = append(w.pending, Frame{Type: watch.Deleted, Item: &watchcache.Item{Object: last, Rev: e.Rev}, Rev: e.Rev})
	}
}

func frameType(t watchcache.EventType) watch.EventType {
	switch t {
	case watchcache.Added:
		return watch.Added
	case watchcache.Modified:
		return watch.Modified
	default:
		return watch.Deleted
	}
}

// Bookmark returns the object that a bookmark frame carries.
func (w *Watch) Bookmark(f Frame) meta.Object {
	obj := w.r.New()
	obj.SetResourceVersion(formatRev(f.Rev))
	if f.InitialEnd {
		obj.SetAnnotations(map[string]string{metav1.InitialEventsAnnotationKey: "true"})
	}
	return obj
}

// Close ends the watch.
func (w *Watch) Close() {
	w.w.Close()
	if w.due != nil {
		w.due.Stop()
	}
}

func (r *Resource) watchError(err error, rev int64) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, watchcache.ErrTooOld):
		return apierrors.NewResourceExpired(fmt.Sprintf("too old resource version: %d (%d)", rev, r.table.Rev()))
	default:
		return unavailable(err)
	}
}
