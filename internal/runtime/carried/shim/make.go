package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/containerd/log"
	"github.com/opencontainers/cgroups"
	_ "github.com/opencontainers/cgroups/devices" // how cgroups keep devices away
	"github.com/opencontainers/runtime-spec/specs-go"
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
	bundle  *oci.Bundle
	dir     string // of runc's record
	group   *cgroups.Cgroup
	cgroup  cgroups.Manager
	process spawned // its first
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
	confinement, err := b.Confinement(filter)
	if err != nil {
		return nil, err
	}
	n := &birth{bundle: b, dir: filepath.Join(c.root, c.id()), group: b.Cgroup()}
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
		err = os.WriteFile(c.pidFile, []byte(strconv.Itoa(n.process.pid)), 0o644)
	}
	if err != nil {
		return nil, errors.Join(err, n.undo())
	}
	return &container{pidfd: n.process.pidfd, line: n.process.line, cgroups: n.cgroup.GetPaths(), confinement: confinement}, nil
}

// begin starts the container's first process in the pod's namespaces. It waits for its program.
func (k *maker) begin(c command, n *birth) (err error) {
	n.process, err = k.spawn(c, n.bundle.Spec.Process.User, unix.CLONE_NEWNS|unix.CLONE_NEWPID, nil, func(start func() error) error {
		return within(func() error { return enter(n.bundle.Spec) }, start)
	})
	return err
}

// spawned is a process that waits for its program.
type spawned struct {
	pid   int
	pidfd int
	line  *os.File // to it
}

// spawn starts skiff-init with the streams of a command, which become the user's, in new namespaces and those
// that in takes its starter to. It has file as its descriptor 4, if that is not nil.
func (k *maker) spawn(c command, user specs.User, fresh uintptr, file *os.File, in func(start func() error) error) (spawned, error) {
	ours, theirs, err := socketPair()
	if err != nil {
		return spawned{}, err
	}
	defer theirs.Close()
	for _, f := range []any{c.cmd.Stdin, c.cmd.Stdout, c.cmd.Stderr} {
		if err := giveTo(f, int(user.UID)); err != nil {
			return spawned{}, errors.Join(err, ours.Close())
		}
	}
	s := spawned{line: ours, pidfd: -1}
	cmd := &exec.Cmd{
		Path: k.init, Args: []string{"init"}, Env: []string{}, Dir: "/",
		Stdin: c.cmd.Stdin, Stdout: c.cmd.Stdout, Stderr: c.cmd.Stderr, ExtraFiles: []*os.File{theirs},
		SysProcAttr: &syscall.SysProcAttr{Cloneflags: fresh, Setsid: true, PidFD: &s.pidfd},
	}
	if file != nil {
		cmd.ExtraFiles = append(cmd.ExtraFiles, file)
	}
	if err := in(cmd.Start); err != nil {
		return spawned{}, errors.Join(fmt.Errorf("starting a process of the container: %w", err), ours.Close())
	}
	s.pid = cmd.Process.Pid
	err = errors.Join(cmd.Process.Release(), unix.Prlimit(s.pid, unix.RLIMIT_MEMLOCK, &k.locked, nil)) // its end is the reaper's to see
	if err != nil {
		return spawned{}, errors.Join(err, s.end())
	}
	return s, nil
}

// end ends the process.
func (s *spawned) end() error {
	return errors.Join(end(s.pidfd), s.line.Close(), os.NewSyscallError("close", unix.Close(s.pidfd)))
}

// send sends the process its program, which it is to carry out in time.
func (s *spawned) send(program []byte) error {
	if err := s.line.SetDeadline(time.Now().Add(answerTimeout)); err != nil {
		return err
	}
	if _, err := s.line.Write(program); err != nil {
		return fmt.Errorf("sending a program to the container: %w", err)
	}
	return nil
}

// answer reads what the process says when it has carried out its program, or could not. The error is io.EOF
// when it said nothing, and ended or became another program.
func (s *spawned) answer() error {
	var answer struct{ Step, Errno int32 }
	if err := binary.Read(s.line, binary.NativeEndian, &answer); err != nil {
		return err
	}
	if answer.Step >= 0 {
		return fmt.Errorf("step %d of the program: %w", answer.Step, syscall.Errno(answer.Errno))
	}
	return s.line.SetDeadline(time.Time{})
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
	if err := n.cgroup.Apply(n.process.pid); err != nil {
		return fmt.Errorf("putting the container into its cgroup: %w", err)
	}
	if err := n.process.send(program); err != nil {
		return err
	}
	// While it works.
	if err := n.cgroup.Set(n.group.Resources); err != nil {
		return fmt.Errorf("limiting the container's cgroup: %w", err)
	}
	if err := setOOMScore(n.process.pid, n.bundle.Spec.Process.OOMScoreAdj); err != nil {
		return err
	}
	if err := n.record(); err != nil {
		return fmt.Errorf("recording the container: %w", err)
	}
	return n.process.answer()
}

// record writes down what runc is to know of the container.
func (n *birth) record() error {
	text, err := startOf(n.process.pid)
	if err != nil {
		return err
	}
	start, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return err
	}
	data, err := n.bundle.Record(n.process.pid, start, n.group, n.cgroup.GetPaths())
	if err != nil {
		return err
	}
	if err := os.MkdirAll(n.dir, 0o711); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(n.dir, "state.json"), data, 0o600)
}

// undo takes back what was made.
func (n *birth) undo() error {
	return errors.Join(n.process.end(), cgroups.RemovePaths(n.cgroup.GetPaths()), os.RemoveAll(n.dir))
}
