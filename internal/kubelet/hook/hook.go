// Package hook runs the lifecycle hooks of containers: a command inside the
// container, an HTTP request to it, or a wait.
// https://kubernetes.io/docs/concepts/containers/container-lifecycle-hooks/
package hook

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Execer runs commands in containers; see cri.Runtime.
type Execer interface {
	ExecSync(ctx context.Context, id string, cmd []string, timeout time.Duration) (*runtimeapi.ExecSyncResponse, error)
}

// Runner runs hooks.
type Runner struct {
	exec   Execer
	client *http.Client
}

// NewRunner returns a runner. Its HTTP client does not check certificates, as
// containers have names of their own making, and follows no redirects.
func NewRunner(exec Execer) *Runner {
	return &Runner{exec: exec, client: &http.Client{
		Transport: &http.Transport{
			TLSClientConfig:   &tls.Config{InsecureSkipVerify: true},
			DisableKeepAlives: true, Proxy: nil,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// Run returns nil when the hook has succeeded. It gives up when ctx ends.
func (r *Runner) Run(ctx context.Context, pod *v1.Pod, c *v1.Container, containerID string, h *v1.LifecycleHandler) error {
	switch {
	case h.Exec != nil:
		return r.run(ctx, containerID, h.Exec.Command)
	case h.HTTPGet != nil:
		return r.get(ctx, pod, c, h.HTTPGet)
	case h.Sleep != nil:
		return wait(ctx, time.Duration(h.Sleep.Seconds)*time.Second)
	case h.TCPSocket != nil:
		return nil // by its documentation it does nothing, and is kept only for old objects
	}
	return errors.New("invalid handler: no action given")
}

func (r *Runner) run(ctx context.Context, id string, cmd []string) error {
	resp, err := r.exec.ExecSync(ctx, id, cmd, 0)
	if err != nil {
		return fmt.Errorf("running %q in the container: %w", cmd, err)
	}
	if resp.ExitCode != 0 {
		return fmt.Errorf("command '%s' exited with %d: %s", strings.Join(cmd, " "), resp.ExitCode, resp.Stderr)
	}
	return nil
}

func wait(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (r *Runner) get(ctx context.Context, pod *v1.Pod, c *v1.Container, g *v1.HTTPGetAction) error {
	req, err := Request(ctx, g, c, pod.Status.PodIP)
	if err != nil {
		return err
	}
	resp, err := r.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	// The body is read a little so that the server is not cut off at once.
	if _, err := io.CopyN(io.Discard, resp.Body, 10<<10); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if resp.StatusCode >= http.StatusBadRequest {
		return fmt.Errorf("HTTP hook failed with statuscode: %d", resp.StatusCode)
	}
	return nil
}

// Request makes the request of an HTTP handler of a hook or a probe.
func Request(ctx context.Context, g *v1.HTTPGetAction, c *v1.Container, podIP string) (*http.Request, error) {
	port, err := Port(g.Port, c)
	if err != nil {
		return nil, err
	}
	host := g.Host
	if host == "" {
		host = podIP
	}
	u, err := url.Parse(g.Path)
	if err != nil {
		u = &url.URL{Path: g.Path} // what is no URL is a path
	}
	u.Scheme = strings.ToLower(string(g.Scheme))
	if u.Scheme == "" {
		u.Scheme = "http"
	}
	u.Host = net.JoinHostPort(host, strconv.Itoa(port))
	if u.Path != "" && !strings.HasPrefix(u.Path, "/") {
		u.Path = "/" + u.Path
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, err
	}
	for _, h := range g.HTTPHeaders {
		req.Header.Add(h.Name, h.Value)
		if strings.EqualFold(h.Name, "Host") {
			req.Host = h.Value
		}
	}
	return req, nil
}

// Port finds the number of a port, which may be named after one of the container's.
func Port(p intstr.IntOrString, c *v1.Container) (int, error) {
	n := p.IntValue()
	if p.Type == intstr.String {
		for _, named := range c.Ports {
			if named.Name == p.StrVal {
				return int(named.ContainerPort), nil
			}
		}
		var err error
		if n, err = strconv.Atoi(p.StrVal); err != nil {
			return 0, fmt.Errorf("port %s not found", p.StrVal)
		}
	}
	if n < 1 || n > 65535 {
		return 0, fmt.Errorf("invalid port number: %v", p.String())
	}
	return n, nil
}
