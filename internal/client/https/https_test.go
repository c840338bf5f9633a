package https_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"skiff.dev/skiff/internal/client"
	"skiff.dev/skiff/internal/client/https"
	"skiff.dev/skiff/internal/meta"
	"skiff.dev/skiff/internal/testing/apitest"
	"skiff.dev/skiff/internal/watchcache"
)

func connect(t *testing.T) (*https.Transport, client.Kind[*corev1.ConfigMap]) {
	t.Helper()
	api := apitest.StartTLS(t)
	tr, err := https.New(api.Config(apitest.Admin), "test")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(tr.Close)
	return tr, client.For[*corev1.ConfigMap](client.New(tr))
}

func configMap(name string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Data: map[string]string{"a": "1"}}
}

func must[T any](t *testing.T) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func TestVerbs(t *testing.T) {
	_, maps := connect(t)
	ok := must[*corev1.ConfigMap](t)
	var writes []string
	ctx := client.WithWritten(t.Context(), func(_ schema.GroupVersionResource, rv string) { writes = append(writes, rv) })
	made := ok(maps.Create(ctx, configMap("x")))
	if made.UID == "" || made.Kind != "ConfigMap" {
		t.Errorf("created %+v", made)
	}
	changed := meta.Copy(made)
	changed.Data["a"] = "2"
	changed = ok(maps.Update(ctx, changed))
	if _, err := maps.Update(ctx, made); !apierrors.IsConflict(err) {
		t.Errorf("update of an old version: %v", err)
	}
	patched := ok(maps.Patch(ctx, meta.KeyOf(made), "", types.MergePatchType, []byte(`{"data":{"b":"3"}}`)))
	if diff := cmp.Diff(map[string]string{"a": "2", "b": "3"}, patched.Data); diff != "" {
		t.Error(diff)
	}
	got := ok(maps.Get(ctx, "default", "x"))
	if got.ResourceVersion != patched.ResourceVersion {
		t.Errorf("got version %s, want %s", got.ResourceVersion, patched.ResourceVersion)
	}
	if diff := cmp.Diff([]string{made.ResourceVersion, changed.ResourceVersion, patched.ResourceVersion}, writes); diff != "" {
		t.Errorf("writes reported: %s", diff)
	}
	if err := maps.Delete(ctx, "default", "x", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := maps.Get(ctx, "default", "x"); !apierrors.IsNotFound(err) {
		t.Errorf("after delete: %v", err)
	}
}

// An amendment carries what differs, and only to the object it was made from.
func TestAmend(t *testing.T) {
	_, maps := connect(t)
	ok := must[*corev1.ConfigMap](t)
	made := ok(maps.Create(t.Context(), configMap("x")))
	changed := meta.Copy(made)
	changed.Labels, changed.Data = map[string]string{"l": "1"}, map[string]string{"b": "2"}
	got := ok(maps.Amend(t.Context(), made, changed, ""))
	if diff := cmp.Diff(changed.Data, got.Data); diff != "" || got.Labels["l"] != "1" {
		t.Errorf("amended to %+v: %s", got, diff)
	}
	if _, err := maps.Amend(t.Context(), made, changed, ""); !apierrors.IsConflict(err) {
		t.Errorf("amending an old version: %v", err)
	}
	other := meta.Copy(got)
	other.UID = "another"
	if _, err := maps.Amend(t.Context(), other, meta.Copy(other), ""); !apierrors.IsConflict(err) {
		t.Errorf("amending another object of the name: %v", err)
	}
}

func TestListsComeInPages(t *testing.T) {
	_, maps := connect(t)
	for i := range 7 {
		must[*corev1.ConfigMap](t)(maps.Create(t.Context(), configMap(fmt.Sprint("m", i))))
	}
	all := must[[]*corev1.ConfigMap](t)(maps.List(t.Context(), "default", metav1.ListOptions{FieldSelector: "metadata.name=m3"}))
	if len(all) != 1 || all[0].Name != "m3" || all[0].APIVersion != "v1" {
		t.Errorf("got %+v", all)
	}
}

// The cache sees what others write, in order, and nothing of other scopes.
func TestCacheFollows(t *testing.T) {
	tr, maps := connect(t)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	must[*corev1.ConfigMap](t)(maps.Create(ctx, configMap("one")))
	scope := watchcache.Scope{Namespace: "default", Name: "one"}
	cache, err := maps.CacheWhere(ctx, scope)
	if err != nil {
		t.Fatal(err)
	}
	seen := make(chan string, 16)
	followed := make(chan error, 1)
	go func() {
		followed <- cache.Follow(ctx, func(ch client.Change[*corev1.ConfigMap]) {
			seen <- fmt.Sprintf("%s %t %t %s", ch.Object().Name, ch.Created, ch.Deleted, ch.Object().Data["a"])
		}, nil)
	}()
	want := func(text string) {
		t.Helper()
		select {
		case got := <-seen:
			if got != text {
				t.Fatalf("saw %q, want %q", got, text)
			}
		case <-ctx.Done():
			t.Fatalf("never saw %q", text)
		}
	}
	want("one true false 1")
	must[*corev1.ConfigMap](t)(maps.Create(ctx, configMap("two")))
	changed := configMap("one")
	changed.Data["a"] = "2"
	must[*corev1.ConfigMap](t)(maps.Update(ctx, changed))
	want("one false false 2")
	if err := maps.Delete(ctx, "default", "one", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	want("one false true 2")
	tr.Release(client.ResourceOf[*corev1.ConfigMap](), scope)
	if err := <-followed; !errors.Is(err, watchcache.ErrClosed) {
		t.Errorf("after the release: %v", err)
	}
}

func TestErrorsAreTheAPIs(t *testing.T) {
	api := apitest.StartTLS(t)
	tr, err := https.New(api.Config("no-such-token"), "test")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(tr.Close)
	_, err = client.For[*corev1.ConfigMap](client.New(tr)).Get(t.Context(), "default", "x")
	if !apierrors.IsUnauthorized(err) {
		t.Errorf("got %v, want 401", err)
	}
}
