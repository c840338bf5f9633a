// Package images makes the container images that the conformance suite names, under exactly those names,
// from packages that a Go module proxy and Debian serve: no registry is asked. README.md beside this file
// says how each stand-in differs from its original.
//
// Build reads the Go module cache, Debian's packages and this folder, and writes archives (OCI image
// layouts in tar files, which containerd and skiff import) below a cache directory. Registry serves those
// archives to containerd as a mirror of the registries they are named after.
package images

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"skiff.dev/skiff/test/conformance/build"
)

// Options says where images are made and which.
type Options struct {
	// Source is the folder of the conformance module.
	Source string
	// Cache is the folder everything is written to; DefaultCache when empty.
	Cache string
	// Only are names of archives; all are made when it is empty.
	Only []string
	// Log gets a line per step.
	Log io.Writer
}

// DefaultCache is the folder of the archives unless told otherwise: images in the yardstick's cache.
func DefaultCache() (string, error) {
	dir, err := build.Cache()
	return filepath.Join(dir, "images"), err
}

// Archive is a file that Build wrote.
type Archive struct {
	// File is its path.
	File string
	// Names are those of the images in it.
	Names []string
}

// Build makes the archives that are missing or were made from other sources, and returns all that were
// asked for. A second run over an unchanged tree only compares keys.
func Build(ctx context.Context, o Options) ([]Archive, error) {
	if o.Log == nil {
		o.Log = io.Discard
	}
	if o.Cache == "" {
		var err error
		if o.Cache, err = DefaultCache(); err != nil {
			return nil, err
		}
	}
	chosen, err := choose(o.Only)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(o.Cache, 0o755); err != nil {
		return nil, fmt.Errorf("making the images' cache: %w", err)
	}
	unlock, err := lock(ctx, filepath.Join(o.Cache, "lock"))
	if err != nil {
		return nil, err
	}
	defer unlock()
	key, err := sourceKey(o.Source)
	if err != nil {
		return nil, fmt.Errorf("reading the images' sources: %w", err)
	}
	shop := newWorkshop(o, key)
	var made []Archive
	for _, r := range chosen {
		a, err := shop.archive(ctx, r)
		if err != nil {
			return nil, fmt.Errorf("making the archive %s: %w", r.name, err)
		}
		made = append(made, a)
	}
	return made, nil
}

// choose returns the recipes of the names given, all for none.
func choose(only []string) ([]recipe, error) {
	all := recipes()
	if len(only) == 0 {
		return all, nil
	}
	var chosen []recipe
	for _, name := range only {
		i := slices.IndexFunc(all, func(r recipe) bool { return r.name == name })
		if i < 0 {
			return nil, fmt.Errorf("there is no archive %q", name)
		}
		chosen = append(chosen, all[i])
	}
	return chosen, nil
}

// archive makes one archive unless it stands already.
func (w *workshop) archive(ctx context.Context, r recipe) (Archive, error) {
	a := Archive{File: filepath.Join(w.cache, r.name+".tar"), Names: r.names}
	stamp := filepath.Join(w.cache, r.name+".key")
	was, err := os.ReadFile(stamp)
	if err == nil && string(was) == w.key && exists(a.File) {
		return a, nil
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return a, err
	}
	start := time.Now()
	made, err := r.make(ctx, w)
	if err != nil {
		return a, err
	}
	if len(made) != len(r.names) {
		return a, fmt.Errorf("it has %d images for the names %v", len(made), r.names)
	}
	// The key goes first and comes last: an interrupted run leaves none.
	if err := os.Remove(stamp); err != nil && !errors.Is(err, os.ErrNotExist) {
		return a, err
	}
	size, err := writeArchive(a.File, r.names, made)
	if err != nil {
		return a, err
	}
	if err := os.WriteFile(stamp, []byte(w.key), 0o644); err != nil {
		return a, err
	}
	w.logf("%s.tar: %d MiB in %v", r.name, size>>20, time.Since(start).Round(100*time.Millisecond))
	return a, nil
}

func exists(file string) bool {
	_, err := os.Stat(file)
	return err == nil
}

// lock keeps two runs from writing into one cache; it waits for the other until ctx ends.
func lock(ctx context.Context, file string) (func(), error) {
	f, err := os.OpenFile(file, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("locking the images' cache: %w", err)
	}
	locked := make(chan error, 1)
	// The system call cannot be called off: after ctx ended, it lasts as long as the other run or this process.
	go func() { locked <- syscall.Flock(int(f.Fd()), syscall.LOCK_EX) }()
	select {
	case <-ctx.Done():
		go func() { <-locked; f.Close() }() // a lock that comes too late is let go again
		return nil, fmt.Errorf("waiting for another run's lock on %s: %w", file, ctx.Err())
	case err := <-locked:
		if err != nil {
			return nil, errors.Join(fmt.Errorf("locking %s: %w", file, err), f.Close())
		}
	}
	return func() { f.Close() }, nil // nothing was written to it; closing lets the lock go
}
