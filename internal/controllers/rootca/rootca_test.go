package rootca

import (
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff.dev/skiff/internal/testing/controltest"
)

func TestPublishesInEveryNamespace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := controltest.New(t)
		defer w.Close()
		w.Run(New(w.Client, []byte("pem")))
		controltest.Create(w, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "a"}})
		w.Settle()
		for _, ns := range []string{"default", "a"} {
			got := controltest.Get[*corev1.ConfigMap](w, ns, name)
			if diff := cmp.Diff(map[string]string{"ca.crt": "pem"}, got.Data); diff != "" {
				t.Errorf("in %s: %s", ns, diff)
			}
		}
		controltest.Update(w, controltest.Get[*corev1.ConfigMap](w, "a", name), func(c *corev1.ConfigMap) { c.Data["ca.crt"] = "forged" })
		w.Settle()
		if got := controltest.Get[*corev1.ConfigMap](w, "a", name).Data["ca.crt"]; got != "pem" {
			t.Errorf("a changed certificate is %q", got)
		}
		controltest.Delete[*corev1.ConfigMap](w, "a", name, "")
		w.Settle()
		controltest.Get[*corev1.ConfigMap](w, "a", name)
	})
}
