// Package mount is the adapter to the kernel's mounts: bind, tmpfs, any other file system, read-only
// remounts, propagation, unmounting, and what is mounted below a directory. Host does it with system
// calls, without a mount program; Fake keeps a table and refuses what the kernel would refuse.
//
// Host reads /proc/self/mountinfo and changes the mount namespace of the process; nothing else.
package mount

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
)

// Propagation says which mounts pass between a mount and its peers (mount_namespaces(7)).
type Propagation string

// The propagations, by the names of the container volume mount's mountPropagation.
const (
	Private         Propagation = "None"
	HostToContainer Propagation = "HostToContainer" // slave
	Bidirectional   Propagation = "Bidirectional"   // shared
)

// Mount is one file system to be mounted, in the words of mount(8).
type Mount struct {
	// Source is a device or a name, depending on Type.
	Source string
	// Target is an existing directory, an absolute path.
	Target string
	// Type is the file system's name.
	Type string
	// Options are comma-separated; the generic ones (ro, nosuid, nodev, noexec, sync, noatime,
	// relatime, remount and their opposites) become flags, the rest goes to the file system.
	Options string
}

// BindOptions narrow a bind mount.
type BindOptions struct {
	// Recursive takes along the mounts below the source.
	Recursive bool
	// ReadOnly makes the new mount (not the mounts below it) read-only.
	ReadOnly bool
}

// Info is one mounted file system.
type Info struct {
	// ID and Parent are the kernel's numbers of the mount and of the one it is on.
	ID, Parent int
	// Root is the part of the file system that is mounted, "/" for all of it.
	Root string
	// Target is where it is mounted.
	Target string
	Type   string
	Source string
	// ReadOnly is the mount's own flag, not the file system's.
	ReadOnly bool
	// Shared says that it is in a peer group.
	Shared bool
	// Super are the file system's own options, as the kernel writes them.
	Super string
}

// Mounter is what the node's components need of the kernel. Errors wrap the kernel's errno: EINVAL
// where something is not a mount point, EBUSY, ENOENT, EPERM.
type Mounter interface {
	// Mount mounts a file system.
	Mount(m Mount) error
	// Bind mounts source, a file or a directory, at target, which exists and is of the same kind.
	Bind(source, target string, o BindOptions) error
	// RemountReadOnly makes the mount at target read-only.
	RemountReadOnly(target string) error
	// SetPropagation sets the propagation of the mount at target and those below it.
	SetPropagation(target string, p Propagation) error
	// Unmount removes the topmost mount at target. Where it is busy the mount is detached: it goes
	// from the tree at once, and ends with its last user.
	Unmount(target string) error
	// List returns the mounts at or below dir, in the order in which they were mounted.
	List(dir string) ([]Info, error)
}

// IsMountPoint tells whether something is mounted at path.
func IsMountPoint(m Mounter, path string) (bool, error) {
	mounts, err := m.List(path)
	if err != nil {
		return false, err
	}
	return slices.ContainsFunc(mounts, func(i Info) bool { return i.Target == path }), nil
}

// UnmountAll removes every mount at or below dir, the latest first. It goes on after a failure, and
// returns all of them.
func UnmountAll(m Mounter, dir string) error {
	mounts, err := m.List(dir)
	if err != nil {
		return fmt.Errorf("listing the mounts below %s: %w", dir, err)
	}
	var failed []error
	for _, i := range slices.Backward(mounts) {
		if err := m.Unmount(i.Target); err != nil {
			failed = append(failed, err)
		}
	}
	return errors.Join(failed...)
}

// below tells whether path is dir or lies below it; both are clean and absolute.
func below(path, dir string) bool {
	return path == dir || dir == "/" || strings.HasPrefix(path, dir+"/")
}

// absolute is the rule for every path that is handed in.
func absolute(op, path string) error {
	if !filepath.IsAbs(path) || filepath.Clean(path) != path {
		return fmt.Errorf("%s %q: the path must be absolute and clean", op, path)
	}
	return nil
}
