package verbs

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"

	"skiff.dev/skiff/internal/meta"
	"skiff.dev/skiff/internal/resource"
	"skiff.dev/skiff/internal/resources/apps"
	"skiff.dev/skiff/internal/resources/core"
	"skiff.dev/skiff/internal/store/mem"
)

var configMaps, deployments = corev1.SchemeGroupVersion.WithResource("configmaps"), appsv1.SchemeGroupVersion.WithResource("deployments")

// open returns an engine over a memory store; close it within the bubble.
func open(t *testing.T, more ...resource.Any) (*Engine, func()) {
	t.Helper()
	s := mem.New()
	defs := append([]resource.Any{resource.Of(core.ConfigMap), resource.Of(apps.Deployment)}, more...)
	e, err := Open(t.Context(), Config{Store: s, Resources: defs, VerifyImmutability: true})
	if err != nil {
		t.Fatal(err)
	}
	return e, func() {
		e.Close()
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}

func (e *Engine) of(t *testing.T, o meta.Object) *Resource {
	t.Helper()
	gvr := configMaps
	if _, ok := o.(*appsv1.Deployment); ok {
		gvr = deployments
	}
	r, ok := e.Resource(gvr)
	if !ok {
		t.Fatalf("no resource %s", gvr)
	}
	return r
}

func mustCreate[T meta.Object](t *testing.T, e *Engine, obj T) T {
	t.Helper()
	got, err := e.of(t, obj).Create(t.Context(), meta.Copy(obj), WriteOptions{Manager: "test"})
	if err != nil {
		t.Fatal(err)
	}
	return got.(T)
}

func configMap(name string, data ...string) *corev1.ConfigMap {
	c := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"}, Data: map[string]string{}}
	for i := 0; i+1 < len(data); i += 2 {
		c.Data[data[i]] = data[i+1]
	}
	return c
}

func deployment(name string) *appsv1.Deployment {
	l := map[string]string{"app": name}
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"},
		Spec: appsv1.DeploymentSpec{
			Selector: &metav1.LabelSelector{MatchLabels: l},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: l},
				Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}},
			},
		},
	}
}

func key(name string) meta.Key { return meta.Key{Namespace: "default", Name: name} }

// bubble runs f in virtual time.
func bubble(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	synctest.Test(t, f)
}

func TestCreateFillsInWhatTheServerOwns(t *testing.T) {
	bubble(t, func(t *testing.T) {
		e, done := open(t)
		defer done()
		d := deployment("web")
		d.Status.Replicas, d.Generation, d.UID = 7, 9, "mine"
		got := mustCreate(t, e, d)
		if got.UID == "" || got.UID == "mine" || got.CreationTimestamp.IsZero() || got.ResourceVersion == "" {
			t.Errorf("metadata: %+v", got.ObjectMeta)
		}
		if got.Generation != 1 || got.Status.Replicas != 0 || *got.Spec.Replicas != 1 {
			t.Errorf("generation %d, status %d, replicas %d", got.Generation, got.Status.Replicas, *got.Spec.Replicas)
		}
		if len(got.ManagedFields) != 1 || got.ManagedFields[0].Manager != "test" {
			t.Errorf("managedFields: %+v", got.ManagedFields)
		}
		if _, err := e.of(t, d).Create(t.Context(), deployment("web"), WriteOptions{}); !apierrors.IsAlreadyExists(err) {
			t.Errorf("second create: %v", err)
		}
	})
}

func TestGeneratedNamesAreTriedAgain(t *testing.T) {
	bubble(t, func(t *testing.T) {
		e, done := open(t)
		defer done()
		seen := map[string]bool{}
		for range 20 {
			c := configMap("")
			c.GenerateName = "gen-"
			got := mustCreate(t, e, c)
			if !strings.HasPrefix(got.Name, "gen-") || seen[got.Name] {
				t.Fatalf("name %q", got.Name)
			}
			seen[got.Name] = true
		}
	})
}

func TestUpdate(t *testing.T) {
	set := func(change func(*appsv1.Deployment)) Transform {
		return func(_ context.Context, old meta.Object, _ bool) (meta.Object, error) {
			d := meta.Copy(old.(*appsv1.Deployment))
			change(d)
			return d, nil
		}
	}
	tests := []struct {
		name, view string
		change     func(*appsv1.Deployment)
		generation int64
		check      func(d *appsv1.Deployment) bool
		fails      func(error) bool
	}{
		{name: "spec moves the generation", change: func(d *appsv1.Deployment) { n := int32(3); d.Spec.Replicas = &n }, generation: 2},
		{name: "labels do not", change: func(d *appsv1.Deployment) { d.Labels = map[string]string{"a": "b"} }, generation: 1},
		{name: "status is kept", change: func(d *appsv1.Deployment) { d.Status.Replicas = 5 }, generation: 1,
			check: func(d *appsv1.Deployment) bool { return d.Status.Replicas == 0 }},
		{name: "the view changes status only", view: "status", generation: 1,
			change: func(d *appsv1.Deployment) { d.Status.Replicas = 5; n := int32(9); d.Spec.Replicas = &n },
			check:  func(d *appsv1.Deployment) bool { return d.Status.Replicas == 5 && *d.Spec.Replicas == 1 }},
		{name: "old version", change: func(d *appsv1.Deployment) { d.ResourceVersion = "1" }, fails: apierrors.IsConflict},
		{name: "other uid", change: func(d *appsv1.Deployment) { d.UID = "x" }, fails: apierrors.IsConflict},
		{name: "immutable", change: func(d *appsv1.Deployment) {
			d.Spec.Selector.MatchLabels["app"] = "x"
			d.Spec.Template.Labels["app"] = "x"
		}, fails: apierrors.IsInvalid},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				e, done := open(t)
				defer done()
				was := mustCreate(t, e, deployment("web"))
				obj, _, err := e.of(t, was).Update(t.Context(), key("web"), tt.view, set(tt.change), nil, WriteOptions{Manager: "test"})
				if tt.fails != nil {
					if !tt.fails(err) {
						t.Errorf("got %v", err)
					}
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				d := obj.(*appsv1.Deployment)
				if d.Generation != tt.generation {
					t.Errorf("generation %d, want %d", d.Generation, tt.generation)
				}
				if tt.check != nil && !tt.check(d) {
					t.Errorf("got %+v", d)
				}
			})
		})
	}
}

func TestAnUpdateThatChangesNothingIsNotWritten(t *testing.T) {
	bubble(t, func(t *testing.T) {
		e, done := open(t)
		defer done()
		was := mustCreate(t, e, configMap("a", "k", "v"))
		got, _, err := e.of(t, was).Update(t.Context(), key("a"), "", func(_ context.Context, old meta.Object, _ bool) (meta.Object, error) {
			return meta.Copy(old), nil
		}, nil, WriteOptions{Manager: "test"})
		if err != nil || got.GetResourceVersion() != was.ResourceVersion {
			t.Errorf("resourceVersion %s, was %s (%v)", got.GetResourceVersion(), was.ResourceVersion, err)
		}
	})
}

// Concurrent updates without a resourceVersion all take effect, I3 and I4.
func TestConcurrentUpdatesAreAllKept(t *testing.T) {
	bubble(t, func(t *testing.T) {
		e, done := open(t)
		defer done()
		r := e.of(t, mustCreate(t, e, configMap("a")))
		var wg sync.WaitGroup
		const writers = 32
		for i := range writers {
			wg.Go(func() {
				_, _, err := r.Update(t.Context(), key("a"), "", func(_ context.Context, old meta.Object, _ bool) (meta.Object, error) {
					c := meta.Copy(old.(*corev1.ConfigMap))
					c.ResourceVersion = ""
					if c.Data == nil {
						c.Data = map[string]string{}
					}
					c.Data[fmt.Sprint("k", i)] = "v"
					return c, nil
				}, nil, WriteOptions{Manager: "test"})
				if err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		item, err := r.Get(t.Context(), key("a"), "")
		if err != nil {
			t.Fatal(err)
		}
		if n := len(item.Object.(*corev1.ConfigMap).Data); n != writers {
			t.Errorf("%d of %d writes were kept", n, writers)
		}
	})
}

func TestPatchTypes(t *testing.T) {
	tests := []struct {
		name  string
		pt    types.PatchType
		patch string
		want  map[string]string
		fails func(error) bool
	}{
		{name: "json", pt: types.JSONPatchType, patch: `[{"op":"add","path":"/data/b","value":"2"}]`, want: map[string]string{"a": "1", "b": "2"}},
		{name: "merge", pt: types.MergePatchType, patch: `{"data":{"a":null,"c":"3"}}`, want: map[string]string{"c": "3"}},
		{name: "strategic", pt: types.StrategicMergePatchType, patch: `{"data":{"b":"2"}}`, want: map[string]string{"a": "1", "b": "2"}},
		{name: "apply", pt: types.ApplyPatchType, patch: "apiVersion: v1\nkind: ConfigMap\ndata: {b: \"2\"}\n", want: map[string]string{"a": "1", "b": "2"}},
		{name: "test fails", pt: types.JSONPatchType, patch: `[{"op":"test","path":"/data/a","value":"x"}]`, fails: func(err error) bool { return codeOf(err) == 422 }},
		{name: "not a patch", pt: types.MergePatchType, patch: `[1]`, fails: apierrors.IsBadRequest},
		{name: "wrong type", pt: types.MergePatchType, patch: `{"data":7}`, fails: apierrors.IsInvalid},
		{name: "apply conflicts", pt: types.ApplyPatchType, patch: "apiVersion: v1\nkind: ConfigMap\ndata: {a: \"2\"}\n", fails: apierrors.IsConflict},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				e, done := open(t)
				defer done()
				r := e.of(t, mustCreate(t, e, configMap("m", "a", "1")))
				obj, _, err := r.Patch(t.Context(), key("m"), "", tt.pt, []byte(tt.patch), false, func([]error) error { return nil }, WriteOptions{Manager: "other"})
				if tt.fails != nil {
					if !tt.fails(err) {
						t.Errorf("got %v", err)
					}
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(tt.want, obj.(*corev1.ConfigMap).Data); diff != "" {
					t.Error(diff)
				}
			})
		})
	}
}

func codeOf(err error) int32 {
	var s apierrors.APIStatus
	if errors.As(err, &s) {
		return s.Status().Code
	}
	return 0
}

func TestApplyCreatesAndTakesOverByForce(t *testing.T) {
	bubble(t, func(t *testing.T) {
		e, done := open(t)
		defer done()
		r := e.of(t, configMap("x"))
		apply := func(manager, value string, force bool) (meta.Object, bool, error) {
			y := "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\ndata: {a: \"" + value + "\"}\n"
			return r.Patch(t.Context(), key("x"), "", types.ApplyPatchType, []byte(y), force, func([]error) error { return nil }, WriteOptions{Manager: manager})
		}
		if _, created, err := apply("one", "1", false); err != nil || !created {
			t.Fatalf("created %v: %v", created, err)
		}
		if _, _, err := apply("two", "2", false); !apierrors.IsConflict(err) {
			t.Fatalf("got %v", err)
		}
		got, _, err := apply("two", "2", true)
		if err != nil {
			t.Fatal(err)
		}
		if got.(*corev1.ConfigMap).Data["a"] != "2" {
			t.Errorf("got %v", got)
		}
		again, _, err := apply("two", "2", false)
		if err != nil || again.GetResourceVersion() != got.GetResourceVersion() {
			t.Errorf("an apply that changes nothing was written: %v", err)
		}
	})
}

func TestDelete(t *testing.T) {
	bubble(t, func(t *testing.T) {
		e, done := open(t)
		defer done()
		c := configMap("held")
		c.Finalizers = []string{"example.com/hold"}
		was := mustCreate(t, e, c)
		r := e.of(t, c)
		other := types.UID("other")
		if _, _, err := r.Delete(t.Context(), key("held"), metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &other}}); !apierrors.IsConflict(err) {
			t.Errorf("wrong uid: %v", err)
		}
		obj, gone, err := r.Delete(t.Context(), key("held"), metav1.DeleteOptions{})
		if err != nil || gone || obj.GetDeletionTimestamp() == nil {
			t.Fatalf("gone %v, %v", gone, err)
		}
		stamp := obj.GetDeletionTimestamp()
		again, _, err := r.Delete(t.Context(), key("held"), metav1.DeleteOptions{})
		if err != nil || !again.GetDeletionTimestamp().Equal(stamp) {
			t.Errorf("deletionTimestamp moved (I11): %v", err)
		}
		_, _, err = r.Update(t.Context(), key("held"), "", func(_ context.Context, old meta.Object, _ bool) (meta.Object, error) {
			c := meta.Copy(old)
			c.SetFinalizers(nil)
			return c, nil
		}, nil, WriteOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := r.Get(t.Context(), key("held"), ""); !apierrors.IsNotFound(err) {
			t.Errorf("after the last finalizer: %v", err)
		}
		if fresh := mustCreate(t, e, configMap("held")); fresh.UID == was.UID {
			t.Error("a uid was used twice (I10)")
		}
	})
}

func TestListPagesShowOneSnapshot(t *testing.T) {
	bubble(t, func(t *testing.T) {
		e, done := open(t)
		defer done()
		for i := range 10 {
			mustCreate(t, e, configMap(fmt.Sprintf("c%02d", i)))
		}
		r := e.of(t, configMap(""))
		opts := ListOptions{Limit: 4}
		var names []string
		for page := 0; ; page++ {
			l, err := r.List(t.Context(), "default", opts)
			if err != nil {
				t.Fatal(err)
			}
			for _, item := range l.Items {
				names = append(names, item.Object.GetName())
			}
			if page == 0 {
				if l.Remaining == nil || *l.Remaining != 6 {
					t.Errorf("remaining %v", l.Remaining)
				}
				mustCreate(t, e, configMap("c05-late"))
				r.pages.kept = nil // the second page comes from the store, the third too
			}
			if opts.Continue = l.Continue; opts.Continue == "" {
				break
			}
		}
		if len(names) != 10 {
			t.Errorf("a list over pages is not one snapshot (I9): %v", names)
		}
	})
}

func TestContinueAfterCompaction(t *testing.T) {
	bubble(t, func(t *testing.T) {
		e, done := open(t)
		defer done()
		for i := range 5 {
			mustCreate(t, e, configMap(fmt.Sprintf("c%d", i)))
		}
		r := e.of(t, configMap(""))
		first, err := r.List(t.Context(), "default", ListOptions{Limit: 2})
		if err != nil {
			t.Fatal(err)
		}
		last := mustCreate(t, e, configMap("c9"))
		r.pages.kept = nil
		if err := e.store.Compact(t.Context(), mustRev(last.ResourceVersion)); err != nil {
			t.Fatal(err)
		}
		_, err = r.List(t.Context(), "default", ListOptions{Limit: 9, Continue: first.Continue})
		if !apierrors.IsResourceExpired(err) {
			t.Fatalf("got %v, want 410", err)
		}
		token := err.(*apierrors.StatusError).ErrStatus.Continue
		rest, err := r.List(t.Context(), "default", ListOptions{Limit: 9, Continue: token})
		if err != nil || len(rest.Items) != 4 {
			t.Errorf("the inconsistent continuation gave %d items: %v", len(rest.Items), err)
		}
	})
}

func TestWatchTellsOfSelectorTransitions(t *testing.T) {
	bubble(t, func(t *testing.T) {
		e, done := open(t)
		defer done()
		r := e.of(t, configMap(""))
		w, err := r.Watch(t.Context(), "default", WatchOptions{ListOptions: ListOptions{Labels: labels.SelectorFromSet(labels.Set{"on": "yes"})}})
		if err != nil {
			t.Fatal(err)
		}
		defer w.Close()
		label := func(v string) {
			_, _, err := r.Update(t.Context(), key("a"), "", func(_ context.Context, old meta.Object, _ bool) (meta.Object, error) {
				c := meta.Copy(old)
				c.SetLabels(map[string]string{"on": v})
				return c, nil
			}, nil, WriteOptions{})
			if err != nil {
				t.Fatal(err)
			}
		}
		mustCreate(t, e, configMap("a"))
		label("yes")
		label("no")
		label("yes")
		if _, _, err := r.Delete(t.Context(), key("a"), metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		var got []watch.EventType
		for len(got) < 4 {
			frames, err := w.Next(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range frames {
				got = append(got, f.Type)
				if f.Item.Object.GetResourceVersion() != formatRev(f.Rev) {
					t.Errorf("%s: object at %s, event at %d", f.Type, f.Item.Object.GetResourceVersion(), f.Rev)
				}
			}
		}
		want := []watch.EventType{watch.Added, watch.Deleted, watch.Added, watch.Deleted}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
	})
}

func TestWatchListEndsWithABookmark(t *testing.T) {
	bubble(t, func(t *testing.T) {
		e, done := open(t)
		defer done()
		mustCreate(t, e, configMap("a"))
		mustCreate(t, e, configMap("b"))
		yes := true
		r := e.of(t, configMap(""))
		w, err := r.Watch(t.Context(), "default", WatchOptions{Bookmarks: true, SendInitial: &yes,
			ListOptions: ListOptions{Fields: fields.OneTermEqualSelector("metadata.name", "b")}})
		if err != nil {
			t.Fatal(err)
		}
		defer w.Close()
		frames, err := w.Next(t.Context())
		if err != nil || len(frames) != 2 || frames[0].Item.Object.GetName() != "b" || !frames[1].InitialEnd {
			t.Fatalf("got %+v, %v", frames, err)
		}
		frames, err = w.Next(t.Context()) // virtual time: a minute passes at once
		if err != nil || len(frames) != 1 || frames[0].Type != watch.Bookmark || frames[0].InitialEnd {
			t.Errorf("got %+v, %v", frames, err)
		}
	})
}

func TestDryRunKeepsNothing(t *testing.T) {
	bubble(t, func(t *testing.T) {
		e, done := open(t)
		defer done()
		r := e.of(t, configMap(""))
		got, err := r.Create(t.Context(), configMap("a"), WriteOptions{DryRun: true})
		if err != nil || got.GetUID() == "" {
			t.Fatal(err)
		}
		if _, err := r.Get(t.Context(), key("a"), ""); !apierrors.IsNotFound(err) {
			t.Errorf("a dry run was kept: %v", err)
		}
	})
}

// holder is a kind that holds one claim, named by its data.
func holder() resource.Any {
	d := *core.ConfigMap
	d.Name.Plural = "holders"
	d.Allocate = func(ctx context.Context, a resource.Access, c, _ *corev1.ConfigMap) error {
		for i := 0; c.Data["port"] == ""; i++ {
			taken, err := a.Claimed(ctx, fmt.Sprint("port/", i))
			if err != nil {
				return err
			}
			if !taken {
				c.Data = map[string]string{"port": fmt.Sprint(i)}
			}
		}
		return nil
	}
	d.Claims = func(c *corev1.ConfigMap) []resource.Claim {
		if c.Data["port"] == "" {
			return nil
		}
		return []resource.Claim{{Key: "port/" + c.Data["port"], Conflict: apierrors.NewConflict(d.Name.GroupResource(), c.Name, errors.New("port is taken"))}}
	}
	return resource.Of(&d)
}

// I15: claims are unique under concurrency and never leak.
func TestClaims(t *testing.T) {
	bubble(t, func(t *testing.T) {
		h := holder()
		e, done := open(t, h)
		defer done()
		r, _ := e.Resource(h.Info().Name.GVR())
		var wg sync.WaitGroup
		const n = 16
		for i := range n {
			wg.Go(func() {
				if _, err := r.Create(t.Context(), configMap(fmt.Sprint("h", i)), WriteOptions{}); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		l, err := r.List(t.Context(), "", ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		held := map[string]bool{}
		for _, item := range l.Items {
			held[item.Object.(*corev1.ConfigMap).Data["port"]] = true
		}
		if len(held) != n {
			t.Errorf("%d objects hold %d ports", len(l.Items), len(held))
		}
		if _, err := r.Create(t.Context(), configMap("thief", "port", "3"), WriteOptions{}); !apierrors.IsConflict(err) {
			t.Errorf("a taken port was given: %v", err)
		}
		if _, err := r.DeleteCollection(t.Context(), "default", metav1.DeleteOptions{}, ListOptions{}); err != nil {
			t.Fatal(err)
		}
		if taken, err := (access{e: e}).Claimed(t.Context(), "port/3"); err != nil || taken {
			t.Errorf("a claim outlived its holder (%v)", err)
		}
	})
}
