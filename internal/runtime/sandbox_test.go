package runtime

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// TestSandbox looks at the first process of a pod: made by the shim without runc, and confined.
func TestSandbox(t *testing.T) {
	n := newNode(t)
	config := n.config("web")
	config.Linux.Sysctls = map[string]string{"kernel.shm_rmid_forced": "1", "fs.mqueue.msg_max": "77"}
	config.Linux.SecurityContext.RunAsUser = &cri.Int64Value{Value: 1234}
	answer, err := n.cri.RunPodSandbox(t.Context(), &cri.RunPodSandboxRequest{Config: config})
	n.ok(err)
	id := answer.PodSandboxId
	pid := n.init(id)

	if _, err := os.Stat(filepath.Join(n.rt.layout.run, "runc", "k8s.io", id)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("runc knows the sandbox (%v), want it made by the shim", err)
	}
	status := n.read(pid, "status")
	for _, want := range []string{
		"Uid:\t1234\t1234\t1234\t1234", "CapPrm:\t0000000000000000", "CapEff:\t0000000000000000",
		"NoNewPrivs:\t1", "Seccomp:\t2", "NSpid:\t" + fmt.Sprint(pid) + "\t1\n",
	} {
		if !strings.Contains(status, want) {
			t.Errorf("its status has no %q:\n%s", want, status)
		}
	}
	if got := n.read(pid, "cmdline"); got != "/pause\x00" {
		t.Errorf("its command line is %q", got)
	}
	if got := n.read(pid, "cgroup"); !strings.Contains(got, n.parent+"/"+id+"\n") {
		t.Errorf("its cgroups are %s", got)
	}
	if got := n.read(pid, "oom_score_adj"); got != "-998\n" && n.rt.host.mayLowerOOMScore {
		t.Errorf("its OOM score is %q", got)
	}
	root, err := os.ReadDir(fmt.Sprintf("/proc/%d/root", pid))
	n.ok(err)
	if len(root) != 1 || root[0].Name() != "pause" {
		t.Errorf("its root has %v, want pause alone", root)
	}
	if mounts := n.read(pid, "mountinfo"); strings.Count(mounts, "\n") != 1 {
		t.Errorf("it sees other mounts than its root:\n%s", mounts)
	}
	for _, ns := range []string{"ipc", "mnt", "pid"} {
		n.same(pid, os.Getpid(), ns, false)
	}
	n.same(pid, os.Getpid(), "net", true) // the host's, as asked for
	n.same(pid, os.Getpid(), "uts", true)
	n.ended(id, pid)
}

// TestSandboxOfRunc asks for a sysctl that is not the pod's own, which runc refuses with its reason.
func TestSandboxOfRunc(t *testing.T) {
	n := newNode(t)
	config := n.config("web")
	config.Linux.Sysctls = map[string]string{"vm.swappiness": "1"}
	_, err := n.cri.RunPodSandbox(t.Context(), &cri.RunPodSandboxRequest{Config: config})
	if err == nil || !strings.Contains(err.Error(), "vm.swappiness") {
		t.Errorf("the sandbox was made with the host's sysctl, or the reason is missing: %v", err)
	}
}

// TestContainerEndsWithoutPrograms stops and removes a pod after runc and the shim's program have become
// unusable: the shim that serves does all of it.
func TestContainerEndsWithoutPrograms(t *testing.T) {
	n := newNode(t)
	n.image(probeImage)
	sandbox, config := n.sandbox("web")
	id, log := n.container(sandbox, config, "long", probeImage)
	n.awaitLog(log, "hello", 1)
	state := filepath.Join(n.rt.layout.run, "runc", "k8s.io", id)
	if _, err := os.Stat(state); err != nil {
		t.Errorf("runc does not know the container: %v", err)
	}
	executed := filepath.Join(t.TempDir(), "executed")
	for _, name := range []string{runcName, shimName} {
		n.ok(replace(filepath.Join(n.rt.layout.bin, name), []byte("#!/bin/sh\necho \"$0 $*\" >>"+executed+"\nexit 1\n")))
	}

	_, err := n.cri.StopContainer(t.Context(), &cri.StopContainerRequest{ContainerId: id, Timeout: 60})
	n.ok(err)
	if code := n.exitCode(id); code != 0 {
		t.Errorf("exit code %d, want that of a program that ends by itself when told to", code)
	}
	if left, err := filepath.Glob("/sys/fs/cgroup/*" + n.parent + "/" + id); err != nil || len(left) > 0 {
		t.Errorf("cgroups are left: %v, %v", left, err)
	}
	if _, err := os.Stat(state); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("runc's state is left: %v", err)
	}
	_, err = n.cri.RemoveContainer(t.Context(), &cri.RemoveContainerRequest{ContainerId: id})
	n.ok(err)
	_, err = n.cri.RemovePodSandbox(t.Context(), &cri.RemovePodSandboxRequest{PodSandboxId: sandbox})
	n.ok(err)
	if programs, err := os.ReadFile(executed); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("programs were executed (%v):\n%s", err, programs)
	}
	if left, err := filepath.Glob(filepath.Join(n.rt.layout.state, "io.containerd.runtime.v2.task", "*", "*")); err != nil || len(left) > 0 {
		t.Errorf("bundles are left: %v, %v", left, err)
	}
}

// ended kills a sandbox's process and waits until the runtime says that the sandbox is not ready, then
// removes it and looks for its cgroup.
func (n *node) ended(id string, pid int) {
	n.Helper()
	n.ok(unix.Kill(pid, unix.SIGKILL))
	for ready := true; ready; {
		s, err := n.cri.PodSandboxStatus(n.Context(), &cri.PodSandboxStatusRequest{PodSandboxId: id})
		n.ok(err)
		ready = s.Status.State == cri.PodSandboxState_SANDBOX_READY
	}
	_, err := n.cri.RemovePodSandbox(n.Context(), &cri.RemovePodSandboxRequest{PodSandboxId: id})
	n.ok(err)
	if left, err := filepath.Glob("/sys/fs/cgroup/*" + n.parent + "/" + id); err != nil || len(left) > 0 {
		n.Errorf("cgroups are left: %v, %v", left, err)
	}
}

func (n *node) read(pid int, name string) string {
	n.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, name))
	n.ok(err)
	return string(data)
}

// same looks whether two processes share a namespace.
func (n *node) same(a, b int, ns string, want bool) {
	n.Helper()
	one, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", a, ns))
	n.ok(err)
	other, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", b, ns))
	n.ok(err)
	if (one == other) != want {
		n.Errorf("namespaces %s: %s and %s, want the same: %v", ns, one, other, want)
	}
}
