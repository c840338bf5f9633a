// Package probe asks containers how they are: by a command inside them, an
// HTTP request, a TCP connection or a gRPC health check. Manager decides when
// to ask and what the answers mean; Prober asks once.
// https://kubernetes.io/docs/tasks/configure-pod-container/configure-liveness-readiness-startup-probes/
package probe

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	grpcstatus "google.golang.org/grpc/status"
	v1 "k8s.io/api/core/v1"

	"skiff.dev/skiff/internal/kubelet/hook"
	"skiff.dev/skiff/internal/version"
)

// Answer is what one probe found.
type Answer int

const (
	Success Answer = iota
	Failure
	// Unknown: the probe itself went wrong. It counts neither way.
	Unknown
)

// agent is how probes introduce themselves: kube-probe/1.37.
const agent = "kube-probe/" + version.Major + "." + version.Minor

// maxOutput is how much of an answer is read and shown.
const maxOutput = 10 << 10

// Prober asks once. It is safe for concurrent use.
type Prober struct {
	exec   hook.Execer
	client *http.Client
}

// NewProber returns a prober. HTTPS certificates are not checked, as the API
// documents, and redirects to other hosts are not followed.
func NewProber(exec hook.Execer) *Prober {
	return &Prober{exec: exec, client: &http.Client{
		Transport: &http.Transport{
			TLSClientConfig:    &tls.Config{InsecureSkipVerify: true},
			DisableKeepAlives:  true, // each probe is a connection of its own
			DisableCompression: true,
			Proxy:              nil,
		},
		CheckRedirect: func(req *http.Request, via []*http.Request) error {
			if req.URL.Hostname() != via[0].URL.Hostname() || len(via) >= 10 {
				return http.ErrUseLastResponse
			}
			return nil
		},
	}}
}

// Ask runs one probe of a container, within the probe's timeout, and returns
// what it found and said.
func (p *Prober) Ask(ctx context.Context, probe *v1.Probe, c *v1.Container, containerID, podIP string) (Answer, string) {
	timeout := time.Duration(max(probe.TimeoutSeconds, 1)) * time.Second
	if probe.Exec != nil {
		return p.askExec(ctx, probe.Exec, containerID, timeout)
	}
	limited, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	switch {
	case probe.HTTPGet != nil:
		return p.askHTTP(limited, probe.HTTPGet, c, podIP)
	case probe.TCPSocket != nil:
		return askTCP(limited, probe.TCPSocket, c, podIP)
	case probe.GRPC != nil:
		return askGRPC(limited, probe.GRPC, podIP, timeout)
	}
	return Unknown, fmt.Sprintf("missing probe handler for %s", c.Name)
}

func (p *Prober) askExec(ctx context.Context, a *v1.ExecAction, id string, timeout time.Duration) (Answer, string) {
	resp, err := p.exec.ExecSync(ctx, id, a.Command, timeout)
	if grpcstatus.Code(err) == codes.DeadlineExceeded || errors.Is(err, context.DeadlineExceeded) {
		return Failure, fmt.Sprintf("command timed out: %q timed out after %v", strings.Join(a.Command, " "), timeout)
	}
	if err != nil {
		return Unknown, err.Error()
	}
	out := string(resp.Stdout) + string(resp.Stderr)
	out = out[:min(len(out), maxOutput)]
	if resp.ExitCode != 0 {
		return Failure, out
	}
	return Success, out
}

func (p *Prober) askHTTP(ctx context.Context, g *v1.HTTPGetAction, c *v1.Container, podIP string) (Answer, string) {
	req, err := hook.Request(ctx, g, c, podIP)
	if err != nil {
		return Unknown, err.Error()
	}
	if req.Header.Get("User-Agent") == "" {
		req.Header.Set("User-Agent", agent)
	}
	if req.Header.Get("Accept") == "" {
		req.Header.Set("Accept", "*/*")
	}
	resp, err := p.client.Do(req)
	if err != nil {
		return Failure, err.Error()
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxOutput))
	if err != nil {
		return Failure, err.Error()
	}
	if resp.StatusCode >= http.StatusOK && resp.StatusCode < http.StatusBadRequest {
		return Success, string(body)
	}
	return Failure, fmt.Sprintf("HTTP probe failed with statuscode: %d", resp.StatusCode)
}

func askTCP(ctx context.Context, t *v1.TCPSocketAction, c *v1.Container, podIP string) (Answer, string) {
	port, err := hook.Port(t.Port, c)
	if err != nil {
		return Unknown, err.Error()
	}
	host := t.Host
	if host == "" {
		host = podIP
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", net.JoinHostPort(host, strconv.Itoa(port)))
	if err != nil {
		return Failure, err.Error()
	}
	if err := conn.Close(); err != nil {
		return Success, err.Error() // it did connect
	}
	return Success, ""
}

func askGRPC(ctx context.Context, g *v1.GRPCAction, podIP string, timeout time.Duration) (Answer, string) {
	service := ""
	if g.Service != nil {
		service = *g.Service
	}
	address := net.JoinHostPort(podIP, strconv.Itoa(int(g.Port)))
	conn, err := grpc.NewClient("passthrough:///"+address,
		grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithUserAgent(agent))
	if err != nil {
		return Failure, err.Error()
	}
	defer conn.Close()
	resp, err := healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{Service: service}, grpc.WaitForReady(true))
	if err != nil {
		switch s := grpcstatus.Convert(err); s.Code() {
		case codes.Unimplemented:
			return Failure, fmt.Sprintf("error: this server does not implement the grpc health protocol (grpc.health.v1.Health): %s", s.Message())
		case codes.DeadlineExceeded:
			return Failure, fmt.Sprintf("timeout: failed to connect service %q within %v: %v", address, timeout, err)
		}
		return Failure, fmt.Sprintf("error: health rpc failed: %v", err)
	}
	if resp.Status != healthpb.HealthCheckResponse_SERVING {
		return Failure, fmt.Sprintf("service unhealthy (responded with %q)", resp.Status.String())
	}
	return Success, "service healthy"
}
