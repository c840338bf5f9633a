package app

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff.dev/skiff/internal/apiserver/request"
	"skiff.dev/skiff/internal/app/controlplane"
	"skiff.dev/skiff/internal/client"
	"skiff.dev/skiff/internal/client/https"
	"skiff.dev/skiff/internal/controller"
	"skiff.dev/skiff/internal/controllers/csr"
	"skiff.dev/skiff/internal/meta"
	"skiff.dev/skiff/internal/observe"
	"skiff.dev/skiff/internal/pki"
	"skiff.dev/skiff/internal/resources/core"
	"skiff.dev/skiff/internal/store/mem"
)

// testCluster is a control plane behind TLS, with what signs certificates.
type testCluster struct {
	ca    *pki.Cluster
	plane *controlplane.ControlPlane
	http  *httptest.Server
	admin *client.Client
}

func startCluster(t *testing.T, lifetime time.Duration) *testCluster {
	t.Helper()
	ca, err := pki.LoadOrCreateCluster(filepath.Join(t.TempDir(), "pki"))
	if err != nil {
		t.Fatal(err)
	}
	store := mem.New()
	of := func(string) *client.Client { return nil }
	certificates := func(of func(string) *client.Client) []*controller.Controller {
		c := of("certificate")
		return []*controller.Controller{csr.NewApprover(c), csr.NewSigner(c, ca.CA, lifetime), csr.NewCleaner(c)}
	}
	var roles []controlplane.Role
	for _, c := range certificates(of) {
		roles = append(roles, controlplane.Role{Controller: c.Name(), Account: "certificate", Rules: c.Rules()})
	}
	ctx, cancel := context.WithCancel(t.Context())
	plane, err := controlplane.Start(ctx, controlplane.Config{
		Store: store, Issuer: "https://kubernetes.default.svc", ServiceAccountKey: ca.ServiceAccountKey, Trust: controlplane.Trust{Clients: []*x509.Certificate{ca.CA.Cert}},
		Services: core.ServiceConfig{CIDRs: []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16")}, FirstNodePort: 30000, LastNodePort: 32767},
		Roles:    roles, VerifyImmutability: true,
		Advertise: netip.MustParseAddrPort("10.0.0.1:6443"),
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := plane.Bootstrap(ctx); err != nil {
		t.Fatal(err)
	}
	stopped := make(chan error)
	running := certificates(plane.Controller)
	for _, c := range running {
		go func() { stopped <- c.Run(ctx) }()
	}
	serving, err := pki.NewAuthorityRotator(ctx, ca.CA, pki.Request{Identity: pki.Identity{User: "kube-apiserver"}, Usage: pki.Server, IPs: []net.IP{net.IPv4(127, 0, 0, 1)}})
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewUnstartedServer(plane.Server.Handler())
	s.EnableHTTP2 = true
	s.TLS = &tls.Config{GetCertificate: serving.GetCertificate, ClientAuth: tls.RequestClientCert, MinVersion: tls.VersionTLS12}
	s.Config.ErrorLog = nil
	s.StartTLS()
	// httptest adds a certificate of its own, which would be sent to who names no host.
	s.TLS.Certificates = nil
	t.Cleanup(func() {
		cancel()
		for range running {
			if err := <-stopped; err != nil {
				t.Error(err)
			}
		}
		plane.Server.Drain()
		s.CloseClientConnections()
		s.Close()
		plane.Close()
		serving.Close()
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	admin := plane.Client(&request.User{Name: "admin", Groups: []string{request.GroupMasters, request.GroupAuthenticated}}, "test")
	return &testCluster{ca: ca, plane: plane, http: s, admin: admin}
}

// token makes a token as `skiff token create` would.
func (c *testCluster) token(t *testing.T, change func(*tokenCreate)) string {
	t.Helper()
	create := tokenCreate{ttl: time.Hour, usages: []string{"authentication"}}
	if change != nil {
		change(&create)
	}
	var out strings.Builder
	if err := create.run(t.Context(), &out, c.admin, c.ca.CA.CertPEM); err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(out.String())
}

func quiet() *observe.Progress { return observe.NewProgress(io.Discard) }

func (c *testCluster) member(t *testing.T) member {
	return member{dataDir: t.TempDir(), server: c.http.URL, name: "n1", ip: net.IPv4(10, 0, 0, 7)}
}

func TestJoin(t *testing.T) {
	c := startCluster(t, 24*time.Hour)
	m := c.member(t)
	j, err := joinNode(t.Context(), m, c.token(t, nil), quiet())
	if err != nil {
		t.Fatal(err)
	}
	whoami(t, j)
	info, err := os.Stat(j.path(clientCertFile))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("certificate file %v, %v", info, err)
	}
	j.close()

	// A restart needs neither token nor address.
	m.server = ""
	j, err = joinNode(t.Context(), m, "", quiet())
	if err != nil {
		t.Fatal(err)
	}
	defer j.close()
	whoami(t, j)
	before, err := certificateFile(j.path(clientCertFile)).load()
	if err != nil {
		t.Fatal(err)
	}
	cert, err := j.renew(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	after, err := certificateFile(j.path(clientCertFile)).load()
	if err != nil {
		t.Fatal(err)
	}
	if cert.Leaf == nil || before.Cert.Equal(after.Cert) || !cert.Leaf.Equal(after.Cert) || after.Cert.Subject.String() != before.Cert.Subject.String() {
		t.Errorf("renewed %v into %v", before.Cert.Subject, after.Cert.Subject)
	}

	m.name = "n2"
	if _, err := joinNode(t.Context(), m, "", quiet()); err == nil || !strings.Contains(err.Error(), `joined as node "n1"`) {
		t.Errorf("under another name: %v", err)
	}
}

// whoami creates the node's own Node, which nobody but it may.
func whoami(t *testing.T, j *joined) {
	t.Helper()
	tr, err := https.New(j.RESTConfig("kubelet"), "kubelet")
	if err != nil {
		t.Fatal(err)
	}
	defer tr.Close()
	nodes := client.For[*corev1.Node](client.New(tr))
	if _, err := nodes.Get(t.Context(), "", j.name); err == nil {
		return
	}
	if _, err := nodes.Create(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: j.name}}); err != nil {
		t.Errorf("registering: %v", err)
	}
	if _, err := nodes.Create(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "other"}}); err == nil {
		t.Error("a node registered another")
	}
}

func TestServingCertificateComesWithTheNodesAddresses(t *testing.T) {
	c := startCluster(t, 24*time.Hour)
	j, err := joinNode(t.Context(), c.member(t), c.token(t, nil), quiet())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- j.run(ctx) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		j.close()
	}()
	if _, err := j.GetCertificate(&tls.ClientHelloInfo{}); err == nil || err.Error() != "no serving certificate available for the kubelet" {
		t.Errorf("before the Node: %v", err)
	}
	whoami(t, j)
	n, err := client.For[*corev1.Node](c.admin).Get(ctx, "", "n1")
	if err != nil {
		t.Fatal(err)
	}
	n = meta.Copy(n)
	n.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "10.0.0.7"}, {Type: corev1.NodeHostName, Address: "n1"}}
	if _, err := client.For[*corev1.Node](c.admin).UpdateStatus(ctx, n); err != nil {
		t.Fatal(err)
	}
	for j.serving.Load() == nil { // signed within milliseconds; the test's own time limit is the bound
		select {
		case <-time.After(time.Millisecond):
		case <-ctx.Done():
			t.Fatal(ctx.Err())
		}
	}
	cert, err := j.serving.Load().Certificate(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := cert.Leaf.Verify(x509.VerifyOptions{Roots: c.ca.CA.Pool(), DNSName: "10.0.0.7"}); err != nil {
		t.Error(err)
	}
	if !j.serves(cert.Leaf) {
		t.Error("the next run would not use it")
	}
}

func TestJoinErrorsSayWhatToDo(t *testing.T) {
	c := startCluster(t, time.Hour)
	other := startCluster(t, time.Hour)
	good := c.token(t, nil)
	wrong, _ := pki.ParseJoinToken(good)
	wrong.Secret = "0000000000000000"
	tests := map[string]struct {
		token, server, want string
	}{
		"no token":         {"", c.http.URL, "skiff token create"},
		"half a token":     {"abcdef.0123456789abcdef", c.http.URL, "no pin of the cluster's CA"},
		"no server":        {good, "", "--server: say where the cluster is"},
		"another cluster":  {good, other.http.URL, "this is another cluster"},
		"wrong secret":     {wrong.Text(), c.http.URL, "it is wrong, has expired or was deleted"},
		"expired":          {c.token(t, func(tc *tokenCreate) { tc.ttl = time.Nanosecond }), c.http.URL, "it is wrong, has expired or was deleted"},
		"for signing only": {c.token(t, func(tc *tokenCreate) { tc.usages = []string{"signing"} }), c.http.URL, "it is wrong, has expired or was deleted"},
		"unreachable":      {good, "https://127.0.0.1:1", "cannot be reached"},
		"by another name":  {good, strings.Replace(c.http.URL, "127.0.0.1", "localhost", 1), "--tls-san"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			m := c.member(t)
			m.server = test.server
			_, err := joinNode(t.Context(), m, test.token, quiet())
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v, want %q", err, test.want)
			}
			if err != nil && strings.Contains(err.Error(), wrong.Secret) {
				t.Errorf("the error tells the secret: %v", err)
			}
		})
	}
}

func TestCheckClock(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	for skew, bad := range map[time.Duration]bool{0: false, 3 * time.Minute: false, 5 * time.Minute: true, -time.Hour: true} {
		if err := checkClock(now.Add(skew), now); (err != nil) != bad {
			t.Errorf("skew %v: %v", skew, err)
		}
	}
	if err := checkClock(time.Time{}, now); err != nil {
		t.Errorf("a server that does not tell: %v", err)
	}
}

func TestServerURL(t *testing.T) {
	got := map[string]string{}
	for _, in := range []string{"10.0.0.1", "10.0.0.1:7443", "https://a.b", "https://[::1]:6443/", "http://a", "", "https://"} {
		out, err := serverURL(in)
		if err != nil {
			out = "error"
		}
		got[in] = out
	}
	want := map[string]string{
		"10.0.0.1": "https://10.0.0.1:6443", "10.0.0.1:7443": "https://10.0.0.1:7443", "https://a.b": "https://a.b:6443",
		"https://[::1]:6443/": "https://[::1]:6443", "http://a": "error", "": "error", "https://": "error",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}
