package runtime

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/fsnotify/fsnotify"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"skiff.dev/skiff/internal/cgroup"
	"skiff.dev/skiff/internal/image"
	"skiff.dev/skiff/internal/mount"
)

// node is a runtime in a directory of its own, with a CRI client.
type node struct {
	testing.TB
	dir    string
	parent string // the cgroup of its pods
	rt     *Runtime
	cri    cri.RuntimeServiceClient
}

func newNode(t testing.TB) *node {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED: needs root to run containers")
	}
	if err := Carried(); err != nil {
		t.Skip("SKIPPED:", err)
	}
	n := &node{TB: t, dir: t.TempDir()}
	n.parent = cgroup.RootOf(n.dir) + "/kubepods/besteffort/pod1"
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(tail(layoutOf(n.dir).log))
		}
		if err := Reset(n.dir); err != nil {
			t.Error(err)
		}
	})
	n.start()
	conn, err := grpc.NewClient(n.rt.Endpoint(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	n.ok(err)
	t.Cleanup(func() { conn.Close() })
	n.cri = cri.NewRuntimeServiceClient(conn)
	return n
}

func (n *node) ok(err error) {
	n.Helper()
	if err != nil {
		n.Fatal(err)
	}
}

// start brings up a runtime, which ends before the node is reset.
func (n *node) start() {
	n.Helper()
	began := time.Now()
	rt, err := Start(n.Context(), Config{DataDir: n.dir, Log: slog.New(slog.NewTextHandler(n.Output(), nil))})
	n.ok(err)
	n.Logf("runtime ready after %v", time.Since(began).Round(time.Millisecond))
	n.rt = rt
	n.Cleanup(func() {
		if n.rt == rt {
			n.ok(rt.Stop(context.Background()))
		}
	})
}

// image builds the probe and more into an image and imports it.
func (n *node) image(name string, more ...image.Source) {
	n.Helper()
	program := filepath.Join(os.Getenv("SKIFF_E2E_PROGRAMS"), "probe")
	if !filepath.IsAbs(program) {
		program = filepath.Join(n.TempDir(), "probe")
		build := exec.Command("go", "build", "-o", program, "./testdata/probe")
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			n.Fatalf("building the probe: %v\n%s", err, out)
		}
	}
	img, err := image.Build(image.Spec{Sources: append(more, image.Source{Binary: program}), Entrypoint: []string{"/probe"}})
	n.ok(err)
	archive, err := os.Create(filepath.Join(n.TempDir(), "probe.tar"))
	n.ok(err)
	n.ok(errors.Join(image.WriteArchive(archive, img, name), archive.Close()))
	names, err := n.rt.Images().Import(n.Context(), archive.Name())
	n.ok(err)
	if len(names) != 1 || names[0] != name {
		n.Fatalf("imported %q, want %s", names, name)
	}
}

// sandbox runs a pod sandbox on the host's network.
func (n *node) sandbox(name string) (string, *cri.PodSandboxConfig) {
	n.Helper()
	config := n.config(name)
	answer, err := n.cri.RunPodSandbox(n.Context(), &cri.RunPodSandboxRequest{Config: config})
	n.ok(err)
	return answer.PodSandboxId, config
}

// config is that of a pod sandbox on the host's network.
func (n *node) config(name string) *cri.PodSandboxConfig {
	n.Helper()
	config := &cri.PodSandboxConfig{
		Metadata:     &cri.PodSandboxMetadata{Name: name, Namespace: "default", Uid: name},
		LogDirectory: filepath.Join(n.dir, "logs", name),
		Linux: &cri.LinuxPodSandboxConfig{
			CgroupParent: n.parent,
			SecurityContext: &cri.LinuxSandboxSecurityContext{NamespaceOptions: &cri.NamespaceOption{
				Network: cri.NamespaceMode_NODE, Pid: cri.NamespaceMode_CONTAINER,
			}},
		},
	}
	n.ok(os.MkdirAll(config.LogDirectory, 0o755))
	return config
}

// container runs a container and returns its identifier and log file.
func (n *node) container(sandbox string, config *cri.PodSandboxConfig, name, image string, args ...string) (id, log string) {
	n.Helper()
	c := containerOf(config, name)
	c.Image.Image, c.Args, c.Linux.Resources.OomScoreAdj = image, args, -998
	created, err := n.cri.CreateContainer(n.Context(), &cri.CreateContainerRequest{PodSandboxId: sandbox, Config: c, SandboxConfig: config})
	n.ok(err)
	_, err = n.cri.StartContainer(n.Context(), &cri.StartContainerRequest{ContainerId: created.ContainerId})
	n.ok(err)
	return created.ContainerId, filepath.Join(config.LogDirectory, name+".log")
}

// exitCode waits for the container's end.
func (n *node) exitCode(id string) int32 {
	n.Helper()
	events, err := n.cri.GetContainerEvents(n.Context(), &cri.GetEventsRequest{})
	n.ok(err)
	for {
		s, err := n.cri.ContainerStatus(n.Context(), &cri.ContainerStatusRequest{ContainerId: id})
		n.ok(err)
		if s.Status.State == cri.ContainerState_CONTAINER_EXITED {
			return s.Status.ExitCode
		}
		_, err = events.Recv()
		n.ok(err)
	}
}

// awaitLog returns when the log file has n lines with a text.
func (n *node) awaitLog(file, text string, count int) {
	n.Helper()
	w, err := fsnotify.NewWatcher()
	n.ok(err)
	defer w.Close()
	n.ok(w.Add(filepath.Dir(file)))
	slow, err := strconv.Atoi(os.Getenv("SKIFF_E2E_SLOW"))
	if err != nil {
		slow = 1
	}
	timeout := time.After(time.Duration(slow) * 20 * time.Second)
	for {
		data, err := os.ReadFile(file)
		if err == nil && strings.Count(string(data), text) >= count {
			return
		}
		select {
		case <-w.Events:
		case <-timeout:
			n.Fatalf("%s has not %d of %q: %s", file, count, text, data)
		}
	}
}

// init returns the number of the container's first process on the host.
func (n *node) init(id string) int {
	n.Helper()
	data, err := os.ReadFile(filepath.Join(n.rt.layout.state, "io.containerd.runtime.v2.task", image.Namespace, id, "init.pid"))
	n.ok(err)
	var pid int
	_, err = fmt.Sscan(string(data), &pid)
	n.ok(err)
	return pid
}

const probeImage = "docker.io/library/probe:v1"

// TestContainersSurvive is the runtime's whole promise: containers run and leave their logs and exit
// codes; the death of containerd or of skiff ends none of them; Reset ends all.
func TestContainersSurvive(t *testing.T) {
	n := newNode(t)
	n.image(probeImage)

	began := time.Now()
	sandbox, config := n.sandbox("web")
	long, log := n.container(sandbox, config, "long", probeImage)
	t.Logf("RunPodSandbox to StartContainer took %v", time.Since(began).Round(time.Millisecond))
	n.awaitLog(log, "hello from the container", 1)
	short, shortLog := n.container(sandbox, config, "short", probeImage, "3")
	if code := n.exitCode(short); code != 3 {
		t.Errorf("exit code = %d, want 3", code)
	}
	n.awaitLog(shortLog, "stdout F hello from the container", 1)
	pid := n.init(long)

	t.Run("containerd is killed", func(t *testing.T) {
		old := n.rt.Pid()
		n.ok(unix.Kill(old, unix.SIGKILL))
		n.awaitPid(old)
		n.awaitRunning(long, pid)
		n.ok(unix.Kill(pid, unix.SIGUSR1))
		n.awaitLog(log, "still here", 1)
	})
	t.Run("skiff is stopped and started", func(t *testing.T) {
		n.ok(n.rt.Stop(t.Context()))
		n.start()
		n.awaitRunning(long, pid)
		n.ok(unix.Kill(pid, unix.SIGUSR1))
		n.awaitLog(log, "still here", 2)
	})
	t.Run("skiff is killed", func(t *testing.T) {
		old := n.rt
		containerd := old.Pid()
		old.cancel() // what a kill leaves behind: containerd, and no lock
		<-old.done
		n.ok(old.close())
		n.start()
		old.current.release()
		if n.rt.Pid() != containerd {
			t.Errorf("containerd is %d, want the one that was running, %d", n.rt.Pid(), containerd)
		}
		n.awaitRunning(long, pid)
	})
	t.Run("the shim is killed", func(t *testing.T) {
		shims := n.shims()
		if len(shims) != 1 {
			t.Fatalf("shims %v, want one for all pods", shims)
		}
		n.ok(unix.Kill(shims[0], unix.SIGKILL))
		if code := n.exitCode(long); code == 0 {
			t.Error("the container of a killed shim ended with exit code 0")
		}
		sandbox, config := n.sandbox("again")
		id, log := n.container(sandbox, config, "long", probeImage)
		n.awaitLog(log, "hello", 1)
		pid = n.init(id)
	})
	t.Run("reset", func(t *testing.T) {
		n.reset(pid)
	})
}

func (n *node) shims() []int {
	n.Helper()
	pids, err := findProcesses(func(exe string, _ []string) bool { return exe == filepath.Join(n.rt.layout.bin, shimName) })
	n.ok(err)
	return pids
}

// awaitPid waits for a containerd other than old.
func (n *node) awaitPid(old int) {
	n.Helper()
	for n.rt.Pid() == old || n.rt.Pid() == 0 {
		n.ok(n.rt.Ready(n.Context()))
	}
}

func (n *node) awaitRunning(id string, pid int) {
	n.Helper()
	n.ok(unix.Kill(pid, 0))
	s, err := n.cri.ContainerStatus(n.Context(), &cri.ContainerStatusRequest{ContainerId: id}, grpc.WaitForReady(true))
	n.ok(err)
	if s.Status.State != cri.ContainerState_CONTAINER_RUNNING {
		n.Fatalf("the container's state is %v", s.Status.State)
	}
}

// reset resets after a kill of everything that would clean up, and looks for what is left.
func (n *node) reset(pid int) {
	n.Helper()
	process, err := unix.PidfdOpen(pid, 0)
	n.ok(err)
	defer unix.Close(process)
	n.rt.cancel()
	<-n.rt.done
	n.ok(n.rt.close())
	n.ok(unix.Kill(n.rt.current.pid, unix.SIGKILL))
	l := n.rt.layout
	n.rt.current.release()
	n.rt = nil

	n.ok(Reset(n.dir))
	n.ok(Reset(n.dir))
	// It has ended, whoever reaps it: the shim may be killed before it has come to that.
	if ended, err := unix.Poll([]unix.PollFd{{Fd: int32(process), Events: unix.POLLIN}}, 0); ended != 1 || err != nil {
		n.Errorf("the container's process has not ended (%v)", err)
	}
	left, err := findProcesses(func(exe string, args []string) bool {
		return strings.HasPrefix(exe, n.dir) || strings.Contains(strings.Join(args, " "), l.run)
	})
	n.ok(err)
	mounts, err := mount.New().List(n.dir)
	n.ok(err)
	more, err := mount.New().List(l.run)
	n.ok(err)
	groups, err := filepath.Glob("/sys/fs/cgroup/*" + cgroup.RootOf(n.dir) + "*")
	n.ok(err)
	if _, err := os.Stat(l.run); !errors.Is(err, os.ErrNotExist) || len(left)+len(mounts)+len(more)+len(groups) > 0 {
		n.Errorf("left behind: processes %v, mounts %v %v, cgroups %v, %s (%v)", left, mounts, more, groups, l.run, err)
	}
}
