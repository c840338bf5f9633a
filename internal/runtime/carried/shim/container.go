package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"

	gorunc "github.com/containerd/go-runc"
	"github.com/opencontainers/cgroups"
	"golang.org/x/sys/unix"

	"skiff.dev/skiff/internal/runtime/carried/shim/oci"
)

// container is one that runc or this process (make.go) has created. The task service asks for one thing at
// a time of a container, but for processes executed in it: of these, many, and beside everything else.
type container struct {
	line    *os.File // to the first process of one that this process made, until it is started
	started bool

	mu    sync.Mutex // held to change what follows, and for exec to look at it
	pidfd int        // -1 once it is deleted
	state *state     // nil until it is needed

	// Of one that this process made: what else is executed in it is put there.
	cgroups     map[string]string
	confinement *oci.Confinement // nil for runc's
}

// state is what is written down for runc of a container, of which this process needs to know whether its
// end is an ordinary one.
type state struct {
	ID string `json:"id"`
	// Cgroups are the directories of its cgroup, one per hierarchy.
	Cgroups map[string]string `json:"cgroup_paths"`
	Config  struct {
		Namespaces []struct {
			Type string `json:"type"`
			Path string `json:"path"`
		} `json:"namespaces"`
		Hooks    map[string][]json.RawMessage `json:"Hooks"`
		IntelRdt json.RawMessage              `json:"intel_rdt"`
	} `json:"config"`
}

// hold takes hold of the first process of a container that runc has created.
func (m *monitor) hold(c command) {
	pid, err := gorunc.ReadPidFile(c.pidFile)
	if err != nil {
		return // then runc does the rest for this container
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return // likewise; it may have ended
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.containers[c.id()] = &container{pidfd: fd}
}

// forget lets go of a container that is about to be deleted.
func (m *monitor) forget(c command, held *container) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.containers, c.id())
	held.mu.Lock()
	defer held.mu.Unlock()
	_ = unix.Close(held.pidfd) // nothing is written through it
	held.pidfd = -1            // which is soon the number of something else
	if held.line != nil {
		_ = held.line.Close() // likewise, now
	}
}

// ofContainer carries a command out, or returns errRunc.
func (m *monitor) ofContainer(c command, held *container) error {
	switch c.name {
	case "start":
		if held.started {
			return errRunc
		}
		held.started = true
		return held.start(c)
	case "exec":
		return m.maker.exec(c, held)
	case "kill":
		return held.kill(c)
	case "delete":
		defer m.forget(c, held)
		return held.remove(c)
	}
	return errRunc
}

// kill sends the signal of a kill command to the container's first process. The end of that one is the
// end of all where they have a process namespace to themselves; where not, and where they are frozen,
// SIGKILL is for runc to send.
func (held *container) kill(c command) error {
	if len(c.args) != 2 {
		return errRunc
	}
	number, err := strconv.Atoi(c.args[1])
	if err != nil {
		return errRunc
	}
	signal := unix.Signal(number)
	if signal == unix.SIGKILL || c.all {
		s, err := held.known(c)
		if err != nil || !s.private() || s.frozen() {
			return errRunc
		}
	}
	gone, err := hasEnded(held.pidfd)
	if err == nil && !gone {
		err = os.NewSyscallError("pidfd_send_signal", unix.PidfdSendSignal(held.pidfd, signal, nil, 0))
	}
	switch {
	case !gone && !errors.Is(err, unix.ESRCH):
		return err
	case c.all:
		return nil // asked for once the process has ended: there was no other
	}
	return errNotRunning
}

// errNotRunning has the words by which the task service knows that there is nothing left to kill.
var errNotRunning = errors.New("container not running")

// remove takes away what runc has made of a container that has ended: its cgroups, and what is written
// down of it, which goes last, so that a removal that was cut short can be done again.
func (held *container) remove(c command) error {
	s, err := held.known(c)
	if err != nil || c.force || !s.ordinary() {
		return errRunc
	}
	if held.line != nil { // it was never started; runc would not know that
		if err := end(held.pidfd); err != nil {
			return fmt.Errorf("ending the container: %w", err)
		}
	}
	if gone, err := hasEnded(held.pidfd); err != nil || !gone {
		return errRunc
	}
	if err := cgroups.RemovePaths(s.Cgroups); err != nil {
		return errRunc // whose words for what is wrong are the ones that are known
	}
	if err := os.RemoveAll(filepath.Join(c.root, c.id())); err != nil {
		return fmt.Errorf("removing what is known of the container: %w", err)
	}
	return nil
}

// first returns a descriptor of the first process, the caller's to close.
func (held *container) first() (*os.File, error) {
	held.mu.Lock()
	defer held.mu.Unlock()
	if held.pidfd < 0 {
		return nil, errEnded
	}
	fd, err := unix.FcntlInt(uintptr(held.pidfd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("fcntl", err)
	}
	return os.NewFile(uintptr(fd), "first process"), nil
}

// known returns what is written down for runc of the container.
func (held *container) known(c command) (*state, error) {
	held.mu.Lock()
	defer held.mu.Unlock()
	if held.state != nil {
		return held.state, nil
	}
	data, err := os.ReadFile(filepath.Join(c.root, c.id(), "state.json"))
	if err != nil {
		return nil, err
	}
	s := &state{}
	if err := json.Unmarshal(data, s); err != nil {
		return nil, err
	}
	if s.ID != c.id() {
		return nil, fmt.Errorf("the state of %s is that of %s", c.id(), s.ID)
	}
	held.state = s
	return s, nil
}

// private tells whether the container's processes have a process namespace of their own, in which the
// kernel lets none outlive the first.
func (s *state) private() bool {
	for _, ns := range s.Config.Namespaces {
		if ns.Type == "NEWPID" {
			return ns.Path == ""
		}
	}
	return false
}

// ordinary tells whether nothing is to be done at the container's end but to remove its cgroups.
func (s *state) ordinary() bool {
	rdt := s.Config.IntelRdt
	return s.private() && len(s.Cgroups) > 0 && len(s.Config.Hooks["poststop"]) == 0 &&
		(rdt == nil || bytes.Equal(rdt, []byte("null")))
}

// frozen tells whether the container is paused, which keeps a killed process from ending.
func (s *state) frozen() bool {
	name, thawed := "freezer.state", "THAWED"
	dir, ok := s.Cgroups["freezer"]
	if unified, v2 := s.Cgroups[""]; v2 {
		name, thawed, dir, ok = "cgroup.freeze", "0", unified, true
	}
	if !ok {
		return false
	}
	data, err := os.ReadFile(filepath.Join(dir, name))
	// A cgroup that has gone holds nobody.
	return err == nil && string(bytes.TrimSpace(data)) != thawed
}

// hasEnded tells whether a process has ended, waited for or not.
func hasEnded(pidfd int) (bool, error) {
	n, err := pollIn(pidfd, 0)
	return n > 0, err
}

// pollIn waits up to some milliseconds, -1 for ever, until there is something to be read.
func pollIn(fd, timeout int) (int, error) {
	ready := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	for {
		n, err := unix.Poll(ready, timeout)
		if !errors.Is(err, unix.EINTR) {
			return n, os.NewSyscallError("poll", err)
		}
	}
}
