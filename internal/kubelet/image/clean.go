package image

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Users is where the store learns which images are in use; see cri.Runtime.
type Users interface {
	ListContainers(ctx context.Context, filter *runtimeapi.ContainerFilter) ([]*runtimeapi.Container, error)
}

// usage is when an image came and when a container last used it.
type usage struct{ seen, used time.Time }

// cleanEvery is how often the disk is looked at: nothing tells when it fills up.
const cleanEvery = 5 * time.Minute

// Run removes unused images when the disk fills up, until ctx ends.
func (s *Store) Run(ctx context.Context) {
	t := time.NewTicker(cleanEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		if err := s.Clean(ctx); err != nil && ctx.Err() == nil {
			s.Log.Warn("removing unused images", "err", err)
		}
	}
}

// Clean removes images unused for longer than MaxAge and, if the disk is over
// HighPercent, the longest unused ones until it is at LowPercent.
func (s *Store) Clean(ctx context.Context) error {
	total, free, err := s.disk(ctx)
	if err != nil {
		return err
	}
	unused, err := s.unused(ctx, time.Now())
	if err != nil {
		return err
	}
	for _, image := range choose(unused, s.Pulls, total, free, time.Now()) {
		if err := s.Images.RemoveImage(ctx, &runtimeapi.ImageSpec{Image: image.id}); err != nil {
			return fmt.Errorf("removing image %s: %w", image.id, err)
		}
		s.Log.Info("removed an unused image", "image", image.id, "bytes", image.size)
	}
	return nil
}

// candidate is an image that no container uses.
type candidate struct {
	id   string
	size uint64
	usage
}

// choose picks what to remove: the longest unused first.
func choose(unused []candidate, c PullConfig, total, free uint64, now time.Time) []candidate {
	slices.SortFunc(unused, func(a, b candidate) int {
		return cmp.Or(a.used.Compare(b.used), a.seen.Compare(b.seen), cmp.Compare(a.id, b.id))
	})
	need := uint64(0)
	if used := total - free; total > 0 && c.HighPercent < 100 && used*100 >= total*uint64(c.HighPercent) {
		if goal := total * uint64(c.LowPercent) / 100; used > goal {
			need = used - goal
		}
	}
	var out []candidate
	freed := uint64(0)
	for _, i := range unused {
		young := now.Sub(i.seen) < c.MinAge
		old := c.MaxAge > 0 && now.Sub(latest(i.usage)) > c.MaxAge
		if !old && (young || freed >= need) {
			continue
		}
		out = append(out, i)
		freed += i.size
	}
	return out
}

func latest(u usage) time.Time {
	if u.used.After(u.seen) {
		return u.used
	}
	return u.seen
}

// unused lists the images without a container, and keeps the history.
func (s *Store) unused(ctx context.Context, now time.Time) ([]candidate, error) {
	images, err := s.Images.ListImages(ctx)
	if err != nil {
		return nil, fmt.Errorf("listing images: %w", err)
	}
	list, err := s.Users.ListContainers(ctx, &runtimeapi.ContainerFilter{})
	if err != nil {
		return nil, fmt.Errorf("listing containers: %w", err)
	}
	inUse := map[string]bool{}
	for _, c := range list {
		inUse[c.ImageId], inUse[c.ImageRef], inUse[c.GetImage().GetImage()] = true, true, true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	known := s.history
	s.history = map[string]usage{}
	var out []candidate
	for _, i := range images {
		u := known[i.Id]
		if u.seen.IsZero() {
			u.seen = now
		}
		used := inUse[i.Id] || slices.ContainsFunc(i.RepoDigests, func(n string) bool { return inUse[n] }) ||
			slices.ContainsFunc(i.RepoTags, func(n string) bool { return inUse[n] })
		if used {
			u.used = now
		}
		s.history[i.Id] = u
		if !used && !i.Pinned {
			out = append(out, candidate{id: i.Id, size: i.Size, usage: u})
		}
	}
	return out, nil
}

// disk returns the size and what is free of the file system with the images.
func (s *Store) disk(ctx context.Context) (total, free uint64, err error) {
	info, err := s.Images.ImageFSInfo(ctx)
	if err != nil {
		return 0, 0, fmt.Errorf("asking for the image file system: %w", err)
	}
	if len(info.ImageFilesystems) == 0 {
		return 0, 0, nil
	}
	var st unix.Statfs_t
	mount := info.ImageFilesystems[0].GetFsId().GetMountpoint()
	if err := unix.Statfs(mount, &st); err != nil {
		return 0, 0, fmt.Errorf("measuring %s: %w", mount, err)
	}
	return st.Blocks * uint64(st.Bsize), st.Bavail * uint64(st.Bsize), nil
}
