package machine

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/google/nftables"
	"github.com/vishvananda/netlink"

	"skiff.dev/skiff/internal/cgroup"
)

// Leftovers is what a cluster could leave on a machine.
type Leftovers struct {
	Mounts, Links, Addresses, Routes, Rules, Tables, Files []string
}

// foreign are the host's directories, shared by all machines, in which a node
// may write; only what is in them by name is looked at.
var foreign = []string{"/etc/cni", "/opt/cni", "/var/lib/cni", "/var/lib/kubelet", "/var/lib/containerd", "/var/log/pods", "/var/log/containers"}

func (m *Machine) leftovers() (l Leftovers, err error) {
	l.Mounts, err = m.mounts()
	if err != nil {
		return l, err
	}
	inside := m.inside(func() { err = l.readNetwork() })
	if inside != nil {
		err = inside
	}
	if err != nil {
		return l, err
	}
	root := fmt.Sprintf("/proc/%d/root", m.cmd.Process.Pid)
	for _, dir := range append([]string{"/run"}, foreign...) {
		err := filepath.WalkDir(root+dir, func(path string, _ fs.DirEntry, err error) error {
			if err != nil {
				return fs.SkipDir // not there, or gone again
			}
			l.Files = append(l.Files, strings.TrimPrefix(path, root))
			return nil
		})
		if err != nil {
			return l, err
		}
	}
	return l, nil
}

func (m *Machine) mounts() (mounts []string, err error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", m.cmd.Process.Pid))
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) > 4 {
			mounts = append(mounts, f[4])
		}
	}
	slices.Sort(mounts)
	return mounts, nil
}

// readNetwork reads the network namespace of its thread.
func (l *Leftovers) readNetwork() error {
	links, err := netlink.LinkList()
	if err != nil {
		return err
	}
	for _, link := range links {
		l.Links = append(l.Links, link.Attrs().Name+" "+link.Type())
	}
	addresses, err := netlink.AddrList(nil, netlink.FAMILY_V4)
	if err != nil {
		return err
	}
	for _, a := range addresses {
		l.Addresses = append(l.Addresses, a.IPNet.String())
	}
	routes, err := netlink.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{}, netlink.RT_FILTER_TABLE)
	if err != nil {
		return err
	}
	for _, r := range routes {
		l.Routes = append(l.Routes, r.String())
	}
	rules, err := netlink.RuleList(netlink.FAMILY_V4)
	if err != nil {
		return err
	}
	for _, r := range rules {
		l.Rules = append(l.Rules, r.String())
	}
	kernel, err := nftables.New()
	if err != nil {
		return err
	}
	tables, err := kernel.ListTables()
	if err != nil {
		return err
	}
	for _, t := range tables {
		l.Tables = append(l.Tables, fmt.Sprint(t.Family, " ", t.Name))
	}
	for _, list := range [][]string{l.Links, l.Addresses, l.Routes, l.Rules, l.Tables} {
		slices.Sort(list)
	}
	return nil
}

// CheckNothingLeft fails the test for everything that the cluster in dataDir
// has left: files, mounts, links, addresses, routes, nftables tables, control
// groups and processes.
func (m *Machine) CheckNothingLeft(t testing.TB, dataDir string) {
	t.Helper()
	after, err := m.leftovers()
	if err != nil {
		t.Fatal(err)
	}
	// Mounts that were there when the machine began may go: they are the host's.
	after.Mounts = slices.DeleteFunc(after.Mounts, func(mount string) bool { return slices.Contains(m.before.Mounts, mount) })
	before := m.before
	before.Mounts = after.Mounts[:0:0]
	if d := cmp.Diff(before, after, cmpopts.EquateEmpty()); d != "" {
		t.Errorf("the machine is not as it was (-before +after):\n%s", d)
	}
	if _, err := os.Lstat(dataDir); err == nil {
		entries, _ := os.ReadDir(dataDir) // for the message only
		t.Errorf("the data directory %s is left, with %v", dataDir, entries)
	}
	groups, err := filepath.Glob("/sys/fs/cgroup/*" + cgroup.RootOf(dataDir))
	if err != nil {
		t.Fatal(err)
	}
	unified, err := filepath.Glob("/sys/fs/cgroup" + cgroup.RootOf(dataDir))
	if err != nil {
		t.Fatal(err)
	}
	if groups = append(groups, unified...); len(groups) > 0 {
		t.Errorf("control groups are left: %v", groups)
	}
	for _, p := range m.processes(dataDir) {
		t.Errorf("a process is left: %s", p)
	}
}

// processes lists those that are in the machine's namespaces, run from the data
// directory, name it, or have mounts of it.
func (m *Machine) processes(dataDir string) (found []string) {
	netns, _ := os.Readlink(m.ns("net"))
	mntns, _ := os.Readlink(m.ns("mnt"))
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err != nil || pid == m.cmd.Process.Pid || pid == os.Getpid() {
			continue
		}
		// A process that ends meanwhile reads as nothing.
		cmdline, _ := os.ReadFile(dir + "/cmdline")
		exe, _ := os.Readlink(dir + "/exe")
		net, _ := os.Readlink(dir + "/ns/net")
		mnt, _ := os.Readlink(dir + "/ns/mnt")
		mounts, _ := os.ReadFile(dir + "/mountinfo")
		in := net == netns || mnt == mntns
		if in || strings.HasPrefix(exe, dataDir) || strings.Contains(string(cmdline), dataDir) || strings.Contains(string(mounts), dataDir) {
			found = append(found, fmt.Sprintf("%d %s (%s)", pid, strings.ReplaceAll(string(cmdline), "\x00", " "), exe))
		}
	}
	return found
}
