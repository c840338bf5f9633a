// Package storetest is the conformance suite of store.Store: what the API
// server relies on, checked the same way against every implementation. It
// reads and writes only the stores it is given.
package storetest

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"skiff.dev/skiff/internal/store"
)

// Backend is an implementation under test.
type Backend struct {
	// Open returns an empty store; the suite closes it.
	Open func(t *testing.T) store.Store
	// Reopen closes the store and opens it again with its data, as a restart
	// of the process does. Nil if the store keeps nothing.
	Reopen func(t *testing.T, s store.Store) store.Store
	// Bubble runs each test in testing/synctest, in virtual time.
	Bubble bool
}

// patience bounds every wait for something that must happen.
const patience = 30 * time.Second

// Run checks the backend.
func Run(t *testing.T, b Backend) {
	tests := []struct {
		name string
		run  func(*testing.T, store.Store)
	}{
		{"GetAndPut", testGetAndPut},
		{"Conditions", testConditions},
		{"TxnIsOneRevision", testTxnIsOneRevision},
		{"TxnInvalid", testTxnInvalid},
		{"EmptyTxn", testEmptyTxn},
		{"BigTxn", testBigTxn},
		{"DeleteOfNothing", testDeleteOfNothing},
		{"Binary", testBinary},
		{"History", testHistory},
		{"List", testList},
		{"ListPagesAreOneSnapshot", testPages},
		{"Compaction", testCompaction},
		{"CompactionKeepsLiveKeys", testCompactionKeepsLive},
		{"TTL", testTTL},
		{"TTLRenewedOrDropped", testTTLRenewed},
		{"ConcurrentWriters", testConcurrentWriters},
		{"Linearizable", testLinearizable},
		{"Model", testModel},
		{"Size", testSize},
		{"Close", testClose},
		{"CancelledContext", testCancelled},
		{"WatchFromNow", testWatchFromNow},
		{"WatchFromRevision", testWatchFromRevision},
		{"WatchPrefix", testWatchPrefix},
		{"WatchTxnWhole", testWatchTxnWhole},
		{"WatchResumed", testWatchResumed},
		{"WatchProgress", testWatchProgress},
		{"WatchCompacted", testWatchCompacted},
		{"WatchQuietSurvivesCompaction", testWatchQuiet},
		{"WatchSlow", testWatchSlow},
		{"WatchMany", testWatchMany},
		{"WatchClose", testWatchClose},
		{"WatchContext", testWatchContext},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			b.in(t, func(t *testing.T) {
				s := b.Open(t)
				defer s.Close()
				test.run(t, s)
			})
		})
	}
	if b.Reopen != nil {
		t.Run("Restart", func(t *testing.T) {
			b.in(t, func(t *testing.T) { testRestart(t, b) })
		})
	}
}

func (b Backend) in(t *testing.T, f func(*testing.T)) {
	if b.Bubble {
		synctest.Test(t, f)
		return
	}
	t.Parallel() // real stores mostly wait for disks and timers
	f(t)
}

func within(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

func put(key, value string) store.Op { return store.Op{Key: key, Value: []byte(value)} }
func del(key string) store.Op        { return store.Op{Key: key, Delete: true} }

// commit carries ops out unconditionally and returns their revision.
func commit(t testing.TB, s store.Store, ops ...store.Op) int64 {
	t.Helper()
	return commitIf(t, s, nil, ops...)
}

func commitIf(t testing.TB, s store.Store, conds []store.Cond, ops ...store.Op) int64 {
	t.Helper()
	res, err := s.Commit(within(t), store.Txn{If: conds, Do: ops})
	if err != nil {
		t.Fatalf("commit: %v", err)
	}
	if !res.OK {
		t.Fatalf("commit refused at revision %d; now %v", res.Rev, res.Now)
	}
	return res.Rev
}

func revision(t testing.TB, s store.Store) int64 {
	t.Helper()
	rev, err := s.Revision(within(t))
	if err != nil {
		t.Fatalf("revision: %v", err)
	}
	return rev
}

func list(t testing.TB, s store.Store, prefix string, opts store.ListOptions) store.Page {
	t.Helper()
	page, err := s.List(within(t), prefix, opts)
	if err != nil {
		t.Fatalf("list %q %+v: %v", prefix, opts, err)
	}
	return page
}

// wantKey checks the state of a key; want nil means that it is not there.
func wantKey(t testing.TB, s store.Store, key string, rev int64, want *store.KV) {
	t.Helper()
	kv, found, _, err := s.Get(within(t), key, rev)
	if err != nil {
		t.Fatalf("get %q at %d: %v", key, rev, err)
	}
	if found != (want != nil) {
		t.Fatalf("get %q at %d: found %v, want %v", key, rev, found, want != nil)
	}
	if want != nil {
		diff(t, fmt.Sprintf("get %q at %d", key, rev), *want, kv)
	}
}

func diff(t testing.TB, what string, want, got any) {
	t.Helper()
	if d := cmp.Diff(want, got); d != "" {
		t.Fatalf("%s (-want +got):\n%s", what, d)
	}
}

func wantErr(t testing.TB, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("%s: got error %v, want %v", what, err, want)
	}
}

func testGetAndPut(t *testing.T, s store.Store) {
	wantKey(t, s, "/a", 0, nil)
	r0 := revision(t, s)
	r1 := commit(t, s, put("/a", "1"))
	if r1 != r0+1 {
		t.Fatalf("first put is at revision %d, want %d", r1, r0+1)
	}
	r2 := commit(t, s, put("/a", "2"))
	wantKey(t, s, "/a", 0, &store.KV{Key: "/a", Value: []byte("2"), ModRev: r2, CreateRev: r1})
	wantKey(t, s, "/b", 0, nil)
	r3 := commit(t, s, del("/a"))
	wantKey(t, s, "/a", 0, nil)
	r4 := commit(t, s, put("/a", "3"))
	wantKey(t, s, "/a", 0, &store.KV{Key: "/a", Value: []byte("3"), ModRev: r4, CreateRev: r4})
	if r2 != r1+1 || r3 != r2+1 || r4 != r3+1 {
		t.Fatalf("revisions %d %d %d %d do not follow each other", r1, r2, r3, r4)
	}
	_, _, now, err := s.Get(within(t), "/b", r1)
	if err != nil || now != r4 {
		t.Fatalf("get of an old revision says now is %d (%v), want %d", now, err, r4)
	}
}

func testConditions(t *testing.T, s store.Store) {
	r1 := commitIf(t, s, []store.Cond{{Key: "/a"}}, put("/a", "1"))
	a1 := store.KV{Key: "/a", Value: []byte("1"), ModRev: r1, CreateRev: r1}
	r2 := commitIf(t, s, []store.Cond{{Key: "/none"}, {Key: "/a", ModRev: r1}}, put("/b", "1"))
	b1 := store.KV{Key: "/b", Value: []byte("1"), ModRev: r2, CreateRev: r2}

	refused := []struct {
		name string
		txn  store.Txn
		now  []store.KV
	}{
		{"exists", store.Txn{If: []store.Cond{{Key: "/a"}}, Do: []store.Op{put("/a", "x")}}, []store.KV{a1}},
		{"other revision", store.Txn{If: []store.Cond{{Key: "/a", ModRev: r2}}, Do: []store.Op{del("/a")}}, []store.KV{a1}},
		{"gone", store.Txn{If: []store.Cond{{Key: "/none", ModRev: r1}}, Do: []store.Op{put("/none", "x")}}, nil},
		{"one of two", store.Txn{If: []store.Cond{{Key: "/a", ModRev: r1}, {Key: "/b", ModRev: r1}}, Do: []store.Op{put("/a", "x"), put("/c", "x")}}, []store.KV{a1, b1}},
		{"key not changed", store.Txn{If: []store.Cond{{Key: "/b", ModRev: r1}, {Key: "/none"}}, Do: []store.Op{put("/a", "x")}}, []store.KV{b1}},
	}
	for _, test := range refused {
		res, err := s.Commit(within(t), test.txn)
		if err != nil {
			t.Fatalf("%s: %v", test.name, err)
		}
		diff(t, test.name, store.Result{Rev: r2, Now: test.now}, res)
	}
	diff(t, "list after refusals", []store.KV{a1, b1}, list(t, s, "/", store.ListOptions{}).KVs)
	commitIf(t, s, []store.Cond{{Key: "/a", ModRev: r1}}, del("/a"))
	wantKey(t, s, "/a", 0, nil)
}

func testTxnIsOneRevision(t *testing.T, s store.Store) {
	r1 := commit(t, s, put("/a", "1"), put("/b", "1"), put("/c", "1"))
	r2 := commit(t, s, put("/a", "2"), del("/b"), put("/d", "2"))
	if r2 != r1+1 {
		t.Fatalf("revisions %d, %d, want them to follow each other", r1, r2)
	}
	want := []store.KV{
		{Key: "/a", Value: []byte("2"), ModRev: r2, CreateRev: r1},
		{Key: "/c", Value: []byte("1"), ModRev: r1, CreateRev: r1},
		{Key: "/d", Value: []byte("2"), ModRev: r2, CreateRev: r2},
	}
	diff(t, "list", want, list(t, s, "/", store.ListOptions{}).KVs)
}

func testTxnInvalid(t *testing.T, s store.Store) {
	r := revision(t, s)
	for name, txn := range map[string]store.Txn{
		"twice":           {Do: []store.Op{put("/a", "1"), put("/a", "2")}},
		"put and delete":  {Do: []store.Op{put("/a", "1"), del("/a")}},
		"empty key":       {Do: []store.Op{put("", "1")}},
		"empty condition": {If: []store.Cond{{}}, Do: []store.Op{put("/a", "1")}},
	} {
		if _, err := s.Commit(within(t), txn); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if now := revision(t, s); now != r {
		t.Fatalf("invalid transactions moved the revision from %d to %d", r, now)
	}
}

func testEmptyTxn(t *testing.T, s store.Store) {
	r := commit(t, s, put("/a", "1"))
	res, err := s.Commit(within(t), store.Txn{If: []store.Cond{{Key: "/a", ModRev: r}}})
	if err != nil || !res.OK || res.Rev != r {
		t.Fatalf("transaction without changes: %+v, %v", res, err)
	}
	res, err = s.Commit(within(t), store.Txn{If: []store.Cond{{Key: "/a", ModRev: r + 1}}})
	if err != nil || res.OK || len(res.Now) != 1 {
		t.Fatalf("transaction without changes whose condition fails: %+v, %v", res, err)
	}
}

func testBigTxn(t *testing.T, s store.Store) {
	var ops []store.Op
	for i := range 100 {
		ops = append(ops, put(fmt.Sprintf("/k/%03d", i), "v"))
	}
	r := commit(t, s, ops...)
	page := list(t, s, "/k/", store.ListOptions{})
	if len(page.KVs) != 100 || page.Rev != r {
		t.Fatalf("%d keys at %d, want 100 at %d", len(page.KVs), page.Rev, r)
	}
	for _, kv := range page.KVs {
		if kv.ModRev != r || kv.CreateRev != r {
			t.Fatalf("%s changed at %d, want %d", kv.Key, kv.ModRev, r)
		}
	}
}

func testDeleteOfNothing(t *testing.T, s store.Store) {
	r := commit(t, s, put("/a", "1"))
	if got := commit(t, s, del("/none")); got != r {
		t.Fatalf("deleting nothing moved the revision from %d to %d", r, got)
	}
}

func testBinary(t *testing.T, s store.Store) {
	value := make([]byte, 256<<10)
	for i := range value {
		value[i] = byte(i * 7)
	}
	copy(value, "k8s\x00")
	r := commit(t, s, store.Op{Key: "/bin/\x00\xff", Value: value})
	wantKey(t, s, "/bin/\x00\xff", 0, &store.KV{Key: "/bin/\x00\xff", Value: value, ModRev: r, CreateRev: r})
}

func testHistory(t *testing.T, s store.Store) {
	var revs []int64
	for i := range 5 {
		revs = append(revs, commit(t, s, put("/a", fmt.Sprint(i)), put(fmt.Sprintf("/n/%d", i), "")))
	}
	last := commit(t, s, del("/a"))
	for i, rev := range revs {
		wantKey(t, s, "/a", rev, &store.KV{Key: "/a", Value: []byte(fmt.Sprint(i)), ModRev: rev, CreateRev: revs[0]})
		page := list(t, s, "/n/", store.ListOptions{Rev: rev})
		if len(page.KVs) != i+1 || page.Rev != rev {
			t.Fatalf("list at %d: %d keys at %d, want %d", rev, len(page.KVs), page.Rev, i+1)
		}
	}
	wantKey(t, s, "/a", last, nil)
	_, _, _, err := s.Get(within(t), "/a", last+1)
	wantErr(t, "get of the future", err, store.ErrFutureRevision)
	_, err = s.List(within(t), "/", store.ListOptions{Rev: last + 1})
	wantErr(t, "list of the future", err, store.ErrFutureRevision)
}

func testSize(t *testing.T, s store.Store) {
	commit(t, s, put("/a", "1"))
	size, err := s.Size(within(t))
	if err != nil || size <= 0 {
		t.Fatalf("size %d, %v", size, err)
	}
}

func testClose(t *testing.T, s store.Store) {
	w, err := s.Watch(within(t), "/", 0)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	failed := make(chan error, 1)
	go func() {
		_, err := w.Next(within(t))
		failed <- err
	}()
	if err := s.Close(); err != nil {
		t.Fatalf("close: %v", err)
	}
	wantErr(t, "watch of a closed store", <-failed, store.ErrClosed)
	_, err = s.Commit(within(t), store.Txn{Do: []store.Op{put("/a", "1")}})
	wantErr(t, "commit", err, store.ErrClosed)
	_, _, _, err = s.Get(within(t), "/a", 0)
	wantErr(t, "get", err, store.ErrClosed)
	_, err = s.List(within(t), "/", store.ListOptions{})
	wantErr(t, "list", err, store.ErrClosed)
	_, err = s.Revision(within(t))
	wantErr(t, "revision", err, store.ErrClosed)
	_, err = s.Watch(within(t), "/", 0)
	wantErr(t, "watch", err, store.ErrClosed)
	if err := s.Close(); err != nil {
		t.Fatalf("second close: %v", err)
	}
}

func testCancelled(t *testing.T, s store.Store) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err := s.Commit(ctx, store.Txn{Do: []store.Op{put("/a", "1")}})
	wantErr(t, "commit", err, context.Canceled)
	_, _, _, err = s.Get(ctx, "/a", 0)
	wantErr(t, "get", err, context.Canceled)
	_, err = s.List(ctx, "/", store.ListOptions{})
	wantErr(t, "list", err, context.Canceled)
}

func testRestart(t *testing.T, b Backend) {
	s := b.Open(t)
	defer func() { s.Close() }()
	r1 := commit(t, s, put("/a", "1"), put("/b", "1"))
	r2 := commit(t, s, del("/b"))
	commit(t, s, store.Op{Key: "/ttl", Value: []byte("x"), TTL: time.Hour})
	size := revision(t, s)
	s = b.Reopen(t, s)
	if now := revision(t, s); now != size {
		t.Fatalf("revision after restart %d, before %d", now, size)
	}
	wantKey(t, s, "/a", 0, &store.KV{Key: "/a", Value: []byte("1"), ModRev: r1, CreateRev: r1})
	wantKey(t, s, "/b", 0, nil)
	wantKey(t, s, "/b", r1, &store.KV{Key: "/b", Value: []byte("1"), ModRev: r1, CreateRev: r1})
	w := watch(t, s, "/", r1)
	diff(t, "watch across a restart", store.Event{KV: store.KV{Key: "/b", ModRev: r2}, Delete: true}, w.events(1)[0])
	if r := commit(t, s, put("/a", "2")); r != size+1 {
		t.Fatalf("first revision after restart %d, want %d", r, size+1)
	}
	if err := s.Compact(within(t), r2); err != nil {
		t.Fatal(err)
	}
	s = b.Reopen(t, s)
	_, _, _, err := s.Get(within(t), "/b", r1)
	wantErr(t, "compacted revision after restart", err, store.ErrCompacted)
}
