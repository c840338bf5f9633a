package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// inherited are the namespaces that a thread enters before it clones: those in which it has something
// to set up. The others begin with the new process.
var inherited = map[specs.LinuxNamespaceType]int{
	specs.NetworkNamespace: unix.CLONE_NEWNET, specs.IPCNamespace: unix.CLONE_NEWIPC, specs.UTSNamespace: unix.CLONE_NEWUTS,
}

// run starts pause in the sandbox's namespaces and returns when it has confined itself to root. The
// descriptor is a pidfd, the caller's to close.
func run(spec *specs.Spec, root string) (pid, pidfd int, err error) {
	err = within(func() error { return enter(spec) }, func() (err error) {
		pid, pidfd, err = start(spec, root)
		return err
	})
	return pid, pidfd, err
}

// within has do called by a thread that enter has taken into namespaces of others.
func within(enter, do func() error) (err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		// Never unlocked: the thread is not to be used again, and ends with this goroutine. The main
		// thread cannot end, but main keeps that for itself.
		runtime.LockOSThread()
		if err = enter(); err == nil {
			err = do()
		}
	}()
	<-done
	return err
}

// enter takes the calling thread into the sandbox's namespaces and sets up what belongs to them.
func enter(spec *specs.Spec) error {
	fresh := 0
	for _, ns := range spec.Linux.Namespaces {
		flag := inherited[ns.Type]
		if flag == 0 || ns.Path == "" {
			fresh |= flag
			continue
		}
		if err := join(ns.Path, flag); err != nil {
			return fmt.Errorf("entering the sandbox's %s namespace: %w", ns.Type, err)
		}
	}
	if err := unix.Unshare(fresh); err != nil {
		return fmt.Errorf("making the sandbox's namespaces: %w", err)
	}
	if spec.Hostname != "" && fresh&unix.CLONE_NEWUTS != 0 {
		if err := unix.Sethostname([]byte(spec.Hostname)); err != nil {
			return fmt.Errorf("setting the sandbox's hostname: %w", err)
		}
	}
	for name, value := range spec.Linux.Sysctl {
		if err := os.WriteFile(sysctlFile(name), []byte(value), 0); err != nil {
			return fmt.Errorf("setting sysctl %s: %w", name, err)
		}
	}
	return nil
}

func join(path string, flag int) error {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	return os.NewSyscallError("setns", unix.Setns(fd, flag))
}

// start starts the root's pause from the calling thread.
func start(spec *specs.Spec, root string) (pid, pidfd int, err error) {
	ready, told, err := os.Pipe()
	if err != nil {
		return 0, 0, err
	}
	defer ready.Close()
	groups := make([]uint32, 0, len(spec.Process.User.AdditionalGids))
	groups = append(groups, spec.Process.User.AdditionalGids...)
	flags := uintptr(unix.CLONE_NEWNS)
	if private(spec, specs.PIDNamespace) {
		flags |= unix.CLONE_NEWPID
	}
	cmd := exec.Cmd{
		Path: filepath.Join(root, pauseFile), Args: []string{pauseFile}, Dir: root,
		Env:        []string{fmt.Sprintf("SKIFF_SANDBOX=%d:%d", spec.Process.User.UID, spec.Process.User.GID)},
		ExtraFiles: []*os.File{told},
		SysProcAttr: &syscall.SysProcAttr{
			Cloneflags: flags, Setsid: true, PidFD: &pidfd,
			Credential: &syscall.Credential{Groups: groups}, // still root's
		},
	}
	err = errors.Join(cmd.Start(), told.Close())
	if err != nil {
		return 0, 0, fmt.Errorf("starting the sandbox's process: %w", err)
	}
	pid = cmd.Process.Pid
	// Its end is the reaper's to see.
	if err := cmd.Process.Release(); err != nil {
		return 0, 0, errors.Join(err, unix.Close(pidfd))
	}
	if _, err := io.ReadFull(ready, make([]byte, 1)); err != nil {
		return 0, 0, errors.Join(errors.New("the sandbox's process could not confine itself"), unix.Close(pidfd))
	}
	return pid, pidfd, nil
}

// private tells whether the sandbox has a namespace of the type to itself from the start.
func private(spec *specs.Spec, t specs.LinuxNamespaceType) bool {
	for _, ns := range spec.Linux.Namespaces {
		if ns.Type == t {
			return ns.Path == ""
		}
	}
	return false
}

// apart tells whether the sandbox is not in the host's namespace of the type.
func apart(spec *specs.Spec, t specs.LinuxNamespaceType) bool {
	for _, ns := range spec.Linux.Namespaces {
		if ns.Type == t {
			return true
		}
	}
	return false
}

// shared are the sysctls of the IPC namespace that are not named fs.mqueue.*.
var shared = map[string]bool{
	"kernel.msgmax": true, "kernel.msgmnb": true, "kernel.msgmni": true, "kernel.sem": true,
	"kernel.shmall": true, "kernel.shmmax": true, "kernel.shmmni": true, "kernel.shm_rmid_forced": true,
}

// allowed tells whether all of a sandbox's sysctls belong to namespaces of its own, so that setting them
// changes nothing of the host. For the others runc has the right error.
func allowed(spec *specs.Spec) bool {
	for name := range spec.Linux.Sysctl {
		file := sysctlFile(name)
		var ok bool
		switch {
		case file != filepath.Clean(file):
		case strings.HasPrefix(file, sysctls+"net/"):
			ok = apart(spec, specs.NetworkNamespace)
		case strings.HasPrefix(file, sysctls+"fs/mqueue/"), shared[name]:
			ok = apart(spec, specs.IPCNamespace)
		}
		if !ok {
			return false
		}
	}
	return true
}

const sysctls = "/proc/sys/"

// sysctlFile returns the file of a sysctl. Its name has dots between its parts, or slashes if the first
// separator is one; then dots belong to the parts.
func sysctlFile(name string) string {
	if i := strings.IndexAny(name, "./"); i >= 0 && name[i] == '.' {
		name = strings.NewReplacer(".", "/", "/", ".").Replace(name)
	}
	return sysctls + name
}
