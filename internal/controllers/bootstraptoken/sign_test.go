package bootstraptoken

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff.dev/skiff/internal/testing/controltest"
)

const tokenSecret = "0123456789abcdef"

// The signature of these was made with openssl:
//
//	h=$(printf '{"alg":"HS256","kid":"abcdef"}' | basenc --base64url | tr -d =)
//	p=$(printf 'apiVersion: v1\n' | basenc --base64url | tr -d =)
//	printf %s "$h.$p" | openssl dgst -sha256 -hmac abcdef.0123456789abcdef -binary | basenc --base64url | tr -d =
func TestSignatureIsOfRFC7515(t *testing.T) {
	const want = "eyJhbGciOiJIUzI1NiIsImtpZCI6ImFiY2RlZiJ9..M0WwwazqCtbxfX8vK-251lAHYArkPr1YxlD-_oeCRZs"
	got, err := detached("apiVersion: v1\n", "abcdef", tokenSecret)
	if err != nil || got != want {
		t.Errorf("got %s, %v, want %s", got, err, want)
	}
}

// verify checks as a node would that knows nothing but its token.
func verify(t *testing.T, signature, content, id string) {
	t.Helper()
	head, tail, ok := strings.Cut(signature, "..")
	header, err := base64.RawURLEncoding.DecodeString(head)
	if !ok || err != nil {
		t.Fatalf("%q is no detached signature: %v", signature, err)
	}
	var fields map[string]string
	if err := json.Unmarshal(header, &fields); err != nil || !maps.Equal(fields, map[string]string{"alg": "HS256", "kid": id}) {
		t.Errorf("header %s: %v", header, err)
	}
	mac := hmac.New(sha256.New, []byte(id+"."+tokenSecret))
	mac.Write([]byte(head + "." + base64.RawURLEncoding.EncodeToString([]byte(content))))
	if base64.RawURLEncoding.EncodeToString(mac.Sum(nil)) != tail {
		t.Errorf("the signature of %s does not verify", id)
	}
}

func TestClusterInfoIsSigned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := controltest.New(t)
		defer w.Close()
		for _, name := range []string{metav1.NamespaceSystem, metav1.NamespacePublic} {
			controltest.Create(w, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}})
		}
		token := func(namespace, name, id string, change func(map[string]string)) *corev1.Secret {
			data := map[string]string{KeyID: id, KeySecret: tokenSecret, KeyUsagePrefix + "signing": "true"}
			if change != nil {
				change(data)
			}
			return controltest.Create(w, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}, Type: Type, StringData: data})
		}
		set := func(key, value string) func(map[string]string) { return func(m map[string]string) { m[key] = value } }
		in := func(d time.Duration) string { return time.Now().Add(d).UTC().Format(time.RFC3339) }
		system := metav1.NamespaceSystem
		eternal := token(system, NamePrefix+"eterna", "eterna", nil)
		token(system, NamePrefix+"anhour", "anhour", set(KeyExpiration, in(time.Hour)))
		token(system, NamePrefix+"past00", "past00", set(KeyExpiration, in(-time.Minute)))
		token(system, NamePrefix+"broken", "broken", set(KeyExpiration, "tomorrow"))
		token(system, NamePrefix+"silent", "silent", set(KeyUsagePrefix+"signing", "false"))
		token(system, NamePrefix+"misnam", "another", nil)
		token(system, NamePrefix+"short0", "short0", set(KeySecret, "tooshort"))
		token(metav1.NamespaceDefault, NamePrefix+"abroad", "abroad", nil)
		w.Run(NewSigner(w.Client))
		w.Settle()

		info := controltest.Create(w, &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespacePublic, Name: ClusterInfo},
			Data:       map[string]string{KeyKubeconfig: "first", "mine": "stays", SignaturePrefix + "gone00": "x..y"},
		})
		controltest.Create(w, &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespaceDefault, Name: ClusterInfo}, Data: map[string]string{KeyKubeconfig: "first"},
		})
		expect := func(when string, keys ...string) map[string]string {
			t.Helper()
			w.Settle()
			data := controltest.Get[*corev1.ConfigMap](w, metav1.NamespacePublic, ClusterInfo).Data
			if d := cmp.Diff(keys, slices.Sorted(maps.Keys(data))); d != "" {
				t.Errorf("%s: %s", when, d)
			}
			for key, signature := range data {
				if id, ok := strings.CutPrefix(key, SignaturePrefix); ok {
					verify(t, signature, data[KeyKubeconfig], id)
				}
			}
			return data
		}
		expect("at first", SignaturePrefix+"anhour", SignaturePrefix+"eterna", KeyKubeconfig, "mine")
		controltest.Update(w, info, func(m *corev1.ConfigMap) { m.Data[KeyKubeconfig] = "second"; delete(m.Data, SignaturePrefix+"eterna") })
		expect("when it changes", SignaturePrefix+"anhour", SignaturePrefix+"eterna", KeyKubeconfig, "mine")
		token(system, NamePrefix+"newone", "newone", nil)
		expect("with a new token", SignaturePrefix+"anhour", SignaturePrefix+"eterna", SignaturePrefix+"newone", KeyKubeconfig, "mine")
		controltest.Update(w, eternal, func(s *corev1.Secret) { s.Data[KeyUsagePrefix+"signing"] = []byte("no") })
		controltest.Delete[*corev1.Secret](w, system, NamePrefix+"newone", "")
		expect("without two", SignaturePrefix+"anhour", KeyKubeconfig, "mine")
		time.Sleep(time.Hour - time.Second)
		expect("before the last ends", SignaturePrefix+"anhour", KeyKubeconfig, "mine")
		time.Sleep(2 * time.Second)
		expect("when the last has ended", KeyKubeconfig, "mine")
		if data := controltest.Get[*corev1.ConfigMap](w, metav1.NamespaceDefault, ClusterInfo).Data; len(data) != 1 {
			t.Errorf("signed one of another namespace: %v", data)
		}
	})
}

func TestNothingIsSignedWithoutAKubeconfig(t *testing.T) {
	got, err := signed(map[string]string{SignaturePrefix + "abcdef": "x..y", "other": "z"}, []*corev1.Secret{{}})
	if d := cmp.Diff(map[string]string{"other": "z"}, got); err != nil || d != "" {
		t.Error(err, d)
	}
}
