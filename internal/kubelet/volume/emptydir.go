package volume

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"skiff.dev/skiff/internal/mount"
	"skiff.dev/skiff/internal/pod"
)

// setUpEmptyDir makes a directory that lives as long as the pod: on the node's
// disk, in memory, or of huge pages. Mode and group are there from the first
// moment, and are the containers' to change after that.
func (m *Manager) setUpEmptyDir(p *v1.Pod, vol *v1.Volume, dir string) error {
	s := vol.EmptyDir
	switch {
	case s.Medium == v1.StorageMediumDefault:
		return makeEmpty(dir, fsGroup(p))
	case s.Medium == v1.StorageMediumMemory:
		if err := os.MkdirAll(dir, 0o750); err != nil {
			return fmt.Errorf("making the volume's directory: %w", err)
		}
		return m.mountMemory(dir, join(memorySize(p, s, m.allocatable()), ownOptions(p)))
	case isHugePages(s.Medium):
		return m.mountHugePages(p, s, dir)
	}
	return fmt.Errorf("unknown storage medium %q", s.Medium)
}

// makeEmpty makes a directory on the disk, under another name until it is
// complete. One that is there is left alone.
func makeEmpty(dir string, group *int64) error {
	_, err := os.Lstat(dir)
	if err == nil {
		return nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o750); err != nil {
		return fmt.Errorf("making the volume's directory: %w", err)
	}
	next := dir + "~new" // no volume's name has a tilde
	if err := os.RemoveAll(next); err != nil {
		return fmt.Errorf("making the volume's directory: %w", err)
	}
	if err := os.Mkdir(next, 0o750); err != nil {
		return fmt.Errorf("making the volume's directory: %w", err)
	}
	if err := os.Chmod(next, 0o777); err != nil {
		return fmt.Errorf("setting the volume's mode: %w", err)
	}
	if group != nil {
		if err := giveToGroup(next, *group, false); err != nil {
			return err
		}
	}
	return os.Rename(next, dir)
}

// ownOptions are the mount options for mode and group of the volume's root.
func ownOptions(p *v1.Pod) string {
	if group := fsGroup(p); group != nil {
		return "mode=2777,gid=" + strconv.FormatInt(*group, 10)
	}
	return "mode=0777"
}

// memorySize bounds a volume in memory by its size limit, by the pod's
// memory limit and by what the node has for pods, whichever is least (KEP-1967).
func memorySize(p *v1.Pod, s *v1.EmptyDirVolumeSource, allocatable v1.ResourceList) string {
	least := int64(0)
	bound := func(q *resource.Quantity) {
		if n := q.Value(); n > 0 && (least == 0 || n < least) {
			least = n
		}
	}
	if s.SizeLimit != nil {
		bound(s.SizeLimit)
	}
	if allMemoryLimited(p) {
		limits := pod.Limits(p)
		bound(limits.Memory())
	}
	bound(allocatable.Memory())
	if least == 0 {
		return ""
	}
	return "size=" + strconv.FormatInt(least, 10)
}

func allMemoryLimited(p *v1.Pod) bool {
	if r := p.Spec.Resources; r != nil && !r.Limits.Memory().IsZero() {
		return true
	}
	for i := range p.Spec.Containers {
		if p.Spec.Containers[i].Resources.Limits.Memory().IsZero() {
			return false
		}
	}
	return true
}

func isHugePages(m v1.StorageMedium) bool {
	return m == v1.StorageMediumHugePages || strings.HasPrefix(string(m), string(v1.StorageMediumHugePagesPrefix))
}

// mountHugePages mounts huge pages of the size that the medium names, or of
// the only one that the pod asks for. A node that keeps none refuses.
func (m *Manager) mountHugePages(p *v1.Pod, s *v1.EmptyDirVolumeSource, dir string) error {
	size, err := pageSize(p, s.Medium)
	if err != nil {
		return err
	}
	have, known := m.allocatable()[v1.ResourceName(v1.ResourceHugePagesPrefix+size.String())]
	if !known || have.IsZero() {
		return fmt.Errorf("storage medium %q: this node has no huge pages of size %s", s.Medium, size.String())
	}
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return fmt.Errorf("making the volume's directory: %w", err)
	}
	if mounted, err := mount.IsMountPoint(m.Mounter, dir); err != nil || mounted {
		return err
	}
	options := "pagesize=" + strconv.FormatInt(size.Value(), 10)
	return m.Mounter.Mount(mount.Mount{Source: "nodev", Target: dir, Type: "hugetlbfs", Options: join(options, ownOptions(p))})
}

// pageSize works out the size of the pages of a volume.
func pageSize(p *v1.Pod, medium v1.StorageMedium) (resource.Quantity, error) {
	sizes := map[string]bool{}
	for c := range pod.Containers(&p.Spec) {
		for name := range c.Resources.Requests {
			if text, ok := strings.CutPrefix(string(name), v1.ResourceHugePagesPrefix); ok {
				sizes[text] = true
			}
		}
	}
	text := strings.TrimPrefix(string(medium), string(v1.StorageMediumHugePagesPrefix))
	if medium == v1.StorageMediumHugePages {
		if len(sizes) != 1 {
			return resource.Quantity{}, fmt.Errorf("medium %q needs containers that request huge pages of exactly one size", medium)
		}
		for text = range sizes {
		}
	} else if !sizes[text] {
		return resource.Quantity{}, fmt.Errorf("medium %q: no container of the pod requests huge pages of that size", medium)
	}
	size, err := resource.ParseQuantity(text)
	if err != nil {
		return size, fmt.Errorf("medium %q: %w", medium, err)
	}
	return size, nil
}
