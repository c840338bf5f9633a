package cgroup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"skiff.dev/skiff/internal/cgroup/pidfd"
	"skiff.dev/skiff/internal/mount"
)

// Host is the kernel's Tree.
type Host struct {
	root    string
	version Version
	// dirs holds the mount point of each hierarchy: by controller on v1, where some may share one and
	// "unified" is the one without controllers that runc puts containers into as well; under "" on v2.
	dirs map[string]string
}

// Detect returns the version of this host's cgroups, and an error that says what is missing.
func Detect() (Version, error) {
	h, err := find()
	if err != nil {
		return 0, err
	}
	return h.version, nil
}

// New returns the Tree of this host below root, which need not exist.
func New(root string) (*Host, error) {
	if err := validRoot(root); err != nil {
		return nil, err
	}
	h, err := find()
	if err != nil {
		return nil, err
	}
	h.root = root
	return h, nil
}

// Version returns which interface the host has.
func (h *Host) Version() Version { return h.version }

// usedV1 are the version 1 controllers in which groups are made; those of the first line must be there.
var (
	neededV1 = []string{"cpu", "cpuacct", "memory", "pids"}
	usedV1   = append(neededV1[:len(neededV1):len(neededV1)], "cpuset", "freezer", "hugetlb")
)

// find looks for the mounted hierarchies.
func find() (*Host, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("finding cgroups: %w", err)
	}
	defer f.Close()
	mounts, err := mount.Parse(f)
	if err != nil {
		return nil, fmt.Errorf("finding cgroups: %w", err)
	}
	h := &Host{version: V1, dirs: map[string]string{}}
	var unified string
	for _, m := range mounts {
		switch {
		case m.Type == "cgroup":
			for _, name := range strings.Split(m.Super, ",") {
				if isController(name) && h.dirs[name] == "" {
					h.dirs[name] = m.Target
				}
			}
		case m.Type == "cgroup2" && unified == "":
			unified = m.Target
		}
	}
	if h.dirs["memory"] == "" && unified != "" {
		h.version, h.dirs = V2, map[string]string{"": unified}
		return h, nil
	}
	for _, name := range neededV1 {
		if h.dirs[name] == "" {
			return nil, fmt.Errorf("the cgroup controller %s is not mounted below /sys/fs/cgroup: "+
				"mount cgroup2 there, or the version 1 controllers %s", name, strings.Join(neededV1, ", "))
		}
	}
	if unified != "" {
		h.dirs["unified"] = unified
	}
	return h, nil
}

// isController tells a version 1 hierarchy's controllers from the other mount options beside them.
func isController(option string) bool {
	switch option {
	case "cpu", "cpuacct", "cpuset", "memory", "pids", "hugetlb", "freezer", "devices", "blkio",
		"net_cls", "net_prio", "perf_event", "rdma", "misc":
		return true
	}
	return strings.HasPrefix(option, "name=")
}

// dir returns the directory of a group in the hierarchy of a controller, "" where there is none.
func (h *Host) dir(controller, path string) string {
	if h.version == V2 {
		controller = ""
	}
	base := h.dirs[controller]
	if base == "" {
		return ""
	}
	return filepath.Join(base, path)
}

// all returns the group's directories in every hierarchy.
func (h *Host) all(path string) []string {
	var dirs []string
	for _, base := range h.dirs {
		dirs = append(dirs, filepath.Join(base, path))
	}
	slices.Sort(dirs)
	return slices.Compact(dirs)
}

// Create implements Tree.
func (h *Host) Create(path string, r Resources) error {
	if err := errors.Join(inside(h.root, path), r.valid()); err != nil {
		return fmt.Errorf("creating cgroup %s: %w", path, err)
	}
	create := h.createV1
	if h.version == V2 {
		create = h.createV2
	}
	if err := create(path); err != nil {
		return fmt.Errorf("creating cgroup %s: %w", path, err)
	}
	return h.Update(path, r)
}

// createV1 makes the group in each hierarchy in use. A new cpuset has no CPUs and no memory nodes, and
// takes no process until it is given those of its parent.
func (h *Host) createV1(path string) error {
	for _, controller := range usedV1 {
		dir := h.dir(controller, path)
		if dir == "" {
			continue
		}
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		if controller != "cpuset" {
			continue
		}
		at := h.dirs[controller]
		for step := range strings.SplitSeq(strings.TrimPrefix(path, "/"), "/") {
			parent := at
			at = filepath.Join(at, step)
			for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
				if err := inherit(filepath.Join(parent, file), filepath.Join(at, file)); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// inherit copies a file of the parent group where the child's is empty.
func inherit(parent, child string) error {
	have, err := os.ReadFile(child)
	if err != nil || strings.TrimSpace(string(have)) != "" {
		return err
	}
	data, err := os.ReadFile(parent)
	if err != nil {
		return err
	}
	return write(child, strings.TrimSpace(string(data)))
}

// createV2 makes the group, and gives each group on the way to it the controllers of the one above.
func (h *Host) createV2(path string) error {
	at := h.dirs[""]
	for step := range strings.SplitSeq(strings.TrimPrefix(path, "/"), "/") {
		if err := h.delegate(at); err != nil {
			return err
		}
		at = filepath.Join(at, step)
		if err := os.Mkdir(at, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	return nil
}

// delegate enables all controllers of a v2 group for the groups below it.
func (h *Host) delegate(dir string) error {
	available, err := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
	if err != nil {
		return err
	}
	enabled, err := os.ReadFile(filepath.Join(dir, "cgroup.subtree_control"))
	if err != nil {
		return err
	}
	have := strings.Fields(string(enabled))
	for _, controller := range strings.Fields(string(available)) {
		if slices.Contains(have, controller) {
			continue
		}
		err := write(filepath.Join(dir, "cgroup.subtree_control"), "+"+controller)
		switch {
		case err == nil:
		case errors.Is(err, unix.EBUSY):
			return fmt.Errorf("processes are in the cgroup %s itself, so its controllers cannot be handed down: "+
				"move them to a group below it: %w", dir, err)
		case slices.Contains([]string{"cpu", "memory", "pids"}, controller):
			return err
		}
		// A controller that is not needed may be refused (cpu with real-time threads, rdma, misc).
	}
	return nil
}

// setting is one limit: the file of a controller and what to write.
type setting struct {
	controller, file, value string
	// optional settings are skipped where the kernel has no such file.
	optional bool
}

// settings translates limits into what is to be written, in order.
func (r Resources) settings(v Version) []setting {
	number := func(n int64) string { return strconv.FormatInt(n, 10) }
	limit := func(n int64) string {
		if n == -1 && v == V2 {
			return "max"
		}
		return number(n)
	}
	period := uint64(defaultPeriod)
	if r.CPUPeriod != nil {
		period = *r.CPUPeriod
	}
	var s []setting
	if r.CPUShares != nil {
		if v == V2 {
			s = append(s, setting{"cpu", "cpu.weight", strconv.FormatUint(weight(*r.CPUShares), 10), false})
		} else {
			s = append(s, setting{"cpu", "cpu.shares", strconv.FormatUint(*r.CPUShares, 10), false})
		}
	}
	if r.CPUQuota != nil {
		p := strconv.FormatUint(period, 10)
		if v == V2 {
			s = append(s, setting{"cpu", "cpu.max", limit(*r.CPUQuota) + " " + p, false})
		} else {
			s = append(s, setting{"cpu", "cpu.cfs_period_us", p, false},
				setting{"cpu", "cpu.cfs_quota_us", number(*r.CPUQuota), false})
		}
	}
	if r.Memory != nil {
		file := map[Version]string{V1: "memory.limit_in_bytes", V2: "memory.max"}[v]
		s = append(s, setting{"memory", file, limit(*r.Memory), false})
	}
	if r.Pids != nil {
		value := number(*r.Pids)
		if *r.Pids == -1 {
			value = "max"
		}
		s = append(s, setting{"pids", "pids.max", value, false})
	}
	suffix := map[Version]string{V1: "limit_in_bytes", V2: "max"}[v]
	for _, size := range sortedKeys(r.Hugepages) {
		value := number(r.Hugepages[size])
		s = append(s, setting{"hugetlb", "hugetlb." + size + "." + suffix, value, false},
			setting{"hugetlb", "hugetlb." + size + ".rsvd." + suffix, value, true})
	}
	return s
}

func sortedKeys(m map[string]int64) []string {
	var keys []string
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// Update implements Tree.
func (h *Host) Update(path string, r Resources) error {
	if err := errors.Join(inside(h.root, path), r.valid()); err != nil {
		return fmt.Errorf("updating cgroup %s: %w", path, err)
	}
	for _, s := range r.settings(h.version) {
		dir := h.dir(s.controller, path)
		if dir == "" {
			if s.optional {
				continue
			}
			return fmt.Errorf("updating cgroup %s: this host has no cgroup controller %s", path, s.controller)
		}
		err := write(filepath.Join(dir, s.file), s.value)
		if s.optional && errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("updating cgroup %s: %w", path, err)
		}
	}
	return nil
}

// write writes a file of the cgroup file system, which must exist.
func write(file, value string) error {
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_TRUNC, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	if err != nil {
		err = fmt.Errorf("writing %q: %w", value, err)
	}
	return errors.Join(err, f.Close())
}

// Children implements Tree.
func (h *Host) Children(path string) ([]string, error) {
	if err := inside(h.root, path); err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(h.dir("memory", path))
	if err != nil {
		return nil, fmt.Errorf("listing cgroup %s: %w", path, err)
	}
	var names []string
	for _, e := range entries {
		if e.IsDir() {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// Processes implements Tree.
func (h *Host) Processes(path string) ([]int, error) {
	if err := inside(h.root, path); err != nil {
		return nil, err
	}
	if _, err := os.Stat(h.dir("memory", path)); err != nil {
		return nil, fmt.Errorf("listing the processes of cgroup %s: %w", path, err)
	}
	return h.processes(path)
}

// processes collects from all hierarchies, since on v1 a process may be in the group in only some.
func (h *Host) processes(path string) ([]int, error) {
	var pids []int
	for _, dir := range h.all(path) {
		err := filepath.WalkDir(dir, func(at string, e fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				return nil // removed meanwhile
			}
			if err != nil || !e.IsDir() {
				return err
			}
			data, err := os.ReadFile(filepath.Join(at, "cgroup.procs"))
			if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) {
				return nil
			}
			for field := range strings.FieldsSeq(string(data)) {
				if pid, err := strconv.Atoi(field); err == nil && pid > 0 { // 0: of another pid namespace
					pids = append(pids, pid)
				}
			}
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("listing the processes of cgroup %s: %w", path, err)
		}
	}
	slices.Sort(pids)
	return slices.Compact(pids), nil
}

// Kill implements Tree. On v2 the kernel kills the group as one; on v1 it is frozen meanwhile, so that
// it cannot fork faster than it is killed.
func (h *Host) Kill(ctx context.Context, path string) error {
	if err := inside(h.root, path); err != nil {
		return fmt.Errorf("killing cgroup %s: %w", path, err)
	}
	return h.kill(ctx, path)
}

func (h *Host) kill(ctx context.Context, path string) error {
	for {
		freezer := ""
		if h.version == V2 {
			if err := write(filepath.Join(h.dir("", path), "cgroup.kill"), "1"); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("killing cgroup %s: %w", path, err)
			}
		} else if dir := h.dir("freezer", path); dir != "" {
			freezer = filepath.Join(dir, "freezer.state")
		}
		pids, err := h.processes(path)
		if err != nil || len(pids) == 0 {
			return err
		}
		// Freezing is a help, not a condition: the loop ends when nothing is left either way.
		var thaw func()
		if freezer != "" {
			_ = write(freezer, "FROZEN")
			thaw = func() { _ = write(freezer, "THAWED") }
		}
		if err := pidfd.KillAll(ctx, pids, thaw); err != nil {
			return fmt.Errorf("killing cgroup %s: %w", path, err)
		}
	}
}

// Remove implements Tree.
func (h *Host) Remove(path string) error {
	if err := inside(h.root, path); err != nil {
		return fmt.Errorf("removing cgroup %s: %w", path, err)
	}
	return h.remove(path)
}

func (h *Host) remove(path string) error {
	for _, dir := range h.all(path) {
		if err := removeTree(dir); err != nil {
			return fmt.Errorf("removing cgroup %s: %w", path, err)
		}
	}
	return nil
}

// removeTree removes the groups below dir and then dir. A group stays busy for a moment after the end
// of its last process, and nothing tells when that is over, hence the retries.
func removeTree(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := removeTree(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	for wait := time.Millisecond; ; wait *= 2 {
		err := unix.Rmdir(dir)
		if err == nil || errors.Is(err, unix.ENOENT) {
			return nil
		}
		if !errors.Is(err, unix.EBUSY) || wait > 256*time.Millisecond {
			return fmt.Errorf("removing %s: %w", dir, err)
		}
		if data, readErr := os.ReadFile(filepath.Join(dir, "cgroup.procs")); readErr == nil && len(data) > 0 {
			return fmt.Errorf("removing %s: %w", dir, err) // busy for a reason that does not pass
		}
		time.Sleep(wait)
	}
}
