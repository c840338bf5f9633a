package oci

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// ordinary is what the CRI plugin asks for, but for the seccomp profile.
func ordinary(t *testing.T) *specs.Spec {
	t.Helper()
	score := 1000
	return &specs.Spec{
		Version: "1.3.0", Root: &specs.Root{Path: "rootfs"},
		Process: &specs.Process{
			Args: []string{"sh"}, Env: []string{"PATH=/bin:/usr/bin", "A=1", "A=2"}, Cwd: "/", OOMScoreAdj: &score,
			User:         specs.User{UID: 7, GID: 8, AdditionalGids: []uint32{9, 10}},
			Capabilities: &specs.LinuxCapabilities{Bounding: []string{"CAP_CHOWN", "CAP_BPF"}, Ambient: []string{"CAP_KILL"}},
		},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
			{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"nosuid", "noexec", "nodev", "relatime", "ro"}},
			{Destination: "/data", Type: "bind", Source: t.TempDir(), Options: []string{"rbind", "rprivate", "ro"}},
		},
		Annotations: map[string]string{"io.kubernetes.cri.container-type": "container"},
		Linux: &specs.Linux{
			CgroupsPath: "/pods/c1", MaskedPaths: []string{"/proc/kcore"}, ReadonlyPaths: []string{"/proc/sys"},
			Namespaces: []specs.LinuxNamespace{
				{Type: specs.PIDNamespace}, {Type: specs.MountNamespace}, {Type: specs.NetworkNamespace, Path: "/proc/1/ns/net"},
			},
			Resources: &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Access: "rwm"}}},
		},
	}
}

func read(t *testing.T, spec *specs.Spec) (*Bundle, error) {
	t.Helper()
	config, err := json.Marshal(spec)
	if err != nil {
		t.Fatal(err)
	}
	if Kind(config) != Container {
		t.Errorf("the kind is %q", Kind(config))
	}
	return Read("c1", "/bundle", config)
}

var version1 = map[string]string{"cpu": "/sys/fs/cgroup/cpu,cpuacct/pods/c1", "cpuacct": "/sys/fs/cgroup/cpu,cpuacct/pods/c1", "": "/sys/fs/cgroup/unified/pods/c1"}

func TestOrdinary(t *testing.T) {
	b, err := read(t, ordinary(t))
	if err != nil {
		t.Fatal(err)
	}
	if b.Root != "/bundle/rootfs" {
		t.Errorf("the root is %s", b.Root)
	}
	program, err := b.Program(version1, nil)
	if err != nil {
		t.Fatal(err)
	}
	if size := binary.NativeEndian.Uint64(program); int(size) != len(program)-word {
		t.Errorf("the program says to have %d bytes after its size, of %d", size, len(program))
	}
	body := program[2*word:]
	steps := int(binary.NativeEndian.Uint64(program[word:]))
	last := body[(steps-1)*stepSize:]
	if op := binary.NativeEndian.Uint64(last); operation(op) != execute {
		t.Errorf("the last step is %d", op)
	}
	if diff := cmp.Diff([]string{"/bin/sh", "/usr/bin/sh"}, listAt(body, last[word:])); diff != "" {
		t.Error("files:", diff)
	}
	if diff := cmp.Diff([]string{"PATH=/bin:/usr/bin", "A=2", "HOME=/"}, listAt(body, last[3*word:])); diff != "" {
		t.Error("environment:", diff)
	}
	for _, want := range []string{"_ses.c1", "/sys/fs/cgroup/cpu,cpuacct", "/proc/kcore", "/dev/ptmx"} {
		if !strings.Contains(string(body), want+"\x00") {
			t.Errorf("the program says nothing of %s", want)
		}
	}
}

// listAt reads a list of strings as skiff-init does.
func listAt(body, operand []byte) (list []string) {
	at := binary.NativeEndian.Uint64(operand)
	for {
		offset := binary.NativeEndian.Uint64(body[at:])
		if offset == 0 {
			return list
		}
		text, _, _ := strings.Cut(string(body[offset:]), "\x00")
		list = append(list, text)
		at += word
	}
}

// TestUnusual changes one thing each, of which runc is to take care.
func TestUnusual(t *testing.T) {
	limit, yes := int64(1), true
	for name, change := range map[string]func(*specs.Spec){
		"a terminal":           func(s *specs.Spec) { s.Process.Terminal = true },
		"limits":               func(s *specs.Spec) { s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_CORE"}} },
		"AppArmor":             func(s *specs.Spec) { s.Process.ApparmorProfile = "x" },
		"SELinux":              func(s *specs.Spec) { s.Linux.MountLabel = "x" },
		"hooks":                func(s *specs.Spec) { s.Hooks = &specs.Hooks{} },
		"a hostname":           func(s *specs.Spec) { s.Hostname = "x" },
		"devices":              func(s *specs.Spec) { s.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/x"}} },
		"all devices":          func(s *specs.Spec) { s.Linux.Resources.Devices[0].Allow = true },
		"sysctls":              func(s *specs.Spec) { s.Linux.Sysctl = map[string]string{"a": "b"} },
		"users apart":          func(s *specs.Spec) { s.Linux.Namespaces[0].Type = specs.UserNamespace },
		"the pod's processes":  func(s *specs.Spec) { s.Linux.Namespaces[0].Path = "/proc/1/ns/pid" },
		"the host's processes": func(s *specs.Spec) { s.Linux.Namespaces = s.Linux.Namespaces[1:] },
		"a network apart":      func(s *specs.Spec) { s.Linux.Namespaces[2].Path = "" },
		"shared mounts":        func(s *specs.Spec) { s.Linux.RootfsPropagation = "rshared" },
		"a shared mount":       func(s *specs.Spec) { s.Mounts[3].Options = []string{"rbind", "rshared"} },
		"recursive read-only":  func(s *specs.Spec) { s.Mounts[3].Options = []string{"rbind", "rro"} },
		"mapped ids":           func(s *specs.Spec) { s.Mounts[3].UIDMappings = []specs.LinuxIDMapping{{}} },
		"no source":            func(s *specs.Spec) { s.Mounts[3].Source = "/not/there" },
		"a mount in /proc":     func(s *specs.Spec) { s.Mounts[3].Destination = "/proc/../proc/sys" },
		"a mount on /":         func(s *specs.Spec) { s.Mounts[3].Destination = "/" },
		"no /proc":             func(s *specs.Spec) { s.Mounts = s.Mounts[1:] },
		"/proc elsewhere":      func(s *specs.Spec) { s.Mounts[0].Destination = "/x" },
		"another file system":  func(s *specs.Spec) { s.Mounts[3].Type, s.Mounts[3].Options = "ext4", nil },
		"no program":           func(s *specs.Spec) { s.Process.Args = nil },
		"a zero byte":          func(s *specs.Spec) { s.Process.Args = []string{"a\x00b"} },
		"no variable":          func(s *specs.Spec) { s.Process.Env = []string{"x"} },
		"a relative PATH":      func(s *specs.Spec) { s.Process.Env = []string{"PATH=bin"} },
		"an odd capability":    func(s *specs.Spec) { s.Process.Capabilities.Bounding = []string{"CAP_X"} },
		"a listener":           func(s *specs.Spec) { s.Linux.Seccomp = &specs.LinuxSeccomp{ListenerPath: "/x"} },
		"an odd flag": func(s *specs.Spec) {
			s.Linux.Seccomp = &specs.LinuxSeccomp{Flags: []specs.LinuxSeccompFlag{"x"}}
		},
		"block devices' weights": func(s *specs.Spec) { s.Linux.Resources.BlockIO = &specs.LinuxBlockIO{} },
		"a kernel memory limit":  func(s *specs.Spec) { s.Linux.Resources.Memory = &specs.LinuxMemory{Kernel: &limit} },
		"no OOM killer":          func(s *specs.Spec) { s.Linux.Resources.Memory = &specs.LinuxMemory{DisableOOMKiller: &yes} },
		"real time":              func(s *specs.Spec) { s.Linux.Resources.CPU = &specs.LinuxCPU{RealtimeRuntime: &limit} },
		"an environment too large for its memory": func(s *specs.Spec) {
			s.Process.Env = []string{"A=" + strings.Repeat("x", maxProgram)}
		},
	} {
		spec := ordinary(t)
		change(spec)
		b, err := read(t, spec)
		if err == nil {
			_, err = b.Program(version1, nil)
		}
		if err == nil {
			t.Errorf("%s is made without runc", name)
		}
	}
}

func TestRules(t *testing.T) {
	errno := uint(38)
	b := &Bundle{Spec: ordinary(t)}
	b.Spec.Linux.Seccomp = &specs.LinuxSeccomp{
		DefaultAction: specs.ActErrno, Architectures: []specs.Arch{specs.ArchX86_64},
		Syscalls: []specs.LinuxSyscall{
			{Names: []string{"read", "write"}, Action: specs.ActAllow},
			{Names: []string{"clone"}, Action: specs.ActErrno, ErrnoRet: &errno, Args: []specs.LinuxSeccompArg{{Index: 0, Value: 5, Op: specs.OpMaskedEqual, ValueTwo: 6}}},
			{Names: []string{"lseek"}, Action: specs.ActLog, Args: []specs.LinuxSeccompArg{{Index: 1, Value: 1, Op: specs.OpEqualTo}, {Index: 1, Value: 2, Op: specs.OpEqualTo}}},
		},
	}
	got, err := b.Rules()
	if err != nil {
		t.Fatal(err)
	}
	want := `default 327681
arch x86_64
rule read 2147418112 0
rule write 2147418112 0
rule clone 327718 1 0 7 5 6
rule lseek 2147221504 1 1 4 1 0
rule lseek 2147221504 1 1 4 2 0
`
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	for _, bad := range []specs.LinuxSyscall{
		{Names: []string{"a b"}, Action: specs.ActAllow}, {Names: []string{"read"}, Action: specs.ActNotify},
		{Names: []string{"read"}, Action: specs.ActAllow, Args: []specs.LinuxSeccompArg{{Index: 6, Op: specs.OpEqualTo}}},
	} {
		b.Spec.Linux.Seccomp.Syscalls = []specs.LinuxSyscall{bad}
		if _, err := b.Rules(); !errors.Is(err, ErrRunc) {
			t.Errorf("%v: %v", bad, err)
		}
	}
}

func TestHome(t *testing.T) {
	root := t.TempDir()
	if got := home(root, 7); got != "/" {
		t.Errorf("without a passwd file it is %s", got)
	}
	outside := filepath.Join(t.TempDir(), "passwd")
	for _, file := range []string{outside, filepath.Join(root, "real")} {
		text := "root:x:0:0::/root:/bin/sh\nme:x:7:7::/home/" + filepath.Base(file) + ":/bin/sh\nme:x:7:7::/second:/bin/sh\n"
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(root, "etc"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ to, want string }{{outside, "/"}, {"/real", "/home/real"}, {"../../../real", "/home/real"}} {
		link := filepath.Join(root, "etc/passwd")
		_ = os.Remove(link)
		if err := os.Symlink(tt.to, link); err != nil {
			t.Fatal(err)
		}
		if got := home(root, 7); got != tt.want {
			t.Errorf("with passwd a link to %s it is %s, want %s", tt.to, got, tt.want)
		}
	}
}

func TestExec(t *testing.T) {
	process, err := json.Marshal(ordinary(t).Process)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		bounding string
		process  string
		ok       bool
	}{
		{"CAP_CHOWN", string(process), true},
		{"CAP_SYS_PTRACE", string(process), false}, // it could look into what is to become its process
		{"CAP_CHOWN", strings.Replace(string(process), "{", `{"terminal": true, `, 1), false},
		{"CAP_CHOWN", "{", false},
	} {
		spec := ordinary(t)
		spec.Process.Capabilities.Bounding = []string{tt.bounding}
		b, err := read(t, spec)
		if err != nil {
			t.Fatal(err)
		}
		c, err := b.Confinement([]byte("a filter"))
		if err != nil {
			t.Fatal(err)
		}
		what, err := c.Exec([]byte(tt.process))
		if (err == nil) != tt.ok || (err != nil && !errors.Is(err, ErrRunc)) {
			t.Errorf("%s, %s: %v", tt.bounding, tt.process, err)
		}
		if err == nil && (what.User.UID != 7 || operation(binary.NativeEndian.Uint64(what.Program[2*word:])) != enter) {
			t.Errorf("it is executed by %d, first step %x", what.User.UID, what.Program[2*word:3*word])
		}
	}
}
