package serviceaccount

import (
	"testing"
	"testing/synctest"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff.dev/skiff/internal/testing/controltest"
)

func TestEveryNamespaceHasTheDefaultAccount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := controltest.New(t)
		defer w.Close()
		w.Run(New(w.Client))
		controltest.Create(w, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "a"}})
		w.Settle()
		controltest.Get[*corev1.ServiceAccount](w, "default", name)
		first := controltest.Get[*corev1.ServiceAccount](w, "a", name)
		controltest.Delete[*corev1.ServiceAccount](w, "a", name, "")
		w.Settle()
		if again := controltest.Get[*corev1.ServiceAccount](w, "a", name); again.UID == first.UID {
			t.Error("the deleted account is still there")
		}
		controltest.Delete[*corev1.Namespace](w, "", "a", "")
		w.Settle()
		controltest.Delete[*corev1.ServiceAccount](w, "a", name, "")
		w.Settle()
		if got := controltest.List[*corev1.ServiceAccount](w, "a"); len(got) > 0 {
			t.Error("an account was made in a namespace that is being deleted")
		}
	})
}
