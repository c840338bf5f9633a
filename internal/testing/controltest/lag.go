package controltest

import (
	"context"
	"errors"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"skiff.dev/skiff/internal/client"
	"skiff.dev/skiff/internal/meta"
	"skiff.dev/skiff/internal/watchcache"
)

// Faulty is a transport whose caches learn of everything late, and which may
// lose the answers of creates that have been carried out.
type Faulty struct {
	client.Transport
	w   *World
	lag time.Duration
	// LoseCreates is how many answers to creates are still to be lost.
	mu     sync.Mutex
	lose   int
	tables map[schema.GroupVersionResource]*watchcache.Table
}

// Faulty returns a transport over w's client whose caches are late by lag.
func (w *World) Faulty(lag time.Duration) *Faulty {
	return &Faulty{Transport: w.Client.Transport, w: w, lag: lag, tables: map[schema.GroupVersionResource]*watchcache.Table{}}
}

// LoseCreates makes the answers of the next n creates get lost.
func (f *Faulty) LoseCreates(n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.lose = n
}

// Create implements client.Transport.
func (f *Faulty) Create(ctx context.Context, ref client.Ref, obj runtime.Object, opts metav1.CreateOptions) (runtime.Object, error) {
	got, err := f.Transport.Create(ctx, ref, obj, opts)
	f.mu.Lock()
	defer f.mu.Unlock()
	if err == nil && f.lose > 0 {
		f.lose--
		return nil, errors.New("connection reset by peer")
	}
	return got, err
}

// Table implements client.Transport.
func (f *Faulty) Table(ctx context.Context, gvr schema.GroupVersionResource, scope watchcache.Scope) (*watchcache.Table, error) {
	source, err := f.Transport.Table(ctx, gvr, scope)
	if err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if t := f.tables[gvr]; t != nil {
		return t, nil
	}
	late := watchcache.NewTable(gvr.Resource)
	f.tables[gvr] = late
	f.w.wg.Go(func() { f.feed(source, late) })
	return late, nil
}

// feed copies source to late, event by event, each late by the lag.
func (f *Faulty) feed(source, late *watchcache.Table) {
	defer late.Close()
	snap, watch, err := source.WatchFromSnapshot(watchcache.Scope{})
	if err != nil {
		return
	}
	defer watch.Close()
	var items []watchcache.Item
	for item := range snap.In(watchcache.Scope{}) {
		items = append(items, watchcache.Item{Object: item.Object, Rev: item.Rev})
	}
	late.Replace(items, snap.Rev())
	tick := time.NewTicker(f.lag)
	defer tick.Stop()
	for {
		events, rev, err := watch.NextOrProgress(f.w.ctx, tick.C)
		if err != nil {
			return
		}
		var changes []watchcache.Change
		for _, e := range events {
			c := watchcache.Change{Key: e.Key(), Rev: e.Rev}
			if e.Type != watchcache.Deleted {
				c.Object = meta.Copy(e.Item.Object)
			}
			changes = append(changes, c)
		}
		if len(events) > 0 && !f.pause() {
			return
		}
		late.Apply(changes, rev)
	}
}

func (f *Faulty) pause() bool {
	select {
	case <-time.After(f.lag):
		return true
	case <-f.w.ctx.Done():
		return false
	}
}
