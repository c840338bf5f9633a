// Package logs keeps the logs of containers within bounds: a log that has
// grown too large is renamed and compressed, the runtime goes on in a new
// file, and the oldest parts are removed. It reads and writes below the
// layout's log directories only.
package logs

import (
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"skiff.dev/skiff/internal/kubelet/layout"
)

// Config is how large logs may grow.
type Config struct {
	MaxBytes int64         // of one file
	MaxFiles int           // of one container, the current one counted
	Every    time.Duration // how often sizes are looked at
}

// DefaultConfig is upstream's.
func DefaultConfig() Config {
	return Config{MaxBytes: 10 << 20, MaxFiles: 5, Every: 10 * time.Second}
}

// Runtime is the part of the runtime that is needed; see cri.Runtime.
type Runtime interface {
	ListContainers(ctx context.Context, filter *runtimeapi.ContainerFilter) ([]*runtimeapi.Container, error)
	ContainerStatus(ctx context.Context, id string) (*runtimeapi.ContainerStatus, error)
	ReopenLog(ctx context.Context, id string) error
}

// Rotator rotates the logs of the node's containers.
type Rotator struct {
	config  Config
	runtime Runtime
	layout  layout.Layout
	log     *slog.Logger
}

// New returns a rotator.
func New(c Config, r Runtime, l layout.Layout, log *slog.Logger) *Rotator {
	return &Rotator{config: c, runtime: r, layout: l, log: log}
}

// Run looks after the logs until ctx ends. Sizes of files are the one thing
// here that must be asked for: a write to a log is no event anyone could bear.
func (r *Rotator) Run(ctx context.Context) {
	if r.config.Every <= 0 || r.config.MaxBytes <= 0 {
		return
	}
	t := time.NewTicker(r.config.Every)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-t.C:
			if err := r.Rotate(ctx, now); err != nil && ctx.Err() == nil {
				r.log.Warn("rotating container logs", "err", err)
			}
		}
	}
}

// Rotate rotates what is too large now. The directory is walked first: as a
// rule nothing is too large, and then the runtime need not be asked.
func (r *Rotator) Rotate(ctx context.Context, now time.Time) error {
	large, err := filepath.Glob(filepath.Join(r.layout.PodLogs, "*", "*", "*.log"))
	if err != nil {
		return err
	}
	large = slices.DeleteFunc(large, func(file string) bool {
		info, err := os.Lstat(file)
		return err != nil || !info.Mode().IsRegular() || info.Size() < r.config.MaxBytes
	})
	if len(large) == 0 {
		return nil
	}
	running, err := r.runtime.ListContainers(ctx, &runtimeapi.ContainerFilter{
		State: &runtimeapi.ContainerStateValue{State: runtimeapi.ContainerState_CONTAINER_RUNNING},
	})
	if err != nil {
		return fmt.Errorf("listing containers: %w", err)
	}
	var failed []error
	for _, c := range running {
		status, err := r.runtime.ContainerStatus(ctx, c.Id)
		if err != nil {
			continue // ended since the list
		}
		if slices.Contains(large, status.LogPath) {
			if err := r.rotate(ctx, c.Id, status.LogPath, now); err != nil {
				failed = append(failed, fmt.Errorf("%s: %w", status.LogPath, err))
			}
		}
	}
	return errors.Join(failed...)
}

// rotate renames a log, has the runtime begin a new one, compresses the older
// parts and removes those beyond the limit.
func (r *Rotator) rotate(ctx context.Context, id, file string, now time.Time) error {
	parts, err := filepath.Glob(file + ".*")
	if err != nil {
		return err
	}
	slices.Sort(parts) // by time, as their names are
	for _, part := range parts {
		switch {
		case strings.HasSuffix(part, ".tmp"):
			err = os.Remove(part) // left over from a crash
		case !strings.HasSuffix(part, ".gz"):
			err = compress(part)
		}
		if err != nil {
			return err
		}
	}
	if parts, err = filepath.Glob(file + ".*.gz"); err != nil {
		return err
	}
	slices.Sort(parts)
	// One place is for the current file, one for the part made below.
	for keep := max(r.config.MaxFiles-2, 0); len(parts) > keep; parts = parts[1:] {
		if err := os.Remove(parts[0]); err != nil {
			return err
		}
	}
	part := file + "." + now.UTC().Format("20060102-150405")
	if err := os.Rename(file, part); err != nil {
		return err
	}
	if err := r.runtime.ReopenLog(ctx, id); err != nil {
		// The runtime goes on writing to the old file: give it its name back.
		return errors.Join(fmt.Errorf("reopening the log: %w", err), os.Rename(part, file))
	}
	return nil
}

// compress replaces a part by its gzip, never leaving neither.
func compress(part string) error {
	in, err := os.Open(part)
	if err != nil {
		return err
	}
	defer in.Close()
	tmp := part + ".tmp"
	out, err := os.OpenFile(tmp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	zip := gzip.NewWriter(out)
	_, err = io.Copy(zip, in)
	err = errors.Join(err, zip.Close(), out.Close())
	if err == nil {
		err = os.Rename(tmp, part+".gz")
	}
	if err != nil {
		return errors.Join(err, os.Remove(tmp))
	}
	return os.Remove(part)
}
