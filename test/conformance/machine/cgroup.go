package machine

import (
	"bufio"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// controlTree is one hierarchy of control groups as the host has it mounted.
type controlTree struct {
	path    string // /sys/fs/cgroup/memory
	kind    string // cgroup or cgroup2
	options string // "memory"
}

// controlTrees reads them from this process's mounts.
func controlTrees() ([]controlTree, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var trees []controlTree
	for lines := bufio.NewScanner(f); lines.Scan(); {
		before, after, _ := strings.Cut(lines.Text(), " - ")
		b, a := strings.Fields(before), strings.Fields(after)
		if len(b) < 5 || len(a) < 3 || !strings.HasPrefix(a[0], "cgroup") {
			continue
		}
		t := controlTree{path: b[4], kind: a[0]}
		if t.kind == "cgroup" {
			t.options = strings.Join(slices.DeleteFunc(strings.Split(a[2], ","), func(o string) bool {
				return o == "rw" || o == "ro" || o == "xattr" || strings.HasPrefix(o, "release_agent=")
			}), ",")
		}
		if !slices.ContainsFunc(trees, func(o controlTree) bool { return o.path == t.path }) {
			trees = append(trees, t)
		}
	}
	if len(trees) == 0 {
		return nil, errors.New("no control groups are mounted")
	}
	return trees, nil
}

// groupOf is the name of a set's control group.
func groupOf(dir string) string {
	h := fnv.New32()
	h.Write([]byte(dir)) // a hash takes all
	return fmt.Sprintf("skiff-yardstick-%08x", h.Sum32())
}

// enter puts this process into its machine's group.
func (t controlTree) enter(set, machine string) error {
	group := t.path
	for _, name := range []string{set, machine} {
		parent := group
		group = filepath.Join(group, name)
		if err := os.Mkdir(group, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		if err := t.inherit(parent, group); err != nil {
			return err
		}
	}
	return os.WriteFile(filepath.Join(group, "cgroup.procs"), []byte("0"), 0o644)
}

// inherit gives a new group what it does not get by itself: on v1 the processors and memory nodes, on v2
// the controllers.
func (t controlTree) inherit(parent, group string) error {
	if t.kind == "cgroup2" {
		return delegate(parent)
	}
	if !slices.Contains(strings.Split(t.options, ","), "cpuset") {
		return nil
	}
	for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
		text, err := os.ReadFile(filepath.Join(parent, file))
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(group, file), text, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// delegate hands all controllers of a group of v2 to its children.
func delegate(group string) error {
	text, err := os.ReadFile(filepath.Join(group, "cgroup.controllers"))
	if err != nil {
		return err
	}
	for _, c := range strings.Fields(string(text)) {
		if err := os.WriteFile(filepath.Join(group, "cgroup.subtree_control"), []byte("+"+c), 0o644); err != nil {
			return fmt.Errorf("handing on %s: %w", c, err)
		}
	}
	return nil
}

// mount mounts the hierarchy anew, seen from this process's group: it is the root. On v2 processes leave
// the root, which may then have groups with controllers below it.
func (t controlTree) mount() error {
	if err := mkdirMounted(t.path); err != nil {
		return err
	}
	if err := unix.Mount("cgroup", t.path, t.kind, 0, t.options); err != nil {
		return err
	}
	if t.kind != "cgroup2" {
		return nil
	}
	own := filepath.Join(t.path, "init")
	if err := os.Mkdir(own, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if err := os.WriteFile(filepath.Join(own, "cgroup.procs"), []byte("0"), 0o644); err != nil {
		return err
	}
	return delegate(t.path)
}

// mkdirMounted makes a mount point below the freshly mounted /sys, on a tmpfs where several are needed.
func mkdirMounted(path string) error {
	const top = "/sys/fs/cgroup"
	if path == top {
		return nil
	}
	var at unix.Statfs_t
	if err := unix.Statfs(top, &at); err != nil {
		return err
	}
	if at.Type != unix.TMPFS_MAGIC {
		if err := unix.Mount("tmpfs", top, "tmpfs", 0, "mode=755"); err != nil {
			return err
		}
	}
	return os.MkdirAll(path, 0o755)
}

// removeGroups removes a set's control groups, from the leaves up. Groups are busy for a moment after the
// last process has ended.
func removeGroups(dir string) error {
	trees, err := controlTrees()
	if err != nil {
		return err
	}
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		var failed error
		for _, t := range trees {
			failed = errors.Join(failed, removeTree(filepath.Join(t.path, groupOf(dir))))
		}
		if failed == nil || time.Now().After(end) {
			return failed
		}
	}
}

func removeTree(top string) error {
	var groups []string
	err := filepath.WalkDir(top, func(p string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err == nil && d.IsDir() {
			groups = append(groups, p)
		}
		return err
	})
	for _, g := range slices.Backward(groups) {
		if gone := os.Remove(g); gone != nil && !errors.Is(gone, fs.ErrNotExist) {
			err = errors.Join(err, gone)
		}
	}
	return err
}
