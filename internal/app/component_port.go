package app

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"path"
	"strconv"
	"strings"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/pflag"
	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"skiff.dev/skiff/internal/client"
	"skiff.dev/skiff/internal/client/https"
	"skiff.dev/skiff/internal/client/review"
	"skiff.dev/skiff/internal/observe"
)

// port is a component's own HTTPS port: health for everybody, metrics for whom
// the API server allows them.
type port struct {
	bind           string
	number         int
	certFile       string
	keyFile        string
	clientCA       string
	authentication string // kubeconfigs by which to ask; "" for the component's own client
	authorization  string
	unguarded      []string // paths that need no authorization
}

func (c *component) serveFlags(f *pflag.FlagSet) {
	f.StringVar(&c.bind, "bind-address", c.bind, "address on which health and metrics are served")
	f.IntVar(&c.number, "secure-port", c.number, "port on which health and metrics are served over HTTPS; 0 for none")
	f.StringVar(&c.certFile, "tls-cert-file", "", "certificate to serve (default: one made for this run)")
	f.StringVar(&c.keyFile, "tls-private-key-file", "", "key of --tls-cert-file")
	f.StringVar(&c.clientCA, "client-ca-file", "", "CAs of those who show a certificate on this port (default: only tokens are taken)")
	f.StringVar(&c.authentication, "authentication-kubeconfig", "", "kubeconfig by which to ask whose a token is (default: --kubeconfig)")
	f.StringVar(&c.authorization, "authorization-kubeconfig", "", "kubeconfig by which to ask who may see metrics (default: --kubeconfig)")
	f.StringSliceVar(&c.unguarded, "authorization-always-allow-paths", []string{"/healthz", "/readyz", "/livez"}, "paths for everybody; a * at the end stands for anything")
}

// registry is where the component's metrics are.
func (c *component) registry() *prometheus.Registry {
	c.metrics.Do(func() {
		c.registered = observe.NewRegistry()
		c.calls = observe.NewRESTClient(c.registered)
	})
	return c.registered
}

// counting makes a client configuration tell the component's metrics what is asked.
func (c *component) counting(cfg *rest.Config) *rest.Config {
	c.registry()
	cfg.Wrap(c.calls.Wrap)
	return cfg
}

// measured is the part of a component that its metrics are made of.
type measured struct {
	metrics    sync.Once
	registered *prometheus.Registry
	calls      *observe.RESTClient
}

// servePort answers /healthz, /livez, /readyz and /metrics over HTTPS until ctx
// ends; cl is the component's own client.
func (c *component) servePort(ctx context.Context, cl *client.Client) error {
	if c.number == 0 {
		<-ctx.Done()
		return nil
	}
	cert, err := c.certificate()
	if err != nil {
		return err
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{*cert}, NextProtos: []string{"h2", "http/1.1"}}
	if c.clientCA != "" {
		cas, err := readCAs("client-ca-file", c.clientCA)
		if err != nil {
			return err
		}
		config.ClientCAs, config.ClientAuth = poolOf(cas), tls.VerifyClientCertIfGiven
	}
	guard := &guard{open: c.unguarded, next: healthHandler(nil)}
	var closers []func()
	defer func() {
		for _, f := range closers {
			f()
		}
	}()
	for flag, to := range map[string]struct {
		file string
		r    **review.Reviews
	}{"authentication-kubeconfig": {c.authentication, &guard.tokens}, "authorization-kubeconfig": {c.authorization, &guard.rights}} {
		asks := cl
		if to.file != "" {
			other, closer, err := c.clientOf(flag, to.file)
			if err != nil {
				return err
			}
			closers, asks = append(closers, closer), other
		}
		*to.r = review.New(asks)
	}
	guard.next.Handle("GET /metrics", observe.MetricsPage(c.registry()))
	address := net.JoinHostPort(c.bind, strconv.Itoa(c.number))
	l, err := net.Listen("tcp", address)
	if err != nil {
		return fmt.Errorf("health and metrics cannot be served on %s (choose another port): %w", address, err)
	}
	return serveUntil(ctx, tls.NewListener(l, config), guard)
}

// clientOf returns a client by the kubeconfig that a flag names.
func (c *component) clientOf(flag, file string) (*client.Client, func(), error) {
	cfg, err := clientcmd.BuildConfigFromFlags("", file)
	if err != nil {
		return nil, nil, fmt.Errorf("--%s: %w", flag, err)
	}
	t, err := https.New(c.counting(cfg), c.name)
	if err != nil {
		return nil, nil, fmt.Errorf("--%s: %w", flag, err)
	}
	return client.New(t), t.Close, nil
}

// A guard lets those through whom the API server lets see a path.
type guard struct {
	open           []string
	tokens, rights *review.Reviews
	next           *http.ServeMux
}

func (g *guard) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if g.isOpen(r.URL.Path) {
		g.next.ServeHTTP(w, r)
		return
	}
	user, err := g.tokens.Authenticate(r)
	if err != nil {
		if !errors.Is(err, review.ErrUnauthenticated) {
			slog.Warn("authenticating a request", "path", r.URL.Path, "err", err)
		}
		refuse(w, http.StatusUnauthorized, metav1.StatusReasonUnauthorized, "Unauthorized")
		return
	}
	allowed, err := g.rights.Allowed(r.Context(), user, authorizationv1.SubjectAccessReviewSpec{
		NonResourceAttributes: &authorizationv1.NonResourceAttributes{Path: r.URL.Path, Verb: strings.ToLower(r.Method)},
	})
	switch {
	case err != nil:
		slog.Warn("authorizing a request", "path", r.URL.Path, "user", user.Name, "err", err)
		refuse(w, http.StatusInternalServerError, metav1.StatusReasonInternalError, "Internal Server Error: \""+r.URL.Path+"\": the API server could not be asked")
	case !allowed:
		refuse(w, http.StatusForbidden, metav1.StatusReasonForbidden,
			fmt.Sprintf("forbidden: User %q cannot %s path %q", user.Name, strings.ToLower(r.Method), r.URL.Path))
	default:
		g.next.ServeHTTP(w, r)
	}
}

// isOpen reports whether everybody may see the path.
func (g *guard) isOpen(p string) bool {
	p = path.Clean("/" + p)
	for _, open := range g.open {
		open = "/" + strings.TrimPrefix(open, "/")
		if prefix, any := strings.CutSuffix(open, "*"); open == p || any && strings.HasPrefix(p, prefix) {
			return true
		}
	}
	return false
}

// refuse answers with a Status, as upstream's ports do.
func refuse(w http.ResponseWriter, code int, reason metav1.StatusReason, message string) {
	data, err := json.Marshal(&metav1.Status{
		TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: metav1.StatusFailure,
		Code: int32(code), Reason: reason, Message: message, //nolint:gosec // a status code
	})
	if err != nil {
		http.Error(w, message, code)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_, _ = w.Write(data) // the client may have gone
}
