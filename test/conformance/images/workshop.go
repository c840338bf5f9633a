package images

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
)

// workshop holds what recipes share: places, built programs, and Debian's files.
type workshop struct {
	// source is the conformance module's folder, cache where everything is written.
	source, cache string
	key           string
	log           io.Writer
	// sysroot are Debian's packages, unpacked the first time somebody asks.
	sysroot func(context.Context) (sysroot, error)
}

func newWorkshop(o Options, key string) *workshop {
	w := &workshop{source: o.Source, cache: o.Cache, key: key, log: o.Log}
	var once sync.Once
	var root sysroot
	var err error
	w.sysroot = func(ctx context.Context) (sysroot, error) {
		once.Do(func() { root, err = w.unpackDebian(ctx) })
		return root, err
	}
	return w
}

func (w *workshop) logf(format string, args ...any) {
	fmt.Fprintf(w.log, "images: "+format+"\n", args...) // a log line that cannot be written is no reason to stop
}

// program is one that go build makes.
type program struct {
	// name is its file's.
	name string
	// module is the folder of the module it is built from, below the conformance module's; pkg the package.
	module, pkg string
	// set are variables of the program ("main.Version=2.55") that the linker sets.
	set []string
}

// build builds a program, linked statically, and returns its path. Go's own cache makes a second build
// quick.
func (w *workshop) build(ctx context.Context, p program) (string, error) {
	dir := filepath.Join(w.cache, "programs")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	flags := "-s -w"
	for _, s := range p.set {
		flags += " -X " + s
	}
	out := filepath.Join(dir, p.name)
	w.logf("building %s", p.name)
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-ldflags", flags, "-o", out, p.pkg)
	cmd.Dir = filepath.Join(w.source, p.module)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off")
	if _, err := output(cmd); err != nil {
		return "", fmt.Errorf("building %s: %w", p.pkg, err)
	}
	return out, nil
}

// pause builds the program of pod sandboxes from skiff's own source, as skiff builds the one it carries.
func (w *workshop) pause(ctx context.Context) (string, error) {
	return w.compile(ctx, "pause", pauseSource(w.source), "-nostdlib", "-nostartfiles", "-ffreestanding",
		"-fno-stack-protector", "-fno-asynchronous-unwind-tables", "-Wl,--build-id=none", "-Wl,-z,noseparate-code", "-Wl,-z,norelro")
}

// shell builds the program that chooses between two shells.
func (w *workshop) shell(ctx context.Context) (string, error) {
	return w.compile(ctx, "sh", filepath.Join(w.source, "images", "programs", "sh", "sh.c"))
}

// compile builds a program of C, linked statically, and returns its path.
func (w *workshop) compile(ctx context.Context, name, source string, flags ...string) (string, error) {
	dir := filepath.Join(w.cache, "programs")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	out := filepath.Join(dir, name)
	args := append([]string{"-static", "-Os", "-s", "-Wall", "-Wextra", "-Werror", "-o", out, source}, flags...)
	if _, err := output(exec.CommandContext(ctx, "gcc", args...)); err != nil {
		return "", fmt.Errorf("building %s: %w", name, err)
	}
	return out, nil
}

func pauseSource(module string) string {
	return filepath.Join(module, "..", "..", "internal", "runtime", "carried", "pause", "pause.c")
}

// output runs a command and returns what it printed; its error holds what it complained about.
func output(cmd *exec.Cmd) ([]byte, error) {
	var out, complaints bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaints
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("%s: %w\n%s", strings.Join(cmd.Args, " "), err, strings.TrimSpace(complaints.String()))
	}
	return out.Bytes(), nil
}

// sourceKey is a digest of all that decides what is in the images but Debian's packages: those of the day
// on which the archives were made stay until the key changes or the cache is removed.
func sourceKey(module string) (string, error) {
	sum := sha256.New()
	fmt.Fprintln(sum, runtime.Version(), runtime.GOARCH)
	files := []string{filepath.Join(module, "go.mod"), filepath.Join(module, "parts", "go.mod"), pauseSource(module)}
	err := filepath.WalkDir(filepath.Join(module, "images"), func(p string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() && !strings.HasSuffix(p, "_test.go") && filepath.Ext(p) != ".md" {
			files = append(files, p)
		}
		return err
	})
	if err != nil {
		return "", err
	}
	for _, name := range files {
		if err := addFile(sum, module, name); err != nil {
			return "", err
		}
	}
	return fmt.Sprintf("%x", sum.Sum(nil)), nil
}

func addFile(sum io.Writer, module, name string) error {
	rel, err := filepath.Rel(module, name)
	if err != nil {
		return err
	}
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err == nil {
		fmt.Fprintln(sum, rel, info.Size())
		_, err = io.Copy(sum, f)
	}
	return errors.Join(err, f.Close())
}
