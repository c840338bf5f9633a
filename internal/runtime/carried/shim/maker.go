package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"

	gorunc "github.com/containerd/go-runc"
	"github.com/containerd/log"
	"golang.org/x/sys/unix"
)

// maker has what containers are made with.
type maker struct {
	init    string // skiff-init, as a path that can be executed
	filters *filters
	locked  unix.Rlimit // memory that a process may lock, before the rules for devices needed more here
}

// The programs are carried beside this one.
const (
	initName    = "skiff-init"
	seccompName = "skiff-seccomp"
)

// newMaker returns nil where containers cannot be made without runc.
func newMaker(runs gorunc.ProcessMonitor) *maker {
	self, err := os.Executable()
	if err != nil {
		return nil
	}
	dir := filepath.Dir(self)
	path, err := seal(filepath.Join(dir, initName))
	if err != nil {
		log.L.Infof("all containers are left to runc: %v", err)
		return nil
	}
	k := &maker{init: path, filters: &filters{runs: runs, program: filepath.Join(dir, seccompName), known: map[string][]byte{}}}
	if err := unix.Getrlimit(unix.RLIMIT_MEMLOCK, &k.locked); err != nil {
		log.L.Infof("all containers are left to runc: %v", err)
		return nil
	}
	return k
}

// lowestFd keeps the sealed file out of the way of descriptors that a new process is given.
const lowestFd = 64

// seal copies a program into memory that nobody can change any more, and returns a path to execute it by.
// A container can reach the file of the program that it was started by (/proc/self/exe); this one is no use
// to it. The file is open as long as this process lives.
func seal(name string) (string, error) {
	data, err := os.ReadFile(name)
	if err != nil {
		return "", err
	}
	fd, err := unix.MemfdCreate(initName, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return "", os.NewSyscallError("memfd_create", err)
	}
	defer unix.Close(fd)
	if n, err := unix.Write(fd, data); err != nil || n != len(data) {
		return "", fmt.Errorf("copying %s into memory: %d of %d bytes: %w", name, n, len(data), err)
	}
	const seals = unix.F_SEAL_SEAL | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, seals); err != nil {
		return "", fmt.Errorf("sealing %s: %w", name, err)
	}
	kept, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, lowestFd)
	if err != nil {
		return "", os.NewSyscallError("fcntl", err)
	}
	return fmt.Sprintf("/proc/self/fd/%d", kept), nil
}

// maxFilters bounds the translations that are kept; a node has a handful of profiles.
const maxFilters = 64

// filters translates seccomp profiles, each once.
type filters struct {
	runs    gorunc.ProcessMonitor
	program string

	mu    sync.Mutex
	known map[string][]byte
}

// translate returns the kernel's filter for rules in the words of skiff-seccomp; nil for none.
func (f *filters) translate(rules string) ([]byte, error) {
	if rules == "" {
		return nil, nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if filter := f.known[rules]; filter != nil {
		return filter, nil
	}
	filter, err := f.execute([]byte(rules))
	if err != nil {
		return nil, fmt.Errorf("translating the seccomp profile: %w", err)
	}
	if len(f.known) >= maxFilters {
		clear(f.known)
	}
	f.known[rules] = filter
	return filter, nil
}

// execute runs skiff-seccomp. Input and output are files in memory, so that nobody has to attend to it.
func (f *filters) execute(rules []byte) (filter []byte, err error) {
	var files [3]*os.File // standard input, output and error
	for i := range files {
		fd, err := unix.MemfdCreate("seccomp", unix.MFD_CLOEXEC)
		if err != nil {
			return nil, os.NewSyscallError("memfd_create", err)
		}
		files[i] = os.NewFile(uintptr(fd), "seccomp")
		defer files[i].Close()
	}
	if _, err := files[0].WriteAt(rules, 0); err != nil {
		return nil, err
	}
	cmd := &exec.Cmd{Path: f.program, Args: []string{seccompName}, Env: []string{}, Stdin: files[0], Stdout: files[1], Stderr: files[2]}
	ended, err := f.runs.Start(cmd)
	if err != nil {
		return nil, err
	}
	status, err := f.runs.Wait(cmd, ended)
	if err != nil || status != 0 {
		said, _ := io.ReadAll(io.NewSectionReader(files[2], 0, 1<<12)) // what can be read of it
		return nil, errors.Join(fmt.Errorf("exit code %d: %s", status, bytes.TrimSpace(said)), err)
	}
	filter, err = io.ReadAll(io.NewSectionReader(files[1], 0, 1<<20))
	if err == nil && len(filter) == 0 {
		err = errors.New("it has no instruction")
	}
	return filter, err
}
