package volume

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"skiff.dev/skiff/internal/mount"
)

// bindSubPath binds a part of a volume at target and returns target. The
// volume may be written by a container at this moment: the path is resolved by
// the kernel, which refuses to leave the volume, into a descriptor that then
// stands for the file whatever becomes of its name (CVE-2021-25741). A
// directory that is missing is made.
func (m *Manager) bindSubPath(volume, sub, target string) (string, error) {
	f, err := openBeneath(volume, sub)
	if err != nil {
		return "", err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return "", err
	}
	done, err := m.prepareTarget(target, info)
	if err != nil || done {
		return target, err
	}
	source := "/proc/self/fd/" + strconv.Itoa(int(f.Fd()))
	return target, m.Mounter.Bind(source, target, mount.BindOptions{})
}

// prepareTarget makes target a place where the file that info tells of can be
// bound. It reports true where that has been done before.
func (m *Manager) prepareTarget(target string, info fs.FileInfo) (bool, error) {
	mounted, err := mount.IsMountPoint(m.Mounter, target)
	if err != nil {
		return false, err
	}
	if mounted {
		if have, err := os.Lstat(target); err == nil && os.SameFile(have, info) {
			return true, nil
		}
		if err := mount.UnmountAll(m.Mounter, target); err != nil {
			return false, fmt.Errorf("unmounting an older subPath: %w", err)
		}
	}
	if err := os.MkdirAll(filepath.Dir(target), 0o750); err != nil {
		return false, err
	}
	// What is there is an empty file or directory of an earlier instance.
	if err := os.Remove(target); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	if info.IsDir() {
		return false, os.Mkdir(target, 0o750)
	}
	f, err := os.OpenFile(target, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o640)
	if err != nil {
		return false, err
	}
	return false, f.Close()
}

// openBeneath opens the path below dir, making directories that are missing
// with the mode of dir. Links are followed within dir only.
func openBeneath(dir, path string) (*os.File, error) {
	root, err := os.OpenFile(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("opening the volume: %w", err)
	}
	defer root.Close()
	f, err := resolve(root, path)
	if !errors.Is(err, fs.ErrNotExist) {
		return f, err
	}
	info, err := root.Stat()
	if err != nil {
		return nil, err
	}
	if err := makeBeneath(root, path, info.Mode()); err != nil {
		return nil, err
	}
	return resolve(root, path)
}

// resolve opens path as a mere reference to the file, beneath root.
func resolve(root *os.File, path string) (*os.File, error) {
	how := &unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS,
	}
	for {
		fd, err := unix.Openat2(int(root.Fd()), path, how)
		if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) {
			continue // a directory was moved meanwhile; the kernel wants it asked again
		}
		if errors.Is(err, unix.EXDEV) {
			return nil, fmt.Errorf("subpath %q not within volume path %q: %w", path, root.Name(), err)
		}
		if err != nil {
			return nil, &fs.PathError{Op: "openat2", Path: path, Err: err}
		}
		return os.NewFile(uintptr(fd), path), nil
	}
}

// makeBeneath makes the directories of path that are missing, one by one. Each
// is made in a directory that resolve has found to be within the volume.
func makeBeneath(root *os.File, path string, mode fs.FileMode) error {
	parts := strings.Split(path, "/")
	for i := range parts {
		at := strings.Join(parts[:i+1], "/")
		if f, err := resolve(root, at); err == nil {
			f.Close()
			continue
		} else if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		parent, err := resolve(root, filepath.Dir(at))
		if err != nil {
			return err
		}
		err = makeIn(parent, parts[i], mode)
		parent.Close()
		if err != nil {
			return fmt.Errorf("failed to create subPath directory %s: %w", at, err)
		}
	}
	return nil
}

// makeIn makes a directory in parent with exactly that mode.
func makeIn(parent *os.File, name string, mode fs.FileMode) error {
	if err := unix.Mkdirat(int(parent.Fd()), name, 0o700); err != nil {
		return err
	}
	fd, err := unix.Openat(int(parent.Fd()), name, unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	return f.Chmod(mode & (fs.ModePerm | fs.ModeSetgid | fs.ModeSetuid | fs.ModeSticky))
}
