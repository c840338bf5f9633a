package steps

import (
	"context"
	"os"
	"path/filepath"

	v1 "k8s.io/api/core/v1"

	"skiff.dev/skiff/internal/kubelet/cri"
	"skiff.dev/skiff/internal/kubelet/podsync"
)

// removeContainer removes an instance from the runtime, and its log, the log's
// rotated parts and its link from the disk.
func (s *Steps) removeContainer(ctx context.Context, pod *v1.Pod, a podsync.RemoveContainer) podsync.Result {
	status, err := s.Runtime.ContainerStatus(ctx, a.ID)
	switch {
	case cri.IsNotFound(err):
		return podsync.Result{}
	case err != nil:
		return result("looking up container "+a.Container, err)
	}
	if err := s.Runtime.RemoveContainer(ctx, a.ID); err != nil && !cri.IsNotFound(err) {
		return result("removing container "+a.Container, err)
	}
	return result("removing the log of "+a.Container, s.removeLog(pod, a, status.LogPath))
}

func (s *Steps) removeLog(pod *v1.Pod, a podsync.RemoveContainer, log string) error {
	if err := os.Remove(s.Layout.LogLink(pod, a.Container, a.ID)); err != nil && !os.IsNotExist(err) {
		return err
	}
	if log == "" {
		return nil
	}
	// 3.log may have left 3.log.<time> and 3.log.<time>.gz behind.
	parts, err := filepath.Glob(log + "*")
	if err != nil {
		return err
	}
	for _, part := range parts {
		if err := os.Remove(part); err != nil && !os.IsNotExist(err) {
			return err
		}
	}
	return nil
}
