package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

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
	if ended, _ := hasEnded(n.process.pidfd); err != nil && ended {
		err = errors.Join(err, n.process.answer()) // which has the reason, be it noticed elsewhere
	}
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
