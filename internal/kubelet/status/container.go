package status

import (
	"strings"

	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"skiff.dev/skiff/internal/kubelet/podsync"
)

func volumeMounts(spec *v1.Container) []v1.VolumeMountStatus {
	var out []v1.VolumeMountStatus
	for _, m := range spec.VolumeMounts {
		s := v1.VolumeMountStatus{Name: m.Name, MountPath: m.MountPath, ReadOnly: m.ReadOnly}
		if m.ReadOnly {
			mode := v1.RecursiveReadOnlyDisabled
			if m.RecursiveReadOnly != nil && *m.RecursiveReadOnly == v1.RecursiveReadOnlyEnabled {
				mode = v1.RecursiveReadOnlyEnabled
			}
			s.RecursiveReadOnly = &mode
		}
		out = append(out, s)
	}
	return out
}

func user(s *runtimeapi.ContainerStatus) *v1.ContainerUser {
	u := s.GetUser().GetLinux()
	if u == nil {
		return nil
	}
	return &v1.ContainerUser{Linux: &v1.LinuxContainerUser{UID: u.Uid, GID: u.Gid, SupplementalGroups: u.SupplementalGroups}}
}

func stopSignal(s *runtimeapi.ContainerStatus) *v1.Signal {
	if s.StopSignal == runtimeapi.Signal_SIGNAL_RUNTIME_DEFAULT {
		return nil
	}
	name := strings.TrimPrefix(s.StopSignal.String(), "SIGNAL_")
	signal := v1.Signal(strings.NewReplacer("PLUS", "+", "MINUS", "-").Replace(name))
	return &signal
}

// resources reports what a running container has been given. The runtime
// cannot tell requests from what it made of them, so they are the spec's.
func resources(spec *v1.Container, c *podsync.Container, out *v1.ContainerStatus) {
	if len(spec.Resources.Requests) > 0 {
		out.AllocatedResources = spec.Resources.Requests.DeepCopy()
	}
	out.Resources = &v1.ResourceRequirements{
		Limits: spec.Resources.Limits.DeepCopy(), Requests: spec.Resources.Requests.DeepCopy(),
	}
}
