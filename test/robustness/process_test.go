package robustness

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"skiff.dev/skiff/internal/testing/loopback"
)

// binary is the program under test, built once.
var binary string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "skiff-robustness-")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		if binary = os.Getenv("SKIFF_BINARY"); binary == "" {
			binary = filepath.Join(dir, "skiff")
			build := exec.Command("go", "build", "-o", binary, "skiff.dev/skiff/cmd/skiff")
			build.Stderr = os.Stderr
			if err := build.Run(); err != nil {
				fmt.Fprintln(os.Stderr, "building skiff:", err)
				return 1
			}
		}
		return m.Run()
	}())
}

// server is `skiff server --disable-agent` on a data directory and a port that
// stay the same over its restarts.
type server struct {
	t      testing.TB
	dir    string
	port   int
	wrap   []string // a command that runs the server in other surroundings
	cmd    *exec.Cmd
	exited chan struct{}
	out    *tail
	http   *http.Client
}

func newServer(t testing.TB) *server {
	t.Helper()
	s := &server{t: t, dir: filepath.Join(t.TempDir(), "data"), port: loopback.Port(t)}
	s.http = &http.Client{Timeout: time.Second, Transport: &http.Transport{
		TLSClientConfig:   &tls.Config{InsecureSkipVerify: true}, //nolint:gosec // asks for readiness only
		DisableKeepAlives: true,
	}}
	t.Cleanup(func() { s.kill() })
	return s
}

func (s *server) args() []string {
	return append(append([]string{}, s.wrap...), binary, "server", "--disable-agent", "--data-dir", s.dir,
		"--bind-address", "127.0.0.1", "--secure-port", strconv.Itoa(s.port), "--log-level", "warn")
}

// start starts the server and does not wait until it is ready.
func (s *server) start() {
	s.t.Helper()
	args := s.args()
	s.out = &tail{}
	cmd, exited := exec.Command(args[0], args[1:]...), make(chan struct{})
	cmd.Stdout, cmd.Stderr = s.out, s.out
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.cmd, s.exited = cmd, exited
	go func() { _ = cmd.Wait(); close(exited) }() // how it ended is in ProcessState
}

// kill ends the server as kill -9 does.
func (s *server) kill() {
	if s.cmd != nil {
		_ = s.cmd.Process.Kill() // it may have ended
		<-s.exited
		s.cmd = nil
	}
}

// ready waits until /readyz says ok.
func (s *server) ready(limit time.Duration) {
	s.t.Helper()
	end := time.After(limit)
	for !s.isReady() {
		select {
		case <-s.exited:
			s.t.Fatalf("skiff ended: %s", s.out)
		case <-end:
			s.t.Fatalf("skiff is not ready after %v: %s", limit, s.out)
		case <-time.After(2 * time.Millisecond): // nothing tells a stranger
		}
	}
}

func (s *server) isReady() bool {
	res, err := s.http.Get(fmt.Sprintf("https://127.0.0.1:%d/readyz", s.port))
	if err != nil {
		return false
	}
	defer res.Body.Close()
	_, _ = io.Copy(io.Discard, res.Body) // only the status counts
	return res.StatusCode == http.StatusOK
}

// queued returns for how long the threads of a process have waited for a
// processor, all in all. On a busy machine this is most of what anything takes.
func queued(t testing.TB, pid int) (sum time.Duration) {
	t.Helper()
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range threads {
		text, err := os.ReadFile(name)
		if err != nil {
			continue // the thread has ended
		}
		var ran, waited time.Duration
		if _, err := fmt.Sscan(string(text), &ran, &waited); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		sum += waited
	}
	return sum
}

// client returns a client of the administrator. The server must have been ready
// once.
func (s *server) client() *kubernetes.Clientset {
	s.t.Helper()
	c, err := kubernetes.NewForConfig(s.config())
	if err != nil {
		s.t.Fatal(err)
	}
	return c
}

func (s *server) config() *rest.Config {
	s.t.Helper()
	cfg, err := clientcmd.BuildConfigFromFlags("", filepath.Join(s.root(), s.dir, "kubeconfig"))
	if err != nil {
		s.t.Fatal(err)
	}
	cfg.QPS, cfg.Timeout = -1, 0
	return cfg
}

// root is where the server sees its file system.
func (s *server) root() string {
	if s.wrap == nil {
		return "/"
	}
	return fmt.Sprintf("/proc/%d/root", s.cmd.Process.Pid)
}

// run runs skiff to its end and returns what it said.
func (s *server) run(ctx context.Context) (string, error) {
	args := s.args()
	out, err := exec.CommandContext(ctx, args[0], args[1:]...).CombinedOutput()
	return string(out), err
}

// tail keeps the last of what is written to it.
type tail struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

const keep = 16 << 10

// Write implements io.Writer.
func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf.Write(p)
	if over := t.buf.Len() - keep; over > 0 {
		t.buf.Next(over)
	}
	return len(p), nil
}

// String returns it.
func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.buf.String()
}

// long reports whether the long variant was asked for.
func long() bool { return os.Getenv("SKIFF_ROBUSTNESS") == "long" }
