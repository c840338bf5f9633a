package watchcache

import (
	"context"
	"errors"
	"strconv"
	"testing"
	"testing/synctest"

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
