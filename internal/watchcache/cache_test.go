package watchcache

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"

	"skiff.dev/skiff/internal/meta"
	"skiff.dev/skiff/internal/store"
	"skiff.dev/skiff/internal/store/mem"
)

// faulty is a store whose connections can be broken.
type faulty struct {
	store.Store
	mu      sync.Mutex
	down    bool
	watches map[*breakable]struct{}
	opened  int // watches
	slow    time.Duration
}

func newFaulty() *faulty { return &faulty{Store: mem.New(), watches: map[*breakable]struct{}{}} }

var errBroken = store.Unavailable("test", errors.New("connection lost"))

// cut breaks all watches; while it is down nothing answers.
func (f *faulty) cut(down bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.down = down
	for w := range f.watches {
		w.cancel()
		delete(f.watches, w)
	}
}

func (f *faulty) check() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.down {
		return errBroken
	}
	return nil
}

func (f *faulty) Revision(ctx context.Context) (int64, error) {
	if err := f.check(); err != nil {
		return 0, err
	}
	time.Sleep(f.slow)
	return f.Store.Revision(ctx)
}

func (f *faulty) List(ctx context.Context, prefix string, opts store.ListOptions) (store.Page, error) {
	if err := f.check(); err != nil {
		return store.Page{}, err
	}
	page, err := f.Store.List(ctx, prefix, opts)
	time.Sleep(f.slow)
	return page, err
}

func (f *faulty) Watch(ctx context.Context, prefix string, from int64) (store.Watcher, error) {
	if err := f.check(); err != nil {
		return nil, err
	}
	w, err := f.Store.Watch(ctx, prefix, from)
	if err != nil {
		return nil, err
	}
	broken, cancel := context.WithCancel(context.Background())
	b := &breakable{Watcher: w, broken: broken, cancel: cancel}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.opened++
	f.watches[b] = struct{}{}
	return b, nil
}

type breakable struct {
	store.Watcher
	broken context.Context
	cancel context.CancelFunc
}

func (b *breakable) Next(ctx context.Context) (store.Batch, error) {
	both, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(b.broken, cancel)
	defer stop()
	if b.broken.Err() != nil {
		return store.Batch{}, errBroken
	}
	batch, err := b.Watcher.Next(both)
	if b.broken.Err() != nil {
		return store.Batch{}, errBroken
	}
	return batch, err
}

func (b *breakable) Close() {
	b.cancel()
	b.Watcher.Close()
}

func decodePod(_ string, value []byte, rev int64) (meta.Object, error) {
	p := new(corev1.Pod)
	if err := json.Unmarshal(value, p); err != nil {
		return nil, err
	}
	p.ResourceVersion = strconv.FormatInt(rev, 10)
	return p, nil
}

func decodeNode(_ string, value []byte, rev int64) (meta.Object, error) {
	n := new(corev1.Node)
	if err := json.Unmarshal(value, n); err != nil {
		return nil, err
	}
	n.ResourceVersion = strconv.FormatInt(rev, 10)
	return n, nil
}

var (
	podResource  = Resource{Name: "pods", Prefix: "/registry/pods/", Namespaced: true, Decode: decodePod, Indexes: []meta.Index{byNode}}
	nodeResource = Resource{Name: "nodes", Prefix: "/registry/minions/", Decode: decodeNode}
)

var quiet = slog.New(slog.NewTextHandler(io.Discard, nil))

func open(t testing.TB, s store.Store, table ...Option) *Cache {
	t.Helper()
	c, err := Open(context.Background(), Config{
		Store: s, Resources: []Resource{podResource, nodeResource}, Log: quiet,
		Table: append([]Option{WithMutationDetector()}, table...),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func opened(t testing.TB, s store.Store, table ...Option) (*Cache, *Table) {
	t.Helper()
	c := open(t, s, table...)
	if err := c.Sync(context.Background()); err != nil {
		t.Fatal(err)
	}
	pods, _ := c.Table("pods")
	return c, pods
}

func podOp(ns, name, node string) store.Op {
	p := pod(ns, name, node, 0)
	p.ResourceVersion = ""
	data, err := json.Marshal(p)
	if err != nil {
		panic(err)
	}
	return store.Op{Key: "/registry/pods/" + ns + "/" + name, Value: data}
}

func deleteOp(ns, name string) store.Op {
	return store.Op{Key: "/registry/pods/" + ns + "/" + name, Delete: true}
}

func commit(t testing.TB, s store.Store, ops ...store.Op) int64 {
	t.Helper()
	res, err := s.Commit(context.Background(), store.Txn{Do: ops})
	if err != nil || !res.OK {
		t.Fatalf("commit: %+v, %v", res, err)
	}
	return res.Rev
}

func fresh(t testing.TB, c *Cache) {
	t.Helper()
	if err := c.Fresh(context.Background()); err != nil {
		t.Fatal(err)
	}
}

// next reads n events or more and renders them without versions.
func next(t testing.TB, w *Watch, n int) []string {
	t.Helper()
	var got []string
	for len(got) < n {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		events, _, err := w.Next(ctx)
		cancel()
		if err != nil {
			t.Fatalf("after %v: %v", got, err)
		}
		for _, e := range events {
			got = append(got, e.Type.String()+" "+e.Key().String())
		}
	}
	return got
}

func keys(s Snapshot, scope Scope) []string {
	var got []string
	for item := range s.In(scope) {
		got = append(got, item.Key().String())
	}
	return got
}

func expect(t testing.TB, what string, got []string, want ...string) {
	t.Helper()
	if !equal(got, want) {
		t.Errorf("%s:\n got %q\nwant %q", what, got, want)
	}
}

func TestCacheLoadsAndFollows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := mem.New()
		for i := range 2500 { // more than two pages
			commit(t, s, podOp("a", fmt.Sprintf("p%04d", i), "n1"))
		}
		c, pods := opened(t, s)
		if pods.Len() != 2500 {
			t.Fatalf("loaded %d pods", pods.Len())
		}
		w, err := c.Watch(t.Context(), "pods", Scope{}, pods.Rev())
		if err != nil {
			t.Fatal(err)
		}
		defer w.Close()
		rev := commit(t, s, podOp("b", "x", "n2"), deleteOp("a", "p0000"), store.Op{Key: "/registry/minions/n2", Value: []byte(`{"metadata":{"name":"n2"}}`)})
		expect(t, "events", next(t, w, 2), "ADDED b/x", "DELETED a/p0000")
		fresh(t, c)
		nodes, _ := c.Table("nodes")
		if nodes.Rev() < rev || pods.Rev() < rev {
			t.Errorf("revisions %d and %d, want %d", nodes.Rev(), pods.Rev(), rev)
		}
		expect(t, "nodes", keys(nodes.Snapshot(), Scope{}), "/n2")
		expect(t, "by node", keys(pods.Snapshot(), Scope{Index: byNode.Name, Value: "n2"}), "b/x")
	})
}

func TestFreshReachesForeignWrites(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := mem.New()
		c, _ := opened(t, s)
		rev := commit(t, s, store.Op{Key: "/elsewhere", Value: []byte("x")})
		fresh(t, c)
		if c.Rev() < rev {
			t.Errorf("cache is at %d after the barrier, want %d", c.Rev(), rev)
		}
	})
}

func TestFreshIsShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newFaulty()
		c, _ := opened(t, s)
		s.slow = time.Second
		var group sync.WaitGroup
		for range 100 {
			group.Go(func() { fresh(t, c) })
		}
		group.Wait()
		if got := c.Stats().RevisionReads; got > 2 {
			t.Errorf("100 barriers cost %d reads, want 2", got)
		}
		s.slow = 0
		s.cut(true)
		if err := c.Fresh(t.Context()); !errors.Is(err, store.ErrUnavailable) {
			t.Errorf("barrier without a store: %v", err)
		}
	})
}

func TestReconnect(t *testing.T) {
	tests := []struct {
		name    string
		compact bool
		resyncs int64
	}{{"history kept", false, 0}, {"history compacted", true, 2}}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newFaulty()
				commit(t, s, podOp("a", "stays", ""), podOp("a", "goes", ""), podOp("a", "changes", ""))
				c, pods := opened(t, s)
				before := pods.Rev()
				w, _ := pods.Watch(Scope{}, before)
				defer w.Close()
				s.cut(true)
				commit(t, s, podOp("a", "changes", "n9"))
				commit(t, s, deleteOp("a", "goes"))
				rev := commit(t, s, podOp("b", "comes", ""))
				if tc.compact {
					if err := s.Compact(t.Context(), rev); err != nil {
						t.Fatal(err)
					}
				}
				time.Sleep(time.Minute)
				if got := pods.Rev(); got != before {
					t.Errorf("revision moved to %d without a store", got)
				}
				s.cut(false)
				if err := pods.WaitFor(t.Context(), rev); err != nil {
					t.Fatal(err)
				}
				want := []string{"MODIFIED a/changes", "DELETED a/goes", "ADDED b/comes"}
				if tc.compact {
					want = []string{"DELETED a/goes", "MODIFIED a/changes", "ADDED b/comes"}
				}
				expect(t, "events", next(t, w, 3), want...)
				expect(t, "objects", keys(pods.Snapshot(), Scope{}), "a/changes", "a/stays", "b/comes")
				if got := c.Stats().Resyncs; got != tc.resyncs {
					t.Errorf("%d resyncs, want %d", got, tc.resyncs)
				}
			})
		})
	}
}

func TestStoreRestoredFromBackup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newFaulty()
		for i := range 10 {
			commit(t, s, podOp("a", strconv.Itoa(i), ""))
		}
		c, pods := opened(t, s)
		// The pods are older than the backup, but their watchers are not.
		for range 10 {
			commit(t, s, store.Op{Key: "/registry/minions/n", Value: []byte(`{"metadata":{"name":"n"}}`)})
		}
		fresh(t, c)
		w, err := pods.Watch(Scope{}, 21)
		if err != nil {
			t.Fatal(err)
		}
		defer w.Close()
		backup := mem.New()
		for range 14 {
			commit(t, backup, podOp("a", "old", ""))
		}
		s.cut(true)
		old := s.Store
		defer old.Close()
		s.Store = backup
		s.cut(false)
		if _, _, err := w.Next(t.Context()); !errors.Is(err, ErrTooOld) {
			t.Errorf("watch over the restore: %v, want ErrTooOld", err)
		}
		fresh(t, c)
		synctest.Wait()
		expect(t, "objects", keys(pods.Snapshot(), Scope{}), "a/old")
		if pods.Rev() != 15 {
			t.Errorf("revision %d, want 15", pods.Rev())
		}
		w2, err := pods.Watch(Scope{}, pods.Rev())
		if err != nil {
			t.Fatal(err)
		}
		defer w2.Close()
		commit(t, s, podOp("a", "new", ""))
		expect(t, "events", next(t, w2, 1), "ADDED a/new")
	})
}

func TestRestartServesOldRevisionsFromHistory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newFaulty()
		commit(t, s, podOp("a", "x", "n1"), podOp("a", "y", "n1"))
		from := commit(t, s, podOp("a", "z", "n1"))
		commit(t, s, podOp("a", "x", "n2"))
		commit(t, s, deleteOp("a", "y"))
		commit(t, s, podOp("a", "w", "n3"))
		c, pods := opened(t, s)
		live, _ := pods.Watch(Scope{}, pods.Rev())
		defer live.Close()
		s.opened = 0
		want := []string{"MODIFIED a/x", "DELETED a/y", "ADDED a/w"}
		for range 50 {
			w, err := c.Watch(t.Context(), "pods", Scope{}, from)
			if err != nil {
				t.Fatal(err)
			}
			expect(t, "history", next(t, w, 3), want...)
			w.Close()
		}
		if s.opened != 1 {
			t.Errorf("history was read %d times, want once", s.opened)
		}
		w, err := c.Watch(t.Context(), "pods", Scope{Index: byNode.Name, Value: "n1"}, from)
		if err != nil {
			t.Fatal(err)
		}
		defer w.Close()
		events, _, _ := w.Next(t.Context())
		if len(events) != 2 || events[0].Prev.Object.(*corev1.Pod).Spec.NodeName != "n1" || events[1].Item.Object.GetResourceVersion() != "5" {
			t.Errorf("history of one index value: %v", show(events))
		}
		commit(t, s, podOp("a", "x", "n1"))
		expect(t, "the old watch", next(t, w, 1), "MODIFIED a/x")
		expect(t, "the live watch", next(t, live, 1), "MODIFIED a/x")

		if err := s.Compact(t.Context(), 4); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Watch(t.Context(), "pods", Scope{}, 2); !errors.Is(err, ErrTooOld) {
			t.Errorf("compacted history: %v, want ErrTooOld", err)
		}
	})
}

func TestUndecodable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := mem.New()
		commit(t, s,
			podOp("a", "good", ""), store.Op{Key: "/registry/pods/a/bad", Value: []byte("{")},
			store.Op{Key: "/registry/pods/lonely", Value: podOp("a", "lonely", "").Value},
			store.Op{Key: "/registry/pods/a/liar", Value: podOp("a", "other", "").Value})
		c, pods := opened(t, s)
		bad := func() []string {
			var got []string
			for _, b := range c.Undecodable() {
				got = append(got, b.Key)
			}
			return got
		}
		expect(t, "loaded", keys(pods.Snapshot(), Scope{}), "a/good")
		expect(t, "undecodable", bad(), "/registry/pods/a/bad", "/registry/pods/a/liar", "/registry/pods/lonely")
		w, _ := pods.Watch(Scope{}, pods.Rev())
		defer w.Close()
		commit(t, s, store.Op{Key: "/registry/pods/a/good", Value: []byte("?")})
		commit(t, s, podOp("a", "bad", ""), deleteOp("a", "liar"))
		expect(t, "events", next(t, w, 2), "DELETED a/good", "ADDED a/bad")
		expect(t, "undecodable", bad(), "/registry/pods/a/good", "/registry/pods/lonely")
		if got := c.Stats().Undecodable; got != 4 {
			t.Errorf("counted %d, want 4", got)
		}
	})
}

func TestWrittenIsNotDecodedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := mem.New()
		c, pods := opened(t, s)
		rev := c.Rev() + 1
		obj := pod("a", "x", "n1", rev)
		c.Written("/registry/pods/a/x", rev, obj)
		c.Written("/registry/pods/a/never", rev, obj)
		commit(t, s, podOp("a", "x", "n1"))
		fresh(t, c)
		item, ok := pods.Get(meta.Key{Namespace: "a", Name: "x"})
		if !ok || item.Object != meta.Object(obj) {
			t.Error("the table has an object of its own")
		}
		c.Written("/registry/pods/a/late", rev, obj)
		if n := len(c.written.byKey) + len(c.written.order); n != 0 {
			t.Errorf("%d objects are left over", n)
		}
		if got := c.Stats(); got.Decoded != 0 || got.Handed != 1 {
			t.Errorf("%+v", got)
		}
	})
}

func TestResourcesComeAndGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newFaulty()
		widget := store.Op{Key: "/registry/example.com/widgets/a/w1", Value: podOp("a", "w1", "").Value}
		commit(t, s, widget)
		c, _ := opened(t, s)
		s.slow = time.Second // writes happen while the list is read
		widgets := Resource{Name: "widgets", Prefix: "/registry/example.com/widgets/", Namespaced: true, Decode: decodePod}
		table, err := c.AddResource(widgets)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := table.Watch(Scope{}, 0); !errors.Is(err, ErrNotReady) {
			t.Errorf("watch before the load: %v", err)
		}
		synctest.Wait()
		commit(t, s, store.Op{Key: "/registry/example.com/widgets/a/w2", Value: podOp("a", "w2", "").Value})
		rev := commit(t, s, store.Op{Key: widget.Key, Delete: true})
		if err := table.WaitFor(t.Context(), rev); err != nil {
			t.Fatal(err)
		}
		expect(t, "widgets", keys(table.Snapshot(), Scope{}), "a/w2")
		if _, err := c.AddResource(widgets); err == nil {
			t.Error("added twice")
		}
		w, _ := table.Watch(Scope{}, table.Rev())
		c.RemoveResource("widgets")
		if _, _, err := w.Next(t.Context()); !errors.Is(err, ErrClosed) {
			t.Errorf("watch of a removed resource: %v", err)
		}
		w.Close()
		if _, err := c.AddResource(widgets); err != nil {
			t.Error(err)
		}
	})
}

func TestOpenWithoutStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newFaulty()
		commit(t, s, podOp("a", "x", ""))
		s.cut(true)
		c := open(t, s)
		some, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := c.Sync(some); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("sync without a store: %v", err)
		}
		s.cut(false)
		if err := c.Sync(t.Context()); err != nil {
			t.Fatal(err)
		}
		pods, _ := c.Table("pods")
		expect(t, "pods", keys(pods.Snapshot(), Scope{}), "a/x")
	})
}
