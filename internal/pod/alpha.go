package pod

import (
	corev1 "k8s.io/api/core/v1"
)

// DropAlpha clears the fields of a spec whose feature gates are alpha, and so
// off, in Kubernetes 1.37: EmptyDirVolumeMode, AtomicWriteVolumeUserFields,
// VolumeBindMountOptions, H2CContainerProbe, GRPCContainerProbeTLS and
// EvictionRequestAPI. What the API server does not keep, a client sees missing
// in the answer.
func DropAlpha(s *corev1.PodSpec) {
	s.EvictionResponders = nil
	for i := range s.Volumes {
		dropAlphaVolume(&s.Volumes[i].VolumeSource)
	}
	for c := range Containers(s) {
		for i := range c.VolumeMounts {
			c.VolumeMounts[i].BindMountOptions = nil
		}
		for _, p := range []*corev1.Probe{c.LivenessProbe, c.ReadinessProbe, c.StartupProbe} {
			if p != nil && p.HTTPGet != nil {
				p.HTTPGet.Protocol = nil
			}
			if p != nil && p.GRPC != nil {
				p.GRPC.Mode = nil
			}
		}
		if c.Lifecycle == nil {
			continue
		}
		for _, h := range []*corev1.LifecycleHandler{c.Lifecycle.PostStart, c.Lifecycle.PreStop} {
			if h != nil && h.HTTPGet != nil {
				h.HTTPGet.Protocol = nil
			}
		}
	}
}

func dropAlphaVolume(v *corev1.VolumeSource) {
	if v.EmptyDir != nil {
		v.EmptyDir.Mode = nil
	}
	if v.Secret != nil {
		v.Secret.DefaultUser = nil
		dropItemUsers(v.Secret.Items)
	}
	if v.ConfigMap != nil {
		v.ConfigMap.DefaultUser = nil
		dropItemUsers(v.ConfigMap.Items)
	}
	if v.DownwardAPI != nil {
		v.DownwardAPI.DefaultUser = nil
		dropFileUsers(v.DownwardAPI.Items)
	}
	if v.Projected == nil {
		return
	}
	v.Projected.DefaultUser = nil
	for i := range v.Projected.Sources {
		s := &v.Projected.Sources[i]
		switch {
		case s.Secret != nil:
			dropItemUsers(s.Secret.Items)
		case s.ConfigMap != nil:
			dropItemUsers(s.ConfigMap.Items)
		case s.DownwardAPI != nil:
			dropFileUsers(s.DownwardAPI.Items)
		case s.ServiceAccountToken != nil:
			s.ServiceAccountToken.User = nil
		case s.ClusterTrustBundle != nil:
			s.ClusterTrustBundle.User = nil
		case s.PodCertificate != nil:
			s.PodCertificate.User = nil
		}
	}
}

func dropItemUsers(items []corev1.KeyToPath) {
	for i := range items {
		items[i].User = nil
	}
}

func dropFileUsers(items []corev1.DownwardAPIVolumeFile) {
	for i := range items {
		items[i].User = nil
	}
}
