package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"github.com/opencontainers/cgroups"
	cgroupv1 "github.com/opencontainers/cgroups/fs"
	cgroupv2 "github.com/opencontainers/cgroups/fs2"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// sandbox is a pod's first process, which holds its namespaces and does nothing else. It needs no more
// of a container than that: no mounts, devices or capabilities. So this process makes it itself, which
// takes a clone and a dozen system calls instead of three executions of runc; pause confines itself.
type sandbox struct {
	pidfd  int
	record record
	file   string // where the record is
}

// record is what another shim needs to clean up after this one, in the sandbox's bundle.
type record struct {
	Pid int `json:"pid"`
	// Start is its start time, so that a later process with its number is not taken for it.
	Start string `json:"start"`
	// Cgroups are the directories of its cgroup, one per hierarchy.
	Cgroups map[string]string `json:"cgroups"`
}

const recordName = "skiff-sandbox.json"

// createSandbox makes the sandbox of a bundle, or returns errRunc when the bundle is none, or one that
// asks for what only runc does.
func (m *monitor) createSandbox(c command, config []byte) error {
	var spec specs.Spec
	if err := json.Unmarshal(config, &spec); err != nil || !plain(&spec) || !m.confines(c.bundle) {
		return errRunc
	}
	group, err := managerOf(&cgroups.Cgroup{Path: spec.Linux.CgroupsPath, Resources: resources(&spec)})
	if err != nil {
		return fmt.Errorf("finding the sandbox's cgroup: %w", err)
	}
	s := &sandbox{record: record{Cgroups: group.GetPaths()}, file: filepath.Join(c.bundle, recordName)}
	if s.record.Pid, s.pidfd, err = run(&spec, filepath.Join(c.bundle, "rootfs")); err != nil {
		return err
	}
	err = s.settle(&spec, group)
	if err == nil {
		err = os.WriteFile(c.pidFile, []byte(strconv.Itoa(s.record.Pid)), 0o644)
	}
	if err != nil {
		return errors.Join(err, end(s.pidfd), s.remove())
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.sandboxes[c.id()] = s
	return nil
}

// settle records the sandbox, puts it into its cgroup and gives it its place among those killed when
// memory runs out.
func (s *sandbox) settle(spec *specs.Spec, group cgroups.Manager) (err error) {
	if s.record.Start, err = startOf(s.record.Pid); err != nil {
		return fmt.Errorf("recording the sandbox: %w", err)
	}
	data, err := json.Marshal(s.record)
	if err == nil {
		err = os.WriteFile(s.file, data, 0o600)
	}
	if err != nil {
		return fmt.Errorf("recording the sandbox: %w", err)
	}
	if err := group.Apply(s.record.Pid); err != nil {
		return fmt.Errorf("putting the sandbox into its cgroup: %w", err)
	}
	if err := group.Set(resources(spec)); err != nil {
		return fmt.Errorf("setting up the sandbox's cgroup: %w", err)
	}
	return setOOMScore(s.record.Pid, spec.Process.OOMScoreAdj)
}

// setOOMScore says how soon a process is killed when memory runs out; nil leaves that as it is.
func setOOMScore(pid int, score *int) error {
	if score == nil {
		return nil
	}
	if err := os.WriteFile(fmt.Sprintf("/proc/%d/oom_score_adj", pid), []byte(strconv.Itoa(*score)), 0); err != nil {
		return fmt.Errorf("setting the OOM score: %w", err)
	}
	return nil
}

// plain tells whether a sandbox is one that this process can make: no user namespace, and no label.
func plain(spec *specs.Spec) bool {
	if spec.Process == nil || spec.Linux == nil || spec.Hooks != nil ||
		spec.Process.SelinuxLabel != "" || spec.Process.ApparmorProfile != "" ||
		len(spec.Process.Args) != 1 || spec.Process.Args[0] != pauseFile {
		return false
	}
	for _, ns := range spec.Linux.Namespaces {
		if ns.Type == specs.UserNamespace || ns.Type == specs.TimeNamespace {
			return false
		}
	}
	return allowed(spec)
}

// pauseFile is where the sandbox image has its program.
const pauseFile = "/pause"

// confines tells whether the bundle's program is the pause that confines itself.
func (m *monitor) confines(bundle string) bool {
	data, err := os.ReadFile(filepath.Join(bundle, "rootfs", pauseFile))
	sum := sha256.Sum256(data)
	return err == nil && hex.EncodeToString(sum[:]) == m.pause
}

// resources are the limits of the sandbox's cgroup. Devices are left out: pause may make none.
func resources(spec *specs.Spec) *cgroups.Resources {
	r := &cgroups.Resources{SkipDevices: true}
	if l := spec.Linux.Resources; l != nil && l.CPU != nil && l.CPU.Shares != nil {
		r.CpuShares = *l.CPU.Shares
		r.CpuWeight = cgroups.ConvertCPUSharesToCgroupV2Value(r.CpuShares)
	}
	return r
}

// managerOf returns what manages a cgroup, which need not be there yet.
func managerOf(group *cgroups.Cgroup) (cgroups.Manager, error) {
	if cgroups.IsCgroup2UnifiedMode() {
		return cgroupv2.NewManager(group, "")
	}
	return cgroupv1.NewManager(group, nil)
}

// kill sends the signal of a kill command.
func (s *sandbox) kill(c command) error {
	number, err := strconv.Atoi(c.args[len(c.args)-1])
	if err != nil {
		return fmt.Errorf("reading the signal: %w", err)
	}
	err = s.signal(unix.Signal(number))
	switch {
	case !errors.Is(err, unix.ESRCH):
		return err
	case c.all:
		return nil // asked for once the process has ended: there was no other
	}
	return errNotRunning
}

func (s *sandbox) signal(number unix.Signal) error {
	return os.NewSyscallError("pidfd_send_signal", unix.PidfdSendSignal(s.pidfd, number, nil, 0))
}

// end kills a process and waits for its end.
func end(pidfd int) error {
	err := unix.PidfdSendSignal(pidfd, unix.SIGKILL, nil, 0)
	if err != nil && !errors.Is(err, unix.ESRCH) {
		return os.NewSyscallError("pidfd_send_signal", err)
	}
	_, err = pollIn(pidfd, -1)
	return err
}

// remove cleans up after a sandbox that has ended.
func (s *sandbox) remove() error {
	return errors.Join(
		cgroups.RemovePaths(s.record.Cgroups),
		os.NewSyscallError("close", unix.Close(s.pidfd)),
		os.Remove(s.file),
	)
}

// clean ends what a shim that is gone has left of the sandbox of a bundle, if it is one.
func clean(bundle string) error {
	s := &sandbox{file: filepath.Join(bundle, recordName)}
	data, err := os.ReadFile(s.file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = json.Unmarshal(data, &s.record)
	}
	if err != nil {
		return fmt.Errorf("reading what is known of the sandbox: %w", err)
	}
	s.pidfd, err = unix.PidfdOpen(s.record.Pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return errors.Join(cgroups.RemovePaths(s.record.Cgroups), os.Remove(s.file))
	}
	if err != nil {
		return fmt.Errorf("ending the sandbox: %w", err)
	}
	if since, err := startOf(s.record.Pid); err == nil && since == s.record.Start {
		if err := end(s.pidfd); err != nil {
			return fmt.Errorf("ending the sandbox: %w", err)
		}
	}
	return s.remove()
}

// startOf returns a process's start time, the 22nd field of its stat file, in the kernel's ticks.
func startOf(pid int) (string, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return "", err
	}
	// The second field is the name in parentheses.
	fields := bytes.Fields(data[bytes.LastIndexByte(data, ')')+1:])
	if len(fields) < 20 {
		return "", fmt.Errorf("/proc/%d/stat has too few fields", pid)
	}
	return string(fields[19]), nil
}
