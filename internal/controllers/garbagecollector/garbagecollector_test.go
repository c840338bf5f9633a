package garbagecollector

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"

	"skiff.dev/skiff/internal/client"
	"skiff.dev/skiff/internal/meta"
	"skiff.dev/skiff/internal/testing/controltest"
)

func ref(owner meta.Object, block bool) metav1.OwnerReference {
	kind := "ConfigMap"
	switch owner.(type) {
	case *corev1.Secret:
		kind = "Secret"
	case *corev1.Namespace:
		kind = "Namespace"
	}
	return metav1.OwnerReference{APIVersion: "v1", Kind: kind, Name: owner.GetName(), UID: owner.GetUID(), BlockOwnerDeletion: &block}
}

func configMap(name string, owners ...metav1.OwnerReference) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default", OwnerReferences: owners}}
}

func secret(name string, owners ...metav1.OwnerReference) *corev1.Secret {
	return &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default", OwnerReferences: owners}}
}

// names returns what there is, with the owners of each.
func names(w *controltest.World) map[string][]string {
	all := map[string][]string{}
	add := func(o meta.Object) {
		owners := []string{}
		for _, r := range o.GetOwnerReferences() {
			owners = append(owners, r.Name)
		}
		all[o.GetName()] = owners
	}
	for _, o := range controltest.List[*corev1.ConfigMap](w, "default") {
		add(o)
	}
	for _, o := range controltest.List[*corev1.Secret](w, "default") {
		add(o)
	}
	return all
}

func TestPropagation(t *testing.T) {
	tests := []struct {
		policy metav1.DeletionPropagation
		want   map[string][]string
	}{
		{metav1.DeletePropagationBackground, map[string][]string{"other": {}, "shared": {"other"}}},
		{metav1.DeletePropagationForeground, map[string][]string{"other": {}, "shared": {"other"}}},
		{metav1.DeletePropagationOrphan, map[string][]string{"other": {}, "shared": {"other"}, "middle": {}, "leaf": {"middle"}}},
	}
	for _, tt := range tests {
		t.Run(string(tt.policy), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := controltest.New(t)
				defer w.Close()
				w.Run(New(w.Client, w.Events, w.Resources))
				top := controltest.Create(w, configMap("top"))
				other := controltest.Create(w, secret("other"))
				middle := controltest.Create(w, secret("middle", ref(top, true)))
				controltest.Create(w, configMap("leaf", ref(middle, true)))
				controltest.Create(w, configMap("shared", ref(top, true), ref(other, true)))
				w.Settle()
				controltest.Delete[*corev1.ConfigMap](w, "default", "top", tt.policy)
				w.Settle()
				if diff := cmp.Diff(tt.want, names(w)); diff != "" {
					t.Error(diff)
				}
			})
		})
	}
}

func TestForegroundWaitsForBlockers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := controltest.New(t)
		defer w.Close()
		w.Run(New(w.Client, w.Events, w.Resources))
		top := controltest.Create(w, configMap("top"))
		blocker := secret("blocker", ref(top, true))
		blocker.Finalizers = []string{"example.com/hold"}
		controltest.Create(w, blocker)
		loose := secret("loose", ref(top, false))
		loose.Finalizers = []string{"example.com/hold"}
		controltest.Create(w, loose)
		controltest.Delete[*corev1.ConfigMap](w, "default", "top", metav1.DeletePropagationForeground)
		w.Settle()
		if got := controltest.Get[*corev1.Secret](w, "default", "loose"); got.DeletionTimestamp == nil {
			t.Error("a dependent is not being deleted")
		}
		if _, there := names(w)["top"]; !there {
			t.Fatal("the owner went before what blocks it")
		}
		controltest.Update(w, blocker, func(s *corev1.Secret) { s.Finalizers = nil })
		w.Settle()
		if diff := cmp.Diff([]string{"loose"}, slices.Sorted(maps.Keys(names(w)))); diff != "" {
			t.Error(diff)
		}
	})
}

func TestOwnersThatCannotBe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := controltest.New(t)
		defer w.Close()
		controltest.Create(w, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "other"}})
		far := controltest.Create(w, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "far", Namespace: "other"}})
		never := configMap("never")
		never.UID = "never-was"
		unknown := metav1.OwnerReference{APIVersion: "example.com/v1", Kind: "Widget", Name: "w", UID: "u1"}
		controltest.Create(w, secret("across", ref(far, true)))
		controltest.Create(w, secret("of-nobody", ref(never, true)))
		controltest.Create(w, secret("of-unknown-kind", unknown))
		recreated := controltest.Create(w, configMap("again"))
		controltest.Create(w, secret("of-former", ref(recreated, true)))
		controltest.Delete[*corev1.ConfigMap](w, "default", "again", "")
		controltest.Create(w, configMap("again"))
		cluster := controltest.Create(w, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1", OwnerReferences: []metav1.OwnerReference{ref(far, true)}}})
		w.Run(New(w.Client, w.Events, w.Resources))
		w.Settle()
		if diff := cmp.Diff([]string{"again", "of-unknown-kind"}, slices.Sorted(maps.Keys(names(w)))); diff != "" {
			t.Error(diff)
		}
		controltest.Get[*corev1.Node](w, "", cluster.Name)
		want := []string{
			fmt.Sprintf("Warning OwnerRefInvalidNamespace across: ownerRef [v1/ConfigMap, namespace: other, name: far, uid: %s] does not exist in namespace \"default\"", far.UID),
			fmt.Sprintf("Warning OwnerRefInvalidNamespace n1: ownerRef [v1/ConfigMap, namespace: , name: far, uid: %s] does not exist in namespace \"\"", far.UID),
		}
		got := w.Events.With("OwnerRefInvalidNamespace")
		slices.Sort(got)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
	})
}

// model is what should be there: objects and their owners. What has owners, but
// none that is there, goes; what stays forgets those that are not there.
type model struct {
	owners map[string][]string // of objects that are there
}

func (m *model) delete(name string, policy metav1.DeletionPropagation) {
	delete(m.owners, name)
	if policy == metav1.DeletePropagationOrphan {
		m.forget(func(owner string) bool { return owner == name })
		return
	}
	absent := func(owner string) bool { _, there := m.owners[owner]; return !there }
	for again := true; again; {
		again = false
		for o, owners := range m.owners {
			if len(owners) > 0 && !slices.ContainsFunc(owners, func(x string) bool { return !absent(x) }) {
				delete(m.owners, o)
				again = true
			}
		}
	}
	m.forget(absent)
}

// forget takes the owners that answer to a description out of all objects.
func (m *model) forget(which func(owner string) bool) {
	for o, owners := range m.owners {
		m.owners[o] = slices.DeleteFunc(slices.Clone(owners), which)
	}
}

// I13: on random graphs of owners, circles included, with random deletions,
// late caches and restarts, exactly what the model says is left.
func TestRandomGraphs(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		n := rapid.IntRange(2, 8).Draw(rt, "objects")
		edges := map[int][]int{}
		block := map[[2]int]bool{}
		for i := range n {
			for j := range n {
				if i != j && rapid.IntRange(0, 3).Draw(rt, "edge") == 0 {
					edges[i] = append(edges[i], j)
					block[[2]int{i, j}] = rapid.Bool().Draw(rt, "block")
				}
			}
		}
		type deletion struct {
			of     int
			policy metav1.DeletionPropagation
		}
		var deletions []deletion
		for range rapid.IntRange(1, 3).Draw(rt, "deletions") {
			deletions = append(deletions, deletion{rapid.IntRange(0, n-1).Draw(rt, "of"), rapid.SampledFrom([]metav1.DeletionPropagation{
				metav1.DeletePropagationBackground, metav1.DeletePropagationForeground, metav1.DeletePropagationOrphan,
			}).Draw(rt, "policy")})
		}
		late := rapid.Bool().Draw(rt, "late")
		restart := rapid.Bool().Draw(rt, "restart")
		synctest.Test(t, func(t *testing.T) {
			w := controltest.New(t)
			defer w.Close()
			c := w.Client
			if late {
				c = client.New(w.Faulty(time.Second))
			}
			m := &model{owners: map[string][]string{}}
			build(w, n, edges, block, m)
			stop := w.Run(New(c, w.Events, w.Resources))
			for _, d := range deletions {
				name := fmt.Sprint("o", d.of)
				if _, there := m.owners[name]; !there {
					continue
				}
				if restart {
					stop()
				}
				controltest.Delete[*corev1.ConfigMap](w, "default", name, d.policy)
				m.delete(name, d.policy)
				if restart {
					stop = w.Run(New(c, w.Events, w.Resources))
				}
				time.Sleep(time.Minute)
				w.Settle()
				got := slices.Sorted(maps.Keys(names(w)))
				if diff := cmp.Diff(slices.Sorted(maps.Keys(m.owners)), got, cmp.Transformer("", func(s []string) string { return fmt.Sprint(s) })); diff != "" {
					rt.Errorf("edges %v, deletions %v, after %v: %s", edges, deletions, d, diff)
				}
			}
		})
	})
}

// build makes the objects of a graph, first without owners, then with.
func build(w *controltest.World, n int, edges map[int][]int, block map[[2]int]bool, m *model) {
	objs := map[int]*corev1.ConfigMap{}
	for i := range n {
		objs[i] = controltest.Create(w, configMap(fmt.Sprint("o", i)))
		m.owners[objs[i].Name] = nil
	}
	for i := range n {
		controltest.Update(w, objs[i], func(c *corev1.ConfigMap) {
			for _, j := range edges[i] {
				c.OwnerReferences = append(c.OwnerReferences, ref(objs[j], block[[2]int{i, j}]))
				m.owners[c.Name] = append(m.owners[c.Name], objs[j].Name)
			}
		})
	}
}
