package volume

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/types"

	"skiff.dev/skiff/internal/mount"
)

// Unmount takes the pod's volumes away: first all mounts below its directory,
// also those that containers have made in a volume that is shared with the
// host, then the files. It needs nothing but the uid.
func (m *Manager) Unmount(ctx context.Context, uid types.UID) error {
	v, err := m.enter(ctx, uid)
	if err != nil {
		return err
	}
	defer v.leave()
	m.Objects.Hold(uid, "", nil, nil, nil)
	for _, dir := range []string{m.Layout.SubpathsDir(uid), m.Layout.VolumesDir(uid)} {
		if err := m.clear(dir); err != nil {
			return fmt.Errorf("removing the volumes of pod %s: %w", uid, err)
		}
	}
	v.pod, v.tokens = nil, map[tokenKey]token{}
	m.mu.Lock()
	delete(m.pods, uid)
	m.mu.Unlock()
	return nil
}

// clear unmounts and removes one directory.
func (m *Manager) clear(dir string) error {
	if _, err := os.Lstat(dir); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err := mount.UnmountAll(m.Mounter, dir); err != nil {
		return err
	}
	return removeTree(dir)
}

// errMounted is why a tree was not removed.
var errMounted = errors.New("something is mounted there, and is not deleted through the mount")

// removeTree removes dir and what is in it, but never what is on another
// mount: it looks at each directory's mount before it goes in. Directories
// deeper than maxDepth are moved up first, so that a tree of any depth needs a
// bounded number of descriptors.
func removeTree(dir string) error {
	top, err := os.OpenFile(dir, unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer top.Close()
	id, err := mountOf(top)
	if err != nil {
		return err
	}
	r := remover{top: top, mount: id}
	for {
		r.moved = 0
		if err := r.empty(top, 0); err != nil {
			return fmt.Errorf("emptying %s: %w", dir, err)
		}
		if r.moved == 0 {
			return os.Remove(dir)
		}
	}
}

const maxDepth = 64

type remover struct {
	top   *os.File
	mount uint64
	next  int // numbers what was moved up
	moved int // in this round
}

// empty removes everything in dir. It reads from the start after each batch, as
// what is read while entries go may skip some.
func (r *remover) empty(dir *os.File, depth int) error {
	for {
		if _, err := dir.Seek(0, io.SeekStart); err != nil {
			return err
		}
		entries, err := dir.ReadDir(1000)
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if len(entries) == 0 {
			return nil
		}
		for _, e := range entries {
			if err := r.remove(dir, e.Name(), depth); err != nil {
				return fmt.Errorf("%s: %w", e.Name(), err)
			}
		}
	}
}

func (r *remover) remove(dir *os.File, name string, depth int) error {
	fd := int(dir.Fd())
	err := unix.Unlinkat(fd, name, 0)
	if err == nil || errors.Is(err, unix.ENOENT) {
		return nil
	}
	if errors.Is(err, unix.EBUSY) {
		return errMounted
	}
	if !errors.Is(err, unix.EISDIR) && !errors.Is(err, unix.EPERM) {
		return err
	}
	child, err := unix.Openat(fd, name, unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(child), name)
	defer f.Close()
	switch id, err := mountOf(f); {
	case err != nil:
		return err
	case id != r.mount:
		return errMounted
	}
	if depth >= maxDepth {
		r.moved++
		return r.moveUp(fd, name)
	}
	if err := r.empty(f, depth+1); err != nil {
		return err
	}
	err = unix.Unlinkat(fd, name, unix.AT_REMOVEDIR)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	return err
}

// moveUp moves a deep directory to the top, under a name of its own.
func (r *remover) moveUp(fd int, name string) error {
	for {
		r.next++
		err := unix.Renameat2(fd, name, int(r.top.Fd()), "..moved-"+strconv.Itoa(r.next), unix.RENAME_NOREPLACE)
		if !errors.Is(err, unix.EEXIST) {
			return err
		}
	}
}

// mountOf returns the kernel's number of the mount that f is on.
func mountOf(f *os.File) (uint64, error) {
	var st unix.Statx_t
	if err := unix.Statx(int(f.Fd()), "", unix.AT_EMPTY_PATH, unix.STATX_MNT_ID, &st); err != nil {
		return 0, fmt.Errorf("looking at the mount of %s: %w", f.Name(), err)
	}
	return st.Mnt_id, nil
}
