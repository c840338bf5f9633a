package bootstraptoken

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff.dev/skiff/internal/testing/controltest"
)

func TestDeletesWhatHasExpired(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := controltest.New(t)
		defer w.Close()
		controltest.Create(w, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "kube-system"}})
		token := func(name, expires string) {
			controltest.Create(w, &corev1.Secret{
				ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "kube-system"}, Type: secretType,
				Data: map[string][]byte{"expiration": []byte(expires)},
			})
		}
		token("unlimited", "")
		token("soon", time.Now().Add(time.Hour).UTC().Format(time.RFC3339))
		token("unreadable", "tomorrow")
		controltest.Create(w, &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Name: "other", Namespace: "kube-system"}, Data: map[string][]byte{"expiration": []byte("2001-01-01T00:00:00Z")},
		})
		w.Run(New(w.Client))
		names := func() (all []string) {
			w.Settle()
			for _, s := range controltest.List[*corev1.Secret](w, "kube-system") {
				all = append(all, s.Name)
			}
			return all
		}
		if diff := cmp.Diff([]string{"other", "soon", "unlimited"}, names()); diff != "" {
			t.Error(diff)
		}
		time.Sleep(time.Hour + time.Second)
		if diff := cmp.Diff([]string{"other", "unlimited"}, names()); diff != "" {
			t.Error(diff)
		}
	})
}
