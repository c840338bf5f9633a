package server

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/httpstream"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/tools/remotecommand"
	spdytransport "k8s.io/client-go/transport/spdy"
	"k8s.io/client-go/util/exec"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/cri-streaming/pkg/streaming"
	streamremote "k8s.io/cri-streaming/pkg/streaming/remotecommand"

	"skiff.dev/skiff/internal/kubelet/layout"
)

// programs stands for containers: the first word of the command says what is run.
type programs struct{}

type exitError int

func (e exitError) Error() string   { return fmt.Sprintf("exit status %d", int(e)) }
func (e exitError) String() string  { return e.Error() }
func (e exitError) Exited() bool    { return true }
func (e exitError) ExitStatus() int { return int(e) }

func (programs) Exec(_ context.Context, id string, cmd []string, in io.Reader, out, errs io.WriteCloser, tty bool, resize <-chan streamremote.TerminalSize) error {
	switch cmd[0] {
	case "cat":
		_, err := io.Copy(out, in)
		return err
	case "fail":
		fmt.Fprint(out, "out")
		fmt.Fprint(errs, "err of "+id)
		return exitError(42)
	case "size":
		size := <-resize
		fmt.Fprintf(out, "%dx%d tty=%v", size.Width, size.Height, tty)
		return nil
	case "big":
		_, err := out.Write(bytes.Repeat([]byte("x"), 1<<20))
		return err
	}
	return errors.New("no such program")
}

func (p programs) Attach(ctx context.Context, id string, in io.Reader, out, errs io.WriteCloser, tty bool, resize <-chan streamremote.TerminalSize) error {
	return p.Exec(ctx, id, []string{"cat"}, in, out, errs, tty, resize)
}

func (programs) PortForward(_ context.Context, _ string, port int32, stream io.ReadWriteCloser) error {
	defer stream.Close()
	line := make([]byte, 5)
	if _, err := io.ReadFull(stream, line); err != nil {
		return err
	}
	_, err := fmt.Fprintf(stream, "%d got %s", port, line)
	return err
}

// runtime is a CRI whose streams are served by the library that containerd uses.
type runtime struct {
	streams  streaming.Server
	statuses map[string]*runtimeapi.ContainerStatus
}

func (r *runtime) ContainerStatus(_ context.Context, id string) (*runtimeapi.ContainerStatus, error) {
	if s := r.statuses[id]; s != nil {
		return s, nil
	}
	return nil, errNotFound
}

func (r *runtime) ListSandboxes(context.Context, *runtimeapi.PodSandboxFilter) ([]*runtimeapi.PodSandbox, error) {
	return []*runtimeapi.PodSandbox{{Id: "sb", Metadata: &runtimeapi.PodSandboxMetadata{Name: "p", Namespace: "ns", Uid: "u1"}}}, nil
}

func (r *runtime) ListContainers(context.Context, *runtimeapi.ContainerFilter) ([]*runtimeapi.Container, error) {
	return []*runtimeapi.Container{{Id: "c1", PodSandboxId: "sb", Metadata: &runtimeapi.ContainerMetadata{Name: "c"}, Image: &runtimeapi.ImageSpec{Image: "i"}}}, nil
}

func (r *runtime) Exec(_ context.Context, req *runtimeapi.ExecRequest) (string, error) {
	resp, err := r.streams.GetExec(req)
	return resp.GetUrl(), err
}

func (r *runtime) Attach(_ context.Context, req *runtimeapi.AttachRequest) (string, error) {
	resp, err := r.streams.GetAttach(req)
	return resp.GetUrl(), err
}

func (r *runtime) PortForward(_ context.Context, req *runtimeapi.PortForwardRequest) (string, error) {
	resp, err := r.streams.GetPortForward(req)
	return resp.GetUrl(), err
}

// podList is the kubelet's pods.
type podList []*v1.Pod

func (l podList) Pods() []*v1.Pod { return l }
func (l podList) Pod(namespace, name string) (*v1.Pod, bool) {
	for _, p := range l {
		if p.Namespace == namespace && p.Name == name {
			return p, true
		}
	}
	return nil, false
}

// anyone lets every client do what allow says, by the name in its header.
type anyone func(verb, subresource string) bool

func (anyone) Authenticate(r *http.Request) (User, error) {
	if r.Header.Get("X-Stranger") != "" {
		return User{}, ErrUnauthenticated
	}
	return User{Name: "someone"}, nil
}

func (a anyone) Authorize(_ context.Context, _ User, verb, sub string) (bool, error) {
	return a == nil || a(verb, sub), nil
}

func testPod() *v1.Pod {
	return &v1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p", UID: "u1"},
		Status: v1.PodStatus{ContainerStatuses: []v1.ContainerStatus{
			{Name: "c", ContainerID: "containerd://c1", State: v1.ContainerState{Running: &v1.ContainerStateRunning{}}},
			{Name: "waiting", State: v1.ContainerState{Waiting: &v1.ContainerStateWaiting{Reason: "ContainerCreating"}}},
		}},
	}
}

// serve starts the kubelet's API, without TLS, over a runtime with programs.
func serve(t *testing.T, access Access) (*url.URL, *runtime, *Server) {
	t.Helper()
	back := httptest.NewUnstartedServer(nil)
	config := streaming.DefaultConfig
	config.BaseURL = &url.URL{Scheme: "http", Host: back.Listener.Addr().String()}
	streams, err := streaming.NewServer(config, programs{})
	if err != nil {
		t.Fatal(err)
	}
	back.Config.Handler = streams
	back.Start()
	t.Cleanup(back.Close)
	rt := &runtime{streams: streams, statuses: map[string]*runtimeapi.ContainerStatus{}}
	s := New(Config{
		Pods: podList{testPod()}, Runtime: rt, Layout: layout.Below(t.TempDir()), Access: access, Log: slog.New(slog.DiscardHandler),
	})
	front := httptest.NewServer(s)
	t.Cleanup(front.Close)
	at, err := url.Parse(front.URL)
	if err != nil {
		t.Fatal(err)
	}
	return at, rt, s
}

// clients are the two kinds of client that kubectl may be.
func clients(t *testing.T, at *url.URL) map[string]remotecommand.Executor {
	t.Helper()
	config := &rest.Config{Host: at.Host}
	ws, err := remotecommand.NewWebSocketExecutor(config, "GET", at.String())
	if err != nil {
		t.Fatal(err)
	}
	spdy, err := remotecommand.NewSPDYExecutor(config, "POST", at)
	if err != nil {
		t.Fatal(err)
	}
	return map[string]remotecommand.Executor{"WebSocket": ws, "SPDY": spdy}
}

type oneSize chan struct{}

func (s oneSize) Next() *remotecommand.TerminalSize {
	if _, ok := <-s; !ok {
		return nil
	}
	return &remotecommand.TerminalSize{Width: 80, Height: 24}
}

func TestExecAndAttach(t *testing.T) {
	at, _, _ := serve(t, anyone(nil))
	for name, tt := range map[string]struct {
		path, query string
		stdin       string
		tty         bool
		out, err    string
		code        int
	}{
		"cat":         {path: "/exec/ns/p/c", query: "command=cat&input=1&output=1", stdin: strings.Repeat("line\n", 20000), out: strings.Repeat("line\n", 20000)},
		"exit code":   {path: "/exec/ns/p/c", query: "command=fail&output=1&error=1", out: "out", err: "err of c1", code: 42},
		"with uid":    {path: "/exec/ns/p/u1/c", query: "command=fail&output=true&error=true", out: "out", err: "err of c1", code: 42},
		"terminal":    {path: "/exec/ns/p/c", query: "command=size&input=1&output=1&error=1&tty=1", tty: true, out: "80x24 tty=true"},
		"much output": {path: "/exec/ns/p/c", query: "command=big&output=1", out: strings.Repeat("x", 1<<20)},
		"attach":      {path: "/attach/ns/p/c", query: "input=1&output=1", stdin: "hello", out: "hello"},
	} {
		where := *at
		where.Path, where.RawQuery = tt.path, tt.query
		for kind, client := range clients(t, &where) {
			t.Run(name+"/"+kind, func(t *testing.T) {
				var out, errs bytes.Buffer
				o := remotecommand.StreamOptions{Stdout: &out, Tty: tt.tty}
				if strings.Contains(tt.query, "input=1") {
					o.Stdin = strings.NewReader(tt.stdin)
				}
				if strings.Contains(tt.query, "error=") && !tt.tty {
					o.Stderr = &errs
				}
				if tt.tty {
					size := make(oneSize, 1)
					size <- struct{}{}
					defer close(size)
					o.TerminalSizeQueue = size
				}
				err := client.StreamWithContext(t.Context(), o)
				var exit exec.CodeExitError
				if errors.As(err, &exit) {
					err = nil
				}
				if err != nil || exit.Code != tt.code || out.String() != tt.out || errs.String() != tt.err {
					t.Errorf("err %v, code %d, %d bytes %.40q, stderr %q", err, exit.Code, out.Len(), out.String(), errs.String())
				}
			})
		}
	}
}

func TestStreamRefusals(t *testing.T) {
	at, _, _ := serve(t, anyone(nil))
	for path, want := range map[string]string{
		"/exec/ns/absent/c?command=a&output=1":  "404 pod does not exist",
		"/exec/ns/p/other/c?command=a&output=1": "404 pod does not exist",
		"/exec/ns/p/absent?command=a&output=1":  `500 container not found ("absent")`,
		"/exec/ns/p/waiting?command=a&output=1": `500 container not found ("waiting")`,
		"/exec/ns/p/c?command=a":                "400 you must specify at least 1 of stdin, stdout, stderr",
		"/exec/ns/p/c?output=1":                 "400 you must specify a command",
		"/exec/ns/p/c?command=a&output=1":       "400 Upgrade request required",
		"/portForward/ns/p?ports=99999":         `400 unable to parse "99999" as a port`,
		"/run/ns/p/c?cmd=a":                     "404 404 page not found",
	} {
		resp, err := http.Post(at.String()+path, "", nil)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if got := fmt.Sprintf("%d %s", resp.StatusCode, strings.TrimSpace(string(body))); got != want {
			t.Errorf("%s: %s, want %s", path, got, want)
		}
	}
}

// TestPortForward forwards a port as kubectl does, by both protocols.
func TestPortForward(t *testing.T) {
	at, _, _ := serve(t, anyone(nil))
	for _, path := range []string{"/portForward/ns/p", "/portforward/ns/p/u1"} {
		where := *at
		where.Path = path
		config := &rest.Config{Host: at.Host}
		tunnel, err := portforward.NewSPDYOverWebsocketDialer(&where, config)
		if err != nil {
			t.Fatal(err)
		}
		transport, up, err := spdytransport.RoundTripperFor(config)
		if err != nil {
			t.Fatal(err)
		}
		for kind, dialer := range map[string]httpstream.Dialer{
			"WebSocket": tunnel, "SPDY": spdytransport.NewDialer(up, &http.Client{Transport: transport}, "POST", &where),
		} {
			t.Run(path+"/"+kind, func(t *testing.T) {
				stop, ready := make(chan struct{}), make(chan struct{})
				f, err := portforward.New(dialer, []string{"0:8080"}, stop, ready, io.Discard, io.Discard)
				if err != nil {
					t.Fatal(err)
				}
				ended := make(chan error, 1)
				go func() { ended <- f.ForwardPorts() }()
				select {
				case <-ready:
				case err := <-ended:
					t.Fatal(err)
				}
				ports, err := f.GetPorts()
				if err != nil {
					t.Fatal(err)
				}
				conn, err := net.Dial("tcp", fmt.Sprintf("localhost:%d", ports[0].Local))
				if err != nil {
					t.Fatal(err)
				}
				fmt.Fprint(conn, "hello")
				answer, err := io.ReadAll(conn)
				if err != nil || string(answer) != "8080 got hello" {
					t.Errorf("answer %q %v", answer, err)
				}
				conn.Close()
				close(stop)
				if err := <-ended; err != nil {
					t.Error(err)
				}
			})
		}
	}
}
