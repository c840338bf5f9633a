package server

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kruntime "k8s.io/apimachinery/pkg/runtime"

	"skiff.dev/skiff/internal/client"
	"skiff.dev/skiff/internal/client/review"
	"skiff.dev/skiff/internal/pki"
)

func TestAttributes(t *testing.T) {
	for _, tt := range []struct {
		method, path, verb string
		subs               []string
	}{
		{"GET", "/pods", "get", []string{"pods", "proxy"}},
		{"GET", "/pods/", "get", []string{"pods", "proxy"}},
		{"GET", "/runningpods/", "get", []string{"pods", "proxy"}},
		{"GET", "/healthz/log", "get", []string{"healthz", "proxy"}},
		{"GET", "/configz", "get", []string{"configz", "proxy"}},
		{"GET", "/stats/summary", "get", []string{"stats"}},
		{"GET", "/metrics/cadvisor", "get", []string{"metrics"}},
		{"GET", "/logs/syslog", "get", []string{"log"}},
		{"GET", "/containerLogs/a/b/c", "get", []string{"proxy"}},
		{"GET", "/exec/a/b/c", "create", []string{"proxy"}},
		{"POST", "/portForward/a/b", "create", []string{"proxy"}},
		{"POST", "/checkpoint/a/b/c", "create", []string{"checkpoint"}},
		{"DELETE", "/anything", "delete", []string{"proxy"}},
		{"GET", "//pods", "get", []string{"proxy"}},
	} {
		r, err := http.NewRequest(tt.method, "http://x"+tt.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if verb, subs := attributes(r); verb != tt.verb || !slices.Equal(subs, tt.subs) {
			t.Errorf("%s %s: %s %v", tt.method, tt.path, verb, subs)
		}
	}
}

func get(t *testing.T, c *http.Client, url string, header ...string) (int, string) {
	t.Helper()
	r, err := http.NewRequest("GET", url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	resp, err := c.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

func TestAccessIsAsked(t *testing.T) {
	at, _, s := serve(t, anyone(func(verb, sub string) bool { return sub == "pods" }))
	s.SystemLogs = t.TempDir()
	for path, want := range map[string]int{"/pods": 200, "/runningpods/": 200, "/configz": 403, "/logs/": 403, "/exec/ns/p/c?command=a&output=1": 403, "/nothing": 403} {
		if code, body := get(t, http.DefaultClient, at.String()+path); code != want {
			t.Errorf("%s: %d %s", path, code, body)
		}
	}
	if code, _ := get(t, http.DefaultClient, at.String()+"/pods", "X-Stranger", "1"); code != 401 {
		t.Errorf("a stranger got %d", code)
	}
}

func TestPodsAndMore(t *testing.T) {
	at, _, s := serve(t, anyone(nil))
	var list v1.PodList
	_, body := get(t, http.DefaultClient, at.String()+"/pods")
	if err := json.Unmarshal([]byte(body), &list); err != nil || list.Kind != "PodList" || len(list.Items) != 1 || list.Items[0].UID != "u1" {
		t.Errorf("/pods: %v %s", err, body)
	}
	_, body = get(t, http.DefaultClient, at.String()+"/runningpods/")
	list = v1.PodList{}
	if err := json.Unmarshal([]byte(body), &list); err != nil || len(list.Items) != 1 || list.Items[0].Spec.Containers[0].Image != "i" {
		t.Errorf("/runningpods: %v %s", err, body)
	}
	if code, _ := get(t, http.DefaultClient, at.String()+"/logs/"); code != 405 {
		t.Errorf("logs of the host: %d", code)
	}
	s.SystemLogs = t.TempDir()
	secret := filepath.Join(t.TempDir(), "secret")
	for name, to := range map[string]string{"link": secret, "ok": ""} {
		var err error
		if to == "" {
			err = os.WriteFile(filepath.Join(s.SystemLogs, name), []byte("text"), 0o600)
		} else if err = os.WriteFile(to, nil, 0o600); err == nil {
			err = os.Symlink(to, filepath.Join(s.SystemLogs, name))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if code, body := get(t, http.DefaultClient, at.String()+"/logs/ok"); code != 200 || body != "text" {
		t.Errorf("a log of the host: %d %s", code, body)
	}
	for _, path := range []string{"link", "%2e%2e/secret", "../secret"} {
		if code, _ := get(t, http.DefaultClient, at.String()+"/logs/"+path); code == 200 {
			t.Errorf("/logs/%s left the directory", path)
		}
	}
}

// reviews is an API that knows one token and one right.
type reviews struct {
	client.Transport
	asked []string
}

func (a *reviews) Create(_ context.Context, ref client.Ref, obj kruntime.Object, _ metav1.CreateOptions) (kruntime.Object, error) {
	a.asked = append(a.asked, ref.Resource)
	switch o := obj.DeepCopyObject().(type) {
	case *authenticationv1.TokenReview:
		if o.Spec.Token == "good" {
			o.Status.Authenticated = true
			o.Status.User = authenticationv1.UserInfo{Username: "robot", Groups: []string{"g"}}
		}
		return o, nil
	case *authorizationv1.SubjectAccessReview:
		at := o.Spec.ResourceAttributes
		o.Status.Allowed = slices.Contains(o.Spec.Groups, "g") && at.Resource == "nodes" && at.Name == "n1" && at.Subresource == "metrics"
		return o, nil
	}
	return nil, io.EOF
}

func TestReviews(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := &reviews{}
		a := NewReviews(client.New(api), "n1", review.DefaultLifetimes())
		request := func(header string) *http.Request {
			r, _ := http.NewRequest("GET", "https://x/metrics", nil)
			r.Header.Set("Authorization", header)
			return r
		}
		for _, bad := range []string{"", "Basic good", "Bearer", "Bearer bad"} {
			if u, err := a.Authenticate(request(bad)); err != ErrUnauthenticated {
				t.Errorf("%q: %v %v", bad, u, err)
			}
		}
		api.asked = nil
		var user User
		for range 3 {
			var err error
			if user, err = a.Authenticate(request("Bearer good")); err != nil || user.Name != "robot" {
				t.Fatalf("%v %v", user, err)
			}
			if ok, err := a.Authorize(t.Context(), user, "get", "metrics"); !ok || err != nil {
				t.Error("metrics were denied", err)
			}
			if ok, _ := a.Authorize(t.Context(), user, "get", "proxy"); ok {
				t.Error("proxy was allowed")
			}
		}
		if diff := cmp.Diff([]string{"tokenreviews", "subjectaccessreviews", "subjectaccessreviews"}, api.asked); diff != "" {
			t.Error(diff)
		}
		time.Sleep(time.Minute)
		if _, err := a.Authorize(t.Context(), user, "get", "proxy"); err != nil || len(api.asked) != 4 {
			t.Errorf("an old refusal: %v, asked %v", err, api.asked)
		}
	})
}

// TestServe speaks TLS: by certificate of the right authority, of another, and
// without one.
func TestServe(t *testing.T) {
	now := time.Now()
	authority := func() *pki.Authority {
		a, err := pki.NewAuthority("ca", now)
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	ca, other := authority(), authority()
	issue := func(a *pki.Authority, r pki.Request) tls.Certificate {
		r.Now = now
		pair, err := a.Issue(r)
		if err != nil {
			t.Fatal(err)
		}
		return *pair.TLS()
	}
	serving := issue(ca, pki.Request{Identity: pki.Node("n1"), IPs: []net.IP{net.ParseIP("127.0.0.1")}, Usage: pki.Server})
	s := New(Config{
		Pods: podList{}, Access: NewReviews(client.New(&reviews{}), "n1", review.DefaultLifetimes()), Log: slog.New(slog.DiscardHandler), ClientCAs: ca.Pool(),
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &serving, nil },
		Handlers: map[string]http.Handler{"/metrics": http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, "m 1\n")
		})},
	})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ctx, l) }()
	url := "https://" + l.Addr().String()
	clientWith := func(roots *x509.CertPool, certs ...tls.Certificate) *http.Client {
		return &http.Client{Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: roots, Certificates: certs}}}
	}
	admin := pki.Request{Usage: pki.Client, Identity: pki.Identity{User: "admin", Groups: []string{"g"}}}
	if code, body := get(t, clientWith(ca.Pool(), issue(ca, admin)), url+"/metrics"); code != 200 || body != "m 1\n" {
		t.Errorf("by certificate: %d %s", code, body)
	}
	if code, _ := get(t, clientWith(ca.Pool()), url+"/metrics", "Authorization", "Bearer good"); code != 200 {
		t.Errorf("by token: %d", code)
	}
	if code, _ := get(t, clientWith(ca.Pool()), url+"/healthz"); code != 401 {
		t.Errorf("a stranger: %d", code)
	}
	stranger := pki.Request{Usage: pki.Client, Identity: pki.Identity{User: "u", Groups: []string{"other"}}}
	if code, body := get(t, clientWith(ca.Pool(), issue(ca, stranger)), url+"/metrics"); code != 403 || !strings.HasPrefix(body, "Forbidden (user=u, verb=get, resource=nodes, subresource(s)=[metrics])") {
		t.Errorf("without the right: %d %s", code, body)
	}
	if resp, err := clientWith(ca.Pool(), issue(other, admin)).Get(url + "/metrics"); err == nil {
		resp.Body.Close()
		if resp.StatusCode == 200 {
			t.Error("a certificate of another authority was accepted")
		}
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
