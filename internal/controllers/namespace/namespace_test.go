package namespace

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff.dev/skiff/internal/client"
	"skiff.dev/skiff/internal/controller"
	"skiff.dev/skiff/internal/testing/controltest"
)

func configMap(name string, finalizers ...string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "doomed", Finalizers: finalizers}}
}

func condition(w *controltest.World, t corev1.NamespaceConditionType) string {
	for _, c := range controltest.Get[*corev1.Namespace](w, "", "doomed").Status.Conditions {
		if c.Type == t {
			return string(c.Status) + " " + c.Reason + ": " + c.Message
		}
	}
	return ""
}

// I12: nothing is left, and what guards pods outlives them.
func TestEmptiesInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := controltest.New(t)
		defer w.Close()
		w.Run(New(w.Client, w.Resources))
		controltest.Create(w, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "doomed"}})
		controltest.Create(w, configMap("a"))
		controltest.Create(w, configMap("held", "example.com/hold"))
		controltest.Create(w, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "other", Namespace: "default"}})
		controltest.Create(w, &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "doomed"},
			Spec:       corev1.PodSpec{NodeName: "n1", Containers: []corev1.Container{{Name: "c", Image: "i"}}},
		})
		controltest.Delete[*corev1.Namespace](w, "", "doomed", "")
		w.Settle()
		if got := len(controltest.List[*corev1.ConfigMap](w, "doomed")); got != 2 {
			t.Errorf("%d of 2 ConfigMaps are there while a pod ends", got)
		}
		want := "True SomeResourcesRemain: Some resources are remaining: pods. has 1 resource instances"
		if diff := cmp.Diff(want, condition(w, corev1.NamespaceContentRemaining)); diff != "" {
			t.Error(diff)
		}
		zero := int64(0)
		if err := client.For[*corev1.Pod](w.Client).Delete(t.Context(), "doomed", "p", metav1.DeleteOptions{GracePeriodSeconds: &zero}); err != nil {
			t.Fatal(err)
		}
		w.Settle()
		want = "True SomeFinalizersRemain: Some content in the namespace has finalizers remaining: example.com/hold in 1 resource instances"
		if diff := cmp.Diff(want, condition(w, corev1.NamespaceFinalizersRemaining)); diff != "" {
			t.Error(diff)
		}
		controltest.Update(w, configMap("held"), func(c *corev1.ConfigMap) { c.Finalizers = nil })
		time.Sleep(look + time.Second)
		w.Settle()
		if _, err := client.For[*corev1.Namespace](w.Client).Get(t.Context(), "", "doomed"); !apierrors.IsNotFound(err) {
			t.Errorf("the namespace is still there: %v", err)
		}
		controltest.Get[*corev1.ConfigMap](w, "default", "other")
	})
}

func TestKeepsWhatItCannotKnowToBeEmpty(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := controltest.New(t)
		defer w.Close()
		broken := true
		w.Run(New(w.Client, func(ctx context.Context) ([]controller.Resource, error) {
			if broken {
				all, _ := w.Resources(ctx)
				return all, apierrors.NewServiceUnavailable("metrics.k8s.io/v1")
			}
			return w.Resources(ctx)
		}))
		controltest.Create(w, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "doomed"}})
		controltest.Create(w, configMap("a"))
		controltest.Delete[*corev1.Namespace](w, "", "doomed", "")
		time.Sleep(time.Second)
		w.Settle()
		if got := condition(w, corev1.NamespaceDeletionDiscoveryFailure); got != "True DiscoveryFailed: Discovery failed for some groups, 1 failing: metrics.k8s.io/v1" {
			t.Error(got)
		}
		if got := len(controltest.List[*corev1.ConfigMap](w, "doomed")); got != 0 {
			t.Errorf("%d ConfigMaps are left of what was known", got)
		}
		broken = false
		time.Sleep(time.Hour)
		w.Settle()
		if _, err := client.For[*corev1.Namespace](w.Client).Get(t.Context(), "", "doomed"); !apierrors.IsNotFound(err) {
			t.Errorf("the namespace is still there: %v", err)
		}
	})
}
