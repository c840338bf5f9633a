// Package machine pretends machines on one: each has a network namespace, a
// mount namespace and a /run of its own, and an interface on a switch they
// share. A test runs the real binary in them and sees afterwards what was left.
//
// It runs unshare, nsenter and ip, and needs root. Whatever a test does, the
// namespaces end with the test process, since their holders read a pipe from it.
package machine

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// holder is a process whose namespaces are the machine's.
type holder struct {
	cmd   *exec.Cmd
	stdin io.Closer
}

// hold starts a holder that has run script in its new namespaces.
func hold(script string) (*holder, error) {
	cmd := exec.Command("unshare", "--mount", "--net", "--propagation", "private", "sh", "-ec", script+"\necho ready\nread end || :")
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	h := &holder{cmd: cmd, stdin: in}
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "ready\n" {
		return nil, errors.Join(fmt.Errorf("a namespace's holder said %q, not ready", line), h.end())
	}
	return h, nil
}

func (h *holder) end() error { return errors.Join(h.stdin.Close(), h.cmd.Wait()) }

func (h *holder) ns(kind string) string {
	return fmt.Sprintf("/proc/%d/ns/%s", h.cmd.Process.Pid, kind)
}

// enter returns a command that runs in the holder's namespaces.
func (h *holder) enter(ctx context.Context, name string, args ...string) *exec.Cmd {
	args = append([]string{"--net=" + h.ns("net"), "--mount=" + h.ns("mnt"), "--", name}, args...)
	return exec.CommandContext(ctx, "nsenter", args...)
}

// dial connects from the holder's network namespace; the connection stays in it.
func (h *holder) dial(ctx context.Context, network, address string) (conn net.Conn, err error) {
	inside := h.inside(func() { conn, err = (&net.Dialer{}).DialContext(ctx, network, address) })
	if inside != nil {
		return nil, inside
	}
	return conn, err
}

// inside runs do on a thread that is in the holder's network namespace. The
// thread ends with it, so none is left in the wrong one.
func (h *holder) inside(do func()) error {
	failed := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread is thrown away
		fd, err := unix.Open(h.ns("net"), unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err == nil {
			err = unix.Setns(fd, unix.CLONE_NEWNET)
			unix.Close(fd)
		}
		if err == nil {
			do()
		}
		failed <- err
	}()
	if err := <-failed; err != nil {
		return fmt.Errorf("entering a network namespace: %w", err)
	}
	return nil
}

// listen listens in the holder's network namespace.
func (h *holder) listen(network, address string) (l net.Listener, err error) {
	inside := h.inside(func() { l, err = net.Listen(network, address) })
	if inside != nil {
		return nil, inside
	}
	return l, err
}

// Switch connects machines; it has the first address of their network, and
// stands for what is outside of the cluster.
type Switch struct {
	*holder
	net   string // 10.99.7
	ports int
}

// NewSwitch makes a switch that ends with the test. Without root or a program
// it needs, the test is skipped, loudly.
func NewSwitch(t testing.TB) *Switch {
	t.Helper()
	Require(t)
	s := &Switch{net: "10.99.7"}
	var err error
	s.holder, err = hold(`ip link set lo up
		ip link add br0 type bridge
		ip addr add ` + s.net + `.1/24 dev br0
		ip link set br0 up`)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.end() }) // its shell says nothing more
	return s
}

// Require skips the test where machines cannot be pretended.
func Require(t testing.TB) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("SKIPPED: pretending machines needs root")
	}
	for _, program := range []string{"unshare", "nsenter", "ip"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("SKIPPED: pretending machines needs %s (util-linux, iproute2)", program)
		}
	}
}

// Load is how many times as much wants to run on this machine as can, by the
// average of the last minute; at least 1.
func Load(t testing.TB) float64 {
	t.Helper()
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		t.Fatal(err)
	}
	var minute float64
	if _, err := fmt.Sscan(string(text), &minute); err != nil {
		t.Fatal(err)
	}
	return max(1, minute/float64(runtime.NumCPU()))
}

// Dial connects from the switch: from outside of the cluster.
func (s *Switch) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	return s.dial(ctx, network, address)
}

// Inside runs do on a thread that is in the switch's network namespace.
func (s *Switch) Inside(do func()) error { return s.inside(do) }

// IP is the switch's address.
func (s *Switch) IP() string { return s.net + ".1" }

// Machine is one pretended machine.
type Machine struct {
	*holder
	IP     string
	sw     *Switch
	port   string // its interface at the switch
	before Leftovers
}

// New adds a machine to the switch. It has a default route through the switch
// and /run to itself. At the test's end it must be as it was.
func (s *Switch) New(t testing.TB) *Machine {
	t.Helper()
	s.ports++
	m := &Machine{sw: s, IP: fmt.Sprintf("%s.%d", s.net, 10+s.ports), port: fmt.Sprintf("port%d", s.ports)}
	var err error
	m.holder, err = hold(`mount --make-rshared /
		mount -t tmpfs tmpfs /run
		ip link set lo up`)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.end() })
	for _, line := range []string{
		fmt.Sprintf("link add %s type veth peer name eth0 netns %d", m.port, m.cmd.Process.Pid),
		fmt.Sprintf("link set %s master br0 up", m.port),
	} {
		if out, err := s.enter(t.Context(), "ip", strings.Fields(line)...).CombinedOutput(); err != nil {
			t.Fatalf("ip %s: %v: %s", line, err, out)
		}
	}
	for _, line := range []string{
		"addr add " + m.IP + "/24 dev eth0", "link set eth0 up", "route add default via " + s.IP(),
	} {
		m.Run(t, "ip", strings.Fields(line)...)
	}
	if m.before, err = m.leftovers(); err != nil {
		t.Fatal(err)
	}
	return m
}

// Dial connects from the machine.
func (m *Machine) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	return m.dial(ctx, network, address)
}

// Inside runs do on a thread that is in the machine's network namespace.
func (m *Machine) Inside(do func()) error { return m.inside(do) }

// Listen listens on the machine.
func (m *Machine) Listen(network, address string) (net.Listener, error) {
	return m.listen(network, address)
}

// Command is a command in the machine's namespaces. nsenter becomes the
// program, so its process id is the program's.
func (m *Machine) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	return m.enter(ctx, name, args...)
}

// Run runs a program in the machine and returns what it prints; it must succeed.
func (m *Machine) Run(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := m.Command(context.WithoutCancel(t.Context()), name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// Unplug takes the machine's cable out of the switch; Plug puts it back.
func (m *Machine) Unplug(t testing.TB) { m.cable(t, "down") }

// Plug is the reverse of Unplug.
func (m *Machine) Plug(t testing.TB) { m.cable(t, "up") }

func (m *Machine) cable(t testing.TB, state string) {
	t.Helper()
	if out, err := m.sw.enter(t.Context(), "ip", "link", "set", m.port, state).CombinedOutput(); err != nil {
		t.Fatalf("setting the cable %s: %v: %s", state, err, out)
	}
}
