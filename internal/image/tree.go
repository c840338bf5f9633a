package image

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/pkg/archive/compression"
)

// tree holds an image's files by their names in the layer ("usr/bin/redis-server"). Contents stay
// where they are until the layer is written.
type tree map[string]entry

// entry is one file of a tree. Content is nil where there is none.
type entry struct {
	header  tar.Header
	content func() (io.ReadCloser, error)
}

// entryName turns a path of the image into a name of the layer; "" is the root.
func entryName(p string) string {
	return strings.TrimPrefix(path.Clean("/"+p), "/")
}

// add puts a source into the tree.
func (t tree) add(s Source) error {
	set := 0
	for _, is := range []bool{s.Dir != "", s.Binary != "", s.Tarball != "", s.Data != nil} {
		if is {
			set++
		}
	}
	if set != 1 {
		return errors.New("a source must be exactly one of a directory, a program, a tarball and data")
	}
	if s.Target != "" && !path.IsAbs(s.Target) {
		return fmt.Errorf("the target %q is not an absolute path", s.Target)
	}
	switch {
	case s.Dir != "":
		return t.addDir(s.Dir, entryName(s.Target))
	case s.Binary != "":
		if s.Target == "" {
			s.Target = "/" + filepath.Base(s.Binary)
		}
		return t.addBinary(s.Binary, entryName(s.Target))
	case s.Tarball != "":
		return t.addTarball(s.Tarball, entryName(s.Target))
	}
	if entryName(s.Target) == "" {
		return errors.New("data needs a target")
	}
	if s.Mode == 0 {
		s.Mode = 0o644
	}
	t.file(entryName(s.Target), s.Mode, int64(len(s.Data)), func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(s.Data)), nil
	})
	return nil
}

// put adds an entry, and the directories above it that are not there yet.
func (t tree) put(name string, h tar.Header, content func() (io.ReadCloser, error)) {
	if name == "" {
		return
	}
	for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
		if e, ok := t[dir]; !ok || e.header.Typeflag != tar.TypeDir && e.header.Typeflag != tar.TypeSymlink {
			t.directory(dir)
		}
	}
	h.Name = name
	if h.Typeflag == tar.TypeDir {
		h.Name += "/"
	}
	h.ModTime, h.AccessTime, h.ChangeTime = time.Unix(0, 0).UTC(), time.Time{}, time.Time{}
	h.Format = tar.FormatPAX
	t[name] = entry{h, content}
}

func (t tree) directory(name string) {
	t.put(name, tar.Header{Typeflag: tar.TypeDir, Mode: 0o755}, nil)
}

func (t tree) file(name string, mode, size int64, content func() (io.ReadCloser, error)) {
	t.put(name, tar.Header{Typeflag: tar.TypeReg, Mode: mode, Size: size}, content)
}

// addFile adds a regular file of this machine, following symbolic links.
func (t tree) addFile(source, name string) error {
	info, err := os.Stat(source)
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%s is not a regular file", source)
	}
	t.file(name, modeOf(info.Mode()), info.Size(), func() (io.ReadCloser, error) { return os.Open(source) })
	return nil
}

// modeOf translates Go's permission bits into tar's.
func modeOf(m fs.FileMode) int64 {
	mode := int64(m.Perm())
	for bit, value := range map[fs.FileMode]int64{fs.ModeSetuid: 0o4000, fs.ModeSetgid: 0o2000, fs.ModeSticky: 0o1000} {
		if m&bit != 0 {
			mode |= value
		}
	}
	return mode
}

func (t tree) addDir(dir, target string) error {
	return filepath.WalkDir(dir, func(at string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, at)
		if err != nil {
			return err
		}
		name := entryName(path.Join(target, filepath.ToSlash(rel)))
		info, err := d.Info()
		if err != nil {
			return err
		}
		switch {
		case d.IsDir():
			t.put(name, tar.Header{Typeflag: tar.TypeDir, Mode: modeOf(info.Mode())}, nil)
		case d.Type() == fs.ModeSymlink:
			link, err := os.Readlink(at)
			if err != nil {
				return err
			}
			t.put(name, tar.Header{Typeflag: tar.TypeSymlink, Linkname: link, Mode: 0o777}, nil)
		case d.Type().IsRegular():
			return t.addFile(at, name)
		default:
			return fmt.Errorf("%s is neither a file, a directory nor a symbolic link", at)
		}
		return nil
	})
}

// addTarball reads the tarball's index now; contents are read again, from the start, when the layer is
// written. A tarball that changes in between gives an error, not a wrong image.
func (t tree) addTarball(file, target string) error {
	return eachEntry(file, func(h *tar.Header, _ io.Reader) (bool, error) {
		name := entryName(path.Join("/", target, h.Name))
		kept := tar.Header{
			Typeflag: h.Typeflag, Mode: h.Mode, Uid: h.Uid, Gid: h.Gid, Size: h.Size, Linkname: h.Linkname,
			Devmajor: h.Devmajor, Devminor: h.Devminor, PAXRecords: xattrs(h.PAXRecords),
		}
		switch h.Typeflag {
		case tar.TypeReg:
			source := h.Name
			t.put(name, kept, func() (io.ReadCloser, error) { return contentOf(file, source) })
		case tar.TypeLink:
			kept.Linkname = entryName(path.Join("/", target, h.Linkname))
			t.put(name, kept, nil)
		case tar.TypeDir, tar.TypeSymlink, tar.TypeChar, tar.TypeBlock, tar.TypeFifo:
			t.put(name, kept, nil)
		case tar.TypeXGlobalHeader:
		default:
			return false, fmt.Errorf("%s: %s is of the unknown type %q", file, h.Name, h.Typeflag)
		}
		return true, nil
	})
}

// xattrs keeps the extended attributes of PAX records (file capabilities, for one).
func xattrs(records map[string]string) map[string]string {
	var kept map[string]string
	for k, v := range records {
		if strings.HasPrefix(k, "SCHILY.xattr.") {
			if kept == nil {
				kept = map[string]string{}
			}
			kept[k] = v
		}
	}
	return kept
}

// eachEntry calls visit for the entries of a tarball until it returns false.
func eachEntry(file string, visit func(*tar.Header, io.Reader) (bool, error)) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	plain, err := compression.DecompressStream(f)
	if err != nil {
		return fmt.Errorf("reading %s: %w", file, err)
	}
	defer plain.Close()
	r := tar.NewReader(plain)
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("reading %s: %w", file, err)
		}
		if more, err := visit(h, r); err != nil || !more {
			return err
		}
	}
}

// contentOf returns one file of a tarball; of several with one name the last, as tar does.
func contentOf(file, name string) (io.ReadCloser, error) {
	var content []byte
	found := false
	err := eachEntry(file, func(h *tar.Header, r io.Reader) (_ bool, err error) {
		if h.Name == name && h.Typeflag == tar.TypeReg {
			found = true
			content, err = io.ReadAll(r)
		}
		return true, err
	})
	if err == nil && !found {
		err = fmt.Errorf("%s no longer holds %s", file, name)
	}
	return io.NopCloser(bytes.NewReader(content)), err
}

// write writes one entry.
func (e entry) write(w *tar.Writer) error {
	if err := w.WriteHeader(&e.header); err != nil {
		return err
	}
	if e.content == nil {
		return nil
	}
	r, err := e.content()
	if err != nil {
		return err
	}
	defer r.Close()
	n, err := io.Copy(w, r)
	if err == nil && n != e.header.Size {
		err = fmt.Errorf("it has %d bytes now, and had %d", n, e.header.Size)
	}
	return err
}
