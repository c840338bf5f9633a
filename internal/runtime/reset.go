package runtime

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"time"

	"skiff.dev/skiff/internal/cgroup"
	"skiff.dev/skiff/internal/cgroup/pidfd"
	"skiff.dev/skiff/internal/mount"
)

// resetTimeout bounds the end of all processes of a data directory.
const resetTimeout = 30 * time.Second

// Reset ends everything that the runtime of a data directory has started, whether or not anything of
// skiff still runs: containerd, the shims and all containers; it unmounts what is mounted below the
// data directory and /run/skiff/<hash>, removes the cgroups of its containers and the root group
// cgroup.RootOf(dataDir), and the directory below /run. Files below the data directory stay. It may be
// repeated, goes on after a failure, and touches nothing of another data directory.
func Reset(dataDir string) error {
	abs, err := filepath.Abs(dataDir)
	if err != nil {
		return fmt.Errorf("resetting the runtime: %w", err)
	}
	if abs == "/" {
		return errors.New("resetting the runtime: / is no data directory")
	}
	l := layoutOf(abs)
	ctx, cancel := context.WithTimeout(context.Background(), resetTimeout)
	defer cancel()
	// The order matters: containerd would start shims again, the shims reap what is killed at once where
	// process 1 may take seconds, a runc that dies with them may have left another process in a group,
	// and a mount is busy while a process uses it.
	groups, groupsErr := containerGroups(l)
	groups = append(groups, cgroup.RootOf(abs))
	slices.Sort(groups)
	groups = slices.Compact(groups)
	err = errors.Join(
		groupsErr,
		killContainerd(ctx, l),
		killGroups(ctx, groups),
		killShims(ctx, l),
		killGroups(ctx, groups),
		removeGroups(groups),
		unmount(l.run),
		unmount(abs),
		remove(l),
	)
	if err != nil {
		return fmt.Errorf("resetting the runtime of %s: %w", abs, err)
	}
	return nil
}

func killContainerd(ctx context.Context, l layout) error {
	pids, err := findContainerd(l)
	if err != nil {
		return err
	}
	return pidfd.KillAll(ctx, pids, nil)
}

// killShims kills what runs from the data directory's bin: the shims, and a runc in the middle of
// something. Shims of an older skiff run from a file since replaced, which the kernel calls deleted.
func killShims(ctx context.Context, l layout) error {
	bin := l.bin
	if resolved, err := filepath.EvalSymlinks(bin); err == nil {
		bin = resolved
	}
	pids, err := findProcesses(func(exe string, _ []string) bool { return filepath.Dir(exe) == bin })
	if err != nil {
		return err
	}
	return pidfd.KillAll(ctx, pids, nil)
}

// containerGroups returns the cgroups that containerd's bundles name.
func containerGroups(l layout) ([]string, error) {
	bundles, err := filepath.Glob(filepath.Join(l.state, "io.containerd.runtime.v2.task", "*", "*", "config.json"))
	if err != nil {
		return nil, fmt.Errorf("looking for containers: %w", err)
	}
	var groups []string
	var failed []error
	for _, file := range bundles {
		var spec struct {
			Linux struct {
				CgroupsPath string `json:"cgroupsPath"`
			} `json:"linux"`
		}
		data, err := os.ReadFile(file)
		if err == nil {
			err = json.Unmarshal(data, &spec)
		}
		if err != nil {
			if !errors.Is(err, fs.ErrNotExist) {
				failed = append(failed, fmt.Errorf("looking for the cgroup of a container: %w", err))
			}
			continue
		}
		if group := spec.Linux.CgroupsPath; path.IsAbs(group) && path.Clean(group) != "/" {
			groups = append(groups, path.Clean(group))
		}
	}
	return groups, errors.Join(failed...)
}

// killGroups kills what is in the groups.
func killGroups(ctx context.Context, groups []string) error {
	return eachGroup(groups, func(tree *cgroup.Host, group string) error { return tree.Kill(ctx, group) })
}

// removeGroups removes the groups, which must be empty.
func removeGroups(groups []string) error {
	return eachGroup(groups, func(tree *cgroup.Host, group string) error { return tree.Remove(group) })
}

// eachGroup calls do for each group, with a tree that reaches no further.
func eachGroup(groups []string, do func(*cgroup.Host, string) error) error {
	var failed []error
	for _, group := range groups {
		tree, err := cgroup.New(group)
		if err != nil {
			return err
		}
		failed = append(failed, do(tree, group))
	}
	return errors.Join(failed...)
}

// unmount unmounts all below dir, by the name that the kernel knows it by.
func unmount(dir string) error {
	if resolved, err := filepath.EvalSymlinks(dir); err == nil {
		dir = resolved
	}
	return mount.UnmountAll(mount.New(), dir)
}

// remove removes the directory below /run; its parent goes with the last one.
func remove(l layout) error {
	// Nothing may be mounted below any more: removing would reach through.
	left, err := mount.New().List(l.run)
	if err != nil {
		return err
	}
	if len(left) > 0 {
		return fmt.Errorf("%s is still mounted", left[0].Target)
	}
	if err := os.RemoveAll(l.run); err != nil {
		return fmt.Errorf("removing the runtime's directory: %w", err)
	}
	_ = os.Remove(runParent) // stays when another data directory has its own below it
	return nil
}
