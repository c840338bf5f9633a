package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// start lets the first process of a container go on to the container's program.
func (held *container) start(c command) error {
	if held.line == nil {
		return held.startOfRunc(c)
	}
	_, err := held.line.Write([]byte{1})
	if errors.Is(err, unix.EPIPE) {
		err = errEnded
	}
	err = errors.Join(err, held.line.Close())
	held.line = nil
	if err != nil {
		return fmt.Errorf("starting the container's process: %w", err)
	}
	return nil
}

// errEnded is of a process that is not there to be started any more.
var errEnded = errors.New("it has ended before")

// startOfRunc is start for a container that runc created. It has left the process waiting at a FIFO: it
// goes on when somebody reads there, and says so by a byte.
func (held *container) startOfRunc(c command) error {
	name := filepath.Join(c.root, c.id(), "exec.fifo")
	// Opened for reading without waiting, so that it is the writer who need not wait any more.
	fifo, err := unix.Open(name, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return errRunc // whose words for what is wrong are the ones that are known
	}
	defer unix.Close(fifo)
	if err := goesOn(fifo, held.pidfd); err != nil {
		return fmt.Errorf("starting the container's process: %w", err)
	}
	if err := os.Remove(name); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("starting the container's process: %w", err)
	}
	return nil
}

// goesOn waits for a byte in the FIFO, or for the end of the process that should write it.
func goesOn(fifo, process int) error {
	ready := []unix.PollFd{{Fd: int32(fifo), Events: unix.POLLIN}, {Fd: int32(process), Events: unix.POLLIN}}
	for {
		if _, err := unix.Poll(ready, -1); err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
		if ready[0].Revents == 0 && ready[1].Revents == 0 {
			continue
		}
		// One that has ended may have written before: the byte decides.
		n, err := unix.Read(fifo, make([]byte, 1))
		switch {
		case n == 1:
			return nil
		case ready[1].Revents != 0:
			return errEnded
		case err != nil && !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR):
			return err
		}
	}
}
