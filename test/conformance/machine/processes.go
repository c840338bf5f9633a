package machine

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// CPUGroup is the directory, as this process sees it, of the control group that counts the CPU time of all
// that has ever run on the machine.
func (m *Machine) CPUGroup() (string, error) {
	trees, err := controlTrees()
	if err != nil {
		return "", err
	}
	i := slices.IndexFunc(trees, func(t controlTree) bool { return slices.Contains(strings.Split(t.options, ","), "cpuacct") })
	if i < 0 {
		i = slices.IndexFunc(trees, func(t controlTree) bool { return t.kind == "cgroup2" })
	}
	if i < 0 {
		return "", errors.New("no control groups that count CPU time are mounted")
	}
	return filepath.Join(trees[i].path, groupOf(m.set.Dir), m.Name), nil
}

// Processes are all that run on the machine, in pods or outside of them, but its init: the names of their
// programs by process ids as this process sees them.
func (m *Machine) Processes() (map[int]string, error) {
	top, err := m.CPUGroup()
	if err != nil {
		return nil, err
	}
	found := map[int]string{}
	err = filepath.WalkDir(top, func(dir string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // a pod that has ended meanwhile
		}
		if err != nil || !d.IsDir() {
			return err
		}
		text, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
		if errors.Is(err, fs.ErrNotExist) {
			return nil // as above
		}
		for _, field := range strings.Fields(string(text)) {
			pid, err := strconv.Atoi(field)
			if err != nil {
				return err
			}
			exe, err := os.Readlink("/proc/" + field + "/exe")
			if err == nil && pid != m.pid { // one that has ended meanwhile has none
				found[pid] = filepath.Base(exe)
			}
		}
		return err
	})
	return found, err
}
