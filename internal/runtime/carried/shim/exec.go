package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"

	"github.com/containerd/log"
	"github.com/opencontainers/cgroups"
	"golang.org/x/sys/unix"

	"skiff.dev/skiff/internal/runtime/carried/shim/oci"
)

// exec executes a process in a container that this process made, or returns errRunc: where it is unusual, a
// terminal for example, and where it failed, so that runc fails in its words.
func (k *maker) exec(c command, held *container) error {
	if held.confinement == nil || !c.detach || held.line != nil {
		return errRunc
	}
	data, err := os.ReadFile(c.process)
	if err != nil {
		return errRunc
	}
	what, err := held.confinement.Exec(data)
	if err != nil {
		log.L.Debugf("a process in container %s: %v", c.id(), err)
		return errRunc
	}
	s, err := held.known(c)
	if err != nil || s.frozen() {
		return errRunc
	}
	if err := k.executeIn(c, held, what); err != nil {
		log.L.Infof("a process in container %s is left to runc: %v", c.id(), err)
		return errRunc
	}
	return nil
}

// executeIn executes a process in a container.
func (k *maker) executeIn(c command, held *container, what *oci.Process) error {
	first, err := held.first()
	if err != nil {
		return err
	}
	defer first.Close()
	process, err := k.spawn(c, what.User, 0, first, func(start func() error) error {
		return within(func() error { return joinProcess(int(first.Fd())) }, start)
	})
	if err != nil {
		return err
	}
	err = process.follow(held, what.OOMScoreAdj, what.Program)
	if err == nil {
		err = os.WriteFile(c.pidFile, []byte(strconv.Itoa(process.pid)), 0o644)
	}
	if err != nil {
		return errors.Join(err, process.end())
	}
	return errors.Join(process.line.Close(), os.NewSyscallError("close", unix.Close(process.pidfd)))
}

// joinProcess takes the calling thread into the namespaces of a process, but for its mounts, which only the
// new process can enter. Its processes are those that the thread starts from now on.
func joinProcess(pidfd int) error {
	const all = unix.CLONE_NEWNET | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS | unix.CLONE_NEWCGROUP | unix.CLONE_NEWPID
	return os.NewSyscallError("setns", unix.Setns(pidfd, all))
}

// follow puts a process into a container's cgroup, and returns when it has become another program.
func (s *spawned) follow(held *container, score *int, program []byte) error {
	for _, dir := range held.cgroups {
		if err := cgroups.WriteCgroupProc(dir, s.pid); err != nil {
			return fmt.Errorf("putting it into the container's cgroup: %w", err)
		}
	}
	if err := setOOMScore(s.pid, score); err != nil {
		return err
	}
	if err := s.send(program); err != nil {
		return err
	}
	err := s.answer()
	if errors.Is(err, io.EOF) {
		return nil
	}
	if err == nil {
		err = errors.New("it waits")
	}
	return err
}
