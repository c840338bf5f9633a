package runtime

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"skiff.dev/skiff/internal/image"
)

// twoNodes returns one whose shim makes containers, and one where runc does.
func twoNodes(t *testing.T, sources ...image.Source) (shim, runc *node) {
	shim, runc = newNode(t), newNode(t)
	runc.ok(os.Remove(filepath.Join(runc.rt.layout.bin, initName))) // before its shim starts
	for _, n := range []*node{shim, runc} {
		n.image(probeImage, sources...)
	}
	return shim, runc
}

func profile(kind cri.SecurityProfile_ProfileType) *cri.SecurityProfile {
	return &cri.SecurityProfile{ProfileType: kind}
}

// TestContainersAsByRunc has the shim make containers and runc make the same ones, and compares what the
// kernel says of their processes, and of processes executed in them: they must be confined alike.
func TestContainersAsByRunc(t *testing.T) {
	heedSignals(t)
	shim, runc := twoNodes(t)
	security := func(change func(*cri.LinuxContainerSecurityContext)) func(*cri.ContainerConfig) {
		return func(c *cri.ContainerConfig) { change(c.Linux.SecurityContext) }
	}
	for name, change := range map[string]func(*cri.ContainerConfig){
		"plain": func(*cri.ContainerConfig) {},
		"default filter": security(func(s *cri.LinuxContainerSecurityContext) {
			s.Seccomp = profile(cri.SecurityProfile_RuntimeDefault)
			s.MaskedPaths = []string{"/proc/kcore", "/proc/acpi", "/sys/firmware", "/proc/scsi", "/proc/keys", "/not/there"}
			s.ReadonlyPaths = []string{"/proc/sys", "/proc/bus", "/proc/sysrq-trigger", "/not/there"}
		}),
		"no new privileges": security(func(s *cri.LinuxContainerSecurityContext) {
			s.Seccomp, s.NoNewPrivs = profile(cri.SecurityProfile_RuntimeDefault), true
		}),
		"a user": security(func(s *cri.LinuxContainerSecurityContext) {
			s.RunAsUser, s.RunAsGroup = &cri.Int64Value{Value: 1234}, &cri.Int64Value{Value: 77}
			s.SupplementalGroups, s.Seccomp = []int64{5, 6, 4000000000}, profile(cri.SecurityProfile_Unconfined)
		}),
		"capabilities": security(func(s *cri.LinuxContainerSecurityContext) {
			s.Capabilities = &cri.Capability{AddCapabilities: []string{"NET_ADMIN", "SYS_TIME"}, DropCapabilities: []string{"MKNOD", "KILL"}}
			s.ReadonlyRootfs = true
		}),
		"no capabilities": security(func(s *cri.LinuxContainerSecurityContext) {
			s.Capabilities, s.RunAsUser = &cri.Capability{DropCapabilities: []string{"ALL"}}, &cri.Int64Value{Value: 5}
		}),
		"mounts": mountsOf(shim),
		"resources": func(c *cri.ContainerConfig) {
			c.WorkingDir = "/work/here"
			c.Envs = []*cri.KeyValue{{Key: "A", Value: []byte("1")}, {Key: "B"}, {Key: "HOME", Value: []byte("/h")}}
			c.Linux.Resources = &cri.LinuxContainerResources{
				CpuShares: 200, CpuQuota: 20000, CpuPeriod: 100000, MemoryLimitInBytes: 64 << 20, OomScoreAdj: 500, CpusetCpus: "0",
			}
		},
	} {
		byShim, byRunc := shim.seenOfShim(name, change), runc.seen(runc.run(name, change))
		if diff := cmp.Diff(byRunc, byShim); diff != "" {
			t.Errorf("%s: by runc (-) and by the shim (+):\n%s", name, diff)
		}
	}
}

// seenOfShim is what is seen of a container that the shim has made. What fails for once is runc's, which is no fault of
// what the container asks for: it is made again.
func (n *node) seenOfShim(name string, change func(*cri.ContainerConfig)) (seen map[string]string) {
	n.Helper()
	for _, try := range []string{"", " again"} {
		executed := n.executedRunc()
		seen = n.seen(n.run(name+try, change))
		commands := executed()
		if commands == "" {
			return seen
		}
		n.Logf("%s: the shim left it to runc:\n%s", name+try, commands)
	}
	n.Errorf("%s: the shim leaves it to runc", name)
	return seen
}

// heedSignals has programs that are started from now on heed the signals that nohup ignores. Where they are
// ignored, it is chance whether what runc executes does, too.
func heedSignals(t *testing.T) {
	caught := make(chan os.Signal, 1)
	signal.Notify(caught, unix.SIGHUP, unix.SIGINT)
	t.Cleanup(func() { signal.Stop(caught) })
}

// TestContainersHeedSignals: what the runtime was told to ignore is not handed down to containers.
func TestContainersHeedSignals(t *testing.T) {
	signal.Ignore(unix.SIGHUP, unix.SIGINT)
	t.Cleanup(func() { signal.Reset(unix.SIGHUP, unix.SIGINT) })
	n := newNode(t)
	n.image(probeImage)
	seen := n.seen(n.run("heeds", func(*cri.ContainerConfig) {}))
	for _, process := range []string{"status", "executed"} {
		mask := ignored.FindStringSubmatch(seen[process])
		if mask == nil || !strings.ContainsAny(mask[1], "048c") { // neither 1 nor 2 in the last four
			t.Errorf("%s: ignores signals: %q", process, mask)
		}
	}
}

// executedRunc puts a program in front of runc, and returns what tells how runc was called since.
func (n *node) executedRunc() func() string {
	n.Helper()
	runc, list := filepath.Join(n.rt.layout.bin, runcName), filepath.Join(n.TempDir(), "executed")
	if _, err := os.Stat(runc + ".own"); err != nil {
		n.ok(os.Rename(runc, runc+".own"))
	}
	n.ok(replace(runc, []byte("#!/bin/sh\necho \"$*\" >>"+list+"\nexec "+runc+".own \"$@\"\n")))
	return func() string {
		data, err := os.ReadFile(list)
		if !errors.Is(err, os.ErrNotExist) {
			n.ok(err)
		}
		return string(data)
	}
}

// mountsOf asks for mounts of every kind, of a directory in which something else is mounted.
func mountsOf(n *node) func(*cri.ContainerConfig) {
	volume, file := n.TempDir(), filepath.Join(n.TempDir(), "file")
	n.ok(os.WriteFile(file, []byte("x"), 0o600))
	n.ok(unix.Mount("outer", volume, "tmpfs", unix.MS_NOSUID|unix.MS_NOEXEC, ""))
	n.ok(unix.Mount("", volume, "", unix.MS_SHARED, ""))
	n.Cleanup(func() { n.ok(unix.Unmount(volume, unix.MNT_DETACH)) })
	n.ok(os.Mkdir(filepath.Join(volume, "deep"), 0o755))
	n.ok(unix.Mount("deep", filepath.Join(volume, "deep"), "tmpfs", unix.MS_RDONLY, ""))
	return func(c *cri.ContainerConfig) {
		c.Mounts = []*cri.Mount{
			{ContainerPath: "/a/b/c", HostPath: volume}, {ContainerPath: "/ro", HostPath: volume, Readonly: true},
			{ContainerPath: "/follows", HostPath: volume, Propagation: cri.MountPropagation_PROPAGATION_HOST_TO_CONTAINER},
			{ContainerPath: "/a/b/c/new/file", HostPath: file, Readonly: true}, {ContainerPath: "/dev/file", HostPath: file},
		}
	}
}

// TestContainersThatFail compares what is said of programs that cannot be executed.
func TestContainersThatFail(t *testing.T) {
	shim, runc := twoNodes(t,
		image.Source{Data: []byte("no program"), Target: "/text", Mode: 0o755}, image.Source{Data: []byte("x"), Target: "/data"},
		image.Source{Data: []byte("#!/not/there\n"), Target: "/script", Mode: 0o755},
	)
	running := map[*node]string{}
	for _, n := range []*node{shim, runc} {
		running[n] = n.run("running", func(*cri.ContainerConfig) {})
	}
	for _, program := range []string{"/not/there", "nothing", "/", "/data", "/text", "/script"} {
		var said []string
		for _, n := range []*node{shim, runc} {
			executed, err := n.cri.ExecSync(t.Context(), &cri.ExecSyncRequest{ContainerId: running[n], Cmd: []string{program}})
			said = append(said, n.failure(strings.ReplaceAll(program, "/", "-"), program)+
				fmt.Sprintf("\nexecuted: %d %s %s", executed.GetExitCode(), executed.GetStderr(), n.normal(fmt.Sprint(err))))
		}
		if diff := cmp.Diff(said[1], said[0]); diff != "" || said[0] == "" {
			t.Errorf("%s: by runc (-) and by the shim (+):\n%s", program, diff)
		}
	}
}

// failure is what comes of a program that cannot be executed: an error, or an exit code and a log.
func (n *node) failure(name, program string) string {
	n.Helper()
	sandbox, config := n.sandbox("pod" + name)
	c := containerOf(config, "c")
	c.Command = []string{program}
	made, err := n.cri.CreateContainer(n.Context(), &cri.CreateContainerRequest{PodSandboxId: sandbox, Config: c, SandboxConfig: config})
	n.ok(err)
	_, err = n.cri.StartContainer(n.Context(), &cri.StartContainerRequest{ContainerId: made.ContainerId})
	if err != nil {
		return n.normal(err.Error())
	}
	code := n.exitCode(made.ContainerId)
	n.awaitLog(filepath.Join(config.LogDirectory, "c.log"), "exec", 1)
	log, err := os.ReadFile(filepath.Join(config.LogDirectory, "c.log"))
	n.ok(err)
	_, text, _ := strings.Cut(string(log), " ") // after the time
	return fmt.Sprint(code, " ", text)
}

// TestContainerStaysInItsRoot has an image with links that lead out of it, below which volumes are to be
// mounted, and one in the place of /proc.
func TestContainerStaysInItsRoot(t *testing.T) {
	outside, volume := t.TempDir(), t.TempDir()
	links := filepath.Join(t.TempDir(), "links")
	if err := os.MkdirAll(links, 0o755); err != nil {
		t.Fatal(err)
	}
	up := strings.Repeat("../", 20)
	for name, to := range map[string]string{"out": up + outside, "absolute": outside, "turns": "out/new"} {
		if err := os.Symlink(to, filepath.Join(links, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(volume, "mine"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	n := newNode(t)
	n.image(probeImage, image.Source{Dir: links})
	id := n.run("links", func(c *cri.ContainerConfig) {
		for _, name := range []string{"out/a", "absolute/b", "turns"} {
			c.Mounts = append(c.Mounts, &cri.Mount{ContainerPath: "/" + name, HostPath: volume})
		}
	})
	if left, err := os.ReadDir(outside); err != nil || len(left) > 0 {
		t.Errorf("directories were made outside of the container: %v, %v", left, err)
	}
	root := fmt.Sprintf("/proc/%d/root", n.init(id))
	for _, name := range []string{"a", "b", "new"} {
		if _, err := os.Stat(filepath.Join(root, outside, name, "mine")); err != nil {
			t.Errorf("the volume is not where the link leads inside: %v", err)
		}
	}

	n.ok(os.Symlink("/tmp", filepath.Join(links, "proc")))
	n.image("docker.io/library/linked:v1", image.Source{Dir: links})
	sandbox, config := n.sandbox("proc")
	c := containerOf(config, "c")
	c.Image.Image = "docker.io/library/linked:v1"
	made, err := n.cri.CreateContainer(t.Context(), &cri.CreateContainerRequest{PodSandboxId: sandbox, Config: c, SandboxConfig: config})
	n.ok(err)
	_, err = n.cri.StartContainer(t.Context(), &cri.StartContainerRequest{ContainerId: made.ContainerId})
	if err == nil || !strings.Contains(err.Error(), "/proc") {
		t.Errorf("a container whose /proc is a link was started, or the reason is missing: %v", err)
	}
}

// containerOf is a container of the pod that config is of.
func containerOf(config *cri.PodSandboxConfig, name string) *cri.ContainerConfig {
	return &cri.ContainerConfig{
		Metadata: &cri.ContainerMetadata{Name: name}, Image: &cri.ImageSpec{Image: probeImage}, LogPath: name + ".log",
		Linux: &cri.LinuxContainerConfig{
			Resources: &cri.LinuxContainerResources{},
			// As the kubelet has it: a process namespace of its own.
			SecurityContext: &cri.LinuxContainerSecurityContext{NamespaceOptions: config.Linux.SecurityContext.NamespaceOptions},
		},
	}
}

// run starts a container in a pod of its own, and returns when it says something.
func (n *node) run(name string, change func(*cri.ContainerConfig)) string {
	n.Helper()
	sandbox, config := n.sandbox(name)
	c := containerOf(config, "c")
	change(c)
	made, err := n.cri.CreateContainer(n.Context(), &cri.CreateContainerRequest{PodSandboxId: sandbox, Config: c, SandboxConfig: config})
	n.ok(err)
	_, err = n.cri.StartContainer(n.Context(), &cri.StartContainerRequest{ContainerId: made.ContainerId})
	n.ok(err)
	n.awaitLog(filepath.Join(config.LogDirectory, "c.log"), "hello", 1)
	return made.ContainerId
}

// seen is what can be seen of a container's process, of its cgroup, and of a process executed in it.
func (n *node) seen(id string) map[string]string {
	n.Helper()
	pid, seen := n.init(id), map[string]string{}
	for _, name := range []string{
		"status", "mountinfo", "environ", "cmdline", "limits", "cgroup", "oom_score_adj", "loginuid", "sessionid", "personality", "timerslack_ns",
	} {
		seen[name] = n.normal(n.read(pid, name))
	}
	for _, name := range []string{"cwd", "root", "fd/0", "fd/1", "fd/2"} {
		link, err := os.Readlink(fmt.Sprintf("/proc/%d/%s", pid, name))
		n.ok(err)
		seen[name] = n.normal(link)
	}
	fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	n.ok(err)
	seen["descriptors"] = fmt.Sprint(len(fds))
	for _, file := range []string{
		"cpu/cpu.shares", "cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us", "memory/memory.limit_in_bytes", "memory/memory.memsw.limit_in_bytes",
		"cpuset/cpuset.cpus", "cpuset/cpuset.mems", "devices/devices.list", "pids/pids.max",
		"cpu.weight", "cpu.max", "memory.max", "memory.swap.max", "memory.high", "cpuset.cpus", "pids.max",
	} {
		controller, name := filepath.Split(file)
		limit, _ := os.ReadFile(filepath.Join("/sys/fs/cgroup", controller, n.parent, id, name)) // not there in the other version
		seen[file] = string(limit)
	}
	dev, err := os.ReadDir(fmt.Sprintf("/proc/%d/root/dev", pid))
	n.ok(err)
	for _, e := range dev {
		info, err := e.Info()
		n.ok(err)
		link, _ := os.Readlink(fmt.Sprintf("/proc/%d/root/dev/%s", pid, e.Name())) // "" for what is none
		seen["dev"] += fmt.Sprintln(e.Name(), info.Mode(), link)
	}
	executed, err := n.cri.ExecSync(n.Context(), &cri.ExecSyncRequest{ContainerId: id, Cmd: []string{"/probe", "cat", "/proc/self/status", "/proc/self/cgroup", "/proc/self/environ"}})
	n.ok(err)
	seen["executed"] = n.normal(string(executed.Stdout))
	_, err = os.Stat(filepath.Join(n.rt.layout.run, "runc", "k8s.io", id, "state.json"))
	n.ok(err)
	return seen
}

var (
	identifier = regexp.MustCompile(`[0-9a-f]{64}`)
	passing    = regexp.MustCompile(`(?m)^(Vm|Rss|Hugetlb|voluntary|nonvoluntary|Threads|FDSize|Pid|Tgid|NSpid|NStgid|NSpgid|NSsid|Ngid|State|PPid|Cpus_|Mems_|SigQ|SigBlk|SigPnd|ShdPnd|CoreDump|THP).*\n`)
	ignored    = regexp.MustCompile(`(?m)^SigIgn:.*(.)$`)
	numbered   = regexp.MustCompile(`(pipe:\[|snapshots/|master:)\d+`)
)

// normal takes out of a text what differs between any two containers.
func (n *node) normal(text string) string {
	text = identifier.ReplaceAllString(passing.ReplaceAllString(text, ""), "ID")
	text = numbered.ReplaceAllString(text, "${1}N")
	text = strings.NewReplacer(n.rt.layout.run, "RUN", n.rt.layout.data, "DATA", n.parent, "PARENT", n.dir, "DIR").Replace(text)
	lines := strings.Split(text, "\n")
	for i, l := range lines {
		if f := strings.Fields(l); len(f) > 9 && strings.Contains(l, " - ") { // of mountinfo: without its numbers
			lines[i] = strings.Join(f[3:], " ")
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}
