// Package machine pretends machines on one. Each has a process that is init of a PID namespace of its own,
// with network, mount, UTS, IPC and control group namespaces: its own /run, /tmp, /var/lib and /var/log, its
// own root of the control groups, and an interface on a switch that all machines of a set share.
//
// A set outlives the program that made it. All that it is hangs on those processes: when they end, be it by
// kill -9, so does everything in them, with its mounts and links; they are found by their command line, which
// names the set's directory. What remains, the directory and control groups, Remove takes away.
//
// It runs unshare's and nsenter's system calls, ip and sysctl files, and needs root.
package machine

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Set is a number of machines on a switch.
type Set struct {
	// Dir is where they keep everything.
	Dir string
	// Switch is what connects them, seen from it: the outside of the cluster.
	Switch *Machine
	net    string // 10.199.7
}

// Machine is one of them.
type Machine struct {
	Name string
	IP   string
	// Dir is where it keeps its files.
	Dir string
	pid int // of its init, as this process sees it
	set *Set
}

// holdCommand is the word of the command line by which init processes are known.
const holdCommand = "hold-machine"

// Create makes a set with its switch in dir, in place of one that is there.
func Create(dir string) (*Set, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	for _, own := range ownPlaces {
		if strings.HasPrefix(dir, own+"/") {
			return nil, fmt.Errorf("machines cannot be kept in %s: each has a %s of its own", dir, own)
		}
	}
	if err := Remove(dir); err != nil {
		return nil, fmt.Errorf("removing what was in %s: %w", dir, err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	s := &Set{Dir: dir}
	if err := s.begin(); err != nil {
		return nil, errors.Join(err, Remove(dir))
	}
	return s, nil
}

// ownPlaces are those that each machine has for itself.
var ownPlaces = []string{"/run", "/tmp", "/var/lib", "/var/log"}

func (s *Set) begin() (err error) {
	if err := saveSettings(s.Dir); err != nil {
		return err
	}
	if s.net, err = freeNetwork(s.Dir); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(s.Dir, "network"), []byte(s.net), 0o644); err != nil {
		return err
	}
	if s.Switch, err = s.hold("switch", s.net+".1"); err != nil {
		return err
	}
	return s.connectSwitch()
}

// Open finds the set in dir.
func Open(dir string) (*Set, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	network, err := os.ReadFile(filepath.Join(dir, "network"))
	if err != nil {
		return nil, fmt.Errorf("there is no cluster in %s: %w", dir, err)
	}
	s := &Set{Dir: dir, net: string(network)}
	s.Switch, err = s.Machine("switch")
	return s, err
}

// Machine finds a machine of the set.
func (s *Set) Machine(name string) (*Machine, error) {
	for _, h := range holders(s.Dir) {
		if h.name == name {
			return &Machine{Name: name, IP: h.ip, Dir: filepath.Join(s.Dir, name), pid: h.pid, set: s}, nil
		}
	}
	return nil, fmt.Errorf("the machine %s of %s does not run", name, s.Dir)
}

// Add makes a machine; the n-th has the address .10+n.
func (s *Set) Add(name string, n int) (*Machine, error) {
	m, err := s.hold(name, fmt.Sprintf("%s.%d", s.net, 10+n))
	if err != nil {
		return nil, err
	}
	return m, m.connect(n)
}

// Host is the address that this process has on the set's network.
func (s *Set) Host() string { return s.net + ".254" }

// hold starts a machine's init and waits until it is ready.
func (s *Set) hold(name, ip string) (*Machine, error) {
	m := &Machine{Name: name, IP: ip, Dir: filepath.Join(s.Dir, name), set: s}
	for _, d := range []string{"var-lib", "var-log", "log"} {
		if err := os.MkdirAll(filepath.Join(m.Dir, d), 0o755); err != nil {
			return nil, err
		}
	}
	log, err := os.Create(filepath.Join(m.Dir, "log", "init.log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd := exec.Command("/proc/self/exe", holdCommand, s.Dir, name, ip)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Setsid:     true,
		Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWNET | syscall.CLONE_NEWPID | syscall.CLONE_NEWUTS | syscall.CLONE_NEWIPC,
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting the machine %s: %w", name, err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	m.pid = cmd.Process.Pid
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if _, err := m.Parts(); err == nil {
			return m, nil
		}
		select {
		case err := <-ended:
			text, _ := os.ReadFile(log.Name()) // for the message only
			return nil, fmt.Errorf("the machine %s did not start: %w\n%s", name, err, text)
		default:
		}
		if time.Now().After(end) {
			return nil, fmt.Errorf("the machine %s is not ready after 30 s", name)
		}
	}
}

// Command is a command in the machine's namespaces, in the foreground of this process.
func (m *Machine) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	args = append([]string{"-t", strconv.Itoa(m.pid), "-m", "-n", "-p", "-u", "-i", "-C", "--", name}, args...)
	return exec.CommandContext(ctx, "nsenter", args...)
}

// Run runs a command and returns what it printed; what it complains about is in the error.
func (m *Machine) Run(ctx context.Context, name string, args ...string) (string, error) {
	return output(m.Command(ctx, name, args...))
}

func output(cmd *exec.Cmd) (string, error) {
	out, err := cmd.Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			err = fmt.Errorf("%w: %s", err, strings.TrimSpace(string(exit.Stderr)+string(out)))
		}
		return "", fmt.Errorf("%s: %w", strings.Join(cmd.Args, " "), err)
	}
	return string(out), nil
}

// PID is the process id of a part as this process sees it.
func (m *Machine) PID(part string) (int, error) {
	parts, err := m.Parts()
	if err != nil {
		return 0, err
	}
	for _, p := range parts {
		if p.Name == part && p.Running {
			return m.outside(p.PID)
		}
	}
	return 0, fmt.Errorf("%s does not run on %s", part, m.Name)
}

// outside translates a process id of the machine's PID namespace.
func (m *Machine) outside(pid int) (int, error) {
	want, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", m.pid))
	if err != nil {
		return 0, err
	}
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return 0, err
	}
	for _, dir := range dirs {
		if is, _ := os.Readlink(dir + "/ns/pid"); is != want { // it may have ended
			continue
		}
		status, _ := os.ReadFile(dir + "/status") // as above
		for line := range strings.Lines(string(status)) {
			f := strings.Fields(line)
			if len(f) > 2 && f[0] == "NSpid:" && f[len(f)-1] == strconv.Itoa(pid) {
				return strconv.Atoi(f[1])
			}
		}
	}
	return 0, fmt.Errorf("process %d of %s is gone", pid, m.Name)
}

// connectSwitch makes the switch, and this process's network namespace a port of it.
func (s *Set) connectSwitch() error {
	link := hostLink(s.net)
	return s.ip(
		[]string{"", "link add " + link + " type veth peer name host netns " + strconv.Itoa(s.Switch.pid)},
		[]string{"", "addr add " + s.Host() + "/24 dev " + link},
		[]string{"", "link set " + link + " up"},
		[]string{"switch", "link add br0 type bridge"},
		[]string{"switch", "link set host master br0 up"},
		[]string{"switch", "addr add " + s.Switch.IP + "/24 dev br0"},
		[]string{"switch", "link set br0 up"},
	)
}

// connect plugs a machine into the switch.
func (m *Machine) connect(n int) error {
	port := fmt.Sprintf("port%d", n)
	err := m.set.ip(
		[]string{"switch", "link add " + port + " type veth peer name eth0"},
		[]string{"switch", "link set " + port + " master br0 up"},
	)
	if err != nil {
		return err
	}
	// The other end moves by the number of a process, which must be seen from here: through the switch's
	// namespace of networks only.
	net := fmt.Sprintf("--net=/proc/%d/ns/net", m.set.Switch.pid)
	if _, err := output(exec.Command("nsenter", net, "ip", "link", "set", "eth0", "netns", strconv.Itoa(m.pid))); err != nil {
		return err
	}
	for _, line := range []string{"addr add " + m.IP + "/24 dev eth0", "link set eth0 up", "route add default via " + m.set.Switch.IP} {
		if _, err := m.Run(context.Background(), "ip", strings.Fields(line)...); err != nil {
			return err
		}
	}
	return nil
}

// ip runs ip's command lines, each here or on the switch.
func (s *Set) ip(lines ...[]string) error {
	for _, line := range lines {
		cmd := exec.Command("ip", strings.Fields(line[1])...)
		if line[0] != "" {
			cmd = s.Switch.Command(context.Background(), "ip", strings.Fields(line[1])...)
		}
		if _, err := output(cmd); err != nil {
			return err
		}
	}
	return nil
}

// Route leads a network to a machine, for all other machines and the switch.
func (s *Set) Route(network string, to *Machine) error {
	for _, h := range holders(s.Dir) {
		if h.name == to.Name {
			continue
		}
		m := &Machine{Name: h.name, pid: h.pid}
		if _, err := m.Run(context.Background(), "ip", "route", "replace", network, "via", to.IP); err != nil {
			return err
		}
	}
	return nil
}

// hostLink is the name of this side's end of a network's cable.
func hostLink(network string) string { return "yd" + network[strings.LastIndex(network, ".")+1:] }

// freeNetwork chooses a network that this machine does not have, for choice the one of dir's name.
func freeNetwork(dir string) (string, error) {
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		return "", err
	}
	taken := map[string]bool{}
	for _, a := range addresses {
		s := a.String()
		taken[s[:max(0, strings.LastIndex(s, "."))]] = true
	}
	h := fnv.New32()
	h.Write([]byte(dir)) // a hash takes all
	for i := range uint32(200) {
		network := fmt.Sprintf("10.199.%d", (h.Sum32()+i)%200)
		if !taken[network] {
			return network, nil
		}
	}
	return "", errors.New("all of 10.199.0.0/16 is taken on this machine")
}
