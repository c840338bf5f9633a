// Package apitest starts a whole API server for a test: the control plane over
// a store in memory, behind real HTTP or HTTPS on a port of its own. Only tests
// import it.
package apitest

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"encoding/pem"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"testing"

	"k8s.io/client-go/rest"

	"skiff.dev/skiff/internal/apiserver/authn"
	"skiff.dev/skiff/internal/app/controlplane"
	"skiff.dev/skiff/internal/resources/core"
	"skiff.dev/skiff/internal/store"
	"skiff.dev/skiff/internal/store/mem"
)

// The tokens of the users that every test server knows.
const (
	// Admin may do everything.
	Admin = "token-of-admin"
	// Alice may do what the test binds roles to the user "alice" for.
	Alice = "token-of-alice"
)

const users = Admin + `,admin,1,"system:masters"
` + Alice + `,alice,2,"team"
`

// API is a running API server.
type API struct {
	Plane *controlplane.ControlPlane
	Store store.Store
	HTTP  *httptest.Server
	dial  func(ctx context.Context, network, address string) (net.Conn, error) // nil: over the network
}

// Config is what a test may change of the control plane before it starts.
type Config func(*controlplane.Config)

// Start serves HTTP once the bootstrap objects are there. All ends with the
// test.
func Start(t testing.TB, change ...Config) *API {
	t.Helper()
	a := start(t, change)
	a.HTTP = a.unstarted()
	a.HTTP.Start()
	t.Cleanup(a.HTTP.Close)
	return a
}

// StartTLS serves HTTPS with HTTP/2, as `skiff server` does.
func StartTLS(t testing.TB, change ...Config) *API {
	t.Helper()
	a := start(t, change)
	a.HTTP = a.unstarted()
	a.HTTP.EnableHTTP2 = true
	a.HTTP.StartTLS()
	t.Cleanup(a.HTTP.Close)
	return a
}

func (a *API) unstarted() *httptest.Server {
	h := httptest.NewUnstartedServer(nil)
	h.Config = a.Plane.Server.HTTP()
	return h
}

func start(t testing.TB, change []Config) *API {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tokens, err := authn.ParseTokenFile([]byte(users))
	if err != nil {
		t.Fatal(err)
	}
	s := mem.New()
	cfg := controlplane.Config{
		Store: s, Issuer: "https://kubernetes.default.svc", ServiceAccountKey: key, Tokens: tokens,
		Services: core.ServiceConfig{
			CIDRs: []netip.Prefix{netip.MustParsePrefix("10.43.0.0/16")}, FirstNodePort: 30000, LastNodePort: 32767,
		},
		Nodes:              &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}, //nolint:gosec // fake kubelets
		VerifyImmutability: true,
	}
	for _, c := range change {
		c(&cfg)
	}
	ctx, cancel := context.WithCancel(context.Background())
	plane, err := controlplane.Start(ctx, cfg)
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	t.Cleanup(func() {
		plane.Close()
		cancel()
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := plane.Bootstrap(ctx); err != nil {
		t.Fatal(err)
	}
	return &API{Plane: plane, Store: s}
}

// Config is how client-go reaches the server as the user of token.
func (a *API) Config(token string) *rest.Config {
	c := &rest.Config{Host: a.HTTP.URL, BearerToken: token, QPS: -1, Dial: a.dial}
	if cert := a.HTTP.Certificate(); cert != nil {
		c.CAData = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})
	}
	return c
}
