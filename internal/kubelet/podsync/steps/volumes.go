package steps

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	v1 "k8s.io/api/core/v1"

	"skiff.dev/skiff/internal/kubelet/podsync"
)

// mountVolumes makes the pod's directory, remembers the pod in it and makes
// its volumes ready.
func (s *Steps) mountVolumes(ctx context.Context, pod *v1.Pod) podsync.Result {
	if err := os.MkdirAll(s.Layout.PodDir(pod.UID), 0o750); err != nil {
		return result("making the pod's directory", err)
	}
	if err := s.rememberPod(pod); err != nil {
		return result("remembering the pod", err)
	}
	if err := s.Volumes.Mount(ctx, pod); err != nil {
		if ctx.Err() == nil {
			s.Events.Warning(pod, "FailedMount", "%v", err)
		}
		return result("mounting volumes", err)
	}
	return podsync.Result{}
}

// rememberPod writes the pod into its directory, so that it can be ended by
// its own hooks and grace even if the API forgets it while the kubelet is away.
func (s *Steps) rememberPod(pod *v1.Pod) error {
	kept := pod.DeepCopy()
	kept.ManagedFields = nil
	b, err := json.Marshal(kept)
	if err != nil {
		return fmt.Errorf("encoding: %w", err)
	}
	return WriteFile(s.Layout.SpecFile(pod.UID), b, 0o600)
}

// releasePod gives back what the pod held besides its containers.
func (s *Steps) releasePod(ctx context.Context, pod *v1.Pod) podsync.Result {
	if err := s.Volumes.Unmount(ctx, pod.UID); err != nil {
		return result("unmounting volumes", err)
	}
	return result("removing the pod's cgroup", s.Cgroups.RemovePod(pod.UID))
}

// forgetPod removes the pod's directory and logs. Volumes are unmounted before,
// so that nothing but the kubelet's own files is removed.
func (s *Steps) forgetPod(pod *v1.Pod) podsync.Result {
	if err := os.RemoveAll(s.Layout.PodLogDir(pod)); err != nil {
		return result("removing logs", err)
	}
	return result("removing the pod's directory", os.RemoveAll(s.Layout.PodDir(pod.UID)))
}

// WriteFile replaces a file as a whole, so that no reader sees half of it.
func WriteFile(path string, data []byte, mode os.FileMode) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), ".tmp-*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name()) // fails once renamed, as it should
	if _, err := tmp.Write(data); err == nil {
		err = tmp.Chmod(mode)
	}
	if cerr := tmp.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	return os.Rename(tmp.Name(), path)
}
