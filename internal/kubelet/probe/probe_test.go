package probe

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	grpcstatus "google.golang.org/grpc/status"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// answers runs commands by their first word.
type answers struct{}

func (answers) ExecSync(_ context.Context, _ string, cmd []string, _ time.Duration) (*runtimeapi.ExecSyncResponse, error) {
	switch cmd[0] {
	case "ok":
		return &runtimeapi.ExecSyncResponse{Stdout: []byte("fine")}, nil
	case "fail":
		return &runtimeapi.ExecSyncResponse{ExitCode: 2, Stderr: []byte("bad")}, nil
	case "slow":
		return nil, grpcstatus.Error(codes.DeadlineExceeded, "too slow")
	}
	return nil, errors.New("no such container")
}

func TestExec(t *testing.T) {
	for cmd, want := range map[string]struct {
		answer Answer
		said   string
	}{
		"ok":   {Success, "fine"},
		"fail": {Failure, "bad"},
		"slow": {Failure, `command timed out: "slow" timed out after 1s`},
		"gone": {Unknown, "no such container"},
	} {
		p := &v1.Probe{ProbeHandler: v1.ProbeHandler{Exec: &v1.ExecAction{Command: []string{cmd}}}}
		if a, said := NewProber(answers{}).Ask(t.Context(), p, &v1.Container{}, "c", ""); a != want.answer || said != want.said {
			t.Errorf("%s: %v %q, want %v %q", cmd, a, said, want.answer, want.said)
		}
	}
}

func hostPort(t *testing.T, address string) (string, int) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(port)
	if err != nil {
		t.Fatal(err)
	}
	return host, n
}

func TestHTTP(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/ok":
			if r.Host != "me" || r.Header.Get("X") != "y" || !strings.HasPrefix(r.UserAgent(), "kube-probe/") || r.URL.RawQuery != "a=b" {
				w.WriteHeader(http.StatusTeapot)
			}
		case "/away":
			http.Redirect(w, r, "http://192.0.2.1/", http.StatusFound)
		case "/here":
			http.Redirect(w, r, "/broken", http.StatusFound)
		default:
			w.WriteHeader(http.StatusInternalServerError)
		}
	}))
	defer server.Close()
	host, port := hostPort(t, server.Listener.Addr().String())
	c := &v1.Container{Ports: []v1.ContainerPort{{Name: "web", ContainerPort: int32(port)}}}
	for path, want := range map[string]struct {
		answer Answer
		said   string
	}{
		"/ok?a=b": {Success, ""},
		"/away":   {Success, ""}, // not followed to another host
		"/here":   {Failure, "HTTP probe failed with statuscode: 500"},
		"broken":  {Failure, "HTTP probe failed with statuscode: 500"},
	} {
		p := &v1.Probe{ProbeHandler: v1.ProbeHandler{HTTPGet: &v1.HTTPGetAction{Path: path, Port: intstr.FromString("web"),
			HTTPHeaders: []v1.HTTPHeader{{Name: "Host", Value: "me"}, {Name: "X", Value: "y"}}}}}
		a, said := NewProber(answers{}).Ask(t.Context(), p, c, "c", host)
		if a != want.answer || want.said != "" && said != want.said {
			t.Errorf("%s: %v %q, want %v %q", path, a, said, want.answer, want.said)
		}
	}
	server.Close()
	p := &v1.Probe{ProbeHandler: v1.ProbeHandler{HTTPGet: &v1.HTTPGetAction{Path: "/", Port: intstr.FromString("web")}}}
	if a, said := NewProber(answers{}).Ask(t.Context(), p, c, "c", host); a != Failure || !strings.HasSuffix(said, "connect: connection refused") || !strings.HasPrefix(said, `Get "http://`) {
		t.Errorf("a closed port: %v %q", a, said)
	}
	p.HTTPGet.Port = intstr.FromString("no")
	if a, said := NewProber(answers{}).Ask(t.Context(), p, c, "c", host); a != Unknown || said != "port no not found" {
		t.Errorf("an unknown port: %v %q", a, said)
	}
}

func TestTCP(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	host, port := hostPort(t, l.Addr().String())
	p := &v1.Probe{ProbeHandler: v1.ProbeHandler{TCPSocket: &v1.TCPSocketAction{Port: intstr.FromInt32(int32(port))}}}
	if a, said := NewProber(answers{}).Ask(t.Context(), p, &v1.Container{}, "c", host); a != Success {
		t.Errorf("open: %v %q", a, said)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if a, said := NewProber(answers{}).Ask(t.Context(), p, &v1.Container{}, "c", host); a != Failure || !strings.HasSuffix(said, "connect: connection refused") {
		t.Errorf("closed: %v %q", a, said)
	}
}

func TestGRPC(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server, state := grpc.NewServer(), health.NewServer()
	healthpb.RegisterHealthServer(server, state)
	state.SetServingStatus("sick", healthpb.HealthCheckResponse_NOT_SERVING)
	done := make(chan error, 1)
	go func() { done <- server.Serve(l) }()
	defer func() {
		server.Stop()
		<-done
	}()
	host, port := hostPort(t, l.Addr().String())
	for service, want := range map[string]struct {
		answer Answer
		said   string
	}{
		"":     {Success, "service healthy"},
		"sick": {Failure, `service unhealthy (responded with "NOT_SERVING")`},
		"no":   {Failure, "error: health rpc failed: rpc error: code = NotFound desc = unknown service"},
	} {
		p := &v1.Probe{ProbeHandler: v1.ProbeHandler{GRPC: &v1.GRPCAction{Port: int32(port), Service: &service}}}
		if a, said := NewProber(answers{}).Ask(t.Context(), p, &v1.Container{}, "c", host); a != want.answer || said != want.said {
			t.Errorf("%q: %v %q, want %v %q", service, a, said, want.answer, want.said)
		}
	}
}
