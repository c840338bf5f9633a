// Package cgroup is the adapter to the kernel's control groups, version 1 and 2: the tree of a node's
// pods below one root of its own, their limits, what they use, and their end. Host does it by reading
// and writing the cgroup file system, Fake keeps the tree in memory and refuses what the kernel would.
//
// Host finds the hierarchies in /proc/self/mountinfo; it mounts none and leaves every group outside of
// its root untouched. Paths are absolute within the hierarchies and lie at or below the root, like
// /skiff-1f2e3d/kubepods/burstable/pod<uid>.
package cgroup

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"path"
	"path/filepath"
	"strings"
	"time"
)

// ErrOutside means that a path does not lie below the root that the tree was opened with.
var ErrOutside = errors.New("the cgroup lies outside of skiff's own")

// Version is the cgroup interface of a host.
type Version int

// V1 is a host with one hierarchy per controller, V2 one with the unified hierarchy.
const (
	V1 Version = 1
	V2 Version = 2
)

// Resources are limits of a group; nil (or a missing hugepage size) leaves one as it is.
type Resources struct {
	// CPUShares is the relative weight, 2 to 262144, 1024 per core; converted to a weight on v2.
	CPUShares *uint64
	// CPUQuota is the µs of CPU time per CPUPeriod µs, or -1 for no limit. The period is 100,000 when nil.
	CPUQuota  *int64
	CPUPeriod *uint64
	// Memory is the limit in bytes, or -1.
	Memory *int64
	// Pids is the largest number of processes and threads, or -1.
	Pids *int64
	// Hugepages holds limits in bytes by page size, in the kernel's writing: "2MB", "1GB".
	Hugepages map[string]int64
}

// Stats is what a group and those below it use.
type Stats struct {
	Time time.Time
	// CPU is the CPU time used since the group was made.
	CPU time.Duration
	// MemoryUsage counts all memory charged, WorkingSet what is left of it without inactive file
	// cache, RSS the anonymous part. All are bytes.
	MemoryUsage, WorkingSet, RSS uint64
	// MemoryLimit is the group's own limit in bytes; 0 means none.
	MemoryLimit uint64
	// PageFaults and MajorPageFaults count since the group was made.
	PageFaults, MajorPageFaults uint64
	// Pids is the number of processes and threads.
	Pids uint64
}

// Tree is what the node's components need of cgroups. A group that is not there gives fs.ErrNotExist
// (but none on Kill and Remove), a path outside of the root ErrOutside.
type Tree interface {
	// Create makes a group and those above it, unless they are there, and sets its limits.
	Create(path string, r Resources) error
	// Update changes limits.
	Update(path string, r Resources) error
	// Stats reads what the group uses.
	Stats(path string) (Stats, error)
	// Children returns the names of the groups directly below, sorted.
	Children(path string) ([]string, error)
	// Processes returns the numbers of all processes in the group and below, sorted.
	Processes(path string) ([]int, error)
	// Kill kills all processes in the group and below, and returns when they have ended.
	Kill(ctx context.Context, path string) error
	// Remove removes the group and those below. It fails with EBUSY while a process is in one.
	Remove(path string) error
}

// RootOf returns the root group that belongs to a data directory. Several clusters may share a
// machine, and `skiff reset` must find the group when nothing runs.
func RootOf(dataDir string) string {
	sum := sha256.Sum256([]byte(filepath.Clean(dataDir)))
	return "/skiff-" + hex.EncodeToString(sum[:6])
}

// inside is the rule for paths: clean, absolute, and at or below root.
func inside(root, p string) error {
	if path.Clean(p) != p || (p != root && !strings.HasPrefix(p, root+"/")) {
		return fmt.Errorf("cgroup %s (root %s): %w", p, root, ErrOutside)
	}
	return nil
}

// validRoot is the rule for the root: a group of its own, never the root of a hierarchy.
func validRoot(root string) error {
	if !path.IsAbs(root) || path.Clean(root) != root || root == "/" {
		return fmt.Errorf("cgroup root %q: it must be an absolute path other than /", root)
	}
	return nil
}

// valid reports limits that the kernel would refuse or misunderstand.
func (r Resources) valid() error {
	switch {
	case r.CPUShares != nil && (*r.CPUShares < 2 || *r.CPUShares > 262144):
		return fmt.Errorf("CPU shares must be from 2 to 262144, not %d", *r.CPUShares)
	case r.CPUPeriod != nil && (*r.CPUPeriod < 1000 || *r.CPUPeriod > 1000000):
		return fmt.Errorf("the CPU period must be from 1000 to 1000000 µs, not %d", *r.CPUPeriod)
	case r.CPUQuota != nil && *r.CPUQuota != -1 && *r.CPUQuota < 1000:
		return fmt.Errorf("the CPU quota must be at least 1000 µs or -1, not %d", *r.CPUQuota)
	case r.Memory != nil && *r.Memory < -1:
		return fmt.Errorf("the memory limit must be in bytes or -1, not %d", *r.Memory)
	case r.Pids != nil && (*r.Pids == 0 || *r.Pids < -1):
		return fmt.Errorf("the limit of processes must be positive or -1, not %d", *r.Pids)
	}
	for size, limit := range r.Hugepages {
		if size == "" || strings.ContainsAny(size, "/.") || limit < 0 {
			return fmt.Errorf("hugepages %q: %d bytes is no limit", size, limit)
		}
	}
	return nil
}

// defaultPeriod is the kernel's CPU period in µs.
const defaultPeriod = 100000
