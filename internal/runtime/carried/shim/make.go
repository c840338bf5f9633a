package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/containerd/log"
	"github.com/opencontainers/cgroups"
	_ "github.com/opencontainers/cgroups/devices" // how cgroups keep devices away
	"golang.org/x/sys/unix"

	"skiff.dev/skiff/internal/runtime/carried/shim/oci"
)

// createContainer makes an ordinary container of a pod, or returns errRunc: for one that is not ordinary,
// and for one that could not be made. What is wrong with that one runc will find, too, and say in the words
// that people know.
func (m *monitor) createContainer(c command, config []byte) error {
	if m.maker == nil {
		return errRunc
	}
	b, err := oci.Read(c.id(), c.bundle, config)
	if err != nil {
		log.L.Debugf("container %s: %v", c.id(), err)
		return errRunc
	}
	made, err := m.maker.make(c, b)
	if err != nil {
		log.L.Infof("container %s is left to runc: %v", c.id(), err)
		return errRunc
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.containers[c.id()] = made
	return nil
}

// answerTimeout is how long a container's first process may take for its program: it mounts things, and
// what is mounted may be a network's.
const answerTimeout = time.Minute

// birth is a container that is being made.
type birth struct {
	bundle *oci.Bundle
	dir    string // of runc's record
	group  *cgroups.Cgroup
	cgroup cgroups.Manager
	pid    int
	pidfd  int
	line   *os.File // to its first process
}

// make makes a container up to the execution of its program. When it fails nothing of it is left but
// directories that were missing in its root file system.
func (k *maker) make(c command, b *oci.Bundle) (_ *container, err error) {
	rules, err := b.Rules()
	if err != nil {
		return nil, err
	}
	filter, err := k.filters.translate(rules)
	if err != nil {
		return nil, err
	}
	n := &birth{bundle: b, dir: filepath.Join(c.root, c.id()), group: b.Cgroup(), pidfd: -1}
	if n.cgroup, err = managerOf(n.group); err != nil {
		return nil, err
	}
	program, err := b.Program(n.cgroup.GetPaths(), filter)
	if err != nil {
		return nil, err
	}
	if err := k.begin(c, n); err != nil {
		return nil, err
	}
	err = n.settle(program)
	if err == nil {
		err = os.WriteFile(c.pidFile, []byte(strconv.Itoa(n.pid)), 0o644)
	}
	if err != nil {
		return nil, errors.Join(err, n.undo())
	}
	return &container{pidfd: n.pidfd, line: n.line}, nil
}

// begin starts the container's first process in the pod's namespaces. It waits for its program.
func (k *maker) begin(c command, n *birth) error {
	ours, theirs, err := socketPair()
	if err != nil {
		return err
	}
	n.line = ours
	defer theirs.Close()
	user := n.bundle.Spec.Process.User
	for _, f := range []any{c.cmd.Stdin, c.cmd.Stdout, c.cmd.Stderr} {
		if err := giveTo(f, int(user.UID)); err != nil {
			return errors.Join(err, ours.Close())
		}
	}
	cmd := &exec.Cmd{
		Path: k.init, Args: []string{"init"}, Env: []string{}, Dir: "/",
		Stdin: c.cmd.Stdin, Stdout: c.cmd.Stdout, Stderr: c.cmd.Stderr, ExtraFiles: []*os.File{theirs},
		SysProcAttr: &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID, Setsid: true, PidFD: &n.pidfd},
	}
	if err := within(n.bundle.Spec, cmd.Start); err != nil {
		return errors.Join(fmt.Errorf("starting the container's first process: %w", err), ours.Close())
	}
	n.pid = cmd.Process.Pid
	return cmd.Process.Release() // its end is the reaper's to see
}

// socketPair returns both ends of a line.
func socketPair() (ours, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	if err := unix.SetNonblock(fds[0], true); err != nil { // so that it has deadlines
		return nil, nil, errors.Join(os.NewSyscallError("fcntl", err), unix.Close(fds[0]), unix.Close(fds[1]))
	}
	return os.NewFile(uintptr(fds[0]), "first process"), os.NewFile(uintptr(fds[1]), "shim"), nil
}

// giveTo makes a standard stream the container's user's, who may open it again by its name in /dev.
func giveTo(stream any, uid int) error {
	if stream == nil {
		return nil
	}
	f, ok := stream.(*os.File)
	if !ok {
		return fmt.Errorf("a standard stream is a %T", stream)
	}
	var s unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &s); err != nil {
		return &os.PathError{Op: "fstat", Path: f.Name(), Err: err}
	}
	if s.Mode&unix.S_IFMT == unix.S_IFCHR || int(s.Uid) == uid {
		return nil
	}
	err := unix.Fchown(int(f.Fd()), uid, int(s.Gid))
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EPERM) || errors.Is(err, unix.EROFS) {
		return nil // then it cannot be opened again, as with runc
	}
	return err
}

// settle puts the process into its cgroup, has it carry out its program, records the container, and
// returns when all is done but the execution.
func (n *birth) settle(program []byte) error {
	if err := n.cgroup.Apply(n.pid); err != nil {
		return fmt.Errorf("putting the container into its cgroup: %w", err)
	}
	if err := n.line.SetDeadline(time.Now().Add(answerTimeout)); err != nil {
		return err
	}
	if _, err := n.line.Write(program); err != nil {
		return fmt.Errorf("sending the container's program: %w", err)
	}
	// While it works.
	if err := n.cgroup.Set(n.group.Resources); err != nil {
		return fmt.Errorf("limiting the container's cgroup: %w", err)
	}
	if err := setOOMScore(n.pid, n.bundle.Spec.Process.OOMScoreAdj); err != nil {
		return err
	}
	if err := n.record(); err != nil {
		return fmt.Errorf("recording the container: %w", err)
	}
	return n.await()
}

// record writes down what runc is to know of the container.
func (n *birth) record() error {
	text, err := startOf(n.pid)
	if err != nil {
		return err
	}
	start, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return err
	}
	data, err := n.bundle.Record(n.pid, start, n.group, n.cgroup.GetPaths())
	if err != nil {
		return err
	}
	if err := os.MkdirAll(n.dir, 0o711); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(n.dir, "state.json"), data, 0o600)
}

// await reads the first process's answer.
func (n *birth) await() error {
	var answer struct{ Step, Errno int32 }
	if err := binary.Read(n.line, binary.NativeEndian, &answer); err != nil {
		if errors.Is(err, io.EOF) {
			err = errors.New("it ended")
		}
		return fmt.Errorf("waiting for the container's first process: %w", err)
	}
	if answer.Step >= 0 {
		return fmt.Errorf("step %d of the container's program: %w", answer.Step, syscall.Errno(answer.Errno))
	}
	return n.line.SetDeadline(time.Time{})
}

// undo takes back what was made.
func (n *birth) undo() error {
	return errors.Join(
		end(n.pidfd), cgroups.RemovePaths(n.cgroup.GetPaths()), os.RemoveAll(n.dir),
		n.line.Close(), os.NewSyscallError("close", unix.Close(n.pidfd)),
	)
}
