package runtime

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	goruntime "runtime"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// TestFilterAsByRunc compares the verdicts of the seccomp filters that a container gets from the shim and
// from runc for the same profile: every system call of every architecture, with arguments that some rule
// looks at.
func TestFilterAsByRunc(t *testing.T) {
	shim, runc := twoNodes(t)
	own := filepath.Join(t.TempDir(), "profile.json")
	runc.ok(os.WriteFile(own, []byte(`{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"], "syscalls": [
		{"names": ["mkdir", "nothing_known"], "action": "SCMP_ACT_ERRNO", "errnoRet": 13},
		{"names": ["getuid"], "action": "SCMP_ACT_LOG"}, {"names": ["uname"], "action": "SCMP_ACT_TRAP"},
		{"names": ["lseek"], "action": "SCMP_ACT_ERRNO", "args": [{"index": 1, "value": 8, "op": "SCMP_CMP_GT"}, {"index": 1, "value": 1, "op": "SCMP_CMP_EQ"}]},
		{"names": ["ioctl"], "action": "SCMP_ACT_KILL_PROCESS", "args": [{"index": 0, "value": 8, "op": "SCMP_CMP_LE"}, {"index": 1, "value": 131080, "op": "SCMP_CMP_NE"}]}
	]}`), 0o600))
	for name, s := range map[string]*cri.SecurityProfile{
		"default": profile(cri.SecurityProfile_RuntimeDefault),
		"own":     {ProfileType: cri.SecurityProfile_Localhost, LocalhostRef: own},
	} {
		var filters []bpf
		for _, n := range []*node{shim, runc} {
			id := n.run(name, func(c *cri.ContainerConfig) { c.Linux.SecurityContext.Seccomp = s })
			filters = append(filters, n.filter(n.init(id)))
		}
		t.Logf("%s: %d instructions by the shim, %d by runc", name, len(filters[0]), len(filters[1]))
		compare(t, filters[0], filters[1])
	}
}

func compare(t *testing.T, shim, runc bpf) {
	t.Helper()
	values := []uint64{0, 1, 8, 9, 16, 38, 39, 40, 41, 42, 43, 44, 45, 0x20000, 0x20008, 0xffffffff, 1 << 32, 1<<32 + 8, 0x7e020000, 0x10000}
	differ := 0
	for _, arch := range []uint32{unix.AUDIT_ARCH_X86_64, unix.AUDIT_ARCH_I386, unix.AUDIT_ARCH_AARCH64, unix.AUDIT_ARCH_ARM} {
		for _, bit := range []uint32{0, 1 << 30} {
			for nr := bit; nr < bit+600; nr++ {
				for _, a := range values {
					for _, b := range values[:5] {
						call := syscallOf(arch, nr, a, b)
						if one, other := shim.verdict(t, call), runc.verdict(t, call); one != other && differ < 20 {
							differ++
							t.Errorf("system call %d of %x with %d, %d: %x by the shim's filter, %x by runc's", nr, arch, a, b, one, other)
						}
					}
				}
			}
		}
	}
}

// syscallOf is a struct seccomp_data.
func syscallOf(arch, nr uint32, a, b uint64) []byte {
	call := binary.NativeEndian.AppendUint32(nil, nr)
	call = binary.NativeEndian.AppendUint32(call, arch)
	call = binary.NativeEndian.AppendUint64(call, 0) // where it was made
	call = binary.NativeEndian.AppendUint64(call, a)
	call = binary.NativeEndian.AppendUint64(call, b)
	return append(call, make([]byte, 32)...)
}

// bpf is a filter of the kernel's.
type bpf []unix.SockFilter

// filter reads a process's filter.
func (n *node) filter(pid int) bpf {
	n.Helper()
	goruntime.LockOSThread() // which traces
	defer goruntime.UnlockOSThread()
	n.ok(unix.PtraceAttach(pid))
	_, err := unix.Wait4(pid, nil, unix.WALL, nil)
	n.ok(err)
	defer func() { n.ok(unix.PtraceDetach(pid)) }()
	get := func(to unsafe.Pointer) int {
		const getFilter = 0x420c // PTRACE_SECCOMP_GET_FILTER
		count, _, errno := unix.Syscall6(unix.SYS_PTRACE, getFilter, uintptr(pid), 0, uintptr(to), 0, 0)
		if errno != 0 {
			n.Fatal("reading the filter:", errno)
		}
		return int(count)
	}
	filter := make(bpf, get(nil))
	get(unsafe.Pointer(&filter[0]))
	return filter
}

// verdict carries the filter out.
func (f bpf) verdict(t *testing.T, call []byte) uint32 {
	var a uint32
	for pc := 0; ; pc++ {
		i := f[pc]
		taken := i.Jf
		jump := func(yes bool) {
			if yes {
				taken = i.Jt
			}
			pc += int(taken)
		}
		switch i.Code {
		case unix.BPF_LD | unix.BPF_W | unix.BPF_ABS:
			a = binary.NativeEndian.Uint32(call[i.K:])
		case unix.BPF_ALU | unix.BPF_AND | unix.BPF_K:
			a &= i.K
		case unix.BPF_JMP | unix.BPF_JA:
			pc += int(i.K)
		case unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K:
			jump(a == i.K)
		case unix.BPF_JMP | unix.BPF_JGT | unix.BPF_K:
			jump(a > i.K)
		case unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K:
			jump(a >= i.K)
		case unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K:
			jump(a&i.K != 0)
		case unix.BPF_RET | unix.BPF_K:
			return i.K
		default:
			t.Fatal(fmt.Sprintf("instruction %d has code %x", pc, i.Code))
		}
	}
}
