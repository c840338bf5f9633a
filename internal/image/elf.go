package image

import (
	"bufio"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// addBinary adds a program, and when it is linked dynamically its interpreter and all libraries that
// it and they name, where the interpreter will look for them.
func (t tree) addBinary(file, target string) error {
	if err := t.addFile(file, target); err != nil {
		return err
	}
	l := linker{dirs: libraryDirs("/etc/ld.so.conf")}
	libraries, err := l.closure(file)
	if err != nil {
		return fmt.Errorf("finding the libraries of %s: %w", file, err)
	}
	for _, lib := range libraries {
		if err := t.addFile(lib.file, entryName(lib.target)); err != nil {
			return fmt.Errorf("adding the libraries of %s: %w", file, err)
		}
	}
	return nil
}

// library is a file of this machine and its place in the image.
type library struct{ file, target string }

// linker finds libraries as the dynamic linker does.
type linker struct {
	// dirs are searched after a program's own search path.
	dirs []string
}

// closure returns the interpreter of a program and the libraries needed by it and by each other; none
// for a program linked statically.
func (l linker) closure(file string) ([]library, error) {
	interpreter, err := interpreterOf(file)
	if err != nil || interpreter == "" {
		return nil, err
	}
	found := []library{{interpreter, interpreter}}
	seen := map[string]bool{}
	for queue := []string{file}; len(queue) > 0; queue = queue[1:] {
		f, err := elf.Open(queue[0])
		if err != nil {
			return nil, err
		}
		needed, path, err := dynamic(f, queue[0])
		class, machine := f.Class, f.Machine
		if err := errors.Join(err, f.Close()); err != nil {
			return nil, err
		}
		for _, name := range needed {
			if seen[name] {
				continue
			}
			seen[name] = true
			if name == filepath.Base(interpreter) {
				continue // it is in the image as the interpreter
			}
			lib, err := l.find(name, path, class, machine)
			if err != nil {
				return nil, err
			}
			found = append(found, lib)
			queue = append(queue, lib.file)
		}
	}
	l.place(found)
	return found, nil
}

// place moves libraries that were found by ld.so.cache's directories next to the C library: an image
// has no ld.so.cache, and that directory is searched without one.
func (l linker) place(found []library) {
	home := ""
	for _, lib := range found {
		if base := filepath.Base(lib.file); strings.HasPrefix(base, "libc.so.") || strings.HasPrefix(base, "libc.musl-") {
			home = filepath.Dir(lib.file)
		}
	}
	if home == "" {
		return
	}
	for i, lib := range found[1:] {
		if slices.Contains(l.dirs, filepath.Dir(lib.file)) {
			found[i+1].target = filepath.Join(home, filepath.Base(lib.file))
		}
	}
}

// find looks a library up in a program's search path and then in the system's.
func (l linker) find(name string, path []string, class elf.Class, machine elf.Machine) (library, error) {
	if filepath.IsAbs(name) {
		return library{name, name}, nil
	}
	for _, dir := range slices.Concat(path, l.dirs) {
		file := filepath.Join(dir, name)
		f, err := elf.Open(file)
		if err != nil {
			continue // not there, or not a library: the linker goes on as well
		}
		fits := f.Class == class && f.Machine == machine
		if err := f.Close(); err != nil {
			return library{}, err
		}
		if fits {
			return library{file, file}, nil
		}
	}
	return library{}, fmt.Errorf("the shared library %s is not on this machine", name)
}

// interpreterOf returns the dynamic linker that a program asks for, "" when it is static.
func interpreterOf(file string) (string, error) {
	f, err := elf.Open(file)
	var format *elf.FormatError
	if errors.As(err, &format) || errors.Is(err, io.EOF) {
		return "", nil // a script, say: nothing to link
	}
	if err != nil {
		return "", err
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			data, err := io.ReadAll(p.Open())
			return strings.TrimRight(string(data), "\x00"), err
		}
	}
	return "", nil
}

// dynamic returns the libraries that an ELF file names and its own search path.
func dynamic(f *elf.File, file string) (needed, path []string, err error) {
	if needed, err = f.ImportedLibraries(); err != nil {
		return nil, nil, fmt.Errorf("reading %s: %w", file, err)
	}
	for _, tag := range []elf.DynTag{elf.DT_RPATH, elf.DT_RUNPATH} {
		values, err := f.DynString(tag)
		if err != nil {
			return nil, nil, fmt.Errorf("reading %s: %w", file, err)
		}
		for _, value := range values {
			for dir := range strings.SplitSeq(value, ":") {
				dir = strings.NewReplacer("$ORIGIN", filepath.Dir(file), "${ORIGIN}", filepath.Dir(file)).Replace(dir)
				if filepath.IsAbs(dir) {
					path = append(path, filepath.Clean(dir))
				}
			}
		}
	}
	return needed, path, nil
}

// libraryDirs returns the directories of ld.so.conf and those searched without it.
func libraryDirs(conf string) []string {
	var dirs []string
	confDirs(conf, &dirs, 0)
	for _, pattern := range []string{"/lib/*-linux-*", "/usr/lib/*-linux-*"} {
		matches, _ := filepath.Glob(pattern) // fails only on a malformed pattern
		dirs = append(dirs, matches...)
	}
	dirs = append(dirs, "/lib64", "/usr/lib64", "/lib", "/usr/lib")
	var unique []string
	for _, d := range dirs {
		if !slices.Contains(unique, d) {
			unique = append(unique, d)
		}
	}
	return unique
}

// confDirs reads an ld.so.conf file with what it includes. Files that cannot be read are left out, as
// ldconfig does.
func confDirs(file string, dirs *[]string, depth int) {
	f, err := os.Open(file)
	if err != nil || depth > 8 {
		return
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		line, _, _ := strings.Cut(lines.Text(), "#")
		fields := strings.Fields(line)
		switch {
		case len(fields) == 2 && fields[0] == "include":
			pattern := fields[1]
			if !filepath.IsAbs(pattern) {
				pattern = filepath.Join(filepath.Dir(file), pattern)
			}
			matches, _ := filepath.Glob(pattern) // a malformed pattern includes nothing
			for _, m := range matches {
				confDirs(m, dirs, depth+1)
			}
		case len(fields) == 1 && filepath.IsAbs(fields[0]):
			*dirs = append(*dirs, filepath.Clean(fields[0]))
		}
	}
}
