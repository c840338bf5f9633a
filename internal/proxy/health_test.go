package proxy

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
)

func TestHealthChecks(t *testing.T) {
	healthy := true
	var addr string
	h := NewHealthChecks(func(port int) (net.Listener, error) {
		if port != 30999 {
			t.Errorf("opened port %d", port)
		}
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err == nil {
			addr = l.Addr().String()
		}
		return l, err
	}, func() bool { return healthy }, slog.New(slog.DiscardHandler))
	defer h.Close(context.Background())
	svc := service("lb", "10.96.0.1", func(s *corev1.Service) {
		s.Spec.Type = corev1.ServiceTypeLoadBalancer
		s.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
		s.Spec.HealthCheckNodePort = 30999
	})
	key := Key{Namespace: "ns1", Name: "lb"}
	set := func(svc *corev1.Service, entries ...string) {
		t.Helper()
		var ports []Port
		if svc != nil {
			ports = portsOf(testNode, svc, slice(svc, 8080, entries...))[key]
		}
		if err := h.set(key, svc, ports); err != nil {
			t.Fatal(err)
		}
	}
	check := func(status int, body, weight string) {
		t.Helper()
		r, err := http.Get("http://" + addr + "/healthz")
		if err != nil {
			t.Fatal(err)
		}
		defer r.Body.Close()
		got, err := io.ReadAll(r.Body)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(body+"\n", string(got)); diff != "" || r.StatusCode != status || r.Header.Get("X-Load-Balancing-Endpoint-Weight") != weight {
			t.Errorf("status %d, weight %q, (-want +got):\n%s", r.StatusCode, r.Header.Get("X-Load-Balancing-Endpoint-Weight"), diff)
		}
	}
	set(svc, "10.244.1.5")
	check(503, `{"service":{"namespace":"ns1","name":"lb"},"localEndpoints":0,"serviceProxyHealthy":true}`, "0")
	set(svc, "10.244.1.5 local", "10.244.1.6 local", "10.244.1.7")
	check(200, `{"service":{"namespace":"ns1","name":"lb"},"localEndpoints":2,"serviceProxyHealthy":true}`, "2")
	healthy = false
	check(503, `{"service":{"namespace":"ns1","name":"lb"},"localEndpoints":2,"serviceProxyHealthy":false}`, "2")
	set(nil)
	if r, err := http.Get("http://" + addr + "/healthz"); err == nil {
		r.Body.Close()
		t.Error("the port of a Service that is gone still answers")
	}
}
