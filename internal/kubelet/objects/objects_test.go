package objects

import (
	"context"
	"log/slog"
	"strconv"
	"testing"
	"testing/synctest"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"skiff.dev/skiff/internal/client"
	"skiff.dev/skiff/internal/meta"
	"skiff.dev/skiff/internal/watchcache"
)

// server holds ConfigMaps in a table; other calls are not made.
type server struct {
	client.Transport
	table    *watchcache.Table
	rev      int64
	released []watchcache.Scope
}

func (s *server) Table(context.Context, schema.GroupVersionResource, watchcache.Scope) (*watchcache.Table, error) {
	return s.table, nil
}

func (s *server) Release(_ schema.GroupVersionResource, scope watchcache.Scope) {
	s.released = append(s.released, scope)
}

func (s *server) Get(_ context.Context, ref client.Ref, _ metav1.GetOptions) (meta.Object, error) {
	item, ok := s.table.Get(meta.Key{Namespace: ref.Namespace, Name: ref.Name})
	if !ok {
		return nil, apierrors.NewNotFound(ref.GroupResource(), ref.Name)
	}
	return item.Object, nil
}

func (s *server) put(name string) {
	s.rev++
	object := &v1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, ResourceVersion: strconv.FormatInt(s.rev, 10)}}
	s.table.Apply([]watchcache.Change{{Key: meta.KeyOf(object), Object: object, Rev: s.rev}}, s.rev)
}

func (s *server) remove(name string) {
	s.rev++
	s.table.Apply([]watchcache.Change{{Key: meta.Key{Namespace: "ns", Name: name}, Rev: s.rev}}, s.rev)
}

func TestHold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &server{table: watchcache.NewTable("configmaps"), rev: 1}
		o := New(client.New(s), "n1", slog.New(slog.DiscardHandler))
		defer o.Close()
		told := map[string]int{}
		tell := func(pod string) func() { return func() { told[pod]++ } }
		expect := func(what string, a, b int) {
			t.Helper()
			synctest.Wait()
			if told["a"] != a || told["b"] != b {
				t.Errorf("%s: told %v, want a %d, b %d", what, told, a, b)
			}
		}
		s.table.Replace(nil, s.rev)
		s.put("one")
		o.Hold("a", "ns", []string{"one", "later"}, nil, tell("a"))
		if _, err := o.ConfigMap(t.Context(), "ns", "one"); err != nil {
			t.Fatal(err)
		}
		// Changed before the first look: no event tells of it.
		s.put("one")
		expect("between reading and looking", 1, 0)
		o.Hold("b", "ns", []string{"one"}, nil, tell("b"))
		expect("a second holder", 1, 0)
		s.put("one")
		expect("a change", 2, 1)
		s.put("other")
		expect("of another object", 2, 1)
		s.put("later")
		expect("an object that comes", 3, 1)
		s.remove("one")
		expect("an object that goes", 4, 2)
		o.Hold("a", "", nil, nil, nil)
		s.put("one")
		expect("after letting go", 4, 3)
		o.Hold("b", "", nil, nil, nil)
		s.put("one")
		expect("after all have let go", 4, 3)
		if len(s.released) != 2 || len(o.watches) != 0 || len(o.holds) != 0 {
			t.Errorf("released %v, watches %v, holds %v", s.released, o.watches, o.holds)
		}
	})
}
