// Package cluster runs the built binary as clusters on pretended machines, for
// tests: servers, agents, images, kubectl, a client. It writes below a
// directory of the test's own and leaves nothing.
//
// The binary is bin/skiff of the checkout, or $SKIFF_BINARY.
package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"skiff.dev/skiff/test/e2e/machine"
)

// Root is the checkout, which the tests run somewhere below.
func Root() string {
	dir, err := os.Getwd()
	if err != nil {
		panic(fmt.Sprintf("the tests have no working directory: %v", err))
	}
	for ; dir != "/"; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			break
		}
	}
	return dir
}

// Binary is the skiff under test; without it the test is skipped, loudly.
func Binary(t testing.TB) string {
	t.Helper()
	path := os.Getenv("SKIFF_BINARY")
	if path == "" {
		path = filepath.Join(Root(), "bin", "skiff")
	}
	if _, err := os.Stat(path); err != nil {
		t.Skipf("SKIPPED: the binary under test is missing (make build): %v", err)
	}
	return path
}

// Node is one process on a machine: a server, an agent, a component.
type Node struct {
	Machine *machine.Machine
	Name    string
	Dir     string // its data directory
	Log     string // what it has written, all runs
	binary  string
	args    []string

	mu     sync.Mutex
	cmd    *exec.Cmd
	exited chan struct{}
}

// Cluster is a server and what hangs on it.
type Cluster struct {
	*Node
	t testing.TB
}

// APIPort is where the API is served.
const APIPort = "6443"

// patience is how long anything may take before the test gives up.
const patience = 2 * time.Minute

// Within is how long something may take on this machine that takes d at most on
// an ordinary one. SKIFF_E2E_SLOW says how many times slower this one is: an
// emulated machine is not to be judged by its speed.
func Within(d time.Duration) time.Duration {
	if times, err := strconv.Atoi(os.Getenv("SKIFF_E2E_SLOW")); err == nil && times > 1 {
		return time.Duration(times) * d
	}
	return d
}

// Start starts a server on m with its own node and waits until it can be used.
// At the test's end it is stopped and reset, and nothing may be left.
func Start(t testing.TB, m *machine.Machine, flags ...string) *Cluster {
	t.Helper()
	c := &Cluster{t: t}
	c.Node = c.AddNode(m, "n1", append([]string{"server"}, flags...)...)
	c.Node.Start(t)
	c.WaitReady(t)
	return c
}

// Adopt is the cluster that something else has started on m, in dir. The test
// that adopts it sees to its end.
func Adopt(t testing.TB, m *machine.Machine, dir string) *Cluster {
	return &Cluster{t: t, Node: &Node{Machine: m, Dir: dir, Log: filepath.Join(dir, "skiff.log"), binary: Binary(t)}}
}

// On returns the cluster for a subtest, which then is the one that fails.
func (c *Cluster) On(t testing.TB) *Cluster { return &Cluster{Node: c.Node, t: t} }

// AddNode prepares one more skiff process with a data directory; Start starts
// it. At the test's end it is stopped and reset, and nothing may be left.
func (c *Cluster) AddNode(m *machine.Machine, name string, args ...string) *Node {
	c.t.Helper()
	dir, err := os.MkdirTemp("", "skiff-e2e-")
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			c.t.Errorf("removing %s: %v", dir, err)
		}
	})
	data := filepath.Join(dir, "data")
	args = append([]string{args[0], "--data-dir", data, "--node-name", name}, args[1:]...)
	n := NewNode(m, name, data, Binary(c.t), args...)
	c.t.Cleanup(func() {
		n.Stop(c.t)
		n.Reset(c.t)
		m.CheckNothingLeft(c.t, data)
		if c.t.Failed() {
			c.t.Logf("log of %s:\n%s", name, tail(n.Log))
		}
	})
	return n
}

// NewNode prepares a process whose data is in dir, and whose log is beside it.
func NewNode(m *machine.Machine, name, dir, program string, args ...string) *Node {
	return &Node{Machine: m, Name: name, Dir: dir, Log: filepath.Join(filepath.Dir(dir), name+".log"), binary: program, args: args}
}

// Reset removes what the node has left on its machine, by `skiff reset`.
func (n *Node) Reset(t testing.TB) {
	t.Helper()
	out, err := n.Machine.Command(context.Background(), n.binary, "reset", "--data-dir", n.Dir, "--yes").CombinedOutput()
	if err != nil {
		t.Errorf("skiff reset: %v\n%s", err, out)
	}
}

// tail is the end of a log.
func tail(file string) string {
	text, err := os.ReadFile(file)
	if err != nil {
		return err.Error()
	}
	const most = 8 << 10
	return string(text[max(0, len(text)-most):])
}

// Start starts the process.
func (n *Node) Start(t testing.TB) {
	t.Helper()
	log, err := os.OpenFile(n.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd := n.Machine.Command(context.Background(), n.binary, n.args...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	exited := make(chan struct{})
	n.mu.Lock()
	n.cmd, n.exited = cmd, exited
	n.mu.Unlock()
	go func() {
		defer close(exited)
		cmd.Wait() // its state is read where it matters
	}()
}

// Kill ends the process by SIGKILL and waits for its end.
func (n *Node) Kill(t testing.TB) { n.end(t, syscall.SIGKILL) }

// Stop ends the process by SIGTERM and waits for its end.
func (n *Node) Stop(t testing.TB) { n.end(t, syscall.SIGTERM) }

func (n *Node) end(t testing.TB, sig syscall.Signal) {
	t.Helper()
	n.mu.Lock()
	cmd, exited := n.cmd, n.exited
	n.mu.Unlock()
	if cmd == nil {
		return
	}
	if err := cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("ending skiff: %v", err)
	}
	select {
	case <-exited:
	case <-time.After(Within(30 * time.Second)):
		cmd.Process.Kill()
		<-exited
		t.Errorf("skiff had not ended %v after %v", Within(30*time.Second), sig)
	}
}

// PID is the process id of the running skiff.
func (n *Node) PID() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.cmd.Process.Pid
}

// WaitReady waits until /readyz says ok and the administrator's kubeconfig is
// there, and returns how long that took.
func (c *Cluster) WaitReady(t testing.TB) time.Duration {
	t.Helper()
	begin := time.Now()
	client := c.HTTP(Within(5 * time.Second))
	for c.probeReady(client) != nil {
		select {
		case <-c.exited:
			t.Fatalf("skiff has ended:\n%s", tail(c.Log))
		default:
		}
		if time.Since(begin) > Within(patience) {
			t.Fatalf("not ready after %v: %v\n%s", patience, c.probeReady(client), tail(c.Log))
		}
		time.Sleep(2 * time.Millisecond)
	}
	return time.Since(begin)
}

// HTTP is a client in the machine's network that makes a connection per
// request and verifies nothing: the test is about what answers.
func (c *Cluster) HTTP(timeout time.Duration) *http.Client {
	return &http.Client{Timeout: timeout, Transport: &http.Transport{
		DialContext: c.Machine.Dial, TLSClientConfig: insecure(), DisableKeepAlives: true,
	}}
}

func (c *Cluster) probeReady(client *http.Client) error {
	if _, err := os.Stat(filepath.Join(c.Dir, "kubeconfig")); err != nil {
		return err
	}
	res, err := client.Get("https://" + net.JoinHostPort("127.0.0.1", APIPort) + "/readyz")
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return errors.New(res.Status)
	}
	return nil
}

// Kubeconfig is the administrator's.
func (c *Cluster) Kubeconfig() string { return filepath.Join(c.Dir, "kubeconfig") }

// Config is a client's configuration, with the administrator's rights.
func (c *Cluster) Config() *rest.Config {
	c.t.Helper()
	config, err := clientcmd.BuildConfigFromFlags("", c.Kubeconfig())
	if err != nil {
		c.t.Fatal(err)
	}
	config.Dial, config.QPS = c.Machine.Dial, -1
	return config
}

// Client is client-go's, with the administrator's rights.
func (c *Cluster) Client() kubernetes.Interface {
	c.t.Helper()
	client, err := kubernetes.NewForConfig(c.Config())
	if err != nil {
		c.t.Fatal(err)
	}
	return client
}

// Command is skiff itself with args, in the machine.
func (c *Cluster) Command(ctx context.Context, args ...string) *exec.Cmd {
	return c.Machine.Command(ctx, c.binary, args...)
}

// KubectlCommand is a kubectl in the machine with the administrator's rights:
// the program named stock, or skiff's own for "".
func (c *Cluster) KubectlCommand(ctx context.Context, stock string, args ...string) *exec.Cmd {
	args = append([]string{"--kubeconfig", c.Kubeconfig()}, args...)
	if stock != "" {
		return c.Machine.Command(ctx, stock, args...)
	}
	return c.Machine.Command(ctx, c.binary, append([]string{"kubectl"}, args...)...)
}

// Try runs skiff's kubectl and returns all it printed.
func (c *Cluster) Try(args ...string) (string, error) {
	out, err := c.KubectlCommand(context.Background(), "", args...).CombinedOutput()
	return string(out), err
}

// Kubectl runs skiff's kubectl, which must succeed, and returns its output.
func (c *Cluster) Kubectl(args ...string) string {
	c.t.Helper()
	cmd := c.KubectlCommand(context.Background(), "", args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		c.t.Fatalf("kubectl %s: %v\n%s%s", strings.Join(args, " "), err, out, stderr.Bytes())
	}
	return string(out)
}

// Apply applies a manifest.
func (c *Cluster) Apply(manifest string) {
	c.t.Helper()
	cmd := c.KubectlCommand(context.Background(), "", "apply", "-f", "-")
	cmd.Stdin = strings.NewReader(manifest)
	if out, err := cmd.CombinedOutput(); err != nil {
		c.t.Fatalf("kubectl apply: %v\n%s\n%s", err, out, manifest)
	}
}

// Eventually waits until check returns nil; what it last returned is the
// failure.
func (c *Cluster) Eventually(what string, within time.Duration, check func() error) {
	c.t.Helper()
	end := time.Now().Add(Within(within))
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			out, _ := c.Try("get", "pods,events", "-A", "-o", "wide") // for the message only
			c.t.Fatalf("%s: not within %v: %v\n%s", what, within, err, out)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// Want returns an error unless got has want in it.
func Want(got, want string) error {
	if !strings.Contains(got, want) {
		return fmt.Errorf("%q lacks %q", got, want)
	}
	return nil
}
