package controller_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff.dev/skiff/internal/client"
	"skiff.dev/skiff/internal/controller"
	"skiff.dev/skiff/internal/meta"
	"skiff.dev/skiff/internal/testing/controltest"
)

func configMap(name string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"}}
}

// counter counts up in a ConfigMap to ten, one write a reconcile. If ever a
// reconcile did not see the write before, it would conflict.
func counter(c *client.Client, conflicts *atomic.Int64) *controller.Controller {
	var maps client.Cache[*corev1.ConfigMap]
	return controller.New(c, "counter", &maps, func(ctx context.Context, m *corev1.ConfigMap) (controller.Result, error) {
		n := len(m.Data)
		if n >= 10 {
			return controller.Result{}, nil
		}
		m = meta.Copy(m)
		if m.Data == nil {
			m.Data = map[string]string{}
		}
		m.Data[fmt.Sprint(n)] = ""
		if _, err := client.For[*corev1.ConfigMap](c).Update(ctx, m); err != nil {
			conflicts.Add(1)
			return controller.Result{}, err
		}
		return controller.Result{After: time.Millisecond}, nil
	})
}

func TestReconcilesSeeTheirOwnWrites(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := controltest.New(t)
		defer w.Close()
		controltest.Create(w, configMap("a"))
		controltest.Create(w, configMap("b"))
		var conflicts atomic.Int64
		w.Run(counter(client.New(w.Faulty(3*time.Second)), &conflicts))
		time.Sleep(5 * time.Minute)
		w.Settle()
		for _, name := range []string{"a", "b"} {
			if n := len(controltest.Get[*corev1.ConfigMap](w, "default", name).Data); n != 10 {
				t.Errorf("%s was counted to %d", name, n)
			}
		}
		if n := conflicts.Load(); n > 0 {
			t.Errorf("%d reconciles did not see the write before", n)
		}
	})
}

func TestStartsFromWhatTheAPIHasNow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := controltest.New(t)
		defer w.Close()
		faulty := client.New(w.Faulty(30 * time.Second))
		var maps client.Cache[*corev1.ConfigMap]
		var seen atomic.Int64
		ctl := controller.Keyed(faulty, "starter", func(context.Context, meta.Key) (controller.Result, error) {
			for range maps.All("default") {
				seen.Add(1)
			}
			return controller.Result{}, nil
		}, controller.Reads(&maps))
		w.Run(ctl)() // opens the cache
		for i := range 5 {
			controltest.Create(w, configMap(fmt.Sprint(i)))
		}
		ctl.Enqueue(meta.Key{Name: "x"})
		w.Run(ctl)
		time.Sleep(2 * time.Minute)
		w.Settle()
		if n := seen.Load(); n != 5 {
			t.Errorf("the first reconcile saw %d objects, want 5", n)
		}
	})
}

func TestWakesByOwnersAndGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := controltest.New(t)
		defer w.Close()
		var maps client.Cache[*corev1.ConfigMap]
		var secrets client.Cache[*corev1.Secret]
		var there, gone atomic.Int64
		w.Run(controller.New(w.Client, "owner", &maps,
			func(context.Context, *corev1.ConfigMap) (controller.Result, error) {
				there.Add(1)
				return controller.Result{}, nil
			},
			controller.Owns(&secrets, "ConfigMap"),
			controller.Gone(&maps, func(context.Context, meta.Key) (controller.Result, error) {
				gone.Add(1)
				return controller.Result{}, nil
			})))
		expect := func(when string, wantThere, wantGone int64) {
			t.Helper()
			w.Settle()
			if there.Load() != wantThere || gone.Load() != wantGone {
				t.Errorf("%s: reconciled %d and %d times, want %d and %d", when, there.Load(), gone.Load(), wantThere, wantGone)
			}
		}
		owner := controltest.Create(w, configMap("a"))
		expect("created", 1, 0)
		ref := *metav1.NewControllerRef(owner, corev1.SchemeGroupVersion.WithKind("ConfigMap"))
		s := controltest.Create(w, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "s", Namespace: "default", OwnerReferences: []metav1.OwnerReference{ref}}})
		expect("owned", 2, 0)
		controltest.Update(w, s, func(s *corev1.Secret) { s.OwnerReferences = nil })
		expect("let go", 3, 0)
		controltest.Update(w, s, func(s *corev1.Secret) { s.Labels = map[string]string{"a": "b"} })
		expect("not owned any more", 3, 0)
		controltest.Delete[*corev1.ConfigMap](w, "default", "a", "")
		expect("deleted", 3, 1)
	})
}

func TestPanicsAndErrorsAreTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := controltest.New(t)
		defer w.Close()
		var maps client.Cache[*corev1.ConfigMap]
		var tries atomic.Int64
		w.Run(controller.New(w.Client, "clumsy", &maps, func(context.Context, *corev1.ConfigMap) (controller.Result, error) {
			switch tries.Add(1) {
			case 1:
				panic("clumsy")
			case 2:
				return controller.Result{}, errors.New("not yet")
			}
			return controller.Result{}, nil
		}))
		controltest.Create(w, configMap("a"))
		time.Sleep(time.Minute)
		w.Settle()
		if n := tries.Load(); n != 3 {
			t.Errorf("%d tries, want 3", n)
		}
	})
}

func TestRules(t *testing.T) {
	var maps client.Cache[*corev1.ConfigMap]
	ctl := controller.New(client.New(nil), "x", &maps, func(context.Context, *corev1.ConfigMap) (controller.Result, error) {
		return controller.Result{}, nil
	}, controller.Gets("apps", "deployments"), controller.Reports())
	want := []rbacv1.PolicyRule{
		{APIGroups: []string{""}, Resources: []string{"configmaps"}, Verbs: []string{"list", "watch"}},
		{APIGroups: []string{"apps"}, Resources: []string{"deployments"}, Verbs: []string{"get"}},
		{APIGroups: []string{""}, Resources: []string{"events"}, Verbs: []string{"create", "patch"}},
	}
	if diff := cmp.Diff(want, ctl.Rules()); diff != "" {
		t.Error(diff)
	}
}

func TestSlowStart(t *testing.T) {
	var calls atomic.Int64
	full := errors.New("full")
	done, err := controller.SlowStart(t.Context(), 100, func(context.Context) error {
		if calls.Add(1) > 5 {
			return full
		}
		return nil
	})
	if done != 5 || !errors.Is(err, full) || calls.Load() != 7 { // 1 + 2 + 4
		t.Errorf("%d done in %d calls: %v", done, calls.Load(), err)
	}
	calls.Store(-1000)
	if done, err := controller.SlowStart(t.Context(), 100, func(context.Context) error { calls.Add(1); return nil }); done != 100 || err != nil {
		t.Errorf("%d done: %v", done, err)
	}
}
