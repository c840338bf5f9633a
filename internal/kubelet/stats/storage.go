package stats

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	api "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

// storage is what is known of the file systems during one look.
type storage struct {
	node       *api.FsStats // where the pods' directories are
	image      *api.FsStats // where images are
	containers *api.FsStats // where containers write
	layers     map[string]*runtimeapi.ContainerStats
}

// disk is what a directory held when it was last counted.
type disk struct {
	at            time.Time
	bytes, inodes uint64
}

// storage looks at the file systems and asks the runtime for its layers.
func (p *Provider) storage(ctx context.Context, now time.Time) (*storage, error) {
	node, err := fileSystem(p.Layout.Root, now)
	if err != nil {
		return nil, err
	}
	out := &storage{node: node, layers: p.fromRuntime(ctx)}
	info, err := p.Runtime.ImageFSInfo(ctx)
	if err != nil {
		return nil, fmt.Errorf("asking the container runtime about its file systems: %w", err)
	}
	out.image = runtimeFileSystem(info.GetImageFilesystems(), now)
	out.containers = runtimeFileSystem(info.GetContainerFilesystems(), now)
	if out.containers == nil {
		out.containers = out.image
	}
	return out, nil
}

// runtimeFileSystem returns the first of the runtime's file systems, with what
// the runtime says it uses of it.
func runtimeFileSystem(list []*runtimeapi.FilesystemUsage, now time.Time) *api.FsStats {
	for _, f := range list {
		out, err := fileSystem(f.GetFsId().GetMountpoint(), now)
		if err != nil {
			continue // told by a runtime that sees other mounts
		}
		used, inodes := f.GetUsedBytes().GetValue(), f.GetInodesUsed().GetValue()
		out.UsedBytes, out.InodesUsed = &used, &inodes
		return out
	}
	return nil
}

// fileSystem returns the size of the file system that path is on.
func fileSystem(path string, now time.Time) (*api.FsStats, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return nil, fmt.Errorf("looking at the file system of %s: %w", path, err)
	}
	unit := uint64(st.Frsize) //nolint:gosec // a size
	left, capacity, used := st.Bavail*unit, st.Blocks*unit, (st.Blocks-st.Bfree)*unit
	inodesUsed := without(st.Files, st.Ffree)
	return &api.FsStats{
		Time: metav1.NewTime(now), AvailableBytes: &left, CapacityBytes: &capacity, UsedBytes: &used,
		Inodes: &st.Files, InodesFree: &st.Ffree, InodesUsed: &inodesUsed,
	}, nil
}

// on returns what is used by part of a file system.
func on(whole *api.FsStats, bytes, inodes uint64, now time.Time) *api.FsStats {
	out := api.FsStats{Time: metav1.NewTime(now), UsedBytes: &bytes, InodesUsed: &inodes}
	if whole != nil {
		out.AvailableBytes, out.CapacityBytes, out.Inodes, out.InodesFree = whole.AvailableBytes, whole.CapacityBytes, whole.Inodes, whole.InodesFree
	}
	return &out
}

// rootfs is what a container has written into its own file system.
func (s *storage) rootfs(id string) *api.FsStats {
	layer := s.layers[id].GetWritableLayer()
	if layer == nil {
		return nil
	}
	return on(s.containers, layer.GetUsedBytes().GetValue(), layer.GetInodesUsed().GetValue(), time.Unix(0, layer.GetTimestamp()))
}

// logs is what a container's logs take.
func (p *Provider) logs(pod *v1.Pod, container string, s *storage, now time.Time) *api.FsStats {
	d := p.count(filepath.Join(p.Layout.PodLogDir(pod), container), now)
	return on(s.node, d.bytes, d.inodes, now)
}

// volumes is what the pod's own volumes hold. Volumes in memory are file
// systems of their own.
func (p *Provider) volumes(pod *v1.Pod, s *storage, now time.Time) []api.VolumeStats {
	var out []api.VolumeStats
	for i := range pod.Spec.Volumes {
		vol := &pod.Spec.Volumes[i]
		dirs, err := filepath.Glob(filepath.Join(p.Layout.VolumesDir(pod.UID), "*", vol.Name))
		if err != nil || len(dirs) != 1 {
			continue // a path of the host, or not mounted
		}
		one := api.VolumeStats{Name: vol.Name}
		if inMemory(vol) {
			fs, err := fileSystem(dirs[0], now)
			if err != nil {
				continue
			}
			one.FsStats = *fs
		} else {
			d := p.count(dirs[0], now)
			one.FsStats = *on(s.node, d.bytes, d.inodes, now)
		}
		out = append(out, one)
	}
	return out
}

func inMemory(vol *v1.Volume) bool {
	return vol.Secret != nil || vol.Projected != nil || vol.DownwardAPI != nil || vol.EmptyDir != nil && vol.EmptyDir.Medium != v1.StorageMediumDefault
}

// ephemeral is what the pod takes of the node's disk in all.
func ephemeral(pod *v1.Pod, stats *api.PodStats, s *storage) *api.FsStats {
	var bytes, inodes uint64
	add := func(f *api.FsStats) {
		if f != nil && f.UsedBytes != nil && f.InodesUsed != nil {
			bytes += *f.UsedBytes
			inodes += *f.InodesUsed
		}
	}
	for i := range stats.Containers {
		add(stats.Containers[i].Rootfs)
		add(stats.Containers[i].Logs)
	}
	for i := range pod.Spec.Volumes {
		if inMemory(&pod.Spec.Volumes[i]) {
			continue
		}
		for j := range stats.VolumeStats {
			if stats.VolumeStats[j].Name == pod.Spec.Volumes[i].Name {
				add(&stats.VolumeStats[j].FsStats)
			}
		}
	}
	return on(s.node, bytes, inodes, s.node.Time.Time)
}

// count adds up what is in a directory, or remembers what it did not long ago.
func (p *Provider) count(dir string, now time.Time) disk {
	p.mu.Lock()
	d, ok := p.disks[dir]
	p.mu.Unlock()
	if ok && now.Sub(d.at) < diskAge {
		return d
	}
	d = countDir(dir)
	d.at = now
	p.mu.Lock()
	p.disks[dir] = d
	p.mu.Unlock()
	return d
}

// countDir adds up the blocks and inodes of a directory, of its own file
// system only. Files with several names count once; what vanishes meanwhile
// does not count.
func countDir(dir string) disk {
	var out disk
	top, err := os.Lstat(dir)
	if err != nil {
		return out
	}
	device := top.Sys().(*syscall.Stat_t).Dev
	linked := map[uint64]bool{}
	// The function below passes over every error, so there is none to return.
	_ = filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if err != nil {
			return nil //nolint:nilerr // gone since its directory was read
		}
		info, err := e.Info()
		if err != nil {
			return nil //nolint:nilerr // gone since its directory was read
		}
		st := info.Sys().(*syscall.Stat_t)
		if st.Dev != device {
			if e.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		if st.Nlink > 1 && !e.IsDir() {
			if linked[st.Ino] {
				return nil
			}
			linked[st.Ino] = true
		}
		out.bytes += uint64(st.Blocks) * 512 //nolint:gosec // a count
		out.inodes++
		return nil
	})
	return out
}
