package controlplane

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"skiff.dev/skiff/internal/apiserver/verbs"
	"skiff.dev/skiff/internal/meta"
	"skiff.dev/skiff/internal/watchcache"
)

// reader reads objects for authentication and authorization: from the cache,
// and from the store before it says that something is not there.
type reader struct{ engine *verbs.Engine }

func (r *reader) Get(ctx context.Context, gr schema.GroupResource, key meta.Key) (meta.Object, error) {
	res, ok := r.engine.ByGroupResource(gr)
	if !ok {
		return nil, apierrors.NewNotFound(gr, key.Name)
	}
	if item, ok := res.Table().Get(key); ok {
		return item.Object, nil
	}
	item, err := res.Get(ctx, key, "")
	if err != nil {
		return nil, err
	}
	return item.Object, nil
}

// List returns all objects of a namespace ("" for all) that the cache has: what
// admission decides by need not be newer.
func (r *reader) List(_ context.Context, gr schema.GroupResource, namespace string) ([]meta.Object, error) {
	res, ok := r.engine.ByGroupResource(gr)
	if !ok {
		return nil, nil
	}
	var objs []meta.Object
	for item := range res.Table().Snapshot().All(namespace, meta.Key{}) {
		objs = append(objs, item.Object)
	}
	return objs, nil
}

// await returns an object as soon as it exists.
func (r *reader) await(ctx context.Context, gr schema.GroupResource, key meta.Key) (meta.Object, error) {
	res, ok := r.engine.ByGroupResource(gr)
	if !ok {
		return nil, apierrors.NewNotFound(gr, key.Name)
	}
	snap, w, err := res.Table().WatchFromSnapshot(watchcache.Scope{Namespace: key.Namespace, Name: key.Name})
	if err != nil {
		return nil, err
	}
	defer w.Close()
	if item, ok := snap.Get(key); ok {
		return item.Object, nil
	}
	for {
		events, _, err := w.Next(ctx)
		if err != nil {
			return nil, err
		}
		for _, e := range events {
			if e.Type != watchcache.Deleted {
				return e.Item.Object, nil
			}
		}
	}
}

// changed is told of every change of an object; obj is nil once it is gone.
type changed func(gr schema.GroupResource, key meta.Key, obj meta.Object)

// feeds are the goroutines that tell authorizers of changes.
type feeds struct {
	wg    sync.WaitGroup
	pokes []chan time.Time // one for each goroutine, which takes from it between two batches
	ended chan struct{}    // closed when one has ended
	end   sync.Once
}

func (f *feeds) wait() { f.wg.Wait() }

// caughtUp returns once everything that the tables have now has been told.
func (f *feeds) caughtUp(ctx context.Context) error {
	for range 2 { // who takes the second has told what it had when it took the first
		for _, poke := range f.pokes {
			select {
			case poke <- time.Time{}:
			case <-f.ended:
				return watchcache.ErrClosed
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}
	return nil
}

// follow tells each function of all objects of its resource, before it
// returns, and of every change after that, until the tables are closed.
func follow(e *verbs.Engine, listeners map[schema.GroupResource]changed) *feeds {
	f := &feeds{ended: make(chan struct{})}
	for gr, tell := range listeners {
		table, poke := e.Table(gr), make(chan time.Time)
		f.pokes = append(f.pokes, poke)
		known := map[meta.Key]bool{}
		w := refresh(table, gr, known, tell)
		f.wg.Go(func() {
			defer f.end.Do(func() { close(f.ended) })
			for w != nil {
				events, _, err := w.NextOrProgress(context.Background(), poke)
				if errors.Is(err, watchcache.ErrTooOld) {
					w.Close()
					w = refresh(table, gr, known, tell)
					continue
				}
				if err != nil {
					w.Close()
					return // the tables have been closed
				}
				for _, ev := range events {
					key := ev.Key()
					if ev.Type == watchcache.Deleted {
						delete(known, key)
						tell(gr, key, nil)
						continue
					}
					known[key] = true
					tell(gr, key, ev.Item.Object)
				}
			}
		})
	}
	return f
}

// refresh tells the whole present state and returns the watch from there.
func refresh(table *watchcache.Table, gr schema.GroupResource, known map[meta.Key]bool, tell changed) *watchcache.Watch {
	snap, w, err := table.WatchFromSnapshot(watchcache.Scope{})
	if err != nil {
		slog.Error("authorization no longer follows its objects", "resource", gr.String(), "err", fmt.Sprint(err))
		return nil
	}
	for key := range known {
		if _, ok := snap.Get(key); !ok {
			delete(known, key)
			tell(gr, key, nil)
		}
	}
	for item := range snap.All("", meta.Key{}) {
		known[item.Key()] = true
		tell(gr, item.Key(), item.Object)
	}
	return w
}
