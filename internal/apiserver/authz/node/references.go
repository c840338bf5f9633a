package node

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"skiff.dev/skiff/internal/meta"
	"skiff.dev/skiff/internal/pod"
)

// Ref is an object that another one refers to by name.
type Ref struct {
	Resource schema.GroupResource
	Key      meta.Key
}

// The resources whose objects pods and volumes refer to.
var (
	Secrets                = schema.GroupResource{Resource: "secrets"}
	ConfigMaps             = schema.GroupResource{Resource: "configmaps"}
	ServiceAccounts        = schema.GroupResource{Resource: "serviceaccounts"}
	PersistentVolumeClaims = schema.GroupResource{Resource: "persistentvolumeclaims"}
	ResourceClaims         = schema.GroupResource{Group: "resource.k8s.io", Resource: "resourceclaims"}
)

// References calls yield with every object that the kubelet must read to run p:
// secrets, config maps, its service account, claims of volumes and devices.
// An object may come more than once.
func References(p *corev1.Pod, yield func(Ref)) {
	emit := func(gr schema.GroupResource, name string) {
		if name != "" {
			yield(Ref{gr, meta.Key{Namespace: p.Namespace, Name: name}})
		}
	}
	emit(ServiceAccounts, p.Spec.ServiceAccountName)
	for _, s := range p.Spec.ImagePullSecrets {
		emit(Secrets, s.Name)
	}
	for c := range pod.Containers(&p.Spec) {
		envReferences(c.Env, c.EnvFrom, emit)
	}
	for i := range p.Spec.EphemeralContainers {
		c := &p.Spec.EphemeralContainers[i]
		envReferences(c.Env, c.EnvFrom, emit)
	}
	for i := range p.Spec.Volumes {
		volumeReferences(p, &p.Spec.Volumes[i], emit)
	}
	claimReferences(p, emit)
}

func envReferences(env []corev1.EnvVar, from []corev1.EnvFromSource, emit func(schema.GroupResource, string)) {
	for i := range from {
		if s := from[i].SecretRef; s != nil {
			emit(Secrets, s.Name)
		}
		if c := from[i].ConfigMapRef; c != nil {
			emit(ConfigMaps, c.Name)
		}
	}
	for i := range env {
		v := env[i].ValueFrom
		if v == nil {
			continue
		}
		if s := v.SecretKeyRef; s != nil {
			emit(Secrets, s.Name)
		}
		if c := v.ConfigMapKeyRef; c != nil {
			emit(ConfigMaps, c.Name)
		}
	}
}

func volumeReferences(p *corev1.Pod, v *corev1.Volume, emit func(schema.GroupResource, string)) {
	local := func(r *corev1.LocalObjectReference) {
		if r != nil {
			emit(Secrets, r.Name)
		}
	}
	switch {
	case v.Secret != nil:
		emit(Secrets, v.Secret.SecretName)
	case v.ConfigMap != nil:
		emit(ConfigMaps, v.ConfigMap.Name)
	case v.Projected != nil:
		for _, s := range v.Projected.Sources {
			if s.Secret != nil {
				emit(Secrets, s.Secret.Name)
			}
			if s.ConfigMap != nil {
				emit(ConfigMaps, s.ConfigMap.Name)
			}
		}
	case v.PersistentVolumeClaim != nil:
		emit(PersistentVolumeClaims, v.PersistentVolumeClaim.ClaimName)
	case v.Ephemeral != nil:
		emit(PersistentVolumeClaims, p.Name+"-"+v.Name)
	case v.CSI != nil:
		local(v.CSI.NodePublishSecretRef)
	case v.AzureFile != nil:
		emit(Secrets, v.AzureFile.SecretName)
	case v.CephFS != nil:
		local(v.CephFS.SecretRef)
	case v.Cinder != nil:
		local(v.Cinder.SecretRef)
	case v.FlexVolume != nil:
		local(v.FlexVolume.SecretRef)
	case v.ISCSI != nil:
		local(v.ISCSI.SecretRef)
	case v.RBD != nil:
		local(v.RBD.SecretRef)
	case v.ScaleIO != nil:
		local(v.ScaleIO.SecretRef)
	case v.StorageOS != nil:
		local(v.StorageOS.SecretRef)
	}
}

func claimReferences(p *corev1.Pod, emit func(schema.GroupResource, string)) {
	for _, c := range p.Spec.ResourceClaims {
		if c.ResourceClaimName != nil {
			emit(ResourceClaims, *c.ResourceClaimName)
		}
	}
	for _, s := range p.Status.ResourceClaimStatuses {
		if s.ResourceClaimName != nil {
			emit(ResourceClaims, *s.ResourceClaimName)
		}
	}
	if s := p.Status.ExtendedResourceClaimStatus; s != nil {
		emit(ResourceClaims, s.ResourceClaimName)
	}
}

// volumeSecrets calls yield with the secrets that are needed to mount a volume.
func volumeSecrets(v *corev1.PersistentVolume, yield func(meta.Key)) {
	secret := func(r *corev1.SecretReference) {
		if r == nil || r.Name == "" {
			return
		}
		key := meta.Key{Namespace: r.Namespace, Name: r.Name}
		if key.Namespace == "" && v.Spec.ClaimRef != nil {
			key.Namespace = v.Spec.ClaimRef.Namespace
		}
		yield(key)
	}
	s := &v.Spec.PersistentVolumeSource
	switch {
	case s.CSI != nil:
		secret(s.CSI.NodePublishSecretRef)
		secret(s.CSI.NodeStageSecretRef)
		secret(s.CSI.NodeExpandSecretRef)
	case s.AzureFile != nil:
		ref := &corev1.SecretReference{Name: s.AzureFile.SecretName}
		if s.AzureFile.SecretNamespace != nil {
			ref.Namespace = *s.AzureFile.SecretNamespace
		}
		secret(ref)
	case s.CephFS != nil:
		secret(s.CephFS.SecretRef)
	case s.Cinder != nil:
		secret(s.Cinder.SecretRef)
	case s.FlexVolume != nil:
		secret(s.FlexVolume.SecretRef)
	case s.ISCSI != nil:
		secret(s.ISCSI.SecretRef)
	case s.RBD != nil:
		secret(s.RBD.SecretRef)
	case s.ScaleIO != nil:
		secret(s.ScaleIO.SecretRef)
	}
}
