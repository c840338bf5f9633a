package volume

import (
	"os"

	v1 "k8s.io/api/core/v1"

	"skiff.dev/skiff/internal/kubelet/env"
)

// addDownward adds fields of the pod and resources of its containers.
func (m *Manager) addDownward(out files, pod *v1.Pod, items []v1.DownwardAPIVolumeFile, mode os.FileMode) error {
	var failed []error
	for i := range items {
		item := &items[i]
		own := mode
		if item.Mode != nil {
			own = os.FileMode(*item.Mode)
		}
		text, err := m.downward(pod, item)
		if err != nil {
			failed = append(failed, err)
			continue
		}
		out[item.Path] = file{content: []byte(text), mode: own}
	}
	return joined(failed)
}

func (m *Manager) downward(pod *v1.Pod, item *v1.DownwardAPIVolumeFile) (string, error) {
	if item.FieldRef != nil {
		return env.Field(pod, item.FieldRef.FieldPath)
	}
	if item.ResourceFieldRef != nil {
		return env.PodResource(pod, item.ResourceFieldRef, m.allocatable())
	}
	return "", missing("downward API item %q names neither a field nor a resource", item.Path)
}

func (m *Manager) allocatable() v1.ResourceList {
	if m.Allocatable == nil {
		return nil
	}
	return m.Allocatable()
}
