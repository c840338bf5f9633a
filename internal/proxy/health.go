package proxy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// HealthChecks serves the health check node port of Services with
// externalTrafficPolicy Local: external load balancers ask it whether the node
// has an endpoint of its own. It is safe for concurrent use.
type HealthChecks struct {
	listen func(port int) (net.Listener, error)
	log    *slog.Logger
	// healthy says whether the proxy does its work; a node whose proxy does
	// not gets no traffic.
	healthy func() bool

	mu      sync.Mutex
	servers map[Key]*healthServer
}

// NewHealthChecks returns a HealthChecks whose ports are opened with listen.
func NewHealthChecks(listen func(port int) (net.Listener, error), healthy func() bool, log *slog.Logger) *HealthChecks {
	return &HealthChecks{listen: listen, healthy: healthy, log: log, servers: map[Key]*healthServer{}}
}

type healthServer struct {
	port   int32
	local  atomic.Int64 // endpoints on this node
	server *http.Server
	done   chan struct{}
}

// set opens, updates or closes the port of a Service. svc is nil if it is gone.
func (h *HealthChecks) set(k Key, svc *corev1.Service, ports []Port) error {
	var want int32
	if svc != nil && !ignored(svc) && svc.Spec.Type == corev1.ServiceTypeLoadBalancer &&
		svc.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal {
		want = svc.Spec.HealthCheckNodePort
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	s := h.servers[k]
	if s != nil && s.port != want {
		delete(h.servers, k)
		s.close()
		s = nil
	}
	if want == 0 {
		return nil
	}
	if s == nil {
		var err error
		if s, err = h.serve(k, want); err != nil {
			return err
		}
		h.servers[k] = s
	}
	local := map[string]bool{}
	for i := range ports {
		for _, e := range ports[i].Local {
			local[e.Addr().String()] = true
		}
	}
	s.local.Store(int64(len(local)))
	return nil
}

// headerTimeout bounds how long a stranger may take to ask.
const headerTimeout = 5 * time.Second

func (h *HealthChecks) serve(k Key, port int32) (*healthServer, error) {
	l, err := h.listen(int(port))
	if err != nil {
		return nil, fmt.Errorf("listening on health check node port %d: %w", port, err)
	}
	s := &healthServer{port: port, done: make(chan struct{})}
	s.server = &http.Server{Handler: h.handler(k, s), ReadHeaderTimeout: headerTimeout, IdleTimeout: time.Minute}
	go func() {
		defer close(s.done)
		if err := s.server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			h.log.Error("Health check node port ended", "service", k.String(), "port", port, "err", err)
		}
	}()
	return s, nil
}

// answer is the body load balancers' operators know.
type answer struct {
	Service struct {
		Namespace string `json:"namespace"`
		Name      string `json:"name"`
	} `json:"service"`
	LocalEndpoints      int64 `json:"localEndpoints"`
	ServiceProxyHealthy bool  `json:"serviceProxyHealthy"`
}

func (h *HealthChecks) handler(k Key, s *healthServer) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		a := answer{LocalEndpoints: s.local.Load(), ServiceProxyHealthy: h.healthy()}
		a.Service.Namespace, a.Service.Name = k.Namespace, k.Name
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		w.Header().Set("X-Load-Balancing-Endpoint-Weight", strconv.FormatInt(a.LocalEndpoints, 10))
		if a.LocalEndpoints == 0 || !a.ServiceProxyHealthy {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		json.NewEncoder(w).Encode(a) // the asker has gone if this fails
	})
}

func (s *healthServer) close() {
	s.server.Close() // only listeners and connections nobody needs any more
	<-s.done
}

// Close closes all ports and waits for their servers.
func (h *HealthChecks) Close(context.Context) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	for k, s := range h.servers {
		s.close()
		delete(h.servers, k)
	}
	return nil
}
