package cni

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"

	"skiff.dev/skiff/internal/netlink/netnstest"
)

// serveEnv names the socket at which the test's program answers calls, until
// its standard input ends.
const serveEnv = "SKIFF_CNI_TEST_SERVE"

func serveTest(socket string) int {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	s, err := Listen(socket, slog.New(slog.NewTextHandler(os.Stderr, nil)))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	fmt.Println("ready")
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin) // its end is what counts
		cancel()
	}()
	if err := s.Run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// caller is a node whose runtime calls the plugin by the launcher.
type caller struct {
	*testing.T
	node, pod *netnstest.NS
	dir       string // everybody may look into it
	network   *Network
}

func newCaller(t *testing.T) *caller {
	c := &caller{T: t, node: netnstest.New(t), pod: netnstest.New(t), network: network(t, "10.244.1.0/24", "fd00:244:1::/64")}
	var err error
	c.dir, err = os.MkdirTemp("", "skiff-cni-")
	must(t, err)
	t.Cleanup(func() { must(t, os.RemoveAll(c.dir)) })
	must(t, os.Chmod(c.dir, 0o755))
	out, err := exec.Command("gcc", "-static", "-nostdlib", "-nostartfiles", "-ffreestanding", "-fno-stack-protector", "-Os", "-Wall", "-Wextra", "-Werror",
		"-o", c.launcher(), "../runtime/carried/launcher/cni.c").CombinedOutput()
	if err != nil {
		t.Fatalf("building the launcher: %v\n%s", err, out)
	}
	return c
}

func (c *caller) launcher() string { return filepath.Join(c.dir, PluginName) }
func (c *caller) socket() string   { return filepath.Join(c.dir, "cni.sock") }

// plugin puts the plugin's own program beside the launcher.
func (c *caller) plugin() {
	c.Helper()
	self, err := os.Executable()
	must(c, err)
	must(c, os.Symlink(self, filepath.Join(c.dir, "skiff-cni-plugin")))
}

// serve starts a process in the node's network that answers; stop ends it.
func (c *caller) serve() (stop func()) {
	c.Helper()
	cmd, in := c.server()
	return sync.OnceFunc(func() {
		must(c, in.Close())
		must(c, cmd.Wait())
	})
}

// server starts the process of serve, which ends with its input.
func (c *caller) server() (*exec.Cmd, io.Closer) {
	c.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), serveEnv+"="+c.socket())
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	must(c, err)
	out, err := cmd.StdoutPipe()
	must(c, err)
	c.node.Do(c.T, func() { must(c, cmd.Start()) })
	_, err = io.ReadFull(out, make([]byte, len("ready\n")))
	must(c, err)
	return cmd, in
}

// config is what the runtime gives the plugin on standard input.
func (c *caller) config(extra map[string]any) []byte {
	conf := conflist(Config{HostPortTable: DefaultHostPortTable, MTU: 1450, PodCIDRs: c.network.PodCIDRs, StateDir: c.network.StateDir})["plugins"].([]any)[0].(map[string]any)
	conf["cniVersion"], conf["name"] = Version, "skiff"
	for k, v := range extra {
		conf[k] = v
	}
	in, err := json.Marshal(conf)
	must(c, err)
	return in
}

// call executes the launcher as the runtime would.
func (c *caller) call(command string, in []byte, change ...func(*exec.Cmd)) (out string, code int) {
	c.Helper()
	cmd := exec.Command(c.launcher())
	cmd.Env = []string{"PATH=/", "CNI_COMMAND=" + command, "CNI_CONTAINERID=c0", "CNI_NETNS=" + c.pod.Path(), "CNI_IFNAME=eth0", "CNI_PATH=/", "SKIFF_CNI_SOCKET=" + c.socket()}
	cmd.Stdin = bytes.NewReader(in)
	for _, f := range change {
		f(cmd)
	}
	var stdout bytes.Buffer
	cmd.Stdout = &stdout
	var err error
	c.node.Do(c.T, func() { err = cmd.Run() })
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		c.Fatal(err)
	}
	return stdout.String(), cmd.ProcessState.ExitCode()
}

func (c *caller) calls(command string, in []byte) string {
	c.Helper()
	out, code := c.call(command, in)
	if code != 0 {
		c.Fatalf("%s: code %d: %s", command, code, out)
	}
	return out
}

// left is what is left of attachments: links and state.
func (c *caller) left() (list []string) {
	c.node.Do(c.T, func() {
		links, err := netlink.LinkList()
		must(c, err)
		for _, l := range links {
			if l.Attrs().Name != "lo" {
				list = append(list, l.Attrs().Name)
			}
		}
	})
	return append(list, files(c, c.network.StateDir)...)
}

// TestServerAnswersAsThePlugin asks for everything of the process that serves,
// there being no other, and then of the plugin's program, there being no
// process.
func TestServerAnswersAsThePlugin(t *testing.T) {
	c := newCaller(t)
	stop := c.serve()
	defer stop()
	answers := func() map[string]string {
		got := map[string]string{"ADD": c.calls("ADD", c.config(nil))}
		var r types100.Result
		must(t, json.Unmarshal([]byte(got["ADD"]), &r))
		if len(r.IPs) != 2 || len(r.Interfaces) != 2 {
			t.Errorf("result %s", got["ADD"])
		}
		in := c.config(map[string]any{"prevResult": r})
		for _, command := range []string{"CHECK", "STATUS", "VERSION"} {
			got[command] = c.calls(command, in)
		}
		got["ADD again"], _ = c.call("ADD", in)
		keep := []any{map[string]any{"containerID": "c0", "ifname": "eth0"}}
		c.calls("GC", c.config(map[string]any{"cni.dev/valid-attachments": keep}))
		if len(c.left()) == 0 {
			t.Error("an attachment that is valid went with the others")
		}
		got["DEL"] = c.calls("DEL", in)
		got["DEL again"] = c.calls("DEL", in)
		c.calls("GC", c.config(map[string]any{"cni.dev/valid-attachments": []any{}}))
		for _, bad := range []struct{ command, in string }{
			{"ADD", "{"}, {"ADD", ""}, {"NONE", "{}"}, {"ADD", `{"name":"x","cniVersion":"0.1.0"}`}, {"GC", `{"name":"x","cniVersion":"1.0.0"}`},
			{"ADD", `{"name":"x","cniVersion":"1.1.0"}`}, {"CHECK", string(in)},
		} {
			out, code := c.call(bad.command, []byte(bad.in))
			var e types.Error
			if code == 0 || json.Unmarshal([]byte(out), &e) != nil || e.Code == 0 {
				t.Errorf("%s with %q: code %d, answer %s", bad.command, bad.in, code, out)
			}
			got[bad.command+bad.in] = out
		}
		if left := c.left(); len(left) > 0 {
			t.Errorf("left: %v", left)
		}
		must(t, os.RemoveAll(c.network.StateDir)) // the next address is the first again
		return got
	}
	served := answers()
	stop()
	if _, err := os.Stat(c.socket()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is left: %v", err)
	}
	c.plugin()
	if diff := cmp.Diff(answers(), served); diff != "" {
		t.Errorf("the process that serves answers (+) otherwise than the plugin (-):\n%s", diff)
	}
}

func TestServerSurvivesBrokenInput(t *testing.T) {
	c := newCaller(t)
	defer c.serve()()
	for _, text := range []string{"", "x", "\x00", "\x00{", "CNI_COMMAND=ADD", "CNI_COMMAND=ADD\x00", "PATH=/\x00\x00", "CNI_COMMAND\x00\x00",
		"CNI_COMMAND=ADD\x00CNI_CONTAINERID=../x\x00CNI_IFNAME=a/b\x00CNI_NETNS=/\x00CNI_PATH=/\x00\x00" + string(c.config(nil)), strings.Repeat("x", 2<<20)} {
		conn, err := net.Dial("unix", c.socket())
		must(t, err)
		_, werr := conn.Write([]byte(text))
		conn.(*net.UnixConn).CloseWrite() //nolint:errcheck // the server may have hung up on what is too long
		answer, _ := io.ReadAll(conn)     // likewise
		if len(answer) > 0 && answer[0] == 0 {
			t.Errorf("%.40q was granted (%v): %s", text, werr, answer)
		}
		conn.Close()
	}
	silent, err := net.Dial("unix", c.socket())
	must(t, err)
	defer silent.Close() // one that says nothing holds up nobody
	c.calls("ADD", c.config(nil))
	c.calls("DEL", c.config(nil))
}

// TestLauncherFallsBack has nobody answer, in different ways.
func TestLauncherFallsBack(t *testing.T) {
	c := newCaller(t)
	c.plugin()
	c.calls("ADD", c.config(nil))
	c.calls("DEL", c.config(nil))
	t.Run("no socket is named", func(t *testing.T) {
		if out, code := c.call("STATUS", c.config(nil), func(cmd *exec.Cmd) { cmd.Env = cmd.Env[:len(cmd.Env)-1] }); code != 0 {
			t.Errorf("code %d: %s", code, out)
		}
	})
	l, err := net.Listen("unix", c.socket())
	must(t, err)
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = io.Copy(io.Discard, conn) // and no answer
			conn.Close()
		}
	}()
	t.Run("it ends while it should answer", func(t *testing.T) { c.calls("STATUS", c.config(nil)) })
	t.Run("more than it takes", func(t *testing.T) {
		out, code := c.call("STATUS", append(bytes.Repeat([]byte(" "), 3<<20), c.config(nil)...))
		if code != 0 {
			t.Errorf("code %d: %s", code, out)
		}
	})
}

// TestServerIsKilled kills the process that serves while pods are connected. The
// plugin's program goes on; what failed is taken back, as the runtime does; all
// that stands is whole, and when all is taken back nothing is left.
func TestServerIsKilled(t *testing.T) {
	const pods, rounds = 8, 4
	c := newCaller(t)
	c.plugin()
	var namespaces []*netnstest.NS
	for range pods * rounds {
		namespaces = append(namespaces, netnstest.New(t))
	}
	as := func(i int) func(*exec.Cmd) {
		return func(cmd *exec.Cmd) {
			cmd.Env = append(cmd.Env, fmt.Sprint("CNI_CONTAINERID=c", i), "CNI_NETNS="+namespaces[i].Path())
		}
	}
	var standing []int
	for round := range rounds {
		cmd, _ := c.server()
		added := make([]bool, pods)
		returned := make(chan struct{}, pods)
		var all sync.WaitGroup
		for i := range pods {
			all.Go(func() {
				_, code := c.call("ADD", c.config(nil), as(round*pods+i))
				added[i] = code == 0
				returned <- struct{}{}
			})
		}
		for range round {
			<-returned
		}
		must(t, cmd.Process.Kill())
		_ = cmd.Wait() // killed
		all.Wait()
		for i, ok := range added {
			if ok {
				standing = append(standing, round*pods+i)
			} else if out, code := c.call("DEL", c.config(nil), as(round*pods+i)); code != 0 {
				t.Errorf("taking back what failed: %s", out)
			}
		}
	}
	if want := rounds * (pods - 1); len(standing) < want {
		t.Errorf("%d pods were connected, want %d: at most one call is under way when the process is killed", len(standing), want)
	}
	// A link, a record and two addresses each; two more where a call was killed
	// that had taken addresses and no more: they are the pod's, and go with it.
	if left, want := c.left(), 4*len(standing); len(left) < want || len(left) > want+2*rounds {
		t.Errorf("%d pods stand on %d things, want %d: %v", len(standing), len(left), want, left)
	}
	for _, i := range standing {
		if out, code := c.call("CHECK", c.config(nil), as(i)); code != 0 {
			t.Errorf("c%d is connected and does not stand: %s", i, out)
		}
		if out, code := c.call("DEL", c.config(nil), as(i)); code != 0 {
			t.Errorf("disconnecting c%d: %s", i, out)
		}
	}
	if left := c.left(); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

func TestServerIsForRootOnly(t *testing.T) {
	c := newCaller(t)
	defer c.serve()()
	info, err := os.Stat(c.socket())
	must(t, err)
	if info.Mode().Perm() != 0o600 {
		t.Errorf("the socket's mode is %v", info.Mode())
	}
	must(t, os.Chmod(c.socket(), 0o666))
	nobody := func(cmd *exec.Cmd) {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	}
	if out, code := c.call("VERSION", nil, nobody); code == 0 {
		t.Errorf("another user was answered: %s", out)
	}
	c.calls("VERSION", nil)
}

// TestMainThreadStays has many threads go into another namespace. The main
// thread, whose namespace is the process's, must not.
func TestMainThreadStays(t *testing.T) {
	pod := netnstest.New(t)
	ns, err := os.Open(pod.Path())
	must(t, err)
	defer ns.Close()
	before, err := os.Readlink("/proc/self/ns/net")
	must(t, err)
	var all sync.WaitGroup
	for range 200 {
		all.Go(func() {
			if err := inNamespace(ns, func() error { return nil }); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if after, err := os.Readlink("/proc/self/ns/net"); err != nil || after != before {
		t.Errorf("the process is in %s, was in %s (%v)", after, before, err)
	}
}

func FuzzRequest(f *testing.F) {
	f.Add([]byte("CNI_COMMAND=ADD\x00CNI_IFNAME=eth0\x00\x00{\"name\":\"x\",\"cniVersion\":\"1.1.0\",\"podCIDRs\":[\"10.0.0.0/8\"]}"))
	f.Add([]byte("\x00"))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := parseRequest(data)
		if err != nil {
			return
		}
		for _, c := range commands {
			if err := r.check(c); err != nil {
				continue
			}
			if n, err := r.network(c); err == nil && n.StateDir == "" {
				t.Error("a network without state")
			}
		}
	})
}

// BenchmarkServer is BenchmarkProgram's VERSION and STATUS by a server in this process.
func BenchmarkServer(b *testing.B) {
	s, err := Listen(filepath.Join(b.TempDir(), "s"), slog.Default())
	must(b, err)
	ctx, cancel := context.WithCancel(b.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	defer func() { cancel(); must(b, <-done) }()
	for b.Loop() {
		conn, err := net.DialTimeout("unix", s.path, time.Second)
		must(b, err)
		_, err = conn.Write([]byte("CNI_COMMAND=VERSION\x00\x00"))
		must(b, errors.Join(err, conn.(*net.UnixConn).CloseWrite()))
		answer, err := io.ReadAll(conn)
		must(b, errors.Join(err, conn.Close()))
		if len(answer) < 2 || answer[0] != 0 {
			b.Fatalf("answer %q", answer)
		}
	}
}
