package runtime

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"skiff.dev/skiff/internal/cgroup/pidfd"
)

// lockEnv tells containerd that descriptor 3 is its lock.
const lockEnv = "SKIFF_RUNTIME_LOCK"

// cniResultsEnv tells containerd where to keep the network plugin's results.
const cniResultsEnv = "SKIFF_CNI_RESULTS"

// maxLog is the size at which containerd's log is moved aside when containerd starts.
const maxLog = 8 << 20

// process is a containerd, started by us or found running.
type process struct {
	pid   int
	ended chan struct{} // closed when it has ended
	// release ends what watches it, for one that is left running.
	release func()
}

// record is what containerd.json says of a running containerd.
type record struct {
	Pid int `json:"pid"`
	// Start is its start time in the kernel's clock ticks, so that a later process with its number is
	// not taken for it.
	Start string `json:"start"`
	// Fingerprint is of the program and the configuration it was started with.
	Fingerprint string `json:"fingerprint"`
}

// fingerprint identifies a program, by its checksum, and a configuration.
func fingerprint(program string, config []byte) string {
	h := sha256.New()
	fmt.Fprintln(h, program)
	h.Write(config)
	return hex.EncodeToString(h.Sum(nil))
}

// startOf returns a process's start time, field 22 of its stat file.
func startOf(pid int) (string, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return "", err
	}
	// The second field is the name in parentheses, which may hold anything.
	_, rest, _ := strings.Cut(string(data[strings.LastIndexByte(string(data), ')')+1:]), " ")
	fields := strings.Fields(rest)
	if len(fields) < 20 {
		return "", fmt.Errorf("/proc/%d/stat has too few fields", pid)
	}
	return fields[19], nil
}

// lock takes the lock that a running containerd holds. It returns nil and no error when one does.
func lock(l layout) (*os.File, error) {
	f, err := os.OpenFile(l.lock, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("locking the runtime: %w", err)
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if err == nil {
		return f, nil
	}
	err = errors.Join(err, f.Close())
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil, nil
	}
	return nil, fmt.Errorf("locking the runtime: %w", err)
}

// spawn starts containerd, with the lock handed to it, in a session of its own: neither a signal to
// skiff's terminal nor skiff's end reaches it.
func spawn(l layout, locked *os.File, fingerprint string) (*process, error) {
	defer locked.Close()
	logFile, err := openLog(l.log)
	if err != nil {
		return nil, fmt.Errorf("starting containerd: %w", err)
	}
	defer logFile.Close()
	cmd := exec.Command(filepath.Join(l.bin, containerdName), "--config", l.config)
	cmd.Dir = l.data
	cmd.Env = append(l.environment(), lockEnv+"=1")
	cmd.Stdout, cmd.Stderr = logFile, logFile
	cmd.ExtraFiles = []*os.File{locked}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting containerd: %w", err)
	}
	p := &process{pid: cmd.Process.Pid, ended: make(chan struct{}), release: func() {}}
	go func() {
		defer close(p.ended)
		_ = cmd.Wait() // how it ended is in its log; that it ended is what counts here
	}()
	start, err := startOf(p.pid)
	if err == nil {
		var data []byte
		if data, err = json.Marshal(record{p.pid, start, fingerprint}); err == nil {
			err = os.WriteFile(l.pid, data, 0o600)
		}
	}
	if err != nil {
		_ = cmd.Process.Kill() // it has ended, or is ended by this
		<-p.ended
		return nil, fmt.Errorf("starting containerd: recording its process: %w", err)
	}
	return p, nil
}

// openLog opens containerd's log for appending, having moved a long one aside.
func openLog(file string) (*os.File, error) {
	if info, err := os.Stat(file); err == nil && info.Size() > maxLog {
		if err := os.Rename(file, file+".1"); err != nil {
			return nil, err
		}
	}
	return os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
}

// running returns the containerd that holds the lock, and whether it was started with fingerprint.
func running(l layout, fingerprint string) (p *process, same bool, err error) {
	var r record
	if data, err := os.ReadFile(l.pid); err == nil {
		_ = json.Unmarshal(data, &r) // what cannot be read identifies no process
	}
	if start, err := startOf(r.Pid); err != nil || start != r.Start {
		// It was started, and its starter ended before it could be recorded.
		pids, err := findContainerd(l)
		if err != nil {
			return nil, false, err
		}
		if len(pids) == 0 {
			return nil, false, fmt.Errorf("the lock %s is held by a process that is not containerd", l.lock)
		}
		r = record{Pid: pids[0]}
	}
	p, err = watch(r.Pid)
	return p, r.Fingerprint == fingerprint, err
}

// watch holds a process that is not our child.
func watch(pid int) (*process, error) {
	held, err := pidfd.Open(pid)
	if err != nil {
		return nil, fmt.Errorf("watching containerd: %w", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	p := &process{pid: pid, ended: make(chan struct{})}
	left := make(chan struct{})
	go func() {
		defer close(left)
		defer held.Close()
		if held.Wait(ctx) == nil {
			close(p.ended)
		}
	}()
	p.release = func() { cancel(); <-left }
	return p, nil
}

// stop ends a containerd, first kindly, and at ctx's end by force. Containers go on.
func (p *process) stop(ctx context.Context) error {
	defer p.release()
	held, err := pidfd.Open(p.pid)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("stopping containerd: %w", err)
	}
	defer held.Close()
	for _, s := range []unix.Signal{unix.SIGTERM, unix.SIGKILL} {
		if err := held.Signal(s); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("stopping containerd: %w", err)
		}
		if held.Wait(ctx) == nil {
			return nil
		}
		// SIGKILL needs a moment of its own.
		late, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		ctx = late
	}
	return errors.New("stopping containerd: it did not end even when killed")
}

// notices is the socket on which containerd says that it is ready, as it would to systemd.
func notices(l layout) (*net.UnixConn, error) {
	if err := os.Remove(l.notify); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("listening for containerd: %w", err)
	}
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: l.notify, Net: "unixgram"})
	if err != nil {
		return nil, fmt.Errorf("listening for containerd: %w", err)
	}
	return c, nil
}

// findContainerd returns the processes that are containerd with this configuration.
func findContainerd(l layout) ([]int, error) {
	return findProcesses(func(_ string, args []string) bool {
		for i, a := range args {
			if a == "--config" && i+1 < len(args) && args[i+1] == l.config {
				return filepath.Base(args[0]) == containerdName
			}
		}
		return false
	})
}

// findProcesses returns the processes whose program and arguments match.
func findProcesses(match func(exe string, args []string) bool) ([]int, error) {
	dirs, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("looking for processes: %w", err)
	}
	var pids []int
	for _, d := range dirs {
		pid, err := strconv.Atoi(d.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		// A process that ends meanwhile, and a kernel thread, have neither.
		exe, _ := os.Readlink(filepath.Join("/proc", d.Name(), "exe"))
		data, _ := os.ReadFile(filepath.Join("/proc", d.Name(), "cmdline"))
		args := strings.Split(strings.TrimSuffix(string(data), "\x00"), "\x00")
		if match(strings.TrimSuffix(exe, " (deleted)"), args) {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}
