package storetest

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"skiff.dev/skiff/internal/store"
)

func keysOf(page store.Page) string {
	var keys []string
	for _, kv := range page.KVs {
		keys = append(keys, kv.Key)
	}
	return strings.Join(keys, " ")
}

func testList(t *testing.T, s store.Store) {
	for _, key := range []string{"/p/b", "/p/a", "/p/a/x", "/pods/z", "/q", "/p/c", "/p/b\xff"} {
		commit(t, s, put(key, "v"))
	}
	tests := []struct {
		prefix    string
		opts      store.ListOptions
		want      string
		more      bool
		remaining int64
	}{
		{prefix: "/p/", want: "/p/a /p/a/x /p/b /p/b\xff /p/c"},
		{prefix: "/p", want: "/p/a /p/a/x /p/b /p/b\xff /p/c /pods/z"},
		{prefix: "/p/a", want: "/p/a /p/a/x"},
		{prefix: "/p/b\xff", want: "/p/b\xff"},
		{prefix: "/x", want: ""},
		{prefix: "", want: "/p/a /p/a/x /p/b /p/b\xff /p/c /pods/z /q"},
		{prefix: "/p/", opts: store.ListOptions{Limit: 2}, want: "/p/a /p/a/x", more: true, remaining: 3},
		{prefix: "/p/", opts: store.ListOptions{Limit: 5}, want: "/p/a /p/a/x /p/b /p/b\xff /p/c"},
		{prefix: "/p/", opts: store.ListOptions{After: "/p/a/x", Limit: 2}, want: "/p/b /p/b\xff", more: true, remaining: 1},
		{prefix: "/p/", opts: store.ListOptions{After: "/p/b", Limit: 9}, want: "/p/b\xff /p/c"},
		{prefix: "/p/", opts: store.ListOptions{After: "/p/c"}, want: ""},
		{prefix: "/p/", opts: store.ListOptions{After: "/a"}, want: "/p/a /p/a/x /p/b /p/b\xff /p/c"},
		{prefix: "/p/", opts: store.ListOptions{After: "/p/aa"}, want: "/p/b /p/b\xff /p/c"},
	}
	for _, test := range tests {
		what := fmt.Sprintf("list %q %+v", test.prefix, test.opts)
		page := list(t, s, test.prefix, test.opts)
		if got := keysOf(page); got != test.want {
			t.Errorf("%s: keys %q, want %q", what, got, test.want)
		}
		if page.More != test.more || page.Remaining != test.remaining {
			t.Errorf("%s: more %v, remaining %d, want %v, %d", what, page.More, page.Remaining, test.more, test.remaining)
		}
	}
}

func testPages(t *testing.T, s store.Store) {
	const total, size = 250, 20
	for i := range total {
		commit(t, s, put(fmt.Sprintf("/k/%04d", i), "old"))
	}
	at := revision(t, s)
	var got []store.KV
	opts := store.ListOptions{Limit: size}
	for {
		page := list(t, s, "/k/", opts)
		got = append(got, page.KVs...)
		if page.Rev != at {
			t.Fatalf("page at revision %d, want %d", page.Rev, at)
		}
		if want := int64(total - len(got)); page.Remaining != want {
			t.Fatalf("after %d keys remaining is %d, want %d", len(got), page.Remaining, want)
		}
		if !page.More {
			break
		}
		// Changes between the pages must not show.
		n := len(got)
		commit(t, s, put(fmt.Sprintf("/k/%04dx", n), "new"), del(fmt.Sprintf("/k/%04d", n)), put(fmt.Sprintf("/k/%04d", n+1), "new"))
		opts = store.ListOptions{Rev: page.Rev, After: page.KVs[len(page.KVs)-1].Key, Limit: size}
	}
	diff(t, "all pages", list(t, s, "/k/", store.ListOptions{Rev: at}).KVs, got)
	for i, kv := range got {
		if kv.Key != fmt.Sprintf("/k/%04d", i) || string(kv.Value) != "old" {
			t.Fatalf("item %d is %s=%s", i, kv.Key, kv.Value)
		}
	}
}

func testCompaction(t *testing.T, s store.Store) {
	r1 := commit(t, s, put("/a", "1"))
	r2 := commit(t, s, put("/a", "2"))
	r3 := commit(t, s, put("/a", "3"))
	wantErr(t, "compaction of the future", s.Compact(within(t), r3+1), store.ErrFutureRevision)
	for range 2 { // the second time changes nothing
		if err := s.Compact(within(t), r2); err != nil {
			t.Fatalf("compact: %v", err)
		}
	}
	if err := s.Compact(within(t), r1); err != nil {
		t.Fatalf("compaction of what is compacted: %v", err)
	}
	_, _, _, err := s.Get(within(t), "/a", r1)
	wantErr(t, "get", err, store.ErrCompacted)
	_, err = s.List(within(t), "/", store.ListOptions{Rev: r1})
	wantErr(t, "list", err, store.ErrCompacted)
	wantKey(t, s, "/a", r2, &store.KV{Key: "/a", Value: []byte("2"), ModRev: r2, CreateRev: r1})
	wantKey(t, s, "/a", 0, &store.KV{Key: "/a", Value: []byte("3"), ModRev: r3, CreateRev: r1})
	if now := revision(t, s); now != r3 {
		t.Fatalf("compaction moved the revision from %d to %d", r3, now)
	}
}

func testCompactionKeepsLive(t *testing.T, s store.Store) {
	r1 := commit(t, s, put("/old", "1"), put("/gone", "1"), put("/back", "1"))
	commit(t, s, del("/gone"), del("/back"))
	r3 := commit(t, s, put("/back", "2"))
	for range 20 {
		commit(t, s, put("/busy", "x"))
	}
	last := commit(t, s, del("/busy"))
	if err := s.Compact(within(t), last); err != nil {
		t.Fatal(err)
	}
	want := []store.KV{
		{Key: "/back", Value: []byte("2"), ModRev: r3, CreateRev: r3},
		{Key: "/old", Value: []byte("1"), ModRev: r1, CreateRev: r1},
	}
	diff(t, "latest", want, list(t, s, "/", store.ListOptions{}).KVs)
	diff(t, "at the compaction", want, list(t, s, "/", store.ListOptions{Rev: last}).KVs)
	if r := commitIf(t, s, []store.Cond{{Key: "/gone"}, {Key: "/old", ModRev: r1}}, put("/gone", "2")); r != last+1 {
		t.Fatalf("revision %d, want %d", r, last+1)
	}
}

func testTTL(t *testing.T, s store.Store) {
	w := watch(t, s, "/t/", 0)
	start := time.Now()
	r := commit(t, s, store.Op{Key: "/t/short", Value: []byte("x"), TTL: 2 * time.Second}, put("/t/stays", "x"))
	commit(t, s, store.Op{Key: "/t/long", Value: []byte("x"), TTL: time.Hour})
	w.events(3)
	gone := w.events(1)[0]
	if took := time.Since(start); took < 1500*time.Millisecond || took > 20*time.Second {
		t.Errorf("a TTL of 2 s took %v", took)
	}
	if !gone.Delete || gone.KV.Key != "/t/short" || gone.KV.ModRev <= r {
		t.Fatalf("expiry is %+v", gone)
	}
	if got := keysOf(list(t, s, "/t/", store.ListOptions{})); got != "/t/long /t/stays" {
		t.Fatalf("left: %s", got)
	}
}

func testTTLRenewed(t *testing.T, s store.Store) {
	w := watch(t, s, "/t/", 0)
	ttl := func(key string, d time.Duration) store.Op {
		return store.Op{Key: key, Value: []byte("x"), TTL: d}
	}
	commit(t, s, ttl("/t/renewed", 2*time.Second), ttl("/t/dropped", 2*time.Second), ttl("/t/dies", 2*time.Second), ttl("/t/again", 2*time.Second))
	commit(t, s, ttl("/t/renewed", time.Hour), put("/t/dropped", "x"), del("/t/again"))
	commit(t, s, put("/t/again", "x"))
	w.events(8)
	if gone := w.events(1)[0]; !gone.Delete || gone.KV.Key != "/t/dies" {
		t.Fatalf("the first to expire is %+v", gone)
	}
	commit(t, s, put("/t/last", "x"))
	if ev := w.events(1)[0]; ev.KV.Key != "/t/last" {
		t.Fatalf("after the expiry comes %+v", ev)
	}
	if got := keysOf(list(t, s, "/t/", store.ListOptions{})); got != "/t/again /t/dropped /t/last /t/renewed" {
		t.Fatalf("left: %s", got)
	}
}
