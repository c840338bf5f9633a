package server

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httputil"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/httpstream"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	kubelettypes "k8s.io/kubelet/pkg/types"
)

// streamOptions says which streams a client wants of a process.
type streamOptions struct {
	stdin, stdout, stderr, tty bool
}

// streamQuery reads the query of exec and attach. A terminal has one output.
func streamQuery(q url.Values) (streamOptions, error) {
	on := func(name string) bool { v := q.Get(name); return v == "1" || v == "true" }
	o := streamOptions{stdin: on("input"), stdout: on("output"), stderr: on("error"), tty: on("tty")}
	if o.tty {
		o.stderr = false
	}
	if !o.stdin && !o.stdout && !o.stderr {
		return o, errors.New("you must specify at least 1 of stdin, stdout, stderr")
	}
	return o, nil
}

// exec runs a program in a container and connects the client to it.
func (s *Server) exec(w http.ResponseWriter, r *http.Request) {
	o, err := streamQuery(r.URL.Query())
	command := r.URL.Query()["command"]
	if err == nil && len(command) == 0 {
		err = errors.New("you must specify a command")
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	id, ok := s.runningContainer(w, r)
	if !ok {
		return
	}
	to, err := s.Runtime.Exec(r.Context(), &runtimeapi.ExecRequest{
		ContainerId: id, Cmd: command, Tty: o.tty, Stdin: o.stdin, Stdout: o.stdout, Stderr: o.stderr,
	})
	s.connect(w, r, to, err, &o)
}

// attach connects the client to a container's first process.
func (s *Server) attach(w http.ResponseWriter, r *http.Request) {
	o, err := streamQuery(r.URL.Query())
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	id, ok := s.runningContainer(w, r)
	if !ok {
		return
	}
	to, err := s.Runtime.Attach(r.Context(), &runtimeapi.AttachRequest{
		ContainerId: id, Tty: o.tty, Stdin: o.stdin, Stdout: o.stdout, Stderr: o.stderr,
	})
	s.connect(w, r, to, err, &o)
}

// portForward connects the client to ports of a pod.
func (s *Server) portForward(w http.ResponseWriter, r *http.Request) {
	pod, ok := s.pod(w, r)
	if !ok {
		return
	}
	ports, err := portQuery(r.URL.Query())
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	sandbox, err := s.sandboxOf(r.Context(), pod)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	to, err := s.Runtime.PortForward(r.Context(), &runtimeapi.PortForwardRequest{PodSandboxId: sandbox, Port: ports})
	s.connect(w, r, to, err, nil)
}

// portQuery reads the ports that a WebSocket client names beforehand; one that
// speaks SPDY names them in its streams.
func portQuery(q url.Values) ([]int32, error) {
	var out []int32
	for _, list := range slices.Concat(q["port"], q["ports"]) {
		for text := range strings.SplitSeq(list, ",") {
			n, err := strconv.ParseUint(text, 10, 16)
			if err != nil || n == 0 {
				return nil, fmt.Errorf("unable to parse %q as a port", text)
			}
			out = append(out, int32(n))
		}
	}
	return out, nil
}

// pod finds the pod that the path names, or answers that there is none.
func (s *Server) pod(w http.ResponseWriter, r *http.Request) (*v1.Pod, bool) {
	namespace, name, uid := r.PathValue("namespace"), r.PathValue("pod"), r.PathValue("uid")
	if uid == "" {
		if p, ok := s.Pods.Pod(namespace, name); ok {
			return p, true
		}
	} else {
		for _, p := range s.Pods.Pods() {
			if string(p.UID) == uid && p.Namespace == namespace && p.Name == name {
				return p, true
			}
		}
	}
	http.Error(w, "pod does not exist", http.StatusNotFound)
	return nil, false
}

// runningContainer finds the running instance that the path names, or answers
// that there is none.
func (s *Server) runningContainer(w http.ResponseWriter, r *http.Request) (string, bool) {
	pod, ok := s.pod(w, r)
	if !ok {
		return "", false
	}
	name := r.PathValue("container")
	if cs := statusOf(pod, name); cs != nil && cs.State.Running != nil && cs.ContainerID != "" {
		return trimID(cs.ContainerID), true
	}
	http.Error(w, fmt.Sprintf("container not found (%q)", name), http.StatusInternalServerError)
	return "", false
}

// sandboxOf returns the pod's sandbox that is ready.
func (s *Server) sandboxOf(ctx context.Context, pod *v1.Pod) (string, error) {
	all, err := s.Runtime.ListSandboxes(ctx, &runtimeapi.PodSandboxFilter{
		LabelSelector: map[string]string{kubelettypes.KubernetesPodUIDLabel: string(pod.UID)},
		State:         &runtimeapi.PodSandboxStateValue{State: runtimeapi.PodSandboxState_SANDBOX_READY},
	})
	if err != nil {
		return "", fmt.Errorf("looking for the pod's sandbox: %w", err)
	}
	if len(all) == 0 {
		return "", fmt.Errorf("pod not found (%q)", pod.Name+"_"+pod.Namespace)
	}
	return slices.MaxFunc(all, func(a, b *runtimeapi.PodSandbox) int {
		return int(a.GetMetadata().GetAttempt()) - int(b.GetMetadata().GetAttempt())
	}).Id, nil
}

// connect joins the client's connection with the runtime's stream at the URL
// to. o is nil for port-forwarding.
func (s *Server) connect(w http.ResponseWriter, r *http.Request, to string, err error, o *streamOptions) {
	if err != nil {
		http.Error(w, err.Error(), statusCode(err))
		return
	}
	target, err := url.Parse(to)
	if err != nil || target.Host == "" || target.Scheme != "http" && target.Scheme != "https" {
		http.Error(w, fmt.Sprintf("the container runtime gave %q as its stream", to), http.StatusInternalServerError)
		return
	}
	offered := protocols(r)
	switch {
	case !isWebSocket(r):
		s.pass(w, r, target)
	case o != nil && slices.ContainsFunc(offered, func(p string) bool { return slices.Contains(channelProtocols, p) }):
		s.translate(w, r, target, *o)
	case o == nil && slices.Contains(offered, tunnelProtocol):
		s.tunnel(w, r, target)
	default: // an old protocol, which the runtime's own server speaks
		s.pass(w, r, target)
	}
}

func statusCode(err error) int {
	switch status.Code(err) {
	case codes.NotFound:
		return http.StatusNotFound
	case codes.InvalidArgument:
		return http.StatusBadRequest
	case codes.ResourceExhausted:
		return http.StatusTooManyRequests
	}
	return http.StatusInternalServerError
}

func isWebSocket(r *http.Request) bool {
	return hasToken(r.Header, "Connection", "upgrade") && hasToken(r.Header, "Upgrade", "websocket")
}

func hasToken(h http.Header, name, token string) bool {
	for _, line := range h.Values(name) {
		for t := range strings.SplitSeq(line, ",") {
			if strings.EqualFold(strings.TrimSpace(t), token) {
				return true
			}
		}
	}
	return false
}

func protocols(r *http.Request) []string {
	var out []string
	for _, line := range r.Header.Values("Sec-Websocket-Protocol") {
		for p := range strings.SplitSeq(line, ",") {
			out = append(out, strings.TrimSpace(p))
		}
	}
	return out
}

// pass hands the connection over as it is. Only an upgrade makes sense here,
// and no redirect is passed on.
func (s *Server) pass(w http.ResponseWriter, r *http.Request, to *url.URL) {
	if r.Header.Get("Upgrade") == "" {
		http.Error(w, "Upgrade request required", http.StatusBadRequest)
		return
	}
	proxy := &httputil.ReverseProxy{
		Rewrite: func(p *httputil.ProxyRequest) {
			p.Out.URL, p.Out.Host = to, to.Host
			p.Out.Header.Del("Authorization")
			p.Out.Header.Del("Origin")
		},
		ModifyResponse: func(resp *http.Response) error {
			if resp.StatusCode >= 300 && resp.StatusCode < 400 {
				return errors.New("the container runtime answered with a redirect")
			}
			return nil
		},
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
			http.Error(w, fmt.Sprintf("error dialing backend: %v", err), http.StatusBadGateway)
		},
		Transport: &http.Transport{DisableKeepAlives: true},
	}
	proxy.ServeHTTP(w, r)
}

// spdyProtocol is the name of the protocol that the runtime's streams speak.
const spdyProtocol = "SPDY/3.1"

// upgradeHeader asks the runtime to speak SPDY.
func upgradeHeader(protocol string) http.Header {
	h := http.Header{}
	h.Set(httpstream.HeaderConnection, httpstream.HeaderUpgrade)
	h.Set(httpstream.HeaderUpgrade, spdyProtocol)
	h.Set(httpstream.HeaderProtocolVersion, protocol)
	return h
}
