// Package apiserver is the HTTP API: it authenticates and authorizes requests,
// routes them to the verbs, and writes the answers in the form that the client
// asks for. It reads and writes nothing but through package verbs.
package apiserver

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"path"
	"runtime/debug"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"skiff.dev/skiff/internal/apiserver/authn"
	"skiff.dev/skiff/internal/apiserver/authz"
	"skiff.dev/skiff/internal/apiserver/openapi"
	"skiff.dev/skiff/internal/apiserver/request"
	"skiff.dev/skiff/internal/apiserver/verbs"
)

// Config is what a Server is made of.
type Config struct {
	Engine        *verbs.Engine
	Authenticator authn.Authenticator
	Authorizer    authz.Authorizer
	// Nodes connects to kubelets for log, exec, attach, port-forward and proxy.
	Nodes http.RoundTripper
	// Ready are the checks behind /readyz, by name; Live those behind /livez.
	Ready, Live []Check
	// Pages are further paths, exact, each guarded by authorization.
	Pages map[string]http.Handler
	// Metrics, if set, is told what the server does; see NewMetrics.
	Metrics Observer
	// MaxReads and MaxWrites are how many requests that are not long-running are
	// served at once; 0 means upstream's defaults of 400 and 200. More get a 429.
	MaxReads, MaxWrites int
}

// Server serves the API.
type Server struct {
	Config
	engine       *verbs.Engine
	discovery    discovery
	openapi      http.Handler
	subresources map[subresource]struct{} // all that metrics may name
	reads        limit
	writes       limit
	podTransport http.RoundTripper // to pods and services
	draining     context.Context   // done once the server drains
	drain        context.CancelFunc
}

// New returns a server; it serves once its Handler is given to an http.Server.
func New(cfg Config) *Server {
	s := &Server{Config: cfg, engine: cfg.Engine, podTransport: newPodTransport()}
	s.draining, s.drain = context.WithCancel(context.Background())
	if s.Metrics == nil {
		s.Metrics = unobserved{}
	}
	s.reads = limit{kind: "readOnly", max: int64(cmp.Or(cfg.MaxReads, defaultReads))}
	s.writes = limit{kind: "mutating", max: int64(cmp.Or(cfg.MaxWrites, defaultWrites))}
	s.discovery = newDiscovery(cfg.Engine.Resources())
	s.subresources = servedParts(s)
	s.openapi = openapi.New(infosOf(cfg.Engine.Resources()))
	return s
}

// Drain ends all watches and makes /readyz fail, so that clients go elsewhere
// while requests under way are finished.
func (s *Server) Drain() {
	s.drain()
}

// Handler returns the whole chain that a request goes through.
func (s *Server) Handler() http.Handler { return http.HandlerFunc(s.serve) }

func (s *Server) serve(rw http.ResponseWriter, r *http.Request) {
	info := infoOf(r)
	long := longRunning(info, r)
	w := &recorder{ResponseWriter: rw}
	ended := s.Metrics.Began(s.measured(info, r.URL.RawQuery != "" && r.URL.Query().Has("dryRun"), long))
	defer func() { ended(cmp.Or(w.code, http.StatusOK), w.size) }()
	defer func() {
		if p := recover(); p != nil {
			s.panicked(w, r, p)
		}
	}()
	if !cleanPath(info, r.URL.Path) {
		writeError(w, r, apierrors.NewBadRequest("the path of the request is not in its simplest form"))
		return
	}
	ctx, cancel, err := s.bound(w, r, long)
	if err != nil {
		writeError(w, r, err)
		return
	}
	defer cancel()
	ctx, _ = request.WithWarnings(request.WithInfo(ctx, info))
	s.authenticated(w, r.WithContext(ctx), info)
}

// cleanPath refuses paths with ".." or doubled slashes, which could be read
// differently by authorization and by what serves them. What is proxied to is
// the other end's affair.
func cleanPath(info *request.Info, p string) bool {
	if info.Subresource == "proxy" {
		p = strings.TrimSuffix(p, info.Rest)
	}
	return p == "/" || path.Clean(p) == strings.TrimSuffix(p, "/")
}

func (s *Server) panicked(w *recorder, r *http.Request, p any) {
	if p == http.ErrAbortHandler {
		panic(p)
	}
	slog.Error("request panicked", "method", r.Method, "path", r.URL.Path, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
	if w.code == 0 {
		writeError(w, r, apierrors.NewInternalError(fmt.Errorf("this request caused apiserver to panic. Look in the logs for details")))
	}
}

// authenticated finds out who asks, honours impersonation, and goes on.
func (s *Server) authenticated(w http.ResponseWriter, r *http.Request, info *request.Info) {
	user, ok, err := s.Authenticator.Authenticate(r)
	if err != nil || !ok {
		writeError(w, r, unauthorized(err))
		return
	}
	r.Header.Del("Authorization")
	user, err = authn.Impersonate(r, user, s.Authorizer)
	if err != nil {
		writeError(w, r, err)
		return
	}
	r = r.WithContext(request.WithUser(r.Context(), user))
	s.authorized(w, r, user, info)
}

func unauthorized(err error) error {
	if _, ok := err.(apierrors.APIStatus); ok {
		return err
	}
	if err != nil {
		slog.Debug("authentication failed", "err", err)
	}
	return apierrors.NewUnauthorized("Unauthorized")
}

func (s *Server) authorized(w http.ResponseWriter, r *http.Request, user *request.User, info *request.Info) {
	leave, err := s.admit(info, user, longRunning(info, r))
	if err != nil {
		writeError(w, r, err)
		return
	}
	defer leave()
	if err := authz.Require(r.Context(), s.Authorizer, user, info); err != nil {
		writeError(w, r, err)
		return
	}
	if info.IsResource {
		s.serveResource(w, r, info)
		return
	}
	s.servePage(w, r)
}

// recorder remembers the status code and the size of an answer.
type recorder struct {
	http.ResponseWriter
	code int
	size int64
}

func (w *recorder) WriteHeader(code int) {
	if w.code == 0 {
		w.code = code
	}
	w.ResponseWriter.WriteHeader(code)
}

func (w *recorder) Write(p []byte) (int, error) {
	if w.code == 0 {
		w.code = http.StatusOK
	}
	n, err := w.ResponseWriter.Write(p)
	w.size += int64(n)
	return n, err
}

// Unwrap lets http.ResponseController reach the connection.
func (w *recorder) Unwrap() http.ResponseWriter { return w.ResponseWriter }
