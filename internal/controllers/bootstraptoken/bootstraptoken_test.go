package bootstraptoken

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff.dev/skiff/internal/testing/controltest"
)

func TestExpiredTokensGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := controltest.New(t)
		defer w.Close()
		controltest.Create(w, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: metav1.NamespaceSystem}})
		make := func(namespace, name string, typ corev1.SecretType, expiration string) {
			data := map[string]string{KeyID: name, KeySecret: "0123456789abcdef"}
			if expiration != "" {
				data[KeyExpiration] = expiration
			}
			controltest.Create(w, &corev1.Secret{
				ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: NamePrefix + name}, Type: typ, StringData: data,
			})
		}
		in := func(d time.Duration) string { return time.Now().Add(d).UTC().Format(time.RFC3339) }
		make(metav1.NamespaceSystem, "eternl", Type, "")
		make(metav1.NamespaceSystem, "past00", Type, in(-time.Minute))
		make(metav1.NamespaceSystem, "soon00", Type, in(time.Hour))
		make(metav1.NamespaceSystem, "broken", Type, "tomorrow")
		make(metav1.NamespaceSystem, "opaque", corev1.SecretTypeOpaque, in(-time.Minute))
		make(metav1.NamespaceDefault, "abroad", Type, in(-time.Minute))
		w.Run(New(w.Client))
		left := func() (names []string) {
			w.Settle()
			for _, s := range controltest.List[*corev1.Secret](w, "") {
				names = append(names, s.Name[len(NamePrefix):])
			}
			slices.Sort(names)
			return names
		}
		if d := cmp.Diff([]string{"abroad", "eternl", "opaque", "soon00"}, left()); d != "" {
			t.Error(d)
		}
		time.Sleep(time.Hour - time.Second)
		if d := cmp.Diff([]string{"abroad", "eternl", "opaque", "soon00"}, left()); d != "" {
			t.Error(d)
		}
		time.Sleep(2 * time.Second)
		if d := cmp.Diff([]string{"abroad", "eternl", "opaque"}, left()); d != "" {
			t.Error(d)
		}
	})
}
