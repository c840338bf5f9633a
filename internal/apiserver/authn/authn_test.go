package authn

import (
	"bufio"
	"context"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff.dev/skiff/internal/apiserver/authz"
	"skiff.dev/skiff/internal/apiserver/request"
)

// authority is a CA that signs client certificates.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	sign func(template *x509.Certificate) *x509.Certificate
}

func newAuthority(t *testing.T, name string) *authority {
	t.Helper()
	key := ecKey(t, elliptic.P256())
	a := &authority{t: t}
	issue := func(template, parent *x509.Certificate) *x509.Certificate {
		t.Helper()
		template.SerialNumber = big.NewInt(time.Now().UnixNano())
		if template.NotAfter.IsZero() {
			template.NotAfter = time.Now().Add(time.Hour)
		}
		template.NotBefore = time.Now().Add(-2 * time.Hour)
		der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), key)
		if err != nil {
			t.Fatal(err)
		}
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		return cert
	}
	ca := &x509.Certificate{Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	a.cert = issue(ca, ca)
	a.sign = func(template *x509.Certificate) *x509.Certificate { return issue(template, a.cert) }
	return a
}

func (a *authority) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return pool
}

// client makes a client certificate for a subject.
func (a *authority) client(subject pkix.Name) *x509.Certificate {
	return a.sign(&x509.Certificate{Subject: subject, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
}

// getRequest is one for path over a connection with the certificates.
func getRequest(path string, certs ...*x509.Certificate) *http.Request {
	r := httptest.NewRequest("GET", path, nil)
	r.TLS = &tls.ConnectionState{PeerCertificates: certs}
	return r
}

func TestCertificates(t *testing.T) {
	ca, other := newAuthority(t, "ca"), newAuthority(t, "other")
	c := NewCertificates(ca.pool())
	good := ca.client(pkix.Name{CommonName: "ann", Organization: []string{"ops", "staff"},
		ExtraNames: []pkix.AttributeTypeAndValue{{Type: uidAttribute, Value: "u-1"}}})
	sum := sha256.Sum256(good.Raw)
	want := &request.User{Name: "ann", UID: "u-1", Groups: []string{"ops", "staff"},
		Extra: map[string][]string{credentialID: {"X509SHA256=" + hex.EncodeToString(sum[:])}}}
	for _, when := range []string{"first", "cached"} {
		user, ok, err := c.Authenticate(getRequest("/", good))
		if !ok || err != nil {
			t.Fatalf("%s: %v %v", when, ok, err)
		}
		if diff := cmp.Diff(want, user); diff != "" {
			t.Errorf("%s: %s", when, diff)
		}
	}
	server := ca.sign(&x509.Certificate{Subject: pkix.Name{CommonName: "ann"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
	expired := ca.sign(&x509.Certificate{Subject: pkix.Name{CommonName: "ann"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, NotAfter: time.Now().Add(-time.Hour)})
	for name, cert := range map[string]*x509.Certificate{
		"another CA": other.client(pkix.Name{CommonName: "ann", Organization: []string{request.GroupMasters}}),
		"server":     server,
		"expired":    expired,
		"itself":     other.cert,
	} {
		if _, ok, err := c.Authenticate(getRequest("/", cert)); ok || err == nil {
			t.Errorf("%s: ok %v, err %v", name, ok, err)
		}
	}
	if _, ok, err := c.Authenticate(getRequest("/", ca.client(pkix.Name{}))); ok || err != nil {
		t.Errorf("no name: ok %v, err %v", ok, err)
	}
	if _, ok, err := c.Authenticate(getRequest("/")); ok || err != nil {
		t.Errorf("no certificate: ok %v, err %v", ok, err)
	}
}

func TestFrontProxy(t *testing.T) {
	proxyCA, userCA := newAuthority(t, "proxy"), newAuthority(t, "users")
	proxy := proxyCA.client(pkix.Name{CommonName: "front"})
	ann := userCA.client(pkix.Name{CommonName: "ann"})
	chain := Chain{DefaultFrontProxy(proxyCA.pool(), "front"), NewCertificates(userCA.pool())}
	ask := func(certs ...*x509.Certificate) *http.Request {
		r := getRequest("/", certs...)
		r.Header.Set("X-Remote-User", "bob")
		r.Header.Set("X-Remote-Uid", "7")
		r.Header.Add("X-Remote-Group", "a")
		r.Header.Add("X-Remote-Group", "b")
		r.Header.Set("X-Remote-Extra-Acme.com%2fproject", "p")
		return r
	}
	r := ask(proxy)
	user, ok, err := chain.Authenticate(r)
	want := &request.User{Name: "bob", UID: "7", Groups: []string{"a", "b", request.GroupAuthenticated}, Extra: map[string][]string{"acme.com/project": {"p"}}}
	if diff := cmp.Diff(want, user); !ok || err != nil || diff != "" {
		t.Error(ok, err, diff)
	}
	if len(r.Header) != 0 {
		t.Errorf("headers left: %v", r.Header)
	}
	// Without the proxy's certificate the headers mean nothing.
	if user, ok, err := chain.Authenticate(ask(ann)); !ok || err != nil || user.Name != "ann" || user.InGroup("a") {
		t.Errorf("headers of a user: %+v %v %v", user, ok, err)
	}
	stranger := proxyCA.client(pkix.Name{CommonName: "back"})
	if _, ok, err := chain.Authenticate(ask(stranger)); ok || err == nil {
		t.Errorf("headers of another proxy: %v %v", ok, err)
	}
	if _, ok, _ := chain.Authenticate(ask()); ok {
		t.Error("headers without a certificate")
	}
}

// Names other than the usual ones, any name of the proxy, and nothing of it
// left for the servers behind this one, whoever asks.
func TestFrontProxyOfOtherHeaders(t *testing.T) {
	proxyCA, userCA := newAuthority(t, "proxy"), newAuthority(t, "users")
	front := &FrontProxy{
		Roots: proxyCA.pool(), UserHeaders: []string{"X-User", "X-Login"}, UIDHeaders: []string{"X-Uid"},
		GroupHeaders: []string{"X-Team"}, ExtraPrefixes: []string{"X-More-"},
	}
	chain := WithoutHeaders{Chain{front, NewCertificates(userCA.pool())}, []*FrontProxy{StandardHeaders, front}}
	ask := func(cert *x509.Certificate) *http.Request {
		r := getRequest("/", cert)
		for name, value := range map[string]string{
			"X-Login": "bob", "X-Uid": "7", "X-Team": "a", "X-More-Shoe": "44", "X-Remote-User": "root", "X-Remote-Group": "system:masters", "Accept": "*/*",
		} {
			r.Header.Set(name, value)
		}
		return r
	}
	for name, test := range map[string]struct {
		cert *x509.Certificate
		want *request.User
	}{
		"the proxy": {proxyCA.client(pkix.Name{CommonName: "whatever"}),
			&request.User{Name: "bob", UID: "7", Groups: []string{"a", request.GroupAuthenticated}, Extra: map[string][]string{"shoe": {"44"}}}},
		"a user": {userCA.client(pkix.Name{CommonName: "ann"}), &request.User{Name: "ann", Groups: []string{request.GroupAuthenticated}}},
	} {
		t.Run(name, func(t *testing.T) {
			r := ask(test.cert)
			user, ok, err := chain.Authenticate(r)
			if user != nil && test.want.Extra == nil {
				user.Extra = nil // that of certificates
			}
			if diff := cmp.Diff(test.want, user); !ok || err != nil || diff != "" {
				t.Error(ok, err, diff)
			}
			if diff := cmp.Diff(http.Header{"Accept": {"*/*"}}, r.Header); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// A header name with a space before the colon would slip past a proxy that
// strips X-Remote-User: the HTTP server refuses it (CVE-2019-16276).
func TestHeaderWithSpace(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("reached the handler") }))
	defer s.Close()
	conn, err := net.Dial("tcp", s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprint(conn, "GET / HTTP/1.1\r\nHost: x\r\nX-Remote-User : admin\r\n\r\n")
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusBadRequest {
		t.Error(res.Status)
	}
}

func TestTokenFile(t *testing.T) {
	list, err := ParseTokenFile([]byte("secret1,ann,1,\"ops, staff\"\nsecret2,bob,2\n"))
	if err != nil {
		t.Fatal(err)
	}
	tokens := Agnostic{list, []string{"api"}}
	user, meantFor, ok, err := tokens.AuthenticateToken(context.Background(), "secret1", nil)
	if diff := cmp.Diff(&request.User{Name: "ann", UID: "1", Groups: []string{"ops", "staff"}}, user); diff != "" || !ok || err != nil || !cmp.Equal(meantFor, []string{"api"}) {
		t.Error(ok, err, meantFor, diff)
	}
	if _, _, ok, _ := tokens.AuthenticateToken(context.Background(), "secret", nil); ok {
		t.Error("part of a token")
	}
	if _, _, ok, _ := tokens.AuthenticateToken(context.Background(), "secret1", []string{"vault"}); ok {
		t.Error("good for another audience")
	}
	if _, _, ok, _ := list.AuthenticateToken(context.Background(), "secret1", []string{"vault"}); ok {
		t.Error("good for another audience, bare")
	}
	all := Tokens{tokens}
	if user, _, _, _ := all.AuthenticateToken(context.Background(), "secret1", nil); !user.InGroup(request.GroupAuthenticated) {
		t.Errorf("groups %v", user.Groups)
	}
	for _, bad := range []string{"a,b\n", ",b,c\n", "a,b,c\na,d,e\n"} {
		if _, err := ParseTokenFile([]byte(bad)); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

func TestBootstrapTokens(t *testing.T) {
	const token = "abcdef.0123456789abcdef"
	for _, c := range []struct {
		name   string
		change func(*corev1.Secret)
		token  string
		groups []string
	}{
		{"good", nil, token, []string{GroupBootstrappers, "system:bootstrappers:x"}},
		{"not expired", func(s *corev1.Secret) {
			s.Data["expiration"] = []byte(time.Now().Add(time.Hour).Format(time.RFC3339))
		}, token, []string{GroupBootstrappers, "system:bootstrappers:x"}},
		{"expired", func(s *corev1.Secret) {
			s.Data["expiration"] = []byte(time.Now().Add(-time.Hour).Format(time.RFC3339))
		}, token, nil},
		{"unreadable expiry", func(s *corev1.Secret) { s.Data["expiration"] = []byte("soon") }, token, nil},
		{"another key", nil, "abcdef.0123456789abcdee", nil},
		{"another id", func(s *corev1.Secret) { s.Data["token-id"] = []byte("zzzzzz") }, token, nil},
		{"not to log in with", func(s *corev1.Secret) { delete(s.Data, "usage-bootstrap-authentication") }, token, nil},
		{"another type", func(s *corev1.Secret) { s.Type = corev1.SecretTypeOpaque }, token, nil},
		{"masters", func(s *corev1.Secret) { s.Data["auth-extra-groups"] = []byte("system:masters") }, token, nil},
		{"masters too", func(s *corev1.Secret) { s.Data["auth-extra-groups"] = []byte("system:bootstrappers:x\nsystem:masters") }, token, nil},
		{"path", nil, "../../.0123456789abcdef", nil},
	} {
		secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "bootstrap-token-abcdef"},
			Type: "bootstrap.kubernetes.io/token", Data: map[string][]byte{
				"token-id": []byte("abcdef"), "token-secret": []byte("0123456789abcdef"),
				"usage-bootstrap-authentication": []byte("true"), "auth-extra-groups": []byte("system:bootstrappers:x"),
			}}
		if c.change != nil {
			c.change(secret)
		}
		o := objects{}
		o.put(secrets, secret)
		user, _, ok, _ := BootstrapTokens{o}.AuthenticateToken(context.Background(), c.token, nil)
		if ok != (c.groups != nil) {
			t.Errorf("%s: ok %v", c.name, ok)
			continue
		}
		if ok && (user.Name != "system:bootstrap:abcdef" || !cmp.Equal(user.Groups, c.groups)) {
			t.Errorf("%s: %+v", c.name, user)
		}
	}
}

// A bad credential is never nobody's: it is refused, on every path.
func TestAnonymous(t *testing.T) {
	list, err := ParseTokenFile([]byte("good,ann,1\n"))
	if err != nil {
		t.Fatal(err)
	}
	a := WithAnonymous{Chain{Bearer{Agnostic{list, []string{"api"}}}}, AnonymousPaths}
	for _, c := range []struct {
		path, header string
		user         string
		bad          bool
	}{
		{"/livez", "", request.Anonymous, false},
		{"/readyz", "", request.Anonymous, false},
		{"/version", "", request.Anonymous, false},
		{"/livez/etcd", "", "", false},
		{"/api", "", "", false},
		{"/metrics", "", "", false},
		{"/livez/../api", "", "", false},
		{"/api", "Bearer good", "ann", false},
		{"/api", "bearer good", "ann", false},
		{"/livez", "Bearer good", "ann", false},
		{"/api", "Bearer bad", "", true},
		{"/livez", "Bearer bad", "", true},
		{"/livez", "Bearer eyJhbGciOiJub25lIn0.e30.", "", true},
		{"/api", "Basic YTpi", "", false},
	} {
		r := httptest.NewRequest("GET", c.path, nil)
		if c.header != "" {
			r.Header.Set("Authorization", c.header)
		}
		user, ok, err := a.Authenticate(r)
		if ok != (c.user != "") || (err != nil) != c.bad || (ok && user.Name != c.user) {
			t.Errorf("%s %q: %+v %v %v", c.path, c.header, user, ok, err)
		}
		if ok && user.InGroup(request.GroupAuthenticated) != (c.user == "ann") {
			t.Errorf("%s %q: groups %v", c.path, c.header, user.Groups)
		}
		if ok && r.Header.Get("Authorization") != "" {
			t.Errorf("%s: the token is left in the request", c.path)
		}
	}
}

func TestWebSocketToken(t *testing.T) {
	list, err := ParseTokenFile([]byte("good,ann,1\n"))
	if err != nil {
		t.Fatal(err)
	}
	b := Bearer{Agnostic{list, []string{"api"}}}
	p := func(token string) string { return protocolPrefix + base64.RawURLEncoding.EncodeToString([]byte(token)) }
	for _, c := range []struct {
		protocols string
		ok, bad   bool
	}{
		{p("good") + ", v5.channel.k8s.io", true, false},
		{"v5.channel.k8s.io," + p("good"), true, false},
		{"v5.channel.k8s.io", false, false},
		{p("good"), false, true},
		{p("bad") + ",v5.channel.k8s.io", false, true},
		{p("good") + "," + p("good") + ",v5.channel.k8s.io", false, true},
		{protocolPrefix + "%%%,v5.channel.k8s.io", false, true},
	} {
		r := httptest.NewRequest("GET", "/", nil)
		r.Header.Set("Upgrade", "websocket")
		r.Header.Set(protocolHeader, c.protocols)
		_, ok, err := b.Authenticate(r)
		if ok != c.ok || (err != nil) != c.bad {
			t.Errorf("%s: %v %v", c.protocols, ok, err)
		}
		if ok && r.Header.Get(protocolHeader) != "v5.channel.k8s.io" {
			t.Errorf("protocols left: %v", r.Header)
		}
	}
}

func TestImpersonate(t *testing.T) {
	may := map[string]bool{"users/bob": true, "groups/dev": true, "serviceaccounts/ns/robot": true, "uids/1": true, "userextras/scopes/view": true}
	a := authz.Func(func(_ context.Context, _ *request.User, i *request.Info) (authz.Decision, string, error) {
		parts := []string{i.Resource}
		for _, p := range []string{i.Namespace, i.Subresource, i.Name} {
			if p != "" {
				parts = append(parts, p)
			}
		}
		if i.Verb == "impersonate" && may[strings.Join(parts, "/")] {
			return authz.Allow, "", nil
		}
		return authz.NoOpinion, "", nil
	})
	ann := &request.User{Name: "ann"}
	for _, c := range []struct {
		name    string
		headers []string
		want    *request.User
		code    int32
		text    string
	}{
		{"nobody", nil, ann, 0, ""},
		{"user", []string{"Impersonate-User", "bob"}, &request.User{Name: "bob", Groups: []string{request.GroupAuthenticated}, Extra: map[string][]string{}}, 0, ""},
		{"all", []string{"Impersonate-User", "bob", "Impersonate-Group", "dev", "Impersonate-Uid", "1", "Impersonate-Extra-Scopes", "view"},
			&request.User{Name: "bob", UID: "1", Groups: []string{"dev", request.GroupAuthenticated}, Extra: map[string][]string{"scopes": {"view"}}}, 0, ""},
		{"service account", []string{"Impersonate-User", "system:serviceaccount:ns:robot"},
			&request.User{Name: "system:serviceaccount:ns:robot", Groups: []string{"system:serviceaccounts", "system:serviceaccounts:ns", request.GroupAuthenticated}, Extra: map[string][]string{}}, 0, ""},
		{"other user", []string{"Impersonate-User", "root"}, nil, 403, `users "root" is forbidden: User "ann" cannot impersonate resource "users" in API group "" at the cluster scope`},
		{"masters", []string{"Impersonate-User", "bob", "Impersonate-Group", "system:masters"}, nil, 403, `groups "system:masters" is forbidden: User "ann" cannot impersonate resource "groups" in API group "" at the cluster scope`},
		{"extra", []string{"Impersonate-User", "bob", "Impersonate-Extra-Scopes", "all"}, nil, 403, `userextras.authentication.k8s.io "all" is forbidden: User "ann" cannot impersonate resource "userextras/scopes" in API group "authentication.k8s.io" at the cluster scope`},
		{"uid", []string{"Impersonate-User", "bob", "Impersonate-Uid", "2"}, nil, 403, `uids.authentication.k8s.io "2" is forbidden`},
		{"group only", []string{"Impersonate-Group", "dev"}, nil, 400, "without impersonating a user"},
	} {
		r := httptest.NewRequest("GET", "/", nil)
		for i := 0; i < len(c.headers); i += 2 {
			r.Header.Add(c.headers[i], c.headers[i+1])
		}
		got, err := Impersonate(r, ann, a)
		if c.code == 0 {
			if diff := cmp.Diff(c.want, got); diff != "" || err != nil {
				t.Errorf("%s: %v %s", c.name, err, diff)
			}
			if len(r.Header) != 0 {
				t.Errorf("%s: headers left: %v", c.name, r.Header)
			}
			continue
		}
		var status *apierrors.StatusError
		if !errors.As(err, &status) || status.ErrStatus.Code != c.code || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

func TestDiscoveryDocuments(t *testing.T) {
	w := newWorld(t, ecKey(t, elliptic.P256()), ecKey(t, elliptic.P384()).Public())
	config, err := w.issuer.OpenIDConfiguration("https://10.0.0.1:6443" + KeySetPath)
	if err != nil {
		t.Fatal(err)
	}
	want := `{"issuer":"https://kubernetes.default.svc.cluster.local","jwks_uri":"https://10.0.0.1:6443/openid/v1/jwks","response_types_supported":["id_token"],"subject_types_supported":["public"],"id_token_signing_alg_values_supported":["ES256","ES384"]}`
	if diff := cmp.Diff(want, string(config)); diff != "" {
		t.Error(diff)
	}
	data, err := w.issuer.KeySet()
	if err != nil {
		t.Fatal(err)
	}
	var set struct{ Keys []jwk }
	if err := json.Unmarshal(data, &set); err != nil || len(set.Keys) != 2 {
		t.Fatal(err, string(data))
	}
	k := set.Keys[0]
	if k.Kty != "EC" || k.Crv != "P-256" || k.Kid != w.issuer.key.id || len(k.X) != 43 || len(k.Y) != 43 {
		t.Errorf("%+v", k)
	}
}

func TestCacheIsBounded(t *testing.T) {
	c, now := newCache[int, int](3), time.Now()
	for i := range 10 {
		c.put(i, i, now.Add(time.Minute))
		c.put(i, i, now.Add(time.Minute))
	}
	if len(c.entries) != 3 {
		t.Errorf("%d entries", len(c.entries))
	}
	if v, ok := c.get(9, now); !ok || v != 9 {
		t.Error("the newest is gone")
	}
	if _, ok := c.get(9, now.Add(time.Minute)); ok {
		t.Error("outlives its time")
	}
}
