package images

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// tree is the files of a layer by their paths in the image, without the leading slash.
type tree map[string]node

// node is one of them. The content of a regular file is data, or that of a file of this machine.
type node struct {
	header tar.Header
	data   []byte
	file   string
}

func clean(p string) string { return strings.TrimPrefix(path.Clean("/"+p), "/") }

// dir adds a directory.
func (t tree) dir(p string, mode int64) {
	t[clean(p)] = node{header: tar.Header{Typeflag: tar.TypeDir, Mode: mode}}
}

// dirs adds directories that all may read.
func (t tree) dirs(paths ...string) {
	for _, p := range paths {
		t.dir(p, 0o755)
	}
}

// text adds a file with that content.
func (t tree) text(p, content string, mode int64) {
	t[clean(p)] = node{header: tar.Header{Typeflag: tar.TypeReg, Mode: mode}, data: []byte(content)}
}

// link adds a symbolic link.
func (t tree) link(p, target string) {
	t[clean(p)] = node{header: tar.Header{Typeflag: tar.TypeSymlink, Mode: 0o777, Linkname: target}}
}

// copy adds a regular file of this machine, with its permissions.
func (t tree) copy(p, file string) error {
	info, err := os.Stat(file)
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%s is not a regular file", file)
	}
	mode := int64(info.Mode().Perm())
	for bit, value := range map[fs.FileMode]int64{fs.ModeSetuid: 0o4000, fs.ModeSetgid: 0o2000, fs.ModeSticky: 0o1000} {
		if info.Mode()&bit != 0 {
			mode |= value
		}
	}
	t[clean(p)] = node{header: tar.Header{Typeflag: tar.TypeReg, Mode: mode}, file: file}
	return nil
}

// own gives a file to a user and a group.
func (t tree) own(p string, uid, gid int) {
	n := t[clean(p)]
	n.header.Uid, n.header.Gid = uid, gid
	t[clean(p)] = n
}

// copyAll adds the directories, files and links below a folder of this machine.
func (t tree) copyAll(p, dir string) error {
	return filepath.WalkDir(dir, func(at string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, at)
		if err != nil {
			return err
		}
		name := path.Join(p, filepath.ToSlash(rel))
		switch {
		case d.IsDir():
			t.dirs(name)
		case d.Type() == fs.ModeSymlink:
			target, err := os.Readlink(at)
			if err != nil {
				return err
			}
			t.link(name, target)
		case d.Type().IsRegular():
			return t.copy(name, at)
		default:
			return fmt.Errorf("%s is neither a file, a directory nor a link", at)
		}
		return nil
	})
}

// layer packs the tree. The same tree gives the same digest: entries are sorted, times are the epoch's.
// Layers are not compressed: they never leave the machine, and are unpacked far more often than built.
func (t tree) layer() (v1.Layer, error) {
	whole := tree{}
	for p, n := range t {
		whole[p] = n
		for dir := path.Dir(p); dir != "."; dir = path.Dir(dir) {
			if _, ok := t[dir]; !ok {
				whole.dir(dir, 0o755)
			}
		}
	}
	delete(whole, "")
	var packed bytes.Buffer
	out := tar.NewWriter(&packed)
	for _, p := range slices.Sorted(maps.Keys(whole)) {
		if err := whole[p].write(out, p); err != nil {
			return nil, fmt.Errorf("packing %s: %w", p, err)
		}
	}
	if err := out.Close(); err != nil {
		return nil, err
	}
	return static.NewLayer(packed.Bytes(), types.OCIUncompressedLayer), nil
}

func (n node) write(out *tar.Writer, name string) error {
	h := n.header
	h.Name, h.ModTime, h.Format, h.Size = name, time.Unix(0, 0).UTC(), tar.FormatPAX, int64(len(n.data))
	if h.Typeflag == tar.TypeDir {
		h.Name += "/"
	}
	if n.file == "" {
		if err := out.WriteHeader(&h); err != nil {
			return err
		}
		_, err := out.Write(n.data)
		return err
	}
	f, err := os.Open(n.file)
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err == nil {
		h.Size = info.Size()
		err = out.WriteHeader(&h)
	}
	if err == nil {
		_, err = io.Copy(out, f)
	}
	return errors.Join(err, f.Close())
}
