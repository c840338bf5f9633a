package images

import (
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"
)

// sysroot is a folder laid out like the root of a system.
type sysroot string

// libraryDirs are where Debian's dynamic linker looks without a cache and a search path.
var libraryDirs = []string{
	"/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/lib/aarch64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/lib", "/usr/lib",
}

// resolve returns the file of this machine that a path of the system leads to, links followed inside.
func (s sysroot) resolve(p string) (string, error) {
	at, links := "/", 0
	rest := strings.Split(strings.Trim(path.Clean("/"+p), "/"), "/")
	for len(rest) > 0 {
		next := path.Join(at, rest[0])
		rest = rest[1:]
		info, err := os.Lstat(filepath.Join(string(s), next))
		if err != nil {
			return "", fmt.Errorf("%s: %w", p, errors.Unwrap(err))
		}
		if info.Mode()&os.ModeSymlink == 0 {
			at = next
			continue
		}
		if links++; links > 40 {
			return "", fmt.Errorf("%s: too many links", p)
		}
		target, err := os.Readlink(filepath.Join(string(s), next))
		if err != nil {
			return "", err
		}
		if !path.IsAbs(target) {
			target = path.Join(at, target)
		}
		at, rest = "/", append(strings.Split(strings.Trim(path.Clean(target), "/"), "/"), rest...)
	}
	return filepath.Join(string(s), at), nil
}

// install adds programs of the system to a tree at their own paths, with the shared libraries they need.
func (s sysroot) install(t tree, programs ...string) error {
	for _, p := range programs {
		if err := s.installAs(t, p, p); err != nil {
			return err
		}
	}
	return nil
}

// installAs adds one program at another path.
func (s sysroot) installAs(t tree, p, target string) error {
	file, err := s.resolve(p)
	if err != nil {
		return fmt.Errorf("installing a program: %w", err)
	}
	if err := t.copy(target, file); err != nil {
		return err
	}
	if err := s.libraries(t, file); err != nil {
		return fmt.Errorf("installing %s: %w", p, err)
	}
	return nil
}

// libraries adds what a program is linked to: its interpreter, and the libraries it and they name.
func (s sysroot) libraries(t tree, program string) error {
	for queue := []string{program}; len(queue) > 0; queue = queue[1:] {
		needed, err := linkedTo(queue[0])
		if err != nil {
			return err
		}
		for _, name := range needed {
			target, file, err := s.find(name)
			if err != nil {
				return err
			}
			if _, ok := t[clean(target)]; ok {
				continue
			}
			if err := t.copy(target, file); err != nil {
				return err
			}
			queue = append(queue, file)
		}
	}
	return nil
}

// find returns a library's path in the system, or that of an interpreter, and the file it is.
func (s sysroot) find(name string) (target, file string, err error) {
	if path.IsAbs(name) {
		file, err = s.resolve(name)
		return name, file, err
	}
	for _, dir := range libraryDirs {
		target = path.Join(dir, name)
		if file, err = s.resolve(target); err == nil {
			return target, file, nil
		}
	}
	return "", "", fmt.Errorf("the library %s is in none of the packages", name)
}

// linkedTo returns a program's interpreter and the libraries it names; nothing for a script.
func linkedTo(file string) (needed []string, err error) {
	f, err := elf.Open(file)
	if err != nil {
		var format *elf.FormatError
		if errors.As(err, &format) || errors.Is(err, io.EOF) {
			return nil, nil // not an ELF file
		}
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	for _, p := range f.Progs {
		if p.Type != elf.PT_INTERP {
			continue
		}
		name, err := io.ReadAll(p.Open())
		if err != nil {
			return nil, err
		}
		needed = append(needed, strings.TrimRight(string(name), "\x00"))
	}
	libraries, err := f.ImportedLibraries()
	if err != nil {
		return nil, err
	}
	return append(needed, libraries...), nil
}
