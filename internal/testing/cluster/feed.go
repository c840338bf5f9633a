package cluster

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/apimachinery/pkg/runtime/schema"

	"skiff.dev/skiff/internal/client"
	"skiff.dev/skiff/internal/watchcache"
)

// feeds is a transport whose caches are fed over a line of their own, event by
// event. Before each, tell says what becomes of it.
type feeds struct {
	client.Transport
	ctx  context.Context // ends the feeds
	wg   *sync.WaitGroup
	tell func(ctx context.Context) fate

	mu     sync.Mutex
	tables map[schema.GroupVersionResource]*watchcache.Table
}

// fate is what becomes of an event.
type fate int

const (
	arrives fate = iota
	twice        // and again after the next
	lost         // with the connection; the next one begins with all there is
)

func newFeeds(ctx context.Context, wg *sync.WaitGroup, t client.Transport, tell func(context.Context) fate) *feeds {
	return &feeds{Transport: t, ctx: ctx, wg: wg, tell: tell, tables: map[schema.GroupVersionResource]*watchcache.Table{}}
}

// Table implements client.Transport.
func (f *feeds) Table(ctx context.Context, gvr schema.GroupVersionResource, scope watchcache.Scope) (*watchcache.Table, error) {
	source, err := f.Transport.Table(ctx, gvr, scope)
	if err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if t := f.tables[gvr]; t != nil {
		return t, nil
	}
	t := watchcache.NewTable(gvr.Resource)
	f.tables[gvr] = t
	f.wg.Go(func() {
		defer t.Close()
		for f.connect(source, t) {
		}
	})
	return t, nil
}

// progress is how often a feed without events says how far it is.
const progress = time.Minute

// connect feeds the table until the connection is lost, and reports whether
// there is to be another.
func (f *feeds) connect(source, table *watchcache.Table) bool {
	snap, watch, err := source.WatchFromSnapshot(watchcache.Scope{})
	if err != nil {
		return f.pause(time.Second) // the source is being loaded, or closed with the server
	}
	defer watch.Close()
	var items []watchcache.Item
	for item := range snap.In(watchcache.Scope{}) {
		items = append(items, watchcache.Item{Object: item.Object, Rev: item.Rev})
	}
	table.Replace(items, snap.Rev())
	tick := time.NewTicker(progress)
	defer tick.Stop()
	var again []watchcache.Change
	for {
		events, rev, err := watch.NextOrProgress(f.ctx, tick.C)
		if err != nil {
			return errors.Is(err, watchcache.ErrTooOld)
		}
		for _, e := range events {
			c := watchcache.Change{Key: e.Key(), Rev: e.Rev}
			if e.Type != watchcache.Deleted {
				c.Object = e.Item.Object
			}
			switch f.tell(f.ctx) {
			case lost:
				return f.ctx.Err() == nil
			case twice:
				table.Apply([]watchcache.Change{c, c}, e.Rev)
				again = append(again, c)
				continue
			}
			table.Apply(append([]watchcache.Change{c}, again...), e.Rev)
			again = nil
		}
		if f.ctx.Err() != nil {
			return false
		}
		table.Apply(nil, rev)
	}
}

func (f *feeds) pause(d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-f.ctx.Done():
		return false
	}
}

// Disturbance is what happens to the events that one part is told of: some are
// late, and all after them, some come twice, some are lost together with their
// connection. It begins with the cluster and ends with End.
type Disturbance struct {
	// Part is a name of Parts.
	Part string
	// Late, Doubled and Lost count what happened.
	Late, Doubled, Lost atomic.Int64

	over atomic.Bool
	mu   sync.Mutex
	rand *rand.Rand
}

// Disturb returns a disturbance of a part, drawn from seed.
func Disturb(part string, seed uint64) *Disturbance {
	return &Disturbance{Part: part, rand: rand.New(rand.NewPCG(seed, 2))}
}

// End ends it.
func (d *Disturbance) End() { d.over.Store(true) }

// tell draws what becomes of an event.
func (d *Disturbance) tell(ctx context.Context) fate {
	if d.over.Load() {
		return arrives
	}
	d.mu.Lock()
	n, wait := d.rand.IntN(30), time.Duration(1+d.rand.Int64N(int64(20*time.Second)))
	d.mu.Unlock()
	sleep := func() {
		select {
		case <-time.After(wait):
		case <-ctx.Done():
		}
	}
	switch n {
	case 0:
		d.Late.Add(1)
		sleep()
	case 1:
		d.Doubled.Add(1)
		return twice
	case 2:
		d.Lost.Add(1)
		sleep()
		return lost
	}
	return arrives
}
