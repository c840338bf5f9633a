package watchcache

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	"pgregory.net/rapid"

	"skiff.dev/skiff/internal/meta"
	"skiff.dev/skiff/internal/store"
)

// A follower does what a client does: list, then fold the watch into the list.
type follower struct {
	scope Scope
	// selects is a selector beyond the scope; leaving it is told from Prev.
	selects func(*corev1.Pod) bool
	watch   *Watch
	// state maps keys to resourceVersions; rev is up to where it is known.
	state map[meta.Key]string
	rev   int64
}

func everything(*corev1.Pod) bool { return true }

func followers() []*follower {
	all := []*follower{
		{scope: Scope{}}, {scope: Scope{Namespace: "a"}}, {scope: Scope{Namespace: "b", Name: "1"}}, {scope: Scope{Name: "2"}},
		{scope: Scope{Index: byNode.Name, Value: "n1"}}, {scope: Scope{Index: byNode.Name, Value: ""}},
		{scope: Scope{Index: byNode.Name, Value: "n0", Namespace: "a"}},
	}
	for _, f := range all {
		f.selects = everything
		if f.scope.Index != "" {
			value := f.scope.Value
			f.selects = func(p *corev1.Pod) bool { return p.Spec.NodeName == value }
		}
	}
	return append(all, &follower{selects: func(p *corev1.Pod) bool { return p.Spec.NodeName > "n0" }})
}

// world is a cache over a faulty store, and who watches it.
type world struct {
	store     *faulty
	cache     *Cache
	pods      *Table
	followers []*follower
	opts      []Option
	compacted int64
}

func (w *world) open() error {
	var err error
	w.cache, err = Open(context.Background(), Config{
		Store: w.store, Resources: []Resource{podResource}, Log: quiet, Table: w.opts,
	})
	if err != nil {
		return err
	}
	w.pods, _ = w.cache.Table("pods")
	return w.cache.Sync(context.Background())
}

// truth lists the plain store at a revision, as f would see it.
func (w *world) truth(f *follower, rev int64) (map[meta.Key]string, error) {
	page, err := w.store.Store.List(context.Background(), podResource.Prefix, store.ListOptions{Rev: rev})
	if err != nil {
		return nil, err
	}
	state := map[meta.Key]string{}
	for _, kv := range page.KVs {
		obj, err := podResource.decode(kv)
		if err != nil {
			continue
		}
		if key := meta.KeyOf(obj); f.scope.holdsKey(key) && f.selects(obj.(*corev1.Pod)) {
			state[key] = obj.GetResourceVersion()
		}
	}
	return state, nil
}

// list starts f from a snapshot of the cache.
func (w *world) list(f *follower) error {
	snap, watch, err := w.pods.WatchFromSnapshot(f.scope)
	if err != nil {
		return err
	}
	f.state, f.rev, f.watch = map[meta.Key]string{}, snap.Rev(), watch
	for item := range snap.In(f.scope) {
		if f.selects(item.Object.(*corev1.Pod)) {
			f.state[item.Key()] = item.Object.GetResourceVersion()
		}
	}
	return nil
}

// resume starts f from the plain store at an old revision.
func (w *world) resume(f *follower, rev int64) error {
	watch, err := w.cache.Watch(context.Background(), "pods", f.scope, rev)
	if errors.Is(err, ErrTooOld) || errors.Is(err, store.ErrUnavailable) {
		return w.list(f)
	}
	if err != nil {
		return err
	}
	f.state, err = w.truth(f, rev)
	f.rev, f.watch = rev, watch
	return err
}

// drain folds what the watch has into the state; it must then be the truth at
// the revision that the watch says.
func (w *world) drain(f *follower) error {
	now := make(chan time.Time, 1)
	now <- time.Now()
	events, rev, err := f.watch.NextOrProgress(context.Background(), now)
	if errors.Is(err, ErrTooOld) {
		f.watch.Close()
		return w.list(f)
	}
	if err != nil {
		return err
	}
	if rev < f.rev {
		return fmt.Errorf("%+v: revision went from %d to %d", f.scope, f.rev, rev)
	}
	last := f.rev
	for _, e := range events {
		if e.Rev < last || e.Rev > rev {
			return fmt.Errorf("%+v: event at %d after %d in a batch up to %d", f.scope, e.Rev, last, rev)
		}
		last = e.Rev
		if err := f.fold(e); err != nil {
			return err
		}
	}
	f.rev = rev
	return w.compare(f)
}

func (f *follower) fold(e *Event) error {
	is := e.Type != Deleted && f.selects(e.Item.Object.(*corev1.Pod))
	was := e.Prev != nil && f.selects(e.Prev.Object.(*corev1.Pod))
	had, known := f.state[e.Key()]
	if was != known || was && had != e.Prev.Object.GetResourceVersion() {
		return fmt.Errorf("%+v: %s %s: previous state selected: %t, known: %t at %q",
			f.scope, e.Type, e.Key(), was, known, had)
	}
	if is {
		f.state[e.Key()] = e.Item.Object.GetResourceVersion()
	} else {
		delete(f.state, e.Key())
	}
	return nil
}

func (w *world) compare(f *follower) error {
	if f.rev < w.compacted {
		return nil
	}
	truth, err := w.truth(f, f.rev)
	if err != nil {
		return err
	}
	if got, want := fmt.Sprint(f.state), fmt.Sprint(truth); got != want {
		return fmt.Errorf("%+v at %d:\n got %s\nwant %s", f.scope, f.rev, got, want)
	}
	return nil
}

// step does one thing to the world, chosen by kind and the dice.
func (w *world) step(kind int, dice *rand.Rand) error {
	ctx := context.Background()
	f := w.followers[dice.IntN(len(w.followers))]
	switch {
	case kind < 50:
		_, err := w.store.Store.Commit(ctx, randomTxn(dice))
		return err
	case kind < 70:
		return w.drain(f)
	case kind < 75:
		f.watch.Close()
		return w.list(f)
	case kind < 80:
		f.watch.Close()
		now, err := w.store.Store.Revision(ctx)
		if err != nil {
			return err
		}
		old := max(w.compacted, now-int64(dice.IntN(40)), 1)
		if old > w.pods.Rev() {
			return w.list(f)
		}
		return w.resume(f, old)
	case kind < 84:
		now, err := w.store.Store.Revision(ctx)
		if err != nil {
			return err
		}
		w.compacted = max(w.compacted, now-int64(dice.IntN(10)))
		return w.store.Store.Compact(ctx, w.compacted)
	case kind < 87:
		w.store.cut(dice.IntN(2) == 0)
	case kind < 90:
		w.store.cut(false)
	case kind < 92:
		return w.restart()
	case kind < 95:
		synctest.Wait()
	default:
		time.Sleep(time.Duration(dice.IntN(1000)) * time.Millisecond)
	}
	return nil
}

// restart replaces the cache by a new one; clients resume from where they are.
func (w *world) restart() error {
	w.store.cut(false)
	for _, f := range w.followers {
		f.watch.Close()
	}
	w.cache.Close()
	if err := w.open(); err != nil {
		return err
	}
	for _, f := range w.followers {
		watch, err := w.cache.Watch(context.Background(), "pods", f.scope, f.rev)
		if errors.Is(err, ErrTooOld) {
			err = w.list(f)
			watch = f.watch
		}
		if err != nil {
			return fmt.Errorf("resuming from %d: %w", f.rev, err)
		}
		f.watch = watch
	}
	return nil
}

func randomTxn(dice *rand.Rand) store.Txn {
	var txn store.Txn
	used := map[string]bool{}
	for range 1 + dice.IntN(3) {
		ns, name := string("ab"[dice.IntN(2)]), fmt.Sprint(dice.IntN(5))
		op := podOp(ns, name, []string{"", "n0", "n1"}[dice.IntN(3)])
		switch dice.IntN(10) {
		case 0, 1, 2:
			op = deleteOp(ns, name)
		case 3:
			op.Value = []byte("not an object")
		case 4:
			op.Key = "/elsewhere/" + name
		}
		if !used[op.Key] {
			used[op.Key] = true
			txn.Do = append(txn.Do, op)
		}
	}
	return txn
}

// run plays the steps and ends with everyone knowing the truth.
func (w *world) run(steps int, seed uint64) error {
	dice := rand.New(rand.NewPCG(seed, uint64(steps)))
	for range steps {
		if err := w.step(dice.IntN(100), dice); err != nil {
			return err
		}
	}
	w.store.cut(false)
	if err := w.cache.Fresh(context.Background()); err != nil {
		return err
	}
	now, err := w.store.Store.Revision(context.Background())
	if err != nil {
		return err
	}
	for _, f := range w.followers {
		if err := w.pods.WaitFor(context.Background(), now); err != nil {
			return err
		}
		for f.rev < now {
			if err := w.drain(f); err != nil {
				return err
			}
		}
		if err := w.compare(f); err != nil {
			return err
		}
	}
	return nil
}

// TestMetamorphic checks I5 to I7: whatever happens to the store, the folding
// of a list and its watch is the list at the revision that the watch has
// reached, for every scope and selector.
func TestMetamorphic(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		steps := rapid.IntRange(20, 500).Draw(rt, "steps")
		seed := rapid.Uint64().Draw(rt, "seed")
		ring := rapid.SampledFrom([]int{2, 20, 4096}).Draw(rt, "ring")
		var failure error
		synctest.Test(t, func(t *testing.T) {
			w := &world{
				store: newFaulty(), followers: followers(), compacted: 1,
				opts: []Option{WithMutationDetector(), WithEvents(ring)},
			}
			if failure = w.open(); failure != nil {
				return
			}
			for _, f := range w.followers {
				if failure = w.list(f); failure != nil {
					break
				}
			}
			if failure == nil {
				failure = w.run(steps, seed)
			}
			for _, f := range w.followers {
				if f.watch != nil {
					f.watch.Close()
				}
			}
			w.cache.Close()
			w.store.Close()
		})
		if failure != nil {
			rt.Fatal(strings.TrimSpace(failure.Error()))
		}
	})
}
