package storetest

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"skiff.dev/skiff/internal/store"
)

// checked is a watcher whose every batch is checked for order.
type checked struct {
	t    testing.TB
	w    store.Watcher
	from int64
	rev  int64 // of the last batch
	held []store.Event
}

func watch(t testing.TB, s store.Store, prefix string, from int64) *checked {
	t.Helper()
	w, err := s.Watch(within(t), prefix, from)
	if err != nil {
		t.Fatalf("watch %q from %d: %v", prefix, from, err)
	}
	t.Cleanup(w.Close)
	return &checked{t: t, w: w, from: from, rev: from}
}

func (c *checked) next() (store.Batch, error) {
	b, err := c.w.Next(within(c.t))
	if err != nil {
		return b, err
	}
	last := c.rev
	for _, ev := range b.Events {
		if ev.KV.ModRev < last || (ev.KV.ModRev == c.rev && c.rev != 0) {
			return b, fmt.Errorf("event of revision %d after %d", ev.KV.ModRev, last)
		}
		last = ev.KV.ModRev
	}
	if b.Rev < last {
		return b, fmt.Errorf("batch says revision %d but reaches %d", b.Rev, last)
	}
	c.rev = b.Rev
	return b, nil
}

// events returns the next n events.
func (c *checked) events(n int) []store.Event {
	c.t.Helper()
	for len(c.held) < n {
		b, err := c.next()
		if err != nil {
			c.t.Fatalf("watch: %v (%d of %d events seen)", err, len(c.held), n)
		}
		c.held = append(c.held, b.Events...)
	}
	got := c.held[:n:n]
	c.held = c.held[n:]
	return got
}

func created(key, value string, rev int64) store.Event {
	return store.Event{KV: store.KV{Key: key, Value: []byte(value), ModRev: rev, CreateRev: rev}}
}

func deleted(key string, rev int64) store.Event {
	return store.Event{KV: store.KV{Key: key, ModRev: rev}, Delete: true}
}

func testWatchFromNow(t *testing.T, s store.Store) {
	commit(t, s, put("/a", "before"))
	w := watch(t, s, "/", 0)
	r1 := commit(t, s, put("/b", "1"))
	r2 := commit(t, s, put("/b", "2"))
	r3 := commit(t, s, del("/b"))
	want := []store.Event{
		created("/b", "1", r1),
		{KV: store.KV{Key: "/b", Value: []byte("2"), ModRev: r2, CreateRev: r1}},
		deleted("/b", r3),
	}
	diff(t, "events", want, w.events(3))
}

func testWatchFromRevision(t *testing.T, s store.Store) {
	var want []store.Event
	r0 := revision(t, s)
	for i := range 10 {
		key := fmt.Sprintf("/k/%d", i)
		want = append(want, created(key, "v", commit(t, s, put(key, "v"))))
	}
	for skip := 0; skip < 10; skip += 3 {
		w := watch(t, s, "/k/", r0+int64(skip))
		diff(t, fmt.Sprintf("watch from %d", skip), want[skip:], w.events(10-skip))
	}
	// From the present: nothing old, everything new; also from the future.
	now := watch(t, s, "/k/", revision(t, s))
	future := watch(t, s, "/k/", revision(t, s)+1)
	r1, r2 := commit(t, s, put("/k/x", "1")), commit(t, s, put("/k/y", "2"))
	diff(t, "watch from the present", []store.Event{created("/k/x", "1", r1), created("/k/y", "2", r2)}, now.events(2))
	diff(t, "watch from the future", []store.Event{created("/k/y", "2", r2)}, future.events(1))
}

func testWatchPrefix(t *testing.T, s store.Store) {
	r0 := revision(t, s)
	all, one, none := watch(t, s, "", r0), watch(t, s, "/p/", r0), watch(t, s, "/q/", r0)
	r1 := commit(t, s, put("/p/a", "1"), put("/pods/a", "1"))
	r2 := commit(t, s, put("/p\xff", "1"))
	r3 := commit(t, s, put("/p/b", "1"))
	r4 := commit(t, s, put("/q/z", "1"))
	diff(t, "all", []store.Event{created("/p/a", "1", r1), created("/pods/a", "1", r1), created("/p\xff", "1", r2), created("/p/b", "1", r3), created("/q/z", "1", r4)}, all.events(5))
	diff(t, "prefix", []store.Event{created("/p/a", "1", r1), created("/p/b", "1", r3)}, one.events(2))
	diff(t, "other", []store.Event{created("/q/z", "1", r4)}, none.events(1))
}

func testWatchTxnWhole(t *testing.T, s store.Store) {
	const txns, size = 60, 30 // no round number of them fits a thousand
	r0 := revision(t, s)
	live := watch(t, s, "/k/", r0)
	for n := range txns {
		var ops []store.Op
		for i := range size {
			ops = append(ops, put(fmt.Sprintf("/k/%02d", i), fmt.Sprint(n)))
		}
		commit(t, s, ops...)
	}
	for name, w := range map[string]*checked{"live": live, "later": watch(t, s, "/k/", r0)} {
		for seen := 0; seen < txns*size; {
			b, err := w.next()
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if len(b.Events)%size != 0 {
				t.Fatalf("%s: a batch of %d events cuts a transaction of %d", name, len(b.Events), size)
			}
			seen += len(b.Events)
		}
	}
}

// A watch that begins in the past while others write sees each change once,
// where the past goes over into the present as well.
func testWatchResumed(t *testing.T, s store.Store) {
	const writes, watches = 2500, 25
	first := revision(t, s)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range writes {
			if _, err := s.Commit(within(t), store.Txn{Do: []store.Op{put("/k", "v")}}); err != nil {
				t.Errorf("writing meanwhile: %v", err)
				return
			}
		}
	}()
	last := first + writes
	for i := range int64(watches) {
		from := first + i*writes/watches/2
		for revision(t, s) < from {
			commit(t, s) // nothing, but it lets the writer go on
		}
		w := watch(t, s, "/", from)
		for want := from + 1; want <= last; want++ {
			if ev := w.events(1)[0]; ev.KV.ModRev != want {
				t.Fatalf("watch from %d: event of revision %d, want %d", from, ev.KV.ModRev, want)
			}
			if i < watches-1 && want > from+200 {
				break
			}
		}
		w.w.Close()
	}
	<-done
}

func testWatchProgress(t *testing.T, s store.Store) {
	w := watch(t, s, "/quiet/", 0)
	for range 3 {
		r := commit(t, s, put("/elsewhere", "x"))
		if err := w.w.RequestProgress(within(t)); err != nil {
			t.Fatal(err)
		}
		for {
			b, err := w.next()
			if err != nil {
				t.Fatal(err)
			}
			if len(b.Events) > 0 {
				t.Fatalf("events of another prefix: %+v", b.Events)
			}
			if b.Rev > r {
				t.Fatalf("progress %d is ahead of the store's revision %d", b.Rev, r)
			}
			if b.Rev == r {
				break
			}
		}
	}
	// A notice never overtakes an event.
	for range 50 {
		r := commit(t, s, put("/quiet/a", "x"))
		if err := w.w.RequestProgress(within(t)); err != nil {
			t.Fatal(err)
		}
		if ev := w.events(1)[0]; ev.KV.ModRev != r {
			t.Fatalf("event of revision %d, want %d", ev.KV.ModRev, r)
		}
	}
}

func testWatchCompacted(t *testing.T, s store.Store) {
	r1 := commit(t, s, put("/a", "1"))
	r2 := commit(t, s, put("/a", "2"))
	r3 := commit(t, s, put("/a", "3"))
	if err := s.Compact(within(t), r3); err != nil {
		t.Fatal(err)
	}
	for _, from := range []int64{r1 - 1, r1} {
		w, err := s.Watch(within(t), "/", from)
		if err != nil {
			t.Fatal(err)
		}
		_, err = w.Next(within(t))
		wantErr(t, fmt.Sprintf("watch from %d, compacted at %d", from, r3), err, store.ErrCompacted)
		w.Close()
	}
	w := watch(t, s, "/", r2) // needs r3 only, which is still there
	diff(t, "watch from the compaction", store.KV{Key: "/a", Value: []byte("3"), ModRev: r3, CreateRev: r1}, w.events(1)[0].KV)
}

// A watch without events must not fail because its last event is long ago.
func testWatchQuiet(t *testing.T, s store.Store) {
	commit(t, s, put("/quiet/a", "1"))
	w := watch(t, s, "/quiet/", 0)
	for range 20 {
		commit(t, s, put("/busy", "x"))
	}
	if err := s.Compact(within(t), revision(t, s)); err != nil {
		t.Fatal(err)
	}
	r := commit(t, s, put("/quiet/b", "1"))
	diff(t, "event after the compaction", created("/quiet/b", "1", r), w.events(1)[0])
}

// A reader that stops reading sees every event later, or an error, but never a gap.
func testWatchSlow(t *testing.T, s store.Store) {
	const n = 3000
	slow, cut := watch(t, s, "/k", 0), watch(t, s, "/k", 0)
	first := revision(t, s) + 1
	for range n {
		commit(t, s, put("/k", "some value that takes a little room"))
	}
	for i, ev := range slow.events(n) {
		if ev.KV.ModRev != first+int64(i) {
			t.Fatalf("event %d is of revision %d, want %d", i, ev.KV.ModRev, first+int64(i))
		}
	}
	if err := s.Compact(within(t), revision(t, s)); err != nil {
		t.Fatal(err)
	}
	for want := first; want < first+n; {
		b, err := cut.next()
		if err != nil {
			wantErr(t, "reader overtaken by a compaction", err, store.ErrCompacted)
			return
		}
		for _, ev := range b.Events {
			if ev.KV.ModRev != want {
				t.Fatalf("gap: event of revision %d, want %d", ev.KV.ModRev, want)
			}
			want++
		}
	}
}

func testWatchMany(t *testing.T, s store.Store) {
	const watchers, writes = 200, 50
	var all []*checked
	for range watchers {
		all = append(all, watch(t, s, "/k/", 0))
	}
	var want []store.Event
	for i := range writes {
		key := fmt.Sprintf("/k/%d", i)
		want = append(want, created(key, "v", commit(t, s, put(key, "v"))))
	}
	var wg sync.WaitGroup
	for _, w := range all {
		wg.Go(func() {
			for i := 0; i < writes; {
				b, err := w.next()
				if err != nil {
					t.Errorf("watch: %v", err)
					return
				}
				for _, ev := range b.Events {
					if ev.KV.Key != want[i].KV.Key || ev.KV.ModRev != want[i].KV.ModRev {
						t.Errorf("event %d is %+v, want %+v", i, ev, want[i])
						return
					}
					i++
				}
			}
		})
	}
	wg.Wait()
}

func testWatchClose(t *testing.T, s store.Store) {
	w, err := s.Watch(within(t), "/", 0)
	if err != nil {
		t.Fatal(err)
	}
	failed := make(chan error, 1)
	go func() {
		_, err := w.Next(within(t))
		failed <- err
	}()
	w.Close()
	wantErr(t, "closed watch", <-failed, store.ErrClosed)
	w.Close()
	wantErr(t, "progress of a closed watch", w.RequestProgress(within(t)), store.ErrClosed)
	commit(t, s, put("/a", "1")) // and the store lives on
}

func testWatchContext(t *testing.T, s store.Store) {
	w := watch(t, s, "/", 0)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err := w.w.Next(ctx)
	wantErr(t, "next with a cancelled context", err, context.Canceled)
	r := commit(t, s, put("/a", "1"))
	diff(t, "the watch outlives one call's context", created("/a", "1", r), w.events(1)[0])
	// Nor does it end with the context that it was opened with.
	opened, cancel := context.WithCancel(context.Background())
	lasting, err := s.Watch(opened, "/", 0)
	if err != nil {
		t.Fatal(err)
	}
	defer lasting.Close()
	cancel()
	r = commit(t, s, put("/b", "1"))
	b, err := lasting.Next(within(t))
	if err != nil || len(b.Events) != 1 || b.Events[0].KV.ModRev != r {
		t.Fatalf("watch whose opening context ended: %+v, %v", b, err)
	}
}
