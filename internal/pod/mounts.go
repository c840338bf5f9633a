package pod

import (
	"strings"

	corev1 "k8s.io/api/core/v1"

	"skiff.dev/skiff/internal/check"
)

// validateMounts checks the volume mounts and block devices of a container.
func (v *validator) validateMounts(r *check.Report, c *corev1.Container) {
	mountNames, mountPaths := map[string]bool{}, map[string]bool{}
	for _, m := range c.VolumeMounts {
		mountNames[m.Name], mountPaths[m.MountPath] = true, true
	}
	deviceNames, devicePaths := map[string]bool{}, map[string]bool{}
	for _, d := range c.VolumeDevices {
		deviceNames[d.Name], devicePaths[d.DevicePath] = true, true
	}
	seen := map[string]bool{}
	for i := range c.VolumeMounts {
		m, at := &c.VolumeMounts[i], r.At("volumeMounts").Index(i)
		v.validateMount(at, m, c)
		if seen[m.MountPath] {
			at.At("mountPath").Invalid(m.MountPath, "must be unique")
		}
		seen[m.MountPath] = true
		if deviceNames[m.Name] {
			at.At("name").Invalid(m.Name, "must not already exist in volumeDevices")
		}
		if devicePaths[m.MountPath] {
			at.At("mountPath").Invalid(m.MountPath, "must not already exist as a path in volumeDevices")
		}
	}
	v.validateDevices(r.At("volumeDevices"), c.VolumeDevices, mountNames, mountPaths)
}

func (v *validator) validateMount(r *check.Report, m *corev1.VolumeMount, c *corev1.Container) {
	if r.At("name").RequiredString(m.Name) {
		if _, ok := v.volumes[m.Name]; !ok {
			r.At("name").NotFound(m.Name)
		}
	}
	r.At("mountPath").RequiredString(m.MountPath)
	if m.SubPath != "" {
		r.At("subPath").RelativePath(m.SubPath)
	}
	if m.SubPathExpr != "" {
		if m.SubPath != "" {
			r.At("subPathExpr").Invalid(m.SubPathExpr, "subPathExpr and subPath are mutually exclusive")
		}
		r.At("subPathExpr").RelativePath(m.SubPathExpr)
	}
	if p := m.MountPropagation; p != nil {
		at := r.At("mountPropagation")
		privileged := c.SecurityContext != nil && c.SecurityContext.Privileged != nil && *c.SecurityContext.Privileged
		if *p == corev1.MountPropagationBidirectional && !privileged {
			at.Forbidden("Bidirectional mount propagation is available only to privileged containers")
		}
		check.OneOf(at, *p, corev1.MountPropagationBidirectional, corev1.MountPropagationHostToContainer, corev1.MountPropagationNone)
	}
	validateRecursiveReadOnly(r.At("recursiveReadOnly"), m)
}

// validateRecursiveReadOnly applies the rules of KEP-3857.
func validateRecursiveReadOnly(r *check.Report, m *corev1.VolumeMount) {
	if m.RecursiveReadOnly == nil {
		return
	}
	switch mode := *m.RecursiveReadOnly; mode {
	case corev1.RecursiveReadOnlyDisabled:
	case corev1.RecursiveReadOnlyEnabled, corev1.RecursiveReadOnlyIfPossible:
		if !m.ReadOnly {
			r.Forbidden("may only be specified when readOnly is true")
		}
		if m.MountPropagation != nil && *m.MountPropagation != corev1.MountPropagationNone {
			r.Forbidden("may only be specified when mountPropagation is None or not specified")
		}
	default:
		check.OneOf(r, mode, corev1.RecursiveReadOnlyDisabled, corev1.RecursiveReadOnlyEnabled, corev1.RecursiveReadOnlyIfPossible)
	}
}

func (v *validator) validateDevices(r *check.Report, devices []corev1.VolumeDevice, mountNames, mountPaths map[string]bool) {
	names, paths := map[string]bool{}, map[string]bool{}
	for i, d := range devices {
		name, path := r.Index(i).At("name"), r.Index(i).At("devicePath")
		if name.RequiredString(d.Name) {
			if vol, ok := v.volumes[d.Name]; ok && vol.PersistentVolumeClaim == nil && vol.Ephemeral == nil {
				name.Invalid(d.Name, "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode")
			} else if !ok {
				name.NotFound(d.Name)
			}
		}
		path.RequiredString(d.DevicePath)
		if names[d.Name] {
			name.Invalid(d.Name, "must be unique")
		}
		if paths[d.DevicePath] {
			path.Invalid(d.DevicePath, "must be unique")
		}
		if strings.Contains(d.DevicePath, "..") {
			path.NoBacksteps(d.DevicePath)
		}
		if mountNames[d.Name] {
			name.Invalid(d.Name, "must not already exist in volumeMounts")
		}
		if mountPaths[d.DevicePath] {
			path.Invalid(d.DevicePath, "must not already exist as a path in volumeMounts")
		}
		names[d.Name], paths[d.DevicePath] = true, true
	}
}
