package controller

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"skiff.dev/skiff/internal/meta"
)

func key(name string) meta.Key { return meta.Key{Name: name} }

// take returns what is ready, in order.
func take(ctx context.Context, q *queue) (names []string) {
	for {
		q.mu.Lock()
		n := len(q.ready)
		q.mu.Unlock()
		if n == 0 {
			return names
		}
		k, _ := q.Get(ctx)
		names = append(names, k.Name)
	}
}

func TestQueueHandsOutEachKeyOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue()
		for _, name := range []string{"a", "b", "a", "c", "b"} {
			q.Add(key(name))
		}
		if diff := cmp.Diff([]string{"a", "b", "c"}, take(t.Context(), q)); diff != "" {
			t.Error(diff)
		}
		q.Add(key("a")) // while it is worked on
		if got := take(t.Context(), q); got != nil {
			t.Errorf("handed out while worked on: %v", got)
		}
		for _, name := range []string{"a", "b", "c"} {
			q.Done(key(name), false)
		}
		if diff := cmp.Diff([]string{"a"}, take(t.Context(), q)); diff != "" {
			t.Error(diff)
		}
		q.Done(key("a"), false)
		if len(q.states) != 0 {
			t.Errorf("%d keys are remembered for nothing", len(q.states))
		}
	})
}

func TestQueueBackOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue()
		defer q.stop()
		q.Add(key("a"))
		q.Get(t.Context())
		for i := range 10 {
			q.Done(key("a"), true)
			failed := time.Now()
			q.Get(t.Context())
			if want, got := minBackoff<<i, time.Since(failed); got != want {
				t.Errorf("failure %d: tried again after %s, want %s", i+1, got, want)
			}
		}
		// A change during the work is worth a try at once, failure or not.
		q.Add(key("a"))
		q.Done(key("a"), true)
		if diff := cmp.Diff([]string{"a"}, take(t.Context(), q)); diff != "" {
			t.Error(diff)
		}
	})
}

func TestQueueDelays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue()
		defer q.stop()
		begin := time.Now()
		q.AddAfter(key("late"), time.Hour)
		q.AddAfter(key("soon"), time.Minute)
		q.AddAfter(key("soon"), time.Hour)   // does not put it off
		q.AddAfter(key("late"), time.Minute) // brings it forward
		q.AddAfter(key("now"), time.Hour)
		q.Add(key("now"))
		if diff := cmp.Diff([]string{"now"}, take(t.Context(), q)); diff != "" {
			t.Error(diff)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if diff := cmp.Diff([]string{"soon", "late"}, take(t.Context(), q)); diff != "" {
			t.Error(diff)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		if k, ok := q.Get(ctx); ok {
			t.Errorf("%s was handed out again after %s", k, time.Since(begin))
		}
	})
}

// Whatever is added, delayed and failed: no key is worked on twice at a time,
// none that was added is lost, and in the end nothing is remembered.
func TestQueueModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		type op struct {
			kind, key int
			after     time.Duration
		}
		ops := rapid.SliceOfN(rapid.Custom(func(rt *rapid.T) op {
			return op{rapid.IntRange(0, 4).Draw(rt, "kind"), rapid.IntRange(0, 3).Draw(rt, "key"), time.Duration(rapid.IntRange(0, 5000).Draw(rt, "ms")) * time.Millisecond}
		}), 1, 60).Draw(rt, "ops")
		synctest.Test(t, func(t *testing.T) {
			q := newQueue()
			defer q.stop()
			working, owed := map[meta.Key]bool{}, map[meta.Key]bool{}
			get := func() {
				q.mu.Lock()
				n := len(q.ready)
				q.mu.Unlock()
				if n == 0 {
					return
				}
				k, _ := q.Get(t.Context())
				if working[k] {
					rt.Fatalf("%s is worked on twice at a time", k)
				}
				working[k] = true
				delete(owed, k)
			}
			done := func(k meta.Key, failed bool) {
				if working[k] {
					delete(working, k)
					q.Done(k, failed)
					if failed {
						owed[k] = true
					}
				}
			}
			for _, o := range ops {
				k := key(fmt.Sprint(o.key))
				switch o.kind {
				case 0:
					q.Add(k)
					owed[k] = true
				case 1:
					q.AddAfter(k, o.after)
					owed[k] = true
				case 2:
					get()
				case 3:
					done(k, o.after%2 == 0)
				case 4:
					time.Sleep(o.after)
				}
			}
			for range 4 {
				for k := range working {
					done(k, false)
				}
				time.Sleep(time.Hour)
				synctest.Wait()
				for range 4 {
					get()
				}
			}
			for k := range working {
				done(k, false)
			}
			if len(owed) > 0 {
				rt.Fatalf("lost: %v", owed)
			}
			if len(q.states) > 0 || len(q.waiting) > 0 {
				rt.Fatalf("remembered: %v", q.states)
			}
		})
	})
}
