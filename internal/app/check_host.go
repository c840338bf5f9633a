package app

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"skiff.dev/skiff/internal/cgroup"
	containers "skiff.dev/skiff/internal/runtime"
)

func (h *facts) readKernel(cfg Config) {
	h.root = os.Geteuid() == 0
	var uname unix.Utsname
	if unix.Uname(&uname) == nil {
		h.kernel = unix.ByteSliceToString(uname.Release[:])
	}
	if cfg.RuntimeEndpoint == "" {
		h.carried = containers.Carried()
	}
	for _, kind := range []string{"cgroup", "ipc", "mnt", "net", "pid", "user", "uts"} {
		if !exists("/proc/self/ns/" + kind) {
			h.namespaces = append(h.namespaces, kind)
		}
	}
	h.seccomp = exists("/proc/sys/kernel/seccomp/actions_avail")
	head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	h.sysResource = unix.Capget(&head, &data[0]) == nil &&
		data[unix.CAP_SYS_RESOURCE/32].Effective&(1<<(unix.CAP_SYS_RESOURCE%32)) != 0
}

func (h *facts) readCgroups() {
	if h.cgroup, h.cgroupErr = cgroup.Detect(); h.cgroupErr != nil {
		return
	}
	if h.cgroup == cgroup.V2 {
		data, err := os.ReadFile("/sys/fs/cgroup/cgroup.controllers")
		h.controllers, h.cgroupErr = strings.Fields(string(data)), err
		return
	}
	data, err := os.ReadFile("/proc/cgroups")
	h.cgroupErr = err
	for line := range strings.Lines(string(data)) { // name, hierarchy, groups, enabled
		if f := strings.Fields(line); len(f) == 4 && f[3] == "1" && !strings.HasPrefix(f[0], "#") {
			h.controllers = append(h.controllers, f[0])
		}
	}
}

func (h *facts) readRoom(cfg Config) {
	dir := cfg.DataDir
	for !exists(dir) && dir != filepath.Dir(dir) {
		dir = filepath.Dir(dir)
	}
	var fs unix.Statfs_t
	if unix.Statfs(dir, &fs) == nil {
		h.diskFree = fs.Bavail * uint64(fs.Bsize)
	}
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) == nil {
		h.memory, h.swap = uint64(info.Totalram)*uint64(info.Unit), info.Totalswap > 0
	}
	h.now = time.Now()
	var clock unix.Timex
	if _, err := unix.Adjtimex(&clock); err == nil {
		h.clockSynced = clock.Status&unix.STA_UNSYNC == 0
	}
	h.instances, h.watches = readNumber("/proc/sys/fs/inotify/max_user_instances"), readNumber("/proc/sys/fs/inotify/max_user_watches")
}

// readNumber returns 0 for what cannot be read.
func readNumber(path string) int {
	data, err := os.ReadFile(path)
	if err != nil {
		return 0
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil {
		return 0
	}
	return n
}

// tryPorts listens for a moment.
func (h *facts) tryPorts(ctx context.Context, cfg Config) {
	h.ports = map[string]error{}
	for name, port := range map[string]int{"API": cfg.SecurePort, "kubelet": cfg.KubeletPort} {
		var lc net.ListenConfig
		l, err := lc.Listen(ctx, "tcp", net.JoinHostPort(cfg.BindAddress, strconv.Itoa(port)))
		if err == nil {
			l.Close()
		}
		h.ports[fmt.Sprintf("%s (%d)", name, port)] = err
	}
	if f, err := os.OpenFile(filepath.Join(cfg.DataDir, lockFile), os.O_RDWR, 0); err == nil {
		h.inUse = errors.Is(unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB), unix.EWOULDBLOCK)
		f.Close()
	}
}

// onThread runs f on a thread of its own, which ends with it, and with it the
// namespaces that f has entered.
func onThread(f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked: the thread is not used again
		f()
	}()
	<-done
}

// tryNetwork makes one of each in a network namespace that ends at once.
func (h *facts) tryNetwork() {
	onThread(func() {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			err = fmt.Errorf("cannot be tried: making a network namespace: %w", err)
			h.nftables, h.veth, h.vxlan, h.bridge = err, err, err, err
			return
		}
		attrs := func(name string) netlink.LinkAttrs {
			a := netlink.NewLinkAttrs()
			a.Name = name
			return a
		}
		h.veth = netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs("veth0"), PeerName: "veth1"})
		h.vxlan = netlink.LinkAdd(&netlink.Vxlan{LinkAttrs: attrs("vxlan0"), VxlanId: 1, Port: 8472})
		h.bridge = netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs("bridge0")})
		h.nftables = tryNFTables()
	})
}

// tryNFTables makes a table as the service proxy does: with a chain for
// address translation.
func tryNFTables() error {
	conn, err := nftables.New()
	if err != nil {
		return err
	}
	table := conn.AddTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: "skiff-check"})
	conn.AddChain(&nftables.Chain{
		Name: "nat", Table: table, Type: nftables.ChainTypeNAT,
		Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityNATDest,
	})
	return conn.Flush()
}

// tryOverlay mounts an overlay in a mount namespace that ends at once.
func tryOverlay() (err error) {
	onThread(func() {
		if err = unix.Unshare(unix.CLONE_NEWNS); err != nil {
			err = fmt.Errorf("cannot be tried: making a mount namespace: %w", err)
			return
		}
		if err = unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			return
		}
		dir := os.TempDir()
		if err = unix.Mount("tmpfs", dir, "tmpfs", 0, ""); err != nil {
			return
		}
		// The main thread of a process cannot end before it: should it be the one
		// that has come here, what it has mounted goes all the same.
		defer unix.Unmount(dir, unix.MNT_DETACH)
		for _, sub := range []string{"lower", "upper", "work", "merged"} {
			if err = os.Mkdir(filepath.Join(dir, sub), 0o700); err != nil {
				return
			}
		}
		options := fmt.Sprintf("lowerdir=%[1]s/lower,upperdir=%[1]s/upper,workdir=%[1]s/work", dir)
		err = unix.Mount("overlay", filepath.Join(dir, "merged"), "overlay", 0, options)
	})
	return err
}

// What other clusters' networks are known by.
var (
	foreignChains  = []string{"KUBE-", "CNI-", "cali-", "CILIUM_", "FLANNEL-", "WEAVE"}
	foreignDevices = []string{"cni0", "flannel", "cali", "cilium_", "weave", "kube-ipvs0", "kube-bridge"}
)

func (h *facts) readOthers() {
	// The only error is that of a bad pattern.
	h.otherCNI, _ = filepath.Glob("/etc/cni/net.d/*.conf*")
	if links, err := netlink.LinkList(); err == nil {
		for _, l := range links {
			if hasPrefix(l.Attrs().Name, foreignDevices) {
				h.otherDevices = append(h.otherDevices, l.Attrs().Name)
			}
		}
	}
	conn, err := nftables.New()
	if err != nil {
		return // told by tryNetwork
	}
	chains, err := conn.ListChains()
	if err != nil {
		return // without root
	}
	seen := map[string]int{}
	for _, c := range chains {
		if hasPrefix(c.Name, foreignChains) {
			prefix, _, _ := strings.Cut(c.Name, "-")
			seen[prefix]++
		}
	}
	for prefix, n := range seen {
		h.otherChains = append(h.otherChains, fmt.Sprintf("%d chains %s…", n, prefix))
	}
	slices.Sort(h.otherChains)
}

func hasPrefix(s string, prefixes []string) bool {
	return slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(s, p) })
}
