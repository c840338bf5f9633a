package machine

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestMain(m *testing.M) {
	Hold()
	os.Exit(m.Run())
}

func newSet(t *testing.T) (*Set, *Machine) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("SKIPPED: pretending machines needs root")
	}
	dir, err := os.MkdirTemp(".", "set-") // not in /tmp, of which machines have their own
	if err != nil {
		t.Fatal(err)
	}
	s, err := Create(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := Remove(s.Dir); err != nil {
			t.Error(err)
		}
	})
	m, err := s.Add("n1", 1)
	if err != nil {
		t.Fatal(err)
	}
	return s, m
}

func TestMachinesReachEachOther(t *testing.T) {
	s, n1 := newSet(t)
	n2, err := s.Add("n2", 2)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := n1.Run(t.Context(), "bash", "-c", ": >/dev/tcp/"+n2.IP+"/22 || ip neighbour get "+n2.IP+" dev eth0 | grep lladdr"); err != nil {
		t.Error(err)
	}
	for _, from := range []*Machine{s.Switch, n1, n2} {
		out, err := from.Run(t.Context(), "cat", "/proc/1/cgroup", "/etc/hosts")
		if err != nil {
			t.Error(err)
		}
		if strings.Contains(out, groupOf(s.Dir)) {
			t.Errorf("%s sees its control group's true name:\n%s", from.Name, out)
		}
	}
}

func TestPartsAreKept(t *testing.T) {
	_, m := newSet(t)
	if err := m.Start(Part{Name: "sleeper", Args: []string{"sleep", "1000"}}); err != nil {
		t.Fatal(err)
	}
	if err := m.Start(Part{Name: "sleeper", Args: []string{"sleep", "1000"}}); err == nil {
		t.Error("a second part of one name was started")
	}
	pid, err := m.PID("sleeper")
	if err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(filepath.Join("/proc", itoa(pid), "cmdline")); err != nil || string(text) != "sleep\x001000\x00" {
		t.Errorf("process %d is %q (%v)", pid, text, err)
	}
	if err := m.Check(); err != nil {
		t.Error(err)
	}
	if err := m.Stop("sleeper"); err != nil {
		t.Fatal(err)
	}
	parts, err := m.Parts()
	if err != nil || len(parts) != 1 || parts[0].Running || parts[0].Exit != "terminated" {
		t.Errorf("parts are %+v (%v)", parts, err)
	}
	if err := m.Check(); err == nil {
		t.Error("nobody noticed that a part has ended")
	}
}

func TestPartsAreRestarted(t *testing.T) {
	_, m := newSet(t)
	if err := m.Start(Part{Name: "sleeper", Args: []string{"sleep", "1000"}, Restart: true}); err != nil {
		t.Fatal(err)
	}
	first, err := m.PID("sleeper")
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(first, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(time.Minute); ; {
		if pid, err := m.PID("sleeper"); err == nil && pid != first {
			break
		}
		if err := m.Check(); err != nil {
			t.Fatal(err)
		}
		if time.Now().After(end) {
			t.Fatal("it was not started again")
		}
	}
	if err := m.Stop("sleeper"); err != nil {
		t.Fatal(err)
	}
	parts, err := m.Parts()
	if err != nil || len(parts) != 1 || parts[0].Running || parts[0].Restarts != 1 {
		t.Errorf("parts are %+v (%v)", parts, err)
	}
}

// A set whose maker was killed is removed all the same, with what its machines were doing.
func TestNothingIsLeft(t *testing.T) {
	s, m := newSet(t)
	if _, err := m.Run(t.Context(), "sh", "-ec", `mkdir /sys/fs/cgroup/memory/kubepods && setsid sleep 1000 >/dev/null 2>&1 & mount -t tmpfs x /var/lib`); err != nil {
		t.Log(err) // control groups of version 2 are elsewhere
	}
	if err := syscall.Kill(m.pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := Remove(s.Dir); err != nil {
		t.Fatal(err)
	}
	if left := holders(s.Dir); len(left) > 0 {
		t.Errorf("processes are left: %v", left)
	}
	if _, err := os.Stat(s.Dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%s is left (%v)", s.Dir, err)
	}
	if groups, _ := filepath.Glob("/sys/fs/cgroup/*/" + groupOf(s.Dir)); len(groups) > 0 {
		t.Errorf("control groups are left: %v", groups)
	}
	mounts, err := os.ReadFile("/proc/mounts")
	if err != nil || strings.Contains(string(mounts), s.Dir) {
		t.Errorf("mounts are left (%v)", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if _, err := m.Run(ctx, "true"); err == nil {
		t.Error("the machine is still there")
	}
}

func itoa(n int) string { return strconv.Itoa(n) }
