package authn

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"skiff.dev/skiff/internal/apiserver/request"
	"skiff.dev/skiff/internal/meta"
	"skiff.dev/skiff/internal/resource"
)

// objects is a Reader over a map.
type objects map[schema.GroupResource]map[meta.Key]meta.Object

func (o objects) Get(_ context.Context, gr schema.GroupResource, key meta.Key) (meta.Object, error) {
	if obj, ok := o[gr][key]; ok {
		return obj, nil
	}
	return nil, apierrors.NewNotFound(gr, key.Name)
}

func (o objects) put(gr schema.GroupResource, obj meta.Object) {
	if o[gr] == nil {
		o[gr] = map[meta.Key]meta.Object{}
	}
	o[gr][meta.KeyOf(obj)] = obj
}

func (o objects) drop(gr schema.GroupResource, obj meta.Object) { delete(o[gr], meta.KeyOf(obj)) }

const issuerURL = "https://kubernetes.default.svc.cluster.local"

func ecKey(t testing.TB, c elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(c, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// world is a namespace with a service account, a pod of it on a node, and a
// secret.
type world struct {
	objects objects
	issuer  *Issuer
	tokens  *ServiceAccounts
	sa      *corev1.ServiceAccount
	pod     *corev1.Pod
	node    *corev1.Node
	secret  *corev1.Secret
}

func newWorld(t testing.TB, signer crypto.Signer, more ...crypto.PublicKey) *world {
	t.Helper()
	issuer, err := NewIssuer(ServiceAccountConfig{Issuers: []string{issuerURL, "https://old"}, Signer: signer, Keys: more,
		Audiences: []string{"api"}, ExtendExpiration: true})
	if err != nil {
		t.Fatal(err)
	}
	w := &world{
		objects: objects{}, issuer: issuer,
		sa:     &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "robot", UID: "sa-uid"}},
		node:   &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1", UID: "node-uid"}},
		secret: &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "s", UID: "secret-uid"}},
		pod: &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p", UID: "pod-uid"},
			Spec: corev1.PodSpec{ServiceAccountName: "robot", NodeName: "n1"}},
	}
	w.objects.put(serviceAccounts, w.sa)
	w.objects.put(pods, w.pod)
	w.objects.put(nodes, w.node)
	w.objects.put(secrets, w.secret)
	w.tokens = NewServiceAccounts(issuer, w.objects)
	return w
}

func (w *world) request(spec authenticationv1.TokenRequestSpec) (*authenticationv1.TokenRequest, error) {
	return TokenRequest(context.Background(), w.issuer, w.objects, meta.KeyOf(w.sa), &authenticationv1.TokenRequest{Spec: spec})
}

func (w *world) token(t testing.TB, spec authenticationv1.TokenRequestSpec) string {
	t.Helper()
	out, err := w.request(spec)
	if err != nil {
		t.Fatal(err)
	}
	return out.Status.Token
}

func (w *world) try(token string, audiences ...string) (*request.User, []string, bool, error) {
	return w.tokens.AuthenticateToken(context.Background(), token, audiences)
}

func boundTo(kind, name, uid string) *authenticationv1.BoundObjectReference {
	return &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: kind, Name: name, UID: types.UID(uid)}
}

func TestTokenOfPod(t *testing.T) {
	w := newWorld(t, ecKey(t, elliptic.P256()))
	token := w.token(t, authenticationv1.TokenRequestSpec{BoundObjectRef: boundTo("Pod", "p", "pod-uid")})
	user, meantFor, ok, err := w.try(token)
	if !ok || err != nil {
		t.Fatalf("ok %v, err %v", ok, err)
	}
	if diff := cmp.Diff([]string{"api"}, meantFor); diff != "" {
		t.Error(diff)
	}
	id := user.Extra[credentialID]
	if len(id) != 1 || !strings.HasPrefix(id[0], "JTI=") {
		t.Errorf("credential id: %v", id)
	}
	delete(user.Extra, credentialID)
	want := &request.User{
		Name: "system:serviceaccount:ns:robot", UID: "sa-uid",
		Groups: []string{"system:serviceaccounts", "system:serviceaccounts:ns", "system:authenticated"},
		Extra:  map[string][]string{extraPodName: {"p"}, extraPodUID: {"pod-uid"}, extraNodeName: {"n1"}, extraNodeUID: {"node-uid"}},
	}
	if diff := cmp.Diff(want, user); diff != "" {
		t.Error(diff)
	}
}

func TestKeyTypesAndRotation(t *testing.T) {
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	for name, key := range map[string]crypto.Signer{
		"RSA": rsaKey, "P-256": ecKey(t, elliptic.P256()), "P-384": ecKey(t, elliptic.P384()), "P-521": ecKey(t, elliptic.P521()),
	} {
		t.Run(name, func(t *testing.T) {
			token := newWorld(t, key).token(t, authenticationv1.TokenRequestSpec{})
			if _, _, ok, err := newWorld(t, key).try(token); !ok || err != nil {
				t.Errorf("own key: ok %v, err %v", ok, err)
			}
			next := ecKey(t, elliptic.P256())
			if _, _, ok, err := newWorld(t, next, key.Public()).try(token); !ok || err != nil {
				t.Errorf("after rotation: ok %v, err %v", ok, err)
			}
			if _, _, ok, err := newWorld(t, next).try(token); ok || err == nil {
				t.Errorf("after the old key is gone: ok %v, err %v", ok, err)
			}
		})
	}
	if _, err := NewIssuer(ServiceAccountConfig{Issuers: []string{"x"}, Signer: ecKey(t, elliptic.P224())}); err == nil {
		t.Error("a key on P-224 is taken")
	}
}

// Whatever a token is bound to: once that is gone, or another of the same
// name, the token is refused, even right after it was used.
func TestTokenEndsWithItsObject(t *testing.T) {
	key := ecKey(t, elliptic.P256())
	for _, kind := range []string{"Pod", "Secret", "Node"} {
		t.Run(kind, func(t *testing.T) {
			w := newWorld(t, key)
			gr, obj := pods, meta.Object(w.pod)
			switch kind {
			case "Secret":
				gr, obj = secrets, w.secret
			case "Node":
				gr, obj = nodes, w.node
			}
			token := w.token(t, authenticationv1.TokenRequestSpec{BoundObjectRef: boundTo(kind, obj.GetName(), "")})
			good := func(want bool, when string) {
				t.Helper()
				_, _, ok, err := w.try(token)
				if ok != want || (err == nil) != want {
					t.Errorf("%s: ok %v, err %v", when, ok, err)
				}
			}
			good(true, "at first")
			w.objects.drop(gr, obj)
			good(false, "deleted")
			other := obj.DeepCopyObject().(meta.Object)
			other.SetUID("another")
			w.objects.put(gr, other)
			good(false, "made anew")
			ending := obj.DeepCopyObject().(meta.Object)
			now := metav1.Now()
			ending.SetDeletionTimestamp(&now)
			w.objects.put(gr, ending)
			good(true, "being deleted")
			past := metav1.NewTime(now.Add(-2 * leeway))
			ending.SetDeletionTimestamp(&past)
			good(false, "being deleted for long")
			w.objects.put(gr, obj)
			good(true, "back")
			w.objects.drop(serviceAccounts, w.sa)
			good(false, "without its service account")
		})
	}
}

func TestTimes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, ecKey(t, elliptic.P256()))
		seconds := int64(600)
		token := w.token(t, authenticationv1.TokenRequestSpec{ExpirationSeconds: &seconds})
		for _, step := range []struct {
			after time.Duration
			want  error
		}{{0, nil}, {10 * time.Minute, nil}, {leeway - time.Second, nil}, {2 * time.Second, errExpired}} {
			time.Sleep(step.after) // virtual
			if _, _, _, err := w.try(token); !errors.Is(err, step.want) {
				t.Errorf("after %v more: %v, want %v", step.after, err, step.want)
			}
		}
		future := w.forge(t, func(c map[string]any) { c["nbf"] = time.Now().Add(2 * leeway).Unix() })
		if _, _, _, err := w.try(future); !errors.Is(err, errNotYet) {
			t.Errorf("token of the future: %v", err)
		}
	})
}

func TestInjectedTokenLivesLonger(t *testing.T) {
	w := newWorld(t, ecKey(t, elliptic.P256()))
	seconds := int64(injectedExpirationSeconds)
	out, err := w.request(authenticationv1.TokenRequestSpec{ExpirationSeconds: &seconds, BoundObjectRef: boundTo("Pod", "p", "")})
	if err != nil {
		t.Fatal(err)
	}
	if shown := time.Until(out.Status.ExpirationTimestamp.Time); shown > time.Hour+10*time.Second {
		t.Errorf("shown life %v", shown)
	}
	c := decode(t, out.Status.Token)
	iat, exp := c["iat"].(float64), c["exp"].(float64)
	warn := c["kubernetes.io"].(map[string]any)["warnafter"].(float64)
	if exp-iat != extendedExpiration.Seconds() || warn-iat != injectedExpirationSeconds {
		t.Errorf("exp %v, warnafter %v after iat", exp-iat, warn-iat)
	}
}

func TestTokenRequestRefusals(t *testing.T) {
	w := newWorld(t, ecKey(t, elliptic.P256()))
	other := w.pod.DeepCopy()
	other.Name, other.Spec.ServiceAccountName = "other", "default"
	w.objects.put(pods, other)
	life := func(n int64) authenticationv1.TokenRequestSpec {
		return authenticationv1.TokenRequestSpec{ExpirationSeconds: &n}
	}
	to := func(kind, name, uid string) authenticationv1.TokenRequestSpec {
		return authenticationv1.TokenRequestSpec{BoundObjectRef: boundTo(kind, name, uid)}
	}
	for _, c := range []struct {
		name string
		spec authenticationv1.TokenRequestSpec
		code int32
		text string
	}{
		{"short", life(599), 422, `spec.expirationSeconds: Invalid value: 599: may not specify a duration less than 10 minutes`},
		{"long", life(1<<32 + 1), 422, `spec.expirationSeconds: Invalid value: 4294967297: may not specify a duration larger than 2^32 seconds`},
		{"pod of another", to("Pod", "other", ""), 400, `cannot bind token for serviceaccount "robot" to pod running with different serviceaccount name.`},
		{"no pod", to("Pod", "gone", ""), 404, `pods "gone" not found`},
		{"uid", to("Pod", "p", "x"), 409, "the UID in the bound object reference (x) does not match the UID in record. The object might have been deleted and then recreated"},
		{"kind", to("ConfigMap", "p", ""), 400, "cannot bind token to object of type /v1, Kind=ConfigMap"},
	} {
		_, err := w.request(c.spec)
		var status *apierrors.StatusError
		if !errors.As(err, &status) || status.ErrStatus.Code != c.code || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

func TestAudiences(t *testing.T) {
	w := newWorld(t, ecKey(t, elliptic.P256()))
	vault := w.token(t, authenticationv1.TokenRequestSpec{Audiences: []string{"vault", "db"}})
	if _, _, ok, err := w.try(vault); ok || err == nil {
		t.Errorf("token for others: ok %v, err %v", ok, err)
	}
	if _, meantFor, ok, _ := w.try(vault, "db", "api"); !ok || !cmp.Equal(meantFor, []string{"db"}) {
		t.Errorf("token for db: ok %v for %v", ok, meantFor)
	}
	if _, _, ok, _ := w.try(w.token(t, authenticationv1.TokenRequestSpec{}), "db"); ok {
		t.Error("token of the API server is good for db")
	}
}

func TestLegacyToken(t *testing.T) {
	w := newWorld(t, ecKey(t, elliptic.P256()))
	token, err := w.issuer.LegacyToken(w.sa, "s")
	if err != nil {
		t.Fatal(err)
	}
	if _, _, ok, _ := w.try(token); ok {
		t.Error("good although the secret holds no token")
	}
	secret := w.secret.DeepCopy()
	secret.Data = map[string][]byte{"token": []byte(token)}
	w.objects.put(secrets, secret)
	if user, _, ok, err := w.try(token); !ok || user.Name != "system:serviceaccount:ns:robot" {
		t.Errorf("ok %v, err %v", ok, err)
	}
	secret.Labels = map[string]string{invalidSinceLabel: "2026-01-01"}
	if _, _, ok, _ := w.try(token); ok {
		t.Error("good although marked invalid")
	}
	w.objects.drop(secrets, secret)
	if _, _, ok, _ := w.try(token); ok {
		t.Error("good although the secret is gone")
	}
}

func decode(t testing.TB, token string) map[string]any {
	t.Helper()
	raw, err := base64.RawURLEncoding.DecodeString(strings.Split(token, ".")[1])
	if err != nil {
		t.Fatal(err)
	}
	var c map[string]any
	if err := json.Unmarshal(raw, &c); err != nil {
		t.Fatal(err)
	}
	return c
}

// forge signs changed claims with the true key.
func (w *world) forge(t testing.TB, change func(map[string]any)) string {
	t.Helper()
	c := decode(t, w.token(t, authenticationv1.TokenRequestSpec{}))
	change(c)
	token, err := sign(w.issuer.config.Signer, w.issuer.key, c)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func TestForgedTokens(t *testing.T) {
	key := ecKey(t, elliptic.P256())
	w := newWorld(t, key)
	good := w.token(t, authenticationv1.TokenRequestSpec{})
	parts := strings.Split(good, ".")
	b64 := base64.RawURLEncoding.EncodeToString
	head := func(s string) string { return b64([]byte(s)) + "." + parts[1] }
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	mac := func(secret []byte) string {
		signed := head(`{"alg":"HS256"}`)
		h := hmac.New(sha256.New, secret)
		h.Write([]byte(signed))
		return signed + "." + b64(h.Sum(nil))
	}
	thief, err := NewIssuer(ServiceAccountConfig{Issuers: []string{issuerURL}, Signer: ecKey(t, elliptic.P256())})
	if err != nil {
		t.Fatal(err)
	}
	stolen, err := thief.bound(w.sa, binding{}, []string{"api"}, time.Now(), time.Hour, 0)
	if err != nil {
		t.Fatal(err)
	}
	thief.key.id = w.issuer.key.id
	stolenID, err := thief.bound(w.sa, binding{}, []string{"api"}, time.Now(), time.Hour, 0)
	if err != nil {
		t.Fatal(err)
	}
	for name, token := range map[string]string{
		"alg none":             head(`{"alg":"none"}`) + ".",
		"alg None":             head(`{"alg":"None"}`) + "." + parts[2],
		"no alg":               head(`{}`) + "." + parts[2],
		"HMAC with public DER": mac(der),
		"HMAC with public PEM": mac(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})),
		"another alg":          head(`{"alg":"ES384"}`) + "." + parts[2],
		"kid is a path":        head(`{"alg":"ES256","kid":"../../../../dev/null"}`) + "." + parts[2],
		"crit":                 head(`{"alg":"ES256","crit":["x"]}`) + "." + parts[2],
		"no signature":         parts[0] + "." + parts[1] + ".",
		"zero signature":       parts[0] + "." + parts[1] + "." + b64(make([]byte, 64)),
		"two parts":            parts[0] + "." + parts[1],
		"four parts":           good + ".x",
		"padded":               good + "=",
		"line end":             good + "\n",
		"another's key":        stolen,
		"another's key, id":    stolenID,
		"no expiry":            w.forge(t, func(c map[string]any) { delete(c, "exp") }),
		"subject":              w.forge(t, func(c map[string]any) { c["sub"] = "system:admin" }),
		"issuer":               w.forge(t, func(c map[string]any) { c["iss"] = "https://evil" }),
		"legacy without secret": w.forge(t, func(c map[string]any) {
			c["iss"] = legacyIssuer
			delete(c, "kubernetes.io")
		}),
		"path in namespace": w.forge(t, func(c map[string]any) {
			c["kubernetes.io"].(map[string]any)["namespace"] = "../ns"
			c["sub"] = "system:serviceaccount:../ns:robot"
		}),
		"huge":  strings.Repeat("a", maxToken) + good,
		"empty": "",
	} {
		if user, _, ok, _ := w.try(token); ok {
			t.Errorf("%s: taken as %s", name, user.Name)
		}
	}
	if _, _, ok, err := w.try(w.forge(t, func(c map[string]any) { c["iss"] = "https://old" })); !ok {
		t.Errorf("token of the second issuer: %v", err)
	}
}

// No mutation of a good token is good.
func FuzzToken(f *testing.F) {
	w := newWorld(f, ecKey(f, elliptic.P256()))
	good := w.token(f, authenticationv1.TokenRequestSpec{})
	f.Add(good)
	f.Add("a.b.c")
	f.Add("eyJhbGciOiJub25lIn0.e30.")
	f.Fuzz(func(t *testing.T, token string) {
		if _, _, ok, _ := w.try(token); ok && token != good {
			t.Errorf("taken: %q", token)
		}
	})
}

func BenchmarkVerifyCold(b *testing.B) { benchmarkVerify(b, false) }
func BenchmarkVerifyWarm(b *testing.B) { benchmarkVerify(b, true) }

func benchmarkVerify(b *testing.B, warm bool) {
	w := newWorld(b, ecKey(b, elliptic.P256()))
	token := w.token(b, authenticationv1.TokenRequestSpec{BoundObjectRef: boundTo("Pod", "p", "")})
	b.ReportAllocs()
	for b.Loop() {
		if !warm {
			w.tokens = NewServiceAccounts(w.issuer, w.objects)
		}
		if _, _, ok, err := w.try(token); !ok {
			b.Fatal(err)
		}
	}
}

// access is resource.Access over a map, as far as the action needs it.
type access struct {
	resource.Access
	objects
	dry bool
}

func (a access) Get(ctx context.Context, gr schema.GroupResource, key meta.Key) (meta.Object, error) {
	return a.objects.Get(ctx, gr, key)
}

func (a access) DryRun() bool { return a.dry }

func TestTokenAction(t *testing.T) {
	w := newWorld(t, ecKey(t, elliptic.P256()))
	action := TokenAction(w.issuer)
	for _, dry := range []bool{false, true} {
		body := action.Body()
		out, err := action.Do(context.Background(), access{objects: w.objects, dry: dry}, meta.KeyOf(w.sa), body)
		if err != nil {
			t.Fatal(err)
		}
		got := out.(*authenticationv1.TokenRequest)
		if (got.Status.Token == "") != dry || got.Name != "robot" || *got.Spec.ExpirationSeconds != defaultExpirationSeconds {
			t.Errorf("dry %v: %+v", dry, got)
		}
		if diff := cmp.Diff(&authenticationv1.TokenRequest{}, body); diff != "" {
			t.Errorf("changed what it was given: %s", diff)
		}
	}
	body := &authenticationv1.TokenRequest{ObjectMeta: metav1.ObjectMeta{Name: "other"}}
	if _, err := action.Do(context.Background(), access{objects: w.objects}, meta.KeyOf(w.sa), body); !apierrors.IsBadRequest(err) {
		t.Errorf("request for another: %v", err)
	}
	if _, err := action.Do(context.Background(), access{objects: objects{}}, meta.KeyOf(w.sa), action.Body()); !apierrors.IsNotFound(err) {
		t.Errorf("no such service account: %v", err)
	}
}
