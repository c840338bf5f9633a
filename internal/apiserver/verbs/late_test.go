package verbs

import (
	"context"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff.dev/skiff/internal/meta"
	"skiff.dev/skiff/internal/resource"
	"skiff.dev/skiff/internal/resources/core"
	"skiff.dev/skiff/internal/store"
	"skiff.dev/skiff/internal/store/mem"
)

// late is a store that tells of no change until caught is closed, as one does
// whose server is far away.
type late struct {
	store.Store
	caught chan struct{}
}

type lateWatcher struct {
	store.Watcher
	caught chan struct{}
}

func (l late) Watch(ctx context.Context, prefix string, from int64) (store.Watcher, error) {
	w, err := l.Store.Watch(ctx, prefix, from)
	return lateWatcher{w, l.caught}, err
}

func (w lateWatcher) Next(ctx context.Context) (store.Batch, error) {
	select {
	case <-w.caught:
		return w.Watcher.Next(ctx)
	case <-ctx.Done():
		return store.Batch{}, ctx.Err()
	}
}

// A server whose cache is behind another's writes makes of the stored object
// what it would if it were not.
func TestWritesOverAnOldCacheEntry(t *testing.T) {
	with := func(v string) func(meta.Object) {
		return func(o meta.Object) { o.(*corev1.ConfigMap).Data["k"] = v }
	}
	update := func(t *testing.T, r *Resource, change func(meta.Object)) error {
		_, _, err := r.Update(t.Context(), key("a"), "", func(_ context.Context, old meta.Object, _ bool) (meta.Object, error) {
			obj := meta.Copy(old)
			obj.SetResourceVersion("")
			change(obj)
			return obj, nil
		}, nil, WriteOptions{Manager: "test"})
		return err
	}
	for name, write := range map[string]func(t *testing.T, r *Resource) error{
		"update to what the cache has": func(t *testing.T, r *Resource) error { return update(t, r, with("1")) },
		"update to something else":     func(t *testing.T, r *Resource) error { return update(t, r, with("3")) },
		"action that refuses what the cache has": func(t *testing.T, r *Resource) error {
			_, err := r.access(false).Modify(t.Context(), r.Info().Name.GVR().GroupResource(), key("a"), func(o meta.Object) error {
				if o.(*corev1.ConfigMap).Data["k"] == "1" {
					return apierrors.NewConflict(configMaps.GroupResource(), "a", nil)
				}
				with("4")(o)
				return nil
			})
			return err
		},
		"delete by a precondition that the cache refuses": func(t *testing.T, r *Resource) error {
			item, err := r.stored(t.Context(), key("a"))
			if err != nil {
				return err
			}
			version := item.GetResourceVersion()
			_, gone, err := r.Delete(t.Context(), key("a"), metav1.DeleteOptions{Preconditions: &metav1.Preconditions{ResourceVersion: &version}})
			if !gone {
				t.Error("something is left")
			}
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				s := mem.New()
				defer s.Close()
				behind := late{s, make(chan struct{})}
				var at [2]*Engine
				for i, s := range []store.Store{s, behind} {
					e, err := Open(t.Context(), Config{Store: s, Resources: []resource.Any{resource.Of(core.ConfigMap)}, VerifyImmutability: true})
					if err != nil {
						t.Fatal(err)
					}
					defer e.Close()
					at[i] = e
					if i == 0 {
						mustCreate(t, e, configMap("a", "k", "1"))
					}
				}
				if err := update(t, at[0].of(t, configMap("a")), with("2")); err != nil {
					t.Fatal(err)
				}
				before, err := s.Revision(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				if err := write(t, at[1].of(t, configMap("a"))); err != nil {
					t.Error(err)
				}
				if after, err := s.Revision(t.Context()); err != nil || after == before {
					t.Errorf("nothing was written (%v)", err)
				}
				close(behind.caught)
			})
		})
	}
}
