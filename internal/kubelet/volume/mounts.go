package volume

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"skiff.dev/skiff/internal/kubelet/env"
)

// Mounts returns what a container sees of the pod's volumes.
func (m *Manager) Mounts(ctx context.Context, pod *v1.Pod, c *v1.Container, vars map[string]string) ([]*runtimeapi.Mount, error) {
	if len(c.VolumeMounts) == 0 {
		return nil, nil
	}
	v, err := m.enter(ctx, pod.UID)
	if err != nil {
		return nil, err
	}
	defer v.leave()
	var out []*runtimeapi.Mount
	for i := range c.VolumeMounts {
		one, err := m.mountFor(pod, c, i, vars)
		if err != nil {
			return nil, err
		}
		out = append(out, one)
	}
	return out, nil
}

func (m *Manager) mountFor(pod *v1.Pod, c *v1.Container, index int, vars map[string]string) (*runtimeapi.Mount, error) {
	vm := &c.VolumeMounts[index]
	i := slices.IndexFunc(pod.Spec.Volumes, func(vol v1.Volume) bool { return vol.Name == vm.Name })
	if i < 0 {
		return nil, fmt.Errorf("cannot find volume %q to mount into container %q", vm.Name, c.Name)
	}
	vol := &pod.Spec.Volumes[i]
	path := m.dir(pod, vol)
	if path == "" {
		return nil, unsupported(vol)
	}
	sub, err := subPathOf(vm, vars)
	if err != nil {
		return nil, err
	}
	if sub != "" {
		target := filepath.Join(m.Layout.SubpathsDir(pod.UID), vol.Name, c.Name, fmt.Sprint(index))
		if path, err = m.bindSubPath(path, sub, target); err != nil {
			m.Log.Warn("preparing a subPath", "namespace", pod.Namespace, "pod", pod.Name, "container", c.Name, "volume", vm.Name, "err", err)
			return nil, fmt.Errorf("failed to prepare subPath for volumeMount %q of container %q", vm.Name, c.Name)
		}
	}
	out := &runtimeapi.Mount{
		ContainerPath: vm.MountPath, HostPath: path,
		Readonly:    vm.ReadOnly || hasFiles(vol), // what the kubelet writes, nobody else does
		Propagation: propagation(vm),
	}
	if !strings.HasPrefix(out.ContainerPath, "/") {
		out.ContainerPath = "/" + out.ContainerPath
	}
	out.RecursiveReadOnly, err = m.recursive(pod, vm)
	return out, err
}

// subPathOf returns the volume mount's path within the volume, "" for all of it.
func subPathOf(vm *v1.VolumeMount, vars map[string]string) (string, error) {
	sub := vm.SubPath
	if vm.SubPathExpr != "" {
		var absent []string
		sub = env.Expand(vm.SubPathExpr, func(name string) (string, bool) {
			value, ok := vars[name]
			if !ok {
				absent = append(absent, name)
			}
			return value, ok
		})
		if len(absent) > 0 {
			return "", fmt.Errorf("missing value for %q", absent[0])
		}
	}
	if sub == "" {
		return "", nil
	}
	if filepath.IsAbs(sub) {
		return "", fmt.Errorf("error SubPath `%s` must not be an absolute path", sub)
	}
	if slices.Contains(strings.Split(sub, "/"), "..") {
		return "", fmt.Errorf("unable to provision SubPath `%s`: must not contain '..'", sub)
	}
	if sub = filepath.Clean(sub); sub == "." {
		return "", nil
	}
	return sub, nil
}

func propagation(vm *v1.VolumeMount) runtimeapi.MountPropagation {
	if vm.MountPropagation == nil {
		return runtimeapi.MountPropagation_PROPAGATION_PRIVATE
	}
	switch *vm.MountPropagation {
	case v1.MountPropagationHostToContainer:
		return runtimeapi.MountPropagation_PROPAGATION_HOST_TO_CONTAINER
	case v1.MountPropagationBidirectional:
		return runtimeapi.MountPropagation_PROPAGATION_BIDIRECTIONAL
	}
	return runtimeapi.MountPropagation_PROPAGATION_PRIVATE
}

// recursive tells whether what is mounted below the volume is to be read-only
// too (KEP-3857).
func (m *Manager) recursive(pod *v1.Pod, vm *v1.VolumeMount) (bool, error) {
	if vm.RecursiveReadOnly == nil || *vm.RecursiveReadOnly == v1.RecursiveReadOnlyDisabled {
		return false, nil
	}
	class := ""
	if pod.Spec.RuntimeClassName != nil {
		class = *pod.Spec.RuntimeClassName
	}
	able := m.RecursiveReadOnly != nil && m.RecursiveReadOnly(class)
	switch *vm.RecursiveReadOnly {
	case v1.RecursiveReadOnlyIfPossible:
		return able && vm.ReadOnly, nil
	case v1.RecursiveReadOnlyEnabled:
		if !able {
			return false, fmt.Errorf("volume %q requested recursive read-only mode, but it is not supported by the runtime", vm.Name)
		}
		return true, nil
	}
	return false, fmt.Errorf("unknown recursive read-only mode %q", *vm.RecursiveReadOnly)
}
