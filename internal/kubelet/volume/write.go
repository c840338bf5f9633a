package volume

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// file is what one file of a volume is to be.
type file struct {
	content []byte
	mode    os.FileMode
	user    *int64 // its owner, root if nil
}

// files are the files of a volume by their slash-separated relative paths.
type files map[string]file

const (
	// dataLink names the link to the directory with the files as they are now.
	// Programs watch it to learn of changes; names that begin with two dots are
	// never files of the volume.
	dataLink = "..data"
	nextLink = "..data_tmp"
)

// write makes the volume at dir hold exactly what is wanted. All of it changes
// at one instant: each name at the top is a link through dataLink, which is
// replaced when the new files are complete. Nothing is written where nothing
// changes. With a group the files are its own to read.
func write(dir string, want files, group *int64) error {
	if err := want.check(); err != nil {
		return err
	}
	old, err := os.Readlink(filepath.Join(dir, dataLink))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("reading the volume's current state: %w", err)
	}
	if old != "" && want.equal(filepath.Join(dir, old), group) {
		return link(dir, want)
	}
	next, err := os.MkdirTemp(dir, time.Now().UTC().Format("..2006_01_02_15_04_05."))
	if err != nil {
		return fmt.Errorf("writing the volume: %w", err)
	}
	if err := want.fill(next, group); err != nil {
		return errors.Join(fmt.Errorf("writing the volume: %w", err), os.RemoveAll(next))
	}
	if err := swap(dir, filepath.Base(next)); err != nil {
		return errors.Join(fmt.Errorf("switching the volume: %w", err), os.RemoveAll(next))
	}
	if err := link(dir, want); err != nil {
		return err
	}
	return sweep(dir, filepath.Base(next))
}

// swap makes dataLink point to the directory named next.
func swap(dir, next string) error {
	tmp := filepath.Join(dir, nextLink)
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Symlink(next, tmp); err != nil {
		return err
	}
	return os.Rename(tmp, filepath.Join(dir, dataLink))
}

// sweep removes older states, also those that a crash has left.
func sweep(dir, current string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() && strings.HasPrefix(e.Name(), "..") && e.Name() != current {
			if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
				return fmt.Errorf("removing an older state of the volume: %w", err)
			}
		}
	}
	return nil
}

// top returns the names at the volume's top, sorted.
func (f files) top() []string {
	names := map[string]bool{}
	for path := range f {
		name, _, _ := strings.Cut(path, "/")
		names[name] = true
	}
	return slices.Sorted(maps.Keys(names))
}

// link makes the names at the top, and removes those that are no more.
func link(dir string, want files) error {
	names := want.top()
	for _, name := range names {
		path, to := filepath.Join(dir, name), filepath.Join(dataLink, name)
		if have, err := os.Readlink(path); err == nil && have == to {
			continue
		}
		if err := os.Symlink(to, path); err != nil {
			return fmt.Errorf("linking %s in the volume: %w", name, err)
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), "..") || slices.Contains(names, e.Name()) {
			continue
		}
		if err := os.Remove(filepath.Join(dir, e.Name())); err != nil {
			return fmt.Errorf("removing %s from the volume: %w", e.Name(), err)
		}
	}
	return nil
}

// check refuses paths that lead out of the volume or into its own names, and
// one path that is both a file and a directory.
func (f files) check() error {
	for path := range f {
		if path == "" || filepath.IsAbs(path) || filepath.Clean(path) != path {
			return fmt.Errorf("invalid path: must be clean and relative: %s", path)
		}
		if !filepath.IsLocal(path) || strings.HasPrefix(path, "..") {
			return fmt.Errorf("invalid path: must not start with '..': %s", path)
		}
		for at := filepath.Dir(path); at != "."; at = filepath.Dir(at) {
			if _, both := f[at]; both {
				return fmt.Errorf("invalid path: %s is a file and a directory", at)
			}
		}
	}
	return nil
}

// fill writes the files into a new directory.
func (f files) fill(dir string, group *int64) error {
	if err := os.Chmod(dir, 0o755); err != nil {
		return err
	}
	for path, want := range f {
		at := filepath.Join(dir, path)
		if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(at, want.content, 0o600); err != nil {
			return err
		}
		if err := os.Chmod(at, want.mode); err != nil { // the mask does not apply
			return err
		}
		if want.user != nil {
			if err := os.Chown(at, int(*want.user), -1); err != nil {
				return err
			}
		}
	}
	if group != nil {
		return giveToGroup(dir, *group, true)
	}
	return nil
}

// equal tells whether dir holds exactly what is wanted.
func (f files) equal(dir string, group *int64) bool {
	found := 0
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		want, ok := f[name]
		if !ok {
			return fs.ErrExist
		}
		found++
		info, err := e.Info()
		if err != nil {
			return err
		}
		mode := want.mode
		if group != nil {
			mode |= groupMode(info, true)
		}
		if have, err := os.ReadFile(path); err != nil || !bytes.Equal(have, want.content) || info.Mode().Perm() != mode.Perm() {
			return errors.Join(fs.ErrInvalid, err)
		}
		return nil
	})
	return err == nil && found == len(f)
}
