package app

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"skiff.dev/skiff/internal/dns"
	"skiff.dev/skiff/internal/nftables"
)

// inNamespaces runs the calling test again, in a process with a network and
// mount namespace of its own, and reports whether this is that process.
func inNamespaces(t *testing.T) bool {
	t.Helper()
	const variable = "SKIFF_TEST_NAMESPACES"
	if os.Getenv(variable) == t.Name() {
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			t.Fatal(err)
		}
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			t.Fatal(err)
		}
		if err := netlink.LinkSetUp(lo); err != nil {
			t.Fatal(err)
		}
		return true
	}
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED: needs root for namespaces of its own")
	}
	cmd := exec.Command("/proc/self/exe", "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), variable+"="+t.Name())
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("in its namespaces: %v\n%s", err, out)
	}
	return false
}

func TestResetRemovesWhatIsOurs(t *testing.T) {
	if !inNamespaces(t) {
		return
	}
	dir := filepath.Join(t.TempDir(), "data")
	dnsIP := netip.MustParseAddr("10.96.0.10")
	leaveBehind(t, dir, dnsIP)
	foreign := nftables.Table{Family: nftables.IPv4, Name: "other"}
	k, err := nftables.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	for _, table := range []nftables.Table{foreign, {Family: nftables.IPv4, Name: "skiff-proxy"}, {Family: nftables.IPv6, Name: "skiff-hostport"}} {
		if err := k.Apply(t.Context(), nftables.Create(table)); err != nil {
			t.Fatal(err)
		}
	}
	if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "foreign0"}, PeerName: "foreign1"}); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	r := reset{dataDir: dir, yes: true, out: &out}
	if err := r.run(t.Context()); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"removed address 10.96.0.10 on lo",
		"removed directory " + dir,
		"removed mount " + dir + "/kubelet/pods/tmp",
		"removed nftables table ip skiff-proxy",
		"removed nftables table ip6 skiff-hostport",
	}
	got := strings.Split(strings.TrimSpace(out.String()), "\n")
	slices.Sort(got)
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if left := hostState(dir); !slices.Contains(left, "interface foreign0") {
		t.Errorf("removed another's interface; left %q", left)
	}
	out.Reset()
	if err := r.run(t.Context()); err != nil || out.String() != "nothing of "+dir+" was there\n" {
		t.Errorf("again: %v, %q", err, out.String())
	}
}

// leaveBehind makes what a node that was killed leaves.
func leaveBehind(t *testing.T, dir string, dnsIP netip.Addr) {
	t.Helper()
	for _, sub := range []string{"pki", "cni/net.d", "kubelet/pods/tmp"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	var ns unix.Stat_t
	if err := unix.Stat("/proc/self/ns/net", &ns); err != nil {
		t.Fatal(err)
	}
	record, err := json.Marshal(map[string]any{"netns": ns.Ino, "clusterDNS": dnsIP})
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{
		lockFile: "", "node-network.json": string(record),
		"cni/net.d/10-skiff.conflist": `{"plugins":[{"type":"skiff-cni","podCIDRs":["10.244.3.0/24"]}]}`,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Mount("tmpfs", filepath.Join(dir, "kubelet/pods/tmp"), "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	if err := dns.Bind([]netip.Addr{dnsIP}); err != nil {
		t.Fatal(err)
	}
}

func TestResetLeavesAnotherNamespaceAlone(t *testing.T) {
	if !inNamespaces(t) {
		return
	}
	dir := filepath.Join(t.TempDir(), "data")
	leaveBehind(t, dir, netip.MustParseAddr("10.96.0.10"))
	other := exec.Command("cat")
	other.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	hold, err := other.StdinPipe() // while this is open, cat waits
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	open, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", other.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	var ns unix.Stat_t
	if err := unix.Fstat(int(open.Fd()), &ns); err != nil {
		t.Fatal(err)
	}
	record := fmt.Sprintf(`{"netns":%d,"clusterDNS":"10.96.0.10"}`, ns.Ino)
	if err := os.WriteFile(filepath.Join(dir, "node-network.json"), []byte(record), 0o600); err != nil {
		t.Fatal(err)
	}
	untouched := func() bool {
		addrs, err := net.InterfaceAddrs()
		if err != nil {
			t.Fatal(err)
		}
		return slices.ContainsFunc(addrs, func(a net.Addr) bool { return strings.HasPrefix(a.String(), "10.96.0.10/") })
	}
	r := reset{dataDir: dir, yes: true, out: &bytes.Buffer{}}
	if err := r.run(t.Context()); err == nil || !strings.Contains(err.Error(), "another network namespace") {
		t.Errorf("error %v", err)
	}
	if !untouched() || !exists(dir) {
		t.Error("touched what may be another's")
	}
	// A namespace that nobody is in and that has no name is gone, though it is
	// held: it takes with it what the node has put there.
	if err := errors.Join(hold.Close(), other.Wait()); err != nil {
		t.Fatal(err)
	}
	if err := r.run(t.Context()); err != nil {
		t.Errorf("after the namespace has gone: %v", err)
	}
	if !untouched() || exists(dir) {
		t.Error("the data directory is still there, or what is another's is not")
	}
}

// TestResetHolder is not a test but the process that holds a lock for one.
func TestResetHolder(t *testing.T) {
	dir := os.Getenv("SKIFF_TEST_HOLD")
	if dir == "" {
		t.Skip("helper of TestResetAndARunningSkiff")
	}
	unlock, err := lockDataDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	fmt.Println("locked")
	_ = unix.Pause() // until it is killed; a select would be a deadlock to Go
}

func TestResetAndARunningSkiff(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED: needs root")
	}
	dir := filepath.Join(t.TempDir(), "data")
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestResetHolder$", "-test.v")
	cmd.Env = append(os.Environ(), "SKIFF_TEST_HOLD="+dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Process.Kill()
	for buf := make([]byte, 4096); ; {
		n, err := out.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(buf[:n]), "locked") {
			break
		}
	}
	var said bytes.Buffer
	r := reset{dataDir: dir, yes: true, out: &said}
	if err := r.run(t.Context()); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("process %d", cmd.Process.Pid)) {
		t.Errorf("while one runs: %v", err)
	}
	r.force = true
	if err := r.run(t.Context()); err != nil {
		t.Errorf("by force: %v", err)
	}
	var exit *exec.ExitError
	if err := cmd.Wait(); !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGTERM {
		t.Errorf("the other ended by %v", err)
	}
	if exists(dir) {
		t.Error("the data directory is still there")
	}
}

func TestResetRefuses(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED: needs root")
	}
	strange := t.TempDir()
	if err := os.WriteFile(filepath.Join(strange, "thesis.tex"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	upstream := t.TempDir() // as /var/lib/kubelet
	if err := os.Mkdir(filepath.Join(upstream, "pki"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"/", "/usr", strange, upstream} {
		r := reset{dataDir: dir, yes: true, out: &bytes.Buffer{}}
		if _, err := r.check(); err == nil || !strings.Contains(err.Error(), "--data-dir") {
			t.Errorf("%s: %v", dir, err)
		}
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	if err := (&reset{dataDir: strange, out: &bytes.Buffer{}}).confirm(null); err == nil || !strings.Contains(err.Error(), "--yes") {
		t.Errorf("without anybody to ask: %v", err)
	}
}
