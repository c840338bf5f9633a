package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// answerTimeout is how long a process may take for its program: it mounts things, and what is mounted may be
// a network's.
const answerTimeout = time.Minute

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
	err = cmd.Process.Release() // its end is the reaper's to see
	if err == nil {
		err = os.NewSyscallError("prlimit", unix.Prlimit(s.pid, unix.RLIMIT_MEMLOCK, &k.locked, nil))
	}
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
