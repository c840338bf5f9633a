package mount

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"sync"

	"golang.org/x/sys/unix"
)

// Fake is a Mounter without a kernel. Directories and files must be declared with Add before
// something is mounted on or from them; it refuses what the kernel refuses with the same errno, and
// may be used by many goroutines.
type Fake struct {
	mu     sync.Mutex
	next   int
	isDir  map[string]bool
	mounts []Info
}

// NewFake returns a Fake in which only the root directory exists.
func NewFake() *Fake {
	return &Fake{next: 1, isDir: map[string]bool{"/": true}}
}

// Add declares a directory (or a file) and the directories above it.
func (f *Fake) Add(path string, dir bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.isDir[path] = dir
	for p := filepath.Dir(path); p != "/"; p = filepath.Dir(p) {
		f.isDir[p] = true
	}
}

// Mount implements Mounter.
func (f *Fake) Mount(m Mount) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := absolute("mounting at", m.Target); err != nil {
		return err
	}
	bits, _ := splitOptions(m.Options)
	if err := f.mount(m, bits); err != nil {
		return fmt.Errorf("mounting %s (%s) at %s: %w", m.Source, m.Type, m.Target, err)
	}
	return nil
}

func (f *Fake) mount(m Mount, bits uintptr) error {
	dir, ok := f.isDir[m.Target]
	switch {
	case !ok:
		return unix.ENOENT
	case bits&unix.MS_REMOUNT != 0:
		i := f.top(m.Target)
		if i < 0 {
			return unix.EINVAL
		}
		f.mounts[i].ReadOnly = bits&unix.MS_RDONLY != 0
		return nil
	case m.Type == "":
		return unix.ENODEV
	case !dir:
		return unix.ENOTDIR
	}
	f.push(Info{Root: "/", Target: m.Target, Type: m.Type, Source: m.Source, ReadOnly: bits&unix.MS_RDONLY != 0})
	return nil
}

// Bind implements Mounter.
func (f *Fake) Bind(source, target string, o BindOptions) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := errors.Join(absolute("binding", source), absolute("binding at", target)); err != nil {
		return err
	}
	sourceDir, sourceOK := f.isDir[source]
	targetDir, targetOK := f.isDir[target]
	switch {
	case !sourceOK || !targetOK:
		return fmt.Errorf("binding %s at %s: %w", source, target, unix.ENOENT)
	case sourceDir != targetDir:
		return fmt.Errorf("binding %s at %s: %w", source, target, unix.ENOTDIR)
	}
	along := slices.Clone(f.mounts)
	readOnly := o.ReadOnly
	if i := f.cover(source); i >= 0 {
		readOnly = readOnly || f.mounts[i].ReadOnly // a bind mount starts with the flags of its source
	}
	f.push(Info{Root: source, Target: target, Type: "bind", Source: source, ReadOnly: readOnly})
	if !o.Recursive {
		return nil
	}
	for _, i := range along {
		if i.Target != source && below(i.Target, source) {
			i.Target = target + i.Target[len(source):]
			f.isDir[i.Target] = true
			f.push(i)
		}
	}
	return nil
}

// RemountReadOnly implements Mounter.
func (f *Fake) RemountReadOnly(target string) error {
	return f.change("remounting", target, "read-only", func(i *Info) { i.ReadOnly = true })
}

// SetPropagation implements Mounter.
func (f *Fake) SetPropagation(target string, p Propagation) error {
	switch p {
	case Private, HostToContainer, Bidirectional:
	default:
		return fmt.Errorf("setting the propagation of %s: unknown propagation %q", target, p)
	}
	return f.change("setting the propagation of", target, "", func(i *Info) { i.Shared = p == Bidirectional })
}

func (f *Fake) change(op, target, what string, change func(*Info)) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := absolute(op, target); err != nil {
		return err
	}
	i := f.top(target)
	if i < 0 {
		return fmt.Errorf("%s %s %s: %w", op, target, what, unix.EINVAL)
	}
	change(&f.mounts[i])
	return nil
}

// Unmount implements Mounter. A mount with others on it goes together with them, as one detached.
func (f *Fake) Unmount(target string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := absolute("unmounting", target); err != nil {
		return err
	}
	if _, ok := f.isDir[target]; !ok {
		return fmt.Errorf("unmounting %s: %w", target, unix.ENOENT)
	}
	i := f.top(target)
	if i < 0 {
		return fmt.Errorf("unmounting %s: %w", target, unix.EINVAL)
	}
	gone := map[int]bool{f.mounts[i].ID: true}
	f.mounts = slices.DeleteFunc(f.mounts, func(m Info) bool {
		gone[m.ID] = gone[m.ID] || gone[m.Parent]
		return gone[m.ID]
	})
	return nil
}

// List implements Mounter.
func (f *Fake) List(dir string) ([]Info, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := absolute("listing the mounts below", dir); err != nil {
		return nil, err
	}
	var found []Info
	for _, m := range f.mounts {
		if below(m.Target, dir) {
			found = append(found, m)
		}
	}
	return found, nil
}

// top returns the index of the topmost mount at target, -1 without one.
func (f *Fake) top(target string) int {
	for i, m := range slices.Backward(f.mounts) {
		if m.Target == target {
			return i
		}
	}
	return -1
}

// cover returns the index of the mount that path lies in, -1 for the root file system.
func (f *Fake) cover(path string) int {
	for i, m := range slices.Backward(f.mounts) {
		if below(path, m.Target) {
			return i
		}
	}
	return -1
}

// push mounts i on the topmost mount that covers its target.
func (f *Fake) push(i Info) {
	if c := f.cover(i.Target); c >= 0 {
		i.Parent = f.mounts[c].ID
	}
	i.ID = f.next
	f.next++
	f.mounts = append(f.mounts, i)
}
