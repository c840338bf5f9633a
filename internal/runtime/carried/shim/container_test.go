package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// bundle is a container as runc leaves it after create: its process, what is written down of it, and
// directories in the place of its cgroups.
type bundle struct {
	*testing.T
	m       *monitor
	runc    *recorder
	root    string
	cgroups map[string]string
	process *exec.Cmd
	input   io.Closer // the process ends with it
}

// newBundle makes a container whose configuration is that of an ordinary one with changes.
func newBundle(t *testing.T, config map[string]any) *bundle {
	t.Helper()
	b := &bundle{T: t, runc: &recorder{}, root: t.TempDir(), cgroups: map[string]string{}, process: exec.Command("cat")}
	b.m = newMonitor(b.runc, "", nil)
	t.Cleanup(func() { close(b.m.turns) })
	for _, controller := range []string{"cpu", "freezer", "name=systemd"} {
		b.cgroups[controller] = filepath.Join(t.TempDir(), "c1")
		b.ok(os.MkdirAll(filepath.Join(b.cgroups[controller], "below"), 0o700))
	}
	all := map[string]any{"namespaces": []any{map[string]string{"type": "NEWNS"}, map[string]string{"type": "NEWPID"}}, "Hooks": nil, "intel_rdt": nil}
	for k, v := range config {
		all[k] = v
	}
	state, err := json.Marshal(map[string]any{"id": "c1", "cgroup_paths": b.cgroups, "config": all, "created": "2026-11-30T00:00:00Z"})
	b.ok(err)
	b.ok(os.Mkdir(filepath.Join(b.root, "c1"), 0o700))
	b.ok(os.WriteFile(filepath.Join(b.root, "c1", "state.json"), state, 0o600))
	b.input, err = b.process.StdinPipe()
	b.ok(err)
	b.ok(b.process.Start())
	t.Cleanup(func() { b.process.Process.Kill() }) //nolint:errcheck // has ended in most tests
	pid := filepath.Join(t.TempDir(), "init.pid")
	b.ok(os.WriteFile(pid, []byte(strconv.Itoa(b.process.Process.Pid)), 0o600))
	b.m.hold(command{pidFile: pid, args: []string{"c1"}})
	return b
}

func (b *bundle) ok(err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}

// asks has the monitor carry a command out, and tells what it said and whether runc was to do it.
func (b *bundle) asks(args string) (status int, said string, left bool) {
	b.Helper()
	before := len(b.runc.ran)
	var out bytes.Buffer
	cmd := exec.Command("runc", strings.Fields("--root "+b.root+" "+args)...)
	cmd.Stdout, cmd.Stderr = &out, &out
	end, err := b.m.StartLocked(cmd)
	b.ok(err)
	if len(b.runc.ran) > before {
		return 0, "", true
	}
	status, err = b.m.Wait(cmd, end)
	b.ok(err)
	return status, out.String(), false
}

func (b *bundle) carriesOut(args string) {
	b.Helper()
	if status, said, left := b.asks(args); status != 0 || left {
		b.Errorf("%s: status %d, left to runc: %v, said %q", args, status, left, said)
	}
}

func (b *bundle) leaves(args string) {
	b.Helper()
	if _, _, left := b.asks(args); !left {
		b.Errorf("%s: carried out, want it left to runc", args)
	}
}

func (b *bundle) remains(want bool) {
	b.Helper()
	for _, dir := range append([]string{filepath.Join(b.root, "c1")}, b.cgroups["cpu"], b.cgroups["freezer"], b.cgroups["name=systemd"]) {
		if _, err := os.Stat(dir); errors.Is(err, os.ErrNotExist) == want {
			b.Errorf("%s is there: %v, want %v", dir, !want, want)
		}
	}
}

func TestContainerEnds(t *testing.T) {
	for _, signal := range []unix.Signal{unix.SIGTERM, unix.SIGKILL} {
		b := newBundle(t, nil)
		b.carriesOut("kill c1 " + strconv.Itoa(int(signal)))
		var exit *exec.ExitError
		if err := b.process.Wait(); !errors.As(err, &exit) || exit.Sys().(interface{ Signal() unix.Signal }).Signal() != signal {
			t.Errorf("the process ended with %v, want %v", err, signal)
		}
		if status, said, _ := b.asks("kill c1 15"); status == 0 || !strings.Contains(said, "container not running") {
			t.Errorf("killing what has ended: status %d, %q", status, said)
		}
		b.carriesOut("kill --all c1 9")
		b.remains(true)
		b.carriesOut("delete c1")
		b.remains(false)
		b.leaves("delete c1") // nothing is known of it any more
	}
}

// TestContainerNotWaitedFor has a process that has ended and is still in the table of processes.
func TestContainerNotWaitedFor(t *testing.T) {
	b := newBundle(t, nil)
	b.ok(b.input.Close())
	_, err := pollIn(b.m.containers["c1"].pidfd, -1)
	b.ok(err)
	if status, said, _ := b.asks("kill c1 15"); status == 0 || !strings.Contains(said, "container not running") {
		t.Errorf("killing what has ended: status %d, %q", status, said)
	}
	b.carriesOut("delete c1")
	b.remains(false)
}

func TestContainerLeftToRunc(t *testing.T) {
	shared := map[string]any{"namespaces": []any{map[string]string{"type": "NEWPID", "path": "/proc/1/ns/pid"}}}
	for _, c := range []struct {
		name    string
		config  map[string]any
		ended   bool
		command string
	}{
		{"still running", nil, false, "delete c1"},
		{"forced", nil, true, "delete --force c1"},
		{"a process namespace of others", shared, false, "kill c1 9"},
		{"a process namespace of others, stopped", shared, true, "kill --all c1 9"},
		{"a process namespace of others, deleted", shared, true, "delete c1"},
		{"the host's process namespace", map[string]any{"namespaces": nil}, true, "delete c1"},
		{"hooks", map[string]any{"Hooks": map[string]any{"prestart": nil, "poststop": []any{map[string]any{"path": "/x"}}}}, true, "delete c1"},
		{"a group of resource control", map[string]any{"intel_rdt": map[string]any{"closID": "x"}}, true, "delete c1"},
		{"no number", nil, false, "kill c1 TERM"},
		{"no signal", nil, false, "kill c1"},
		{"another command", nil, false, "pause c1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBundle(t, c.config)
			if c.ended {
				b.ok(b.input.Close())
				b.ok(b.process.Wait())
			}
			b.leaves(c.command)
			b.remains(true)
			if !c.ended {
				b.ok(b.input.Close())
				b.ok(b.process.Wait())
			}
		})
	}
}

func TestContainerPaused(t *testing.T) {
	b := newBundle(t, nil)
	state := filepath.Join(b.cgroups["freezer"], "freezer.state")
	b.ok(os.WriteFile(state, []byte("FROZEN\n"), 0o600))
	b.carriesOut("kill c1 0")
	b.leaves("kill c1 9")
	b.ok(os.WriteFile(state, []byte("THAWED\n"), 0o600))
	b.carriesOut("kill c1 9")
	_ = b.process.Wait() // killed
	b.ok(os.Remove(state))
	b.carriesOut("delete c1")
	b.remains(false)
}

// TestContainerWithoutState has the file that runc writes broken, or of another container.
func TestContainerWithoutState(t *testing.T) {
	for _, text := range []string{"", "{", `{"id":"c2"}`, `{"id":"c1","config":7}`, `{"id":"c1"}`} {
		b := newBundle(t, nil)
		b.ok(os.WriteFile(filepath.Join(b.root, "c1", "state.json"), []byte(text), 0o600))
		b.leaves("kill c1 9")
		b.ok(b.input.Close())
		b.ok(b.process.Wait())
		b.leaves("delete c1")
		b.remains(true)
	}
}

// TestContainerNeverStarted deletes a container whose first process still waits for the word to go on.
func TestContainerNeverStarted(t *testing.T) {
	b := newBundle(t, nil)
	ours, theirs, err := socketPair()
	b.ok(err)
	defer theirs.Close()
	b.m.containers["c1"].line = ours
	b.carriesOut("delete c1")
	b.remains(false)
	if err := b.process.Wait(); err == nil {
		t.Error("its process was not ended")
	}
}

// TestFirstIsNobodyElse asks for a container's first process after the container has been deleted, when its
// descriptor's number may be another's.
func TestFirstIsNobodyElse(t *testing.T) {
	b := newBundle(t, nil)
	held := b.m.containers["c1"]
	f, err := held.first()
	b.ok(err)
	b.ok(f.Close())
	b.ok(b.input.Close())
	b.ok(b.process.Wait())
	b.carriesOut("delete c1")
	if f, err := held.first(); !errors.Is(err, errEnded) {
		t.Errorf("after the end: %v, %v", f, err)
	}
}

// TestSeal has what containers are started by copied to where nobody can write.
func TestSeal(t *testing.T) {
	name := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(name, []byte("#!x"), 0o700); err != nil {
		t.Fatal(err)
	}
	path, err := seal(name)
	if err != nil {
		t.Fatal(err)
	}
	if data, err := os.ReadFile(path); err != nil || string(data) != "#!x" {
		t.Errorf("it has %q, %v", data, err)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err == nil {
		_, err = f.WriteAt([]byte("y"), 0)
		f.Close()
	}
	if !errors.Is(err, unix.EPERM) {
		t.Errorf("writing to it: %v", err)
	}
}
