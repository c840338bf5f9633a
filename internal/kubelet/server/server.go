// Package server is the kubelet's own HTTPS API: logs, exec, attach and
// port-forward for the API server, the pods of the node, statistics and
// metrics. Every request is authenticated and authorized as the node's
// subresource that it touches (KEP-2862); nobody is anonymous.
//
// It reads the kubelet's pods, the runtime and the logs; it writes nothing.
package server

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"skiff.dev/skiff/internal/kubelet/layout"
)

// Pods are the pods of the node; see kubelet.Kubelet.
type Pods interface {
	Pods() []*v1.Pod
	Pod(namespace, name string) (*v1.Pod, bool)
}

// Runtime is the part of the container runtime that is needed; see cri.Runtime.
type Runtime interface {
	ContainerStatus(ctx context.Context, id string) (*runtimeapi.ContainerStatus, error)
	ListSandboxes(ctx context.Context, filter *runtimeapi.PodSandboxFilter) ([]*runtimeapi.PodSandbox, error)
	ListContainers(ctx context.Context, filter *runtimeapi.ContainerFilter) ([]*runtimeapi.Container, error)
	Exec(ctx context.Context, req *runtimeapi.ExecRequest) (string, error)
	Attach(ctx context.Context, req *runtimeapi.AttachRequest) (string, error)
	PortForward(ctx context.Context, req *runtimeapi.PortForwardRequest) (string, error)
}

// Config is what the server serves, and to whom.
type Config struct {
	Pods    Pods
	Runtime Runtime
	Layout  layout.Layout
	Access  Access
	Log     *slog.Logger

	// GetCertificate is the serving certificate, asked for each connection so
	// that it may be renewed.
	GetCertificate func(*tls.ClientHelloInfo) (*tls.Certificate, error)
	// ClientCAs sign the certificates of clients.
	ClientCAs *x509.CertPool
	// TLS narrows what handshakes may agree on.
	TLS TLS

	// Handlers of further paths, such as "/metrics" and "/stats/summary".
	Handlers map[string]http.Handler
	// Settings is what /configz shows as the kubelet's configuration; nil for none.
	Settings func() any
	// Health fails while the kubelet is not well; nil for never.
	Health func() error
	// SystemLogs is the directory that /logs/ serves; "" to deny it.
	SystemLogs string
}

// TLS is what a handshake may agree on; the zero value is the usual.
type TLS struct {
	MinVersion   uint16   // 0 for 1.2
	CipherSuites []uint16 // up to 1.2; nil for Go's choice
	Curves       []tls.CurveID
}

// Server serves the kubelet's API.
type Server struct {
	Config
	mux     *http.ServeMux
	serving sync.WaitGroup // requests, also those that took over their connection
}

// New returns a server; Serve serves it.
func New(c Config) *Server {
	s := &Server{Config: c, mux: http.NewServeMux()}
	handle := func(pattern string, f http.HandlerFunc) { s.mux.HandleFunc(pattern, f) }
	handle("/healthz", s.healthz)
	handle("/healthz/{check}", s.healthz)
	handle("GET /pods", s.listPods)
	handle("GET /pods/{$}", s.listPods)
	handle("GET /runningpods", s.runningPods)
	handle("GET /runningpods/{$}", s.runningPods)
	handle("GET /configz", s.configz)
	handle("GET /containerLogs/{namespace}/{pod}/{container}", s.containerLogs)
	for _, verb := range []string{"GET", "POST"} {
		handle(verb+" /exec/{namespace}/{pod}/{container}", s.exec)
		handle(verb+" /exec/{namespace}/{pod}/{uid}/{container}", s.exec)
		handle(verb+" /attach/{namespace}/{pod}/{container}", s.attach)
		handle(verb+" /attach/{namespace}/{pod}/{uid}/{container}", s.attach)
		for _, name := range []string{"portForward", "portforward"} {
			handle(verb+" /"+name+"/{namespace}/{pod}", s.portForward)
			handle(verb+" /"+name+"/{namespace}/{pod}/{uid}", s.portForward)
		}
	}
	handle("GET /logs/", s.systemLogs)
	for path, h := range c.Handlers {
		s.mux.Handle("GET "+path, h)
	}
	return s
}

const (
	headerTimeout   = 10 * time.Second
	idleTimeout     = 2 * time.Minute
	shutdownTimeout = 5 * time.Second
	maxHeader       = 64 << 10
)

// Serve serves the API on l until ctx ends, and returns when no request is
// left. Streams are cut off then.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	inner, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	srv := &http.Server{
		Handler: s, ReadHeaderTimeout: headerTimeout, IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeader,
		BaseContext: func(net.Listener) context.Context { return inner },
		ErrorLog:    slog.NewLogLogger(s.Log.Handler(), slog.LevelDebug), // strangers' handshakes
		TLSConfig: &tls.Config{
			MinVersion: cmp.Or(s.TLS.MinVersion, tls.VersionTLS12), GetCertificate: s.GetCertificate,
			CipherSuites: s.TLS.CipherSuites, CurvePreferences: s.TLS.Curves,
			// A certificate is not required: a request may have a token instead.
			ClientCAs: s.ClientCAs, ClientAuth: tls.VerifyClientCertIfGiven,
			NextProtos: []string{"http/1.1"}, // connections are upgraded, which HTTP/2 cannot
		},
	}
	ended := make(chan error, 1)
	go func() { ended <- srv.ServeTLS(l, "", "") }()
	var err error
	select {
	case err = <-ended:
	case <-ctx.Done():
		cancel()
		limited, done := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
		if srv.Shutdown(limited) != nil {
			err = srv.Close()
		}
		done()
		<-ended
	}
	cancel()
	s.serving.Wait()
	if err != nil && !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serving the kubelet's API: %w", err)
	}
	return nil
}

// ServeHTTP answers one request, if the client may ask for it.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.serving.Add(1)
	defer s.serving.Done()
	user, err := s.Access.Authenticate(r)
	if err != nil {
		if !errors.Is(err, ErrUnauthenticated) {
			s.Log.Warn("authenticating a request to the kubelet", "err", err)
		}
		http.Error(w, "Unauthorized", http.StatusUnauthorized)
		return
	}
	verb, subresources := attributes(r)
	for _, sub := range subresources {
		allowed, err := s.Access.Authorize(r.Context(), user, verb, sub)
		if err != nil {
			s.Log.Warn("authorizing a request to the kubelet", "user", user.Name, "err", err)
			http.Error(w, fmt.Sprintf("Authorization error (user=%s, verb=%s, resource=nodes, subresource(s)=%v)", user.Name, verb, subresources), http.StatusInternalServerError)
			return
		}
		if allowed {
			s.mux.ServeHTTP(w, r)
			return
		}
	}
	http.Error(w, fmt.Sprintf("Forbidden (user=%s, verb=%s, resource=nodes, subresource(s)=%v)", user.Name, verb, subresources), http.StatusForbidden)
}

// attributes returns what a request is authorized as: a verb and the
// subresources of nodes of which one must be allowed.
// https://kubernetes.io/docs/reference/access-authn-authz/kubelet-authn-authz/
func attributes(r *http.Request) (verb string, subresources []string) {
	switch r.Method {
	case http.MethodPost:
		verb = "create"
	case http.MethodPut:
		verb = "update"
	case http.MethodPatch:
		verb = "patch"
	case http.MethodDelete:
		verb = "delete"
	default:
		verb = "get"
	}
	first, _, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	switch first {
	case "stats":
		return verb, []string{"stats"}
	case "metrics":
		return verb, []string{"metrics"}
	case "logs":
		return verb, []string{"log"}
	case "checkpoint":
		return verb, []string{"checkpoint"}
	case "healthz", "configz":
		return verb, []string{first, "proxy"}
	case "pods", "runningpods":
		return verb, []string{"pods", "proxy"}
	case "exec", "attach", "portForward", "portforward":
		// A WebSocket begins with a GET; that a program is run must not hide in it.
		return "create", []string{"proxy"}
	}
	return verb, []string{"proxy"}
}

func (s *Server) healthz(w http.ResponseWriter, _ *http.Request) {
	if s.Health != nil {
		if err := s.Health(); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, _ = w.Write([]byte("ok")) // a client that is gone needs no answer
}

func (s *Server) configz(w http.ResponseWriter, _ *http.Request) {
	var settings any
	if s.Settings != nil {
		settings = s.Settings()
	}
	s.writeJSON(w, map[string]any{"kubeletconfig": settings})
}

// systemLogs serves the host's log directory, where that is turned on. Links
// out of it are not followed.
func (s *Server) systemLogs(w http.ResponseWriter, r *http.Request) {
	if s.SystemLogs == "" {
		http.Error(w, "logs endpoint is disabled.", http.StatusMethodNotAllowed)
		return
	}
	root, err := openRoot(s.SystemLogs)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	defer root.Close()
	http.StripPrefix("/logs/", http.FileServerFS(root.FS())).ServeHTTP(w, r)
}

func (s *Server) writeJSON(w http.ResponseWriter, v any) {
	data, err := json.Marshal(v)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(data) // a client that is gone needs no answer
}

// listPods shows the pods of the node as the kubelet knows them.
func (s *Server) listPods(w http.ResponseWriter, _ *http.Request) {
	list := &v1.PodList{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "PodList"}, Items: []v1.Pod{}}
	for _, p := range s.Pods.Pods() {
		list.Items = append(list.Items, *p)
	}
	s.writeJSON(w, list)
}

// runningPods shows what the runtime runs, as pods without more than names.
func (s *Server) runningPods(w http.ResponseWriter, r *http.Request) {
	sandboxes, err := s.Runtime.ListSandboxes(r.Context(), nil)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	containers, err := s.Runtime.ListContainers(r.Context(), &runtimeapi.ContainerFilter{
		State: &runtimeapi.ContainerStateValue{State: runtimeapi.ContainerState_CONTAINER_RUNNING},
	})
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	list := &v1.PodList{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "PodList"}, Items: []v1.Pod{}}
	for _, sb := range sandboxes {
		if sb.State != runtimeapi.PodSandboxState_SANDBOX_READY {
			continue
		}
		m := sb.GetMetadata()
		p := v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: m.GetNamespace(), Name: m.GetName(), UID: types.UID(m.GetUid())}}
		for _, c := range containers {
			if c.PodSandboxId == sb.Id {
				p.Spec.Containers = append(p.Spec.Containers, v1.Container{Name: c.GetMetadata().GetName(), Image: c.GetImage().GetImage()})
			}
		}
		list.Items = append(list.Items, p)
	}
	s.writeJSON(w, list)
}
