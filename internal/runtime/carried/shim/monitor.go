package main

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"

	gorunc "github.com/containerd/go-runc"

	"skiff.dev/skiff/internal/runtime/carried/shim/oci"
)

// monitor stands between containerd's task service and runc. The task service asks for executions of
// runc; those that this process can carry out itself, for a fraction of the cost, never become one:
// everything about sandboxes (sandbox.go), and the creation, start and end of ordinary containers (make.go,
// start.go, container.go). The rest goes to the reaper, which runs runc and waits for it.
type monitor struct {
	runs  gorunc.ProcessMonitor
	turns chan func() // what the thread that runs runc does next
	pause string      // the SHA-256 of the pause that can confine itself; empty for none
	maker *maker      // nil where containers cannot be made here

	mu         sync.Mutex
	sandboxes  map[string]*sandbox
	containers map[string]*container
}

func newMonitor(runs gorunc.ProcessMonitor, pause string, k *maker) *monitor {
	m := &monitor{
		runs: runs, turns: make(chan func()), pause: pause, maker: k,
		sandboxes: map[string]*sandbox{}, containers: map[string]*container{},
	}
	go m.serve()
	return m
}

// serve runs what wants the one thread that all of runc is started by. runc is killed when the thread
// that started it ends, and threads end here: those that have been in a sandbox's namespaces. It is the
// process's own, and ends with it.
func (m *monitor) serve() {
	runtime.LockOSThread()
	for do := range m.turns {
		do()
	}
}

// Start begins a command; the channel has its end.
func (m *monitor) Start(cmd *exec.Cmd) (chan gorunc.Exit, error) {
	return m.start(cmd, m.runs.Start)
}

// StartLocked is Start for a command that is to end with the thread that began it.
func (m *monitor) StartLocked(cmd *exec.Cmd) (chan gorunc.Exit, error) {
	return m.start(cmd, func(cmd *exec.Cmd) (ended chan gorunc.Exit, err error) {
		done := make(chan struct{})
		m.turns <- func() {
			ended, err = m.runs.Start(cmd)
			close(done)
		}
		<-done
		return ended, err
	})
}

// Wait returns a command's exit code.
func (m *monitor) Wait(cmd *exec.Cmd, ended chan gorunc.Exit) (int, error) {
	if cmd.Process == nil { // carried out here
		return (<-ended).Status, nil
	}
	status, err := m.runs.Wait(cmd, ended)
	if c, ok := parse(cmd); ok && c.name == "create" && err == nil && status == 0 {
		m.hold(c)
	}
	return status, err
}

func (m *monitor) start(cmd *exec.Cmd, run func(*exec.Cmd) (chan gorunc.Exit, error)) (chan gorunc.Exit, error) {
	c, ok := parse(cmd)
	if !ok {
		return run(cmd)
	}
	err := m.carryOut(c)
	if errors.Is(err, errRunc) {
		return run(cmd)
	}
	return c.done(err), nil
}

// create makes a sandbox or a container, or returns errRunc.
func (m *monitor) create(c command) error {
	config, err := os.ReadFile(filepath.Join(c.bundle, "config.json"))
	if err != nil {
		return errRunc
	}
	switch oci.Kind(config) {
	case oci.Sandbox:
		return m.createSandbox(c, config)
	case oci.Container:
		return m.createContainer(c, config)
	}
	return errRunc
}

// carryOut does what a command asks, or returns errRunc.
func (m *monitor) carryOut(c command) error {
	if c.name == "create" {
		return m.create(c)
	}
	m.mu.Lock()
	s, held := m.sandboxes[c.id()], m.containers[c.id()]
	m.mu.Unlock()
	switch {
	case s == nil && held == nil:
		return errRunc
	case s == nil:
		return m.ofContainer(c, held)
	case c.name == "start":
		return nil // it runs since it was created
	case c.name == "kill":
		return s.kill(c)
	case c.name == "delete":
		m.mu.Lock()
		delete(m.sandboxes, c.id())
		m.mu.Unlock()
		return s.remove()
	}
	return errRunc
}
