package cgroup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

func ptr[T any](v T) *T { return &v }

// TestConformance runs one suite on the fake and, as root, on this machine's cgroups.
func TestConformance(t *testing.T) {
	root := fmt.Sprintf("/skiff-test-%d", os.Getpid())
	t.Run("fake", func(t *testing.T) {
		f, err := NewFake(root)
		if err != nil {
			t.Fatal(err)
		}
		next := 100
		conform(t, f, root, func(path string) {
			next++
			if err := f.AddProcess(path, next); err != nil {
				t.Fatal(err)
			}
		})
	})
	t.Run("host", func(t *testing.T) {
		if os.Geteuid() != 0 {
			t.Skip("SKIPPED: needs root to make cgroups")
		}
		h, err := New(root)
		if err != nil {
			t.Skip("SKIPPED: this machine's cgroups cannot be used:", err)
		}
		t.Cleanup(func() {
			if err := errors.Join(h.kill(context.Background(), root), h.remove(root)); err != nil {
				t.Error(err)
			}
		})
		conform(t, h, root, func(path string) { enter(t, h, path) })
	})
}

// enter starts a process in every hierarchy of the group.
func enter(t *testing.T, h *Host, path string) {
	t.Helper()
	cmd := exec.Command("sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // killed by the test already
		_ = cmd.Wait()
	})
	for _, dir := range h.all(path) {
		err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), fmt.Append(nil, cmd.Process.Pid), 0)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
	}
}

func conform(t *testing.T, tree Tree, root string, start func(path string)) {
	pods := root + "/kubepods"
	pod := pods + "/burstable/pod1"
	ok := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	is := func(err, want error) {
		t.Helper()
		if !errors.Is(err, want) {
			t.Fatalf("got error %v, want %v", err, want)
		}
	}
	_, err := tree.Stats(pod)
	is(err, fs.ErrNotExist)
	_, err = tree.Children(pod)
	is(err, fs.ErrNotExist)
	_, err = tree.Processes(pod)
	is(err, fs.ErrNotExist)
	is(tree.Update(pod, Resources{CPUShares: ptr(uint64(2))}), fs.ErrNotExist)
	is(tree.Create("/other", Resources{}), ErrOutside)
	is(tree.Create(root+"/../other", Resources{}), ErrOutside)
	is(tree.Remove("/"), ErrOutside)
	ok(tree.Kill(t.Context(), pod))
	ok(tree.Remove(pod))
	if err := tree.Create(pod, Resources{Memory: ptr(int64(-2))}); err == nil {
		t.Fatal("a memory limit of -2 was accepted")
	}

	ok(tree.Create(pod, Resources{
		CPUShares: ptr(uint64(512)), CPUQuota: ptr(int64(50000)), CPUPeriod: ptr(uint64(100000)),
		Memory: ptr(int64(64 << 20)), Pids: ptr(int64(100)),
	}))
	ok(tree.Create(pod, Resources{}))
	ok(tree.Update(pod, Resources{Memory: ptr(int64(-1)), CPUQuota: ptr(int64(-1)), Pids: ptr(int64(-1))}))
	ok(tree.Create(pods+"/besteffort", Resources{CPUShares: ptr(uint64(2))}))
	names, err := tree.Children(pods)
	ok(err)
	if diff := cmp.Diff([]string{"besteffort", "burstable"}, names); diff != "" {
		t.Errorf("children (-want +got):\n%s", diff)
	}

	start(pod)
	start(pod)
	pids, err := tree.Processes(pods)
	ok(err)
	if len(pids) != 2 {
		t.Errorf("processes = %v, want 2", pids)
	}
	stats, err := tree.Stats(pod)
	ok(err)
	if stats.Pids != 2 || stats.MemoryLimit != 0 {
		t.Errorf("stats = %+v, want 2 processes and no limit", stats)
	}
	is(tree.Remove(pods), unix.EBUSY)
	ok(tree.Kill(t.Context(), pods))
	if pids, err = tree.Processes(pods); err != nil || len(pids) != 0 {
		t.Errorf("after Kill: processes %v, error %v", pids, err)
	}
	ok(tree.Remove(pods))
	_, err = tree.Stats(pods)
	is(err, fs.ErrNotExist)
}

func TestNewRefusesRoots(t *testing.T) {
	for _, root := range []string{"", "/", "relative", "/a/../b", "/a/"} {
		if _, err := NewFake(root); err == nil {
			t.Errorf("root %q was accepted", root)
		}
	}
}

func TestSettings(t *testing.T) {
	r := Resources{
		CPUShares: ptr(uint64(1024)), CPUQuota: ptr(int64(-1)), Memory: ptr(int64(1 << 20)), Pids: ptr(int64(-1)),
		Hugepages: map[string]int64{"2MB": 4 << 20, "1GB": 0},
	}
	text := func(v Version) (lines []string) {
		for _, s := range r.settings(v) {
			lines = append(lines, fmt.Sprintf("%s %s=%s %t", s.controller, s.file, s.value, s.optional))
		}
		return lines
	}
	v1 := []string{
		"cpu cpu.shares=1024 false",
		"cpu cpu.cfs_period_us=100000 false",
		"cpu cpu.cfs_quota_us=-1 false",
		"memory memory.limit_in_bytes=1048576 false",
		"pids pids.max=max false",
		"hugetlb hugetlb.1GB.limit_in_bytes=0 false",
		"hugetlb hugetlb.1GB.rsvd.limit_in_bytes=0 true",
		"hugetlb hugetlb.2MB.limit_in_bytes=4194304 false",
		"hugetlb hugetlb.2MB.rsvd.limit_in_bytes=4194304 true",
	}
	if diff := cmp.Diff(v1, text(V1)); diff != "" {
		t.Errorf("v1 (-want +got):\n%s", diff)
	}
	v2 := []string{
		"cpu cpu.weight=100 false",
		"cpu cpu.max=max 100000 false",
		"memory memory.max=1048576 false",
		"pids pids.max=max false",
		"hugetlb hugetlb.1GB.max=0 false",
		"hugetlb hugetlb.1GB.rsvd.max=0 true",
		"hugetlb hugetlb.2MB.max=4194304 false",
		"hugetlb hugetlb.2MB.rsvd.max=4194304 true",
	}
	if diff := cmp.Diff(v2, text(V2)); diff != "" {
		t.Errorf("v2 (-want +got):\n%s", diff)
	}
}

// TestStatsV2 reads recorded files, for machines whose controllers are on version 1.
func TestStatsV2(t *testing.T) {
	dir := t.TempDir()
	h := &Host{root: "/r", version: V2, dirs: map[string]string{"": dir}}
	if err := os.Mkdir(filepath.Join(dir, "r"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"cpu.stat":       "usage_usec 1500\nuser_usec 1000\n",
		"memory.current": "10000\n",
		"memory.max":     "max\n",
		"memory.stat":    "anon 3000\nfile 5000\ninactive_file 4000\npgfault 7\npgmajfault 1\n",
		"pids.current":   "3\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, "r", name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := h.Stats("/r")
	if err != nil {
		t.Fatal(err)
	}
	want := Stats{
		Time: got.Time, CPU: 1500000, MemoryUsage: 10000, WorkingSet: 6000, RSS: 3000,
		PageFaults: 7, MajorPageFaults: 1, Pids: 3,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if _, err := h.Stats("/r/none"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Stats of a missing group = %v", err)
	}
}
