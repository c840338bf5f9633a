// Package pidfd holds processes by file descriptor, children or not: a signal reaches the process that
// was meant, never a later one with its number, and its end is an event instead of something to poll.
//
// It reads and signals processes; it writes nothing.
package pidfd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Process is one process, which may have ended in the meantime. It must be closed.
type Process struct {
	Pid int
	f   *os.File
}

// Open takes hold of the process that has the number pid now; the error is unix.ESRCH when none has.
func Open(pid int) (*Process, error) {
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("opening process %d: %w", pid, err)
	}
	return &Process{Pid: pid, f: os.NewFile(uintptr(fd), fmt.Sprintf("pidfd:%d", pid))}, nil
}

// Signal sends a signal; the error is unix.ESRCH when the process has ended.
func (p *Process) Signal(s unix.Signal) error {
	conn, err := p.f.SyscallConn()
	if err != nil {
		return fmt.Errorf("signalling process %d: %w", p.Pid, err)
	}
	var sent error
	err = conn.Control(func(fd uintptr) { sent = unix.PidfdSendSignal(int(fd), s, nil, 0) })
	if err = errors.Join(err, sent); err != nil {
		return fmt.Errorf("signalling process %d: %w", p.Pid, err)
	}
	return nil
}

// Wait returns when the process has ended, or with the context's error.
func (p *Process) Wait(ctx context.Context) error {
	conn, err := p.f.SyscallConn()
	if err != nil {
		return fmt.Errorf("waiting for process %d: %w", p.Pid, err)
	}
	if err := p.f.SetReadDeadline(time.Time{}); err != nil {
		return fmt.Errorf("waiting for process %d: %w", p.Pid, err)
	}
	stop := context.AfterFunc(ctx, func() {
		_ = p.f.SetReadDeadline(time.Unix(1, 0)) // fails only on a closed file, whose Read has returned
	})
	defer stop()
	err = conn.Read(func(fd uintptr) bool {
		ready := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(ready, 0)
		return err == nil && n == 1
	})
	if ctx.Err() != nil && err != nil {
		err = ctx.Err()
	}
	if err != nil {
		return fmt.Errorf("waiting for process %d: %w", p.Pid, err)
	}
	return nil
}

// Close lets go of the process.
func (p *Process) Close() error { return p.f.Close() }

// KillAll kills the processes, calls signalled (unless nil) when each has its signal, and waits for the
// end of each. Processes that are gone are no error.
func KillAll(ctx context.Context, pids []int, signalled func()) error {
	var held []*Process
	defer func() {
		for _, p := range held {
			_ = p.Close() // nothing is written through it
		}
	}()
	var failed []error
	for _, pid := range pids {
		p, err := Open(pid)
		if errors.Is(err, unix.ESRCH) {
			continue
		}
		if err != nil {
			failed = append(failed, err)
			continue
		}
		held = append(held, p)
		if err := p.Signal(unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
			failed = append(failed, err)
		}
	}
	if signalled != nil {
		signalled()
	}
	for _, p := range held {
		if err := p.Wait(ctx); err != nil {
			return errors.Join(append(failed, err)...)
		}
	}
	return errors.Join(failed...)
}
