package storetest

import (
	"context"
	"errors"
	"fmt"
	"sort"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"skiff.dev/skiff/internal/store"
)

// model is the store that one can see to be right: a copy of all keys for
// every revision and a list of all events.
type model struct {
	prefix    string
	start     int64
	rev       int64
	compacted int64
	states    map[int64]map[string]store.KV
	events    []store.Event
}

func (m *model) commit(txn store.Txn) store.Result {
	now := m.states[m.rev]
	ok := true
	var present []store.KV
	for _, c := range txn.If {
		if now[c.Key].ModRev != c.ModRev {
			ok = false
		}
		if kv, found := now[c.Key]; found {
			present = append(present, kv)
		}
	}
	if !ok {
		return store.Result{Rev: m.rev, Now: present}
	}
	next := map[string]store.KV{}
	for key, kv := range now {
		next[key] = kv
	}
	var events []store.Event
	for _, op := range txn.Do {
		old, found := now[op.Key]
		switch {
		case op.Delete && found:
			delete(next, op.Key)
			events = append(events, deleted(op.Key, m.rev+1))
		case !op.Delete:
			kv := store.KV{Key: op.Key, Value: op.Value, ModRev: m.rev + 1, CreateRev: m.rev + 1}
			if found {
				kv.CreateRev = old.CreateRev
			}
			next[op.Key] = kv
			events = append(events, store.Event{KV: kv})
		}
	}
	if len(events) > 0 {
		m.rev++
		m.states[m.rev] = next
		m.events = append(m.events, events...)
	}
	return store.Result{OK: true, Rev: m.rev}
}

func (m *model) list(prefix string, opts store.ListOptions) (store.Page, error) {
	if opts.Rev == 0 {
		opts.Rev = m.rev
	}
	if opts.Rev > m.rev {
		return store.Page{}, store.ErrFutureRevision
	}
	if opts.Rev < m.compacted {
		return store.Page{}, store.ErrCompacted
	}
	page := store.Page{Rev: opts.Rev}
	for key, kv := range m.states[opts.Rev] {
		if strings.HasPrefix(key, prefix) && key > opts.After {
			page.KVs = append(page.KVs, kv)
		}
	}
	sort.Slice(page.KVs, func(i, j int) bool { return page.KVs[i].Key < page.KVs[j].Key })
	if n := int64(len(page.KVs)); opts.Limit > 0 && n > opts.Limit {
		page.KVs, page.More, page.Remaining = page.KVs[:opts.Limit], true, n-opts.Limit
	}
	return page, nil
}

// testModel does random things to the store and to the model and compares
// every answer, then compares what watches from everywhere say.
func testModel(t *testing.T, s store.Store) {
	run := 0
	// A bubble has no deadline to ask for: show rapid a T without one.
	bare := struct{ testing.TB }{t}
	rapid.Check(bare, func(rt *rapid.T) {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		rev, err := s.Revision(ctx)
		if err != nil {
			rt.Fatal(err)
		}
		run++
		m := &model{prefix: fmt.Sprintf("/m%d/", run), start: rev, rev: rev, compacted: rev, states: map[int64]map[string]store.KV{rev: {}}}
		steps := rapid.IntRange(1, 25).Draw(rt, "steps")
		for range steps {
			switch rapid.SampledFrom([]string{"commit", "commit", "commit", "get", "list", "compact"}).Draw(rt, "do") {
			case "commit":
				txn := drawTxn(rt, m)
				want := m.commit(txn)
				got, err := s.Commit(ctx, txn)
				same(rt, fmt.Sprintf("commit %+v", txn), want, got, nil, err)
			case "get":
				key, rev := drawKey(rt, m), drawRev(rt, m)
				page, wantErr := m.list(key, store.ListOptions{Rev: rev})
				kv, found, _, err := s.Get(ctx, key, rev)
				var got []store.KV
				if found {
					got = append(got, kv)
				}
				same(rt, fmt.Sprintf("get %s at %d", key, rev), page.KVs, got, wantErr, err)
			case "list":
				opts := store.ListOptions{Rev: drawRev(rt, m), Limit: rapid.Int64Range(0, 4).Draw(rt, "limit")}
				if rapid.Bool().Draw(rt, "continued") {
					opts.After = drawKey(rt, m)
				}
				want, wantErr := m.list(m.prefix, opts)
				got, err := s.List(ctx, m.prefix, opts)
				same(rt, fmt.Sprintf("list %+v", opts), want, got, wantErr, err)
			case "compact":
				m.compacted = rapid.Int64Range(m.compacted, m.rev).Draw(rt, "rev")
				if err := s.Compact(ctx, m.compacted); err != nil {
					rt.Fatalf("compact %d: %v", m.compacted, err)
				}
			}
		}
		checkWatches(ctx, rt, s, m)
	})
}

func drawKey(rt *rapid.T, m *model) string {
	return m.prefix + rapid.SampledFrom([]string{"a", "b", "c", "d", "e"}).Draw(rt, "key")
}

func drawRev(rt *rapid.T, m *model) int64 {
	if rapid.Bool().Draw(rt, "latest") {
		return 0
	}
	return rapid.Int64Range(m.start, m.rev+1).Draw(rt, "rev")
}

func drawTxn(rt *rapid.T, m *model) store.Txn {
	var txn store.Txn
	for _, key := range rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"a", "b", "c", "d", "e"}), 0, 2, rapid.ID).Draw(rt, "conditions") {
		cond := store.Cond{Key: m.prefix + key, ModRev: m.states[m.rev][m.prefix+key].ModRev}
		if rapid.IntRange(0, 4).Draw(rt, "wrong") == 0 {
			cond.ModRev = rapid.Int64Range(0, m.rev).Draw(rt, "modrev")
		}
		txn.If = append(txn.If, cond)
	}
	for _, key := range rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"a", "b", "c", "d", "e"}), 1, 4, rapid.ID).Draw(rt, "changes") {
		op := store.Op{Key: m.prefix + key, Delete: rapid.Bool().Draw(rt, "delete")}
		if !op.Delete {
			op.Value = []byte(rapid.StringN(1, 5, -1).Draw(rt, "value"))
		}
		if !op.Delete && rapid.IntRange(0, 3).Draw(rt, "ttl") == 0 {
			op.TTL = time.Hour
		}
		txn.Do = append(txn.Do, op)
	}
	return txn
}

func same(rt *rapid.T, what string, want, got any, wantErr, err error) {
	if wantErr != nil || err != nil {
		if !errors.Is(err, wantErr) || wantErr == nil {
			rt.Fatalf("%s: error %v, want %v", what, err, wantErr)
		}
		return
	}
	if d := cmp.Diff(want, got); d != "" {
		rt.Fatalf("%s (-want +got):\n%s", what, d)
	}
}

func checkWatches(ctx context.Context, rt *rapid.T, s store.Store, m *model) {
	watchers := map[int64]store.Watcher{}
	for from := m.start; from < m.rev; from += 3 {
		w, err := s.Watch(ctx, m.prefix, from)
		if err != nil {
			rt.Fatal(err)
		}
		defer w.Close()
		watchers[from] = w
	}
	for from, w := range watchers {
		var want, got []store.Event
		for _, ev := range m.events {
			if ev.KV.ModRev > from {
				want = append(want, ev)
			}
		}
		var err error
		for len(got) < len(want) && err == nil {
			var b store.Batch
			b, err = w.Next(ctx)
			got = append(got, b.Events...)
		}
		if from+1 < m.compacted {
			same(rt, fmt.Sprintf("watch from %d, compacted at %d", from, m.compacted), nil, nil, store.ErrCompacted, err)
			continue
		}
		same(rt, fmt.Sprintf("watch from %d", from), want, got, nil, err)
	}
}
