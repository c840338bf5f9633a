package watchcache

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"skiff.dev/skiff/internal/meta"
	"skiff.dev/skiff/internal/store"
	"skiff.dev/skiff/internal/store/mem"
)

// The designs that were not chosen, reduced to what costs: the measurements
// behind docs/design/0002-watchcache.md.

// BenchmarkAlternativeChannels gives each of 10,000 watches a buffered channel
// and lets the writer ask each whether it wants the event; compare
// BenchmarkFanout.
func BenchmarkAlternativeChannels(b *testing.B) {
	const watchers, buffer = 10000, 100
	for _, scoped := range []bool{false, true} {
		b.Run(fmt.Sprintf("scoped=%t", scoped), func(b *testing.B) {
			type watch struct {
				scope Scope
				ch    chan *Event
			}
			var group, round sync.WaitGroup
			var delivered atomic.Int64
			before := heap()
			watches := make([]*watch, watchers)
			for i := range watches {
				w := &watch{ch: make(chan *Event, buffer)}
				if scoped {
					w.scope = Scope{Namespace: "a", Name: fmt.Sprint("pod", i)}
				}
				watches[i] = w
				group.Go(func() {
					for e := range w.ch {
						if _, err := e.Encoded("json", encodeEvent); err != nil {
							panic(err)
						}
						delivered.Add(1)
						round.Done()
					}
				})
			}
			perWatch := float64(heap()-before) / watchers
			items := make([]*Item, watchers)
			for i := range items {
				o := pod("a", fmt.Sprint("pod", i), "n1", 0)
				items[i] = &Item{Object: o, key: meta.KeyOf(o)}
			}
			b.ResetTimer()
			for i := range b.N {
				e := &Event{Type: Modified, Item: items[i%watchers]}
				round.Add(1)
				if !scoped {
					round.Add(watchers - 1)
				}
				for _, w := range watches {
					if w.scope.holdsKey(e.Item.key) {
						w.ch <- e
					}
				}
				round.Wait()
			}
			b.StopTimer()
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(delivered.Load()), "ns/delivery")
			b.ReportMetric(perWatch, "B/watch")
			for _, w := range watches {
				close(w.ch)
			}
			group.Wait()
		})
	}
}

// BenchmarkAlternativeMap keeps 10,000 objects in a map: an update with a
// consistent, ordered list after each is a copy and a sort. Compare
// BenchmarkApply and BenchmarkList10k.
func BenchmarkAlternativeMap(b *testing.B) {
	objects := map[meta.Key]*Item{}
	for item := range loaded(10000).Snapshot().All("", meta.Key{}) {
		objects[item.key] = item
	}
	var some []*Item
	for _, item := range objects {
		some = append(some, item)
	}
	b.Run("update", func(b *testing.B) {
		for i := 0; b.Loop(); i++ {
			item := some[i%1000]
			objects[item.key] = item
		}
	})
	b.Run("get", func(b *testing.B) {
		key := meta.Key{Namespace: "ns50", Name: "pod5050"}
		for b.Loop() {
			if objects[key] == nil {
				b.Fatal("not found")
			}
		}
	})
	b.Run("snapshot", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			list := make([]*Item, 0, len(objects))
			for _, item := range objects {
				list = append(list, item)
			}
		}
	})
	b.Run("list", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			list := make([]*Item, 0, len(objects))
			for _, item := range objects {
				list = append(list, item)
			}
			slices.SortFunc(list, func(a, b *Item) int {
				return cmp.Or(cmp.Compare(a.key.Namespace, b.key.Namespace), cmp.Compare(a.key.Name, b.key.Name))
			})
		}
	})
}

// BenchmarkAlternativeFeeds is a consistent read barrier over 60 resources
// after one write, with one watch for all and with one for each.
func BenchmarkAlternativeFeeds(b *testing.B) {
	const resources = 60
	for _, one := range []bool{true, false} {
		b.Run(fmt.Sprintf("one=%t", one), func(b *testing.B) {
			ctx := context.Background()
			s := mem.New()
			defer s.Close()
			feeds := resources
			if one {
				feeds = 1
			}
			var clocks []*clock
			var watches []store.Watcher
			var group sync.WaitGroup
			for i := range feeds {
				prefix := "/registry/"
				if !one {
					prefix = fmt.Sprintf("/registry/r%02d/", i)
				}
				w, err := s.Watch(ctx, prefix, 1)
				if err != nil {
					b.Fatal(err)
				}
				c := new(clock)
				clocks, watches = append(clocks, c), append(watches, w)
				group.Go(func() {
					for {
						batch, err := w.Next(ctx)
						if err != nil {
							return
						}
						c.advance(batch.Rev)
					}
				})
			}
			never := make(chan struct{})
			b.ResetTimer()
			for i := range b.N {
				op := store.Op{Key: fmt.Sprintf("/registry/r%02d/a/x", i%resources), Value: []byte("x")}
				rev := commit(b, s, op)
				if i%1000 == 0 {
					if err := s.Compact(ctx, rev); err != nil {
						b.Fatal(err)
					}
				}
				for k, c := range clocks {
					if c.now() < rev && !one {
						if err := watches[k].RequestProgress(ctx); err != nil {
							b.Fatal(err)
						}
					}
					if err := c.wait(ctx, rev, never); err != nil {
						b.Fatal(err)
					}
				}
			}
			b.StopTimer()
			for _, w := range watches {
				w.Close()
			}
			s.Close()
			group.Wait()
		})
	}
}
