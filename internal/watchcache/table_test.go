package watchcache

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff.dev/skiff/internal/meta"
)

var byNode = meta.Index{Name: "spec.nodeName", Keys: func(o meta.Object) []string {
	return []string{o.(*corev1.Pod).Spec.NodeName}
}}

func pod(ns, name, node string, rev int64) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name, UID: "1", ResourceVersion: strconv.FormatInt(rev, 10)},
		Spec:       corev1.PodSpec{NodeName: node},
	}
}

func set(ns, name, node string, rev int64) Change {
	return Change{Key: meta.Key{Namespace: ns, Name: name}, Object: pod(ns, name, node, rev), Rev: rev}
}

func gone(ns, name string, rev int64) Change {
	return Change{Key: meta.Key{Namespace: ns, Name: name}, Rev: rev}
}

func newPods(opts ...Option) *Table {
	t := NewTable("pods", append([]Option{WithMutationDetector(), WithIndexes(byNode)}, opts...)...)
	t.Replace(nil, 1)
	return t
}

// show renders events as "ADDED ns/name@rev".
func show(events []*Event) []string {
	var out []string
	for _, e := range events {
		out = append(out, e.Type.String()+" "+e.Key().String()+"@"+e.Item.Object.GetResourceVersion())
	}
	return out
}

func TestScopes(t *testing.T) {
	table := newPods()
	all := []Change{
		set("a", "x", "n1", 2), set("a", "y", "n2", 3), set("b", "x", "n1", 4),
		set("a", "x", "n2", 5), gone("b", "x", 6),
	}
	tests := []struct {
		scope Scope
		want  []string
	}{
		{Scope{}, []string{"ADDED a/x@2", "ADDED a/y@3", "ADDED b/x@4", "MODIFIED a/x@5", "DELETED b/x@6"}},
		{Scope{Namespace: "a"}, []string{"ADDED a/x@2", "ADDED a/y@3", "MODIFIED a/x@5"}},
		{Scope{Namespace: "a", Name: "x"}, []string{"ADDED a/x@2", "MODIFIED a/x@5"}},
		{Scope{Name: "x"}, []string{"ADDED a/x@2", "ADDED b/x@4", "MODIFIED a/x@5", "DELETED b/x@6"}},
		{Scope{Index: byNode.Name, Value: "n1"}, []string{"ADDED a/x@2", "ADDED b/x@4", "MODIFIED a/x@5", "DELETED b/x@6"}},
		{Scope{Index: byNode.Name, Value: "n2"}, []string{"ADDED a/y@3", "MODIFIED a/x@5"}},
		{Scope{Namespace: "b", Index: byNode.Name, Value: "n1"}, []string{"ADDED b/x@4", "DELETED b/x@6"}},
	}
	var live []*Watch
	for _, tc := range tests {
		w, err := table.Watch(tc.scope, 1)
		if err != nil {
			t.Fatal(err)
		}
		defer w.Close()
		live = append(live, w)
	}
	for _, c := range all {
		table.Apply([]Change{c}, c.Rev)
	}
	for i, tc := range tests {
		late, err := table.Watch(tc.scope, 1)
		if err != nil {
			t.Fatal(err)
		}
		defer late.Close()
		for _, w := range []*Watch{live[i], late} {
			events, rev, err := w.Next(t.Context())
			if err != nil || rev != 6 {
				t.Fatalf("%+v: rev %d, error %v", tc.scope, rev, err)
			}
			if got := show(events); !equal(got, tc.want) {
				t.Errorf("%+v:\n got %v\nwant %v", tc.scope, got, tc.want)
			}
		}
	}
	table.Close()
}

func equal(a, b []string) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

func TestSlowWatcherIsCutOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table := newPods(WithEvents(4))
		slow, _ := table.Watch(Scope{}, 1)
		quiet, _ := table.Watch(Scope{Namespace: "quiet"}, 1)
		defer slow.Close()
		defer quiet.Close()
		for rev := int64(2); rev < 10; rev++ {
			table.Apply([]Change{set("a", "x", "", rev)}, rev)
		}
		if _, _, err := slow.Next(t.Context()); !errors.Is(err, ErrTooOld) {
			t.Errorf("slow watcher: got %v, want ErrTooOld", err)
		}
		got := make(chan []string)
		go func() {
			events, _, _ := quiet.Next(context.Background())
			got <- show(events)
		}()
		synctest.Wait()
		table.Apply([]Change{set("quiet", "x", "", 10)}, 10)
		if g := <-got; !equal(g, []string{"ADDED quiet/x@10"}) {
			t.Errorf("a watcher with nothing to read was disturbed: %v", g)
		}
		if _, err := table.Watch(Scope{}, 1); !errors.Is(err, ErrTooOld) {
			t.Errorf("watch from 1: got %v, want ErrTooOld", err)
		}
		if _, err := table.Watch(Scope{}, 11); !errors.Is(err, ErrFuture) {
			t.Errorf("watch from 11: got %v, want ErrFuture", err)
		}
	})
}

func items(pods ...*corev1.Pod) []Item {
	var all []Item
	for _, p := range pods {
		rev, err := strconv.ParseInt(p.ResourceVersion, 10, 64)
		if err != nil {
			panic(err)
		}
		all = append(all, Item{Object: p, Rev: rev})
	}
	return all
}

func TestRelistEmitsTheDifference(t *testing.T) {
	table := NewTable("pods", WithMutationDetector(), WithIndexes(byNode))
	table.Replace(items(pod("a", "goes", "", 2), pod("a", "stays", "", 3), pod("a", "changes", "", 4), pod("a", "reborn", "", 5)), 6)
	live, _ := table.Watch(Scope{}, 6)
	defer live.Close()
	reborn := pod("a", "reborn", "", 8)
	reborn.UID = "2"
	table.Replace(items(pod("a", "comes", "", 10), reborn, pod("a", "changes", "n1", 9), pod("a", "stays", "", 3)), 12)
	want := []string{"DELETED a/goes@6", "DELETED a/reborn@6", "ADDED a/reborn@8", "MODIFIED a/changes@9", "ADDED a/comes@10"}
	late, err := table.Watch(Scope{}, 6)
	if err != nil {
		t.Fatal(err)
	}
	defer late.Close()
	for _, w := range []*Watch{live, late} {
		events, rev, err := w.Next(t.Context())
		if err != nil || rev != 12 {
			t.Fatalf("revision %d, error %v", rev, err)
		}
		expect(t, "events", show(events), want...)
	}
	for _, from := range []int64{7, 9, 11} {
		if _, err := table.Watch(Scope{}, from); !errors.Is(err, ErrTooOld) {
			t.Errorf("watch from %d, a state that was never here: %v, want ErrTooOld", from, err)
		}
	}
	expect(t, "index", keys(table.Snapshot(), Scope{Index: byNode.Name, Value: "n1"}), "a/changes")

	table.Replace(items(pod("a", "old", "", 3)), 4)
	if _, _, err := live.Next(t.Context()); !errors.Is(err, ErrTooOld) {
		t.Errorf("watch over a source that went back: %v, want ErrTooOld", err)
	}
	if table.Rev() != 4 || table.Len() != 1 {
		t.Errorf("revision %d with %d objects, want 4 with 1", table.Rev(), table.Len())
	}
}

func TestChangesThatAreKnownAreSkipped(t *testing.T) {
	table := newPods()
	w, _ := table.Watch(Scope{}, 1)
	defer w.Close()
	table.Apply([]Change{set("a", "x", "", 5)}, 5)
	table.Apply([]Change{set("a", "x", "old", 4), gone("a", "x", 4), gone("a", "never", 5)}, 5)
	// A remote table may get the parts of one transaction one by one.
	table.Apply([]Change{set("a", "y", "", 5)}, 5)
	events, _, _ := w.Next(t.Context())
	expect(t, "events", show(events), "ADDED a/x@5", "ADDED a/y@5")
	table.Apply([]Change{set("a", "z", "", 5)}, 5)
	events, _, _ = w.Next(t.Context())
	expect(t, "the rest of the transaction", show(events), "ADDED a/z@5")
}

func TestIndexMayRepeatAValue(t *testing.T) {
	table := NewTable("pods", WithIndexes(meta.ByOwner))
	table.Replace(nil, 1)
	scope := Scope{Index: meta.ByOwner.Name, Value: "u"}
	w, _ := table.Watch(scope, 1)
	defer w.Close()
	p := pod("a", "x", "", 2)
	p.OwnerReferences = []metav1.OwnerReference{{UID: "u"}, {UID: "u"}}
	table.Apply([]Change{{Key: meta.KeyOf(p), Object: p, Rev: 2}}, 2)
	events, _, _ := w.Next(t.Context())
	expect(t, "events", show(events), "ADDED a/x@2")
	expect(t, "index", keys(table.Snapshot(), scope), "a/x")
	table.Apply([]Change{gone("a", "x", 3)}, 3)
	events, _, _ = w.Next(t.Context())
	expect(t, "events", show(events), "DELETED a/x@3")
	expect(t, "index", keys(table.Snapshot(), scope))
}

func TestSnapshotDoesNotChange(t *testing.T) {
	table := NewTable("pods", WithMutationDetector())
	table.Replace(nil, 1)
	for i := range int64(200) {
		table.Apply([]Change{set(fmt.Sprint("ns", i%3), fmt.Sprintf("%03d", i), fmt.Sprint("n", i%2), i+2)}, i+2)
	}
	table.EnsureIndex(byNode)
	snap := table.Snapshot()
	all := keys(snap, Scope{})
	n1 := keys(snap, Scope{Index: byNode.Name, Value: "n1"})
	for i := range int64(200) {
		c := gone(fmt.Sprint("ns", i%3), fmt.Sprintf("%03d", i), i+300)
		if i%2 == 0 {
			c = set(c.Key.Namespace, c.Key.Name, "n1", c.Rev)
		}
		table.Apply([]Change{c}, c.Rev)
	}
	if len(all) != 200 || len(n1) != 100 || snap.Len() != 200 || snap.Rev() != 201 {
		t.Errorf("snapshot of %d objects, %d on n1, at %d", len(all), len(n1), snap.Rev())
	}
	expect(t, "snapshot", keys(snap, Scope{}), all...)
	expect(t, "index of the snapshot", keys(snap, Scope{Index: byNode.Name, Value: "n1"}), n1...)
	if got := keys(table.Snapshot(), Scope{Index: byNode.Name, Value: "n1"}); len(got) != 100 || equal(got, n1) {
		t.Errorf("the index did not move on: %d", len(got))
	}
	if got := keys(table.Snapshot(), Scope{Index: byNode.Name, Value: "n0"}); len(got) != 0 {
		t.Errorf("left over in the index: %v", got)
	}
	var page []string
	for item := range snap.All("ns1", meta.Key{Namespace: "ns1", Name: "193"}) {
		page = append(page, item.Key().String())
	}
	expect(t, "page", page, "ns1/196", "ns1/199")
	if _, ok := snap.Get(meta.Key{Namespace: "ns1", Name: "001"}); !ok {
		t.Error("object missing in the snapshot")
	}
	if _, ok := table.Get(meta.Key{Namespace: "ns1", Name: "001"}); ok {
		t.Error("deleted object still there")
	}
}

func TestEncodedOnceAndForgotten(t *testing.T) {
	table := newPods()
	w, _ := table.Watch(Scope{}, 1)
	defer w.Close()
	table.Apply([]Change{set("a", "x", "", 2)}, 2)
	events, _, _ := w.Next(t.Context())
	var calls atomic.Int32
	encode := func(e *Event) ([]byte, error) {
		calls.Add(1)
		time.Sleep(time.Millisecond) // let the others run into it
		return []byte(e.Type.String()), nil
	}
	var group sync.WaitGroup
	for range 20 {
		group.Go(func() {
			if data, err := events[0].Encoded("json", encode); err != nil || string(data) != "ADDED" {
				t.Errorf("%s, %v", data, err)
			}
		})
	}
	group.Wait()
	if n := calls.Load(); n != 1 {
		t.Errorf("encoded %d times", n)
	}
	failing := func(meta.Object) ([]byte, error) { return nil, errors.New("no") }
	item := events[0].Item
	if _, err := item.Encoded("yaml", failing); err == nil {
		t.Error("no error")
	}
	if data, err := item.Encoded("yaml", func(meta.Object) ([]byte, error) { return []byte("y"), nil }); err != nil || string(data) != "y" {
		t.Errorf("after an error: %s, %v", data, err)
	}
	runtime.GC()
	runtime.GC()
	if item.enc.set.Value() != nil {
		t.Error("the encoding is still there after a collection")
	}
}

func TestMutationIsDetected(t *testing.T) {
	key := meta.Key{Namespace: "a", Name: "x"}
	readers := map[string]func(*Table){
		"get":      func(t *Table) { t.Get(key) },
		"snapshot": func(t *Table) { keys(t.Snapshot(), Scope{}) },
		"index":    func(t *Table) { keys(t.Snapshot(), Scope{Index: byNode.Name}) },
		"apply":    func(t *Table) { t.Apply([]Change{gone("a", "x", 3)}, 3) },
		"close":    func(t *Table) { t.Close() },
	}
	for name, read := range readers {
		t.Run(name, func(t *testing.T) {
			table := newPods()
			table.Apply([]Change{set("a", "x", "", 2)}, 2)
			item, _ := table.Get(key)
			item.Object.SetLabels(map[string]string{"changed": "true"})
			defer func() {
				if r := recover(); r == nil || !strings.Contains(fmt.Sprint(r), "a/x") {
					t.Errorf("recovered %v", r)
				}
			}()
			read(table)
		})
	}
}

func TestProgress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table := newPods()
		w, _ := table.Watch(Scope{Namespace: "a"}, 1)
		reached := make(chan error)
		go func() { reached <- table.WaitFor(context.Background(), 8) }()
		tick := time.NewTimer(time.Minute)
		start := time.Now()
		table.Apply([]Change{set("b", "x", "", 5)}, 5)
		time.AfterFunc(30*time.Second, func() { table.Progress(7) })
		events, rev, err := w.NextOrProgress(t.Context(), tick.C)
		if len(events) != 0 || rev != 7 || err != nil || time.Since(start) != time.Minute {
			t.Errorf("%v, revision %d, error %v after %v", show(events), rev, err, time.Since(start))
		}
		select {
		case err := <-reached:
			t.Errorf("waiting for 8 ended at 7: %v", err)
		default:
		}
		table.Progress(9)
		if err := <-reached; err != nil {
			t.Error(err)
		}
		some, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := table.WaitFor(some, 10); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("waiting for 10: %v", err)
		}
		if _, _, err := w.Next(some); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("watch with a deadline: %v", err)
		}
		time.AfterFunc(time.Second, w.Close)
		if _, _, err := w.Next(t.Context()); !errors.Is(err, ErrClosed) {
			t.Errorf("watch that is closed: %v", err)
		}
		w.Close()
		w2, _ := table.Watch(Scope{}, 9)
		defer w2.Close()
		time.AfterFunc(time.Second, table.Close)
		if _, _, err := w2.Next(t.Context()); !errors.Is(err, ErrClosed) {
			t.Errorf("watch of a closed table: %v", err)
		}
		if err := table.WaitFor(t.Context(), 10); !errors.Is(err, ErrClosed) {
			t.Errorf("waiting for a closed table: %v", err)
		}
	})
}

func TestOldEventsAreDropped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table := newPods(WithAge(time.Minute))
		w, _ := table.Watch(Scope{Namespace: "a"}, 1)
		defer w.Close()
		table.Apply([]Change{set("a", "x", "", 2)}, 2)
		time.Sleep(59 * time.Second)
		table.Apply([]Change{set("b", "x", "", 3)}, 3)
		if _, err := table.Watch(Scope{}, 1); err != nil {
			t.Errorf("after 59 s: %v", err)
		}
		time.Sleep(2 * time.Second)
		table.Progress(4)
		if _, err := table.Watch(Scope{}, 1); !errors.Is(err, ErrTooOld) {
			t.Errorf("after 61 s: %v", err)
		}
		if _, _, err := w.Next(t.Context()); !errors.Is(err, ErrTooOld) {
			t.Errorf("slow watcher: %v", err)
		}
		if _, err := table.Watch(Scope{}, 2); err != nil {
			t.Errorf("from the oldest: %v", err)
		}
		if _, err := table.Watch(Scope{Index: "none", Value: "x"}, 4); !errors.Is(err, ErrNoIndex) {
			t.Errorf("unknown index: %v", err)
		}
	})
}

// TestOnlyTheConcernedWake has 10,000 watchers on a name each; an event must
// wake one.
func TestOnlyTheConcernedWake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table := newPods()
		ctx, cancel := context.WithCancel(t.Context())
		var woken atomic.Int64
		var group sync.WaitGroup
		for i := range 10000 {
			w, err := table.Watch(Scope{Namespace: "a", Name: strconv.Itoa(i)}, 1)
			if err != nil {
				t.Fatal(err)
			}
			group.Go(func() {
				defer w.Close()
				for {
					_, wake, _ := w.poll()
					select {
					case <-wake:
						woken.Add(1)
					case <-ctx.Done():
						return
					}
				}
			})
		}
		for rev := int64(2); rev < 102; rev++ {
			synctest.Wait()
			table.Apply([]Change{set("a", strconv.FormatInt(rev*7, 10), "n", rev), set("b", "1", "n", rev)}, rev)
		}
		synctest.Wait()
		if got := woken.Load(); got != 100 {
			t.Errorf("100 events woke %d watchers", got)
		}
		cancel()
		group.Wait()
		if len(table.topics) != 0 {
			t.Errorf("%d topics are left over", len(table.topics))
		}
	})
}
