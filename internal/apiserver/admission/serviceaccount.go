package admission

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/rand"

	"skiff.dev/skiff/internal/apiserver/authz/node"
	"skiff.dev/skiff/internal/meta"
	"skiff.dev/skiff/internal/pod"
)

const (
	defaultServiceAccount = "default"
	// tokenPath is where clients look for their credentials.
	tokenPath         = "/var/run/secrets/kubernetes.io/serviceaccount"
	tokenVolumePrefix = "kube-api-access-"
	rootCAConfigMap   = "kube-root-ca.crt"
	// tokenSeconds is a little over an hour: an odd number, by which the issuer
	// tells these tokens from those that somebody asked for.
	tokenSeconds = 3607
	// awaitDefault is for how long a pod waits for the default service account
	// of a namespace that is new.
	awaitDefault = time.Second

	enforceMountableSecrets = "kubernetes.io/enforce-mountable-secrets"
)

var serviceAccounts = schema.GroupResource{Resource: "serviceaccounts"}

// ServiceAccount gives every pod a service account, mounts its token and adds
// its image pull secrets. Mirror pods, which nodes make, may have none.
// https://kubernetes.io/docs/reference/access-authn-authz/service-accounts-admin/#serviceaccount-admission-controller
func ServiceAccount(objects Objects, await func(context.Context, schema.GroupResource, meta.Key) (meta.Object, error)) *Plugin {
	find := accountFinder{objects, await}
	return &Plugin{
		Name: "ServiceAccount",
		Handles: func(a *Attributes) bool {
			return createsPod(a) || isEphemeralUpdate(a)
		},
		Mutate: func(ctx context.Context, a *Attributes) error {
			if a.Operation != Create {
				return nil
			}
			p, err := podOf(a)
			if err != nil || pod.IsMirror(p) {
				return err
			}
			if p.Spec.ServiceAccountName == "" {
				p.Spec.ServiceAccountName = defaultServiceAccount
				p.Spec.DeprecatedServiceAccount = defaultServiceAccount
			}
			sa, err := find.of(ctx, a, p)
			if err != nil {
				return err
			}
			if wantsToken(sa, p) {
				mountToken(p)
			}
			if len(p.Spec.ImagePullSecrets) == 0 {
				p.Spec.ImagePullSecrets = slices.Clone(sa.ImagePullSecrets)
			}
			return nil
		},
		Validate: func(ctx context.Context, a *Attributes) error {
			p, err := podOf(a)
			if err != nil {
				return err
			}
			if a.Operation == Create && pod.IsMirror(p) {
				return checkMirror(a, p)
			}
			sa, err := find.of(ctx, a, p)
			if err != nil {
				return err
			}
			if sa.Annotations[enforceMountableSecrets] == "true" {
				return checkMountable(a, sa, p)
			}
			return nil
		},
	}
}

func isEphemeralUpdate(a *Attributes) bool {
	return a.Resource.GroupResource() == podResource && a.Operation == Update && a.Subresource == "ephemeralcontainers"
}

type accountFinder struct {
	objects Objects
	await   func(context.Context, schema.GroupResource, meta.Key) (meta.Object, error)
}

// of returns the service account of p.
func (f accountFinder) of(ctx context.Context, a *Attributes, p *corev1.Pod) (*corev1.ServiceAccount, error) {
	key := meta.Key{Namespace: a.Namespace, Name: p.Spec.ServiceAccountName}
	sa, err := get[*corev1.ServiceAccount](ctx, f.objects, serviceAccounts, key)
	if apierrors.IsNotFound(err) && key.Name == defaultServiceAccount && f.await != nil && a.Operation == Create {
		bounded, cancel := context.WithTimeout(ctx, awaitDefault)
		defer cancel()
		if obj, waited := f.await(bounded, serviceAccounts, key); waited == nil {
			if found, ok := obj.(*corev1.ServiceAccount); ok {
				return found, nil
			}
		}
	}
	if apierrors.IsNotFound(err) {
		err = apierrors.NewNotFound(schema.GroupResource{Resource: "serviceaccount"}, key.Name)
	}
	if err != nil {
		return nil, forbid(a, "error looking up service account %s/%s: %w", key.Namespace, key.Name, err)
	}
	return sa, nil
}

// wantsToken says whether the token is mounted: the pod decides, then its
// service account.
func wantsToken(sa *corev1.ServiceAccount, p *corev1.Pod) bool {
	if want := p.Spec.AutomountServiceAccountToken; want != nil {
		return *want
	}
	if want := sa.AutomountServiceAccountToken; want != nil {
		return *want
	}
	return true
}

// mountToken mounts a volume with the token, the cluster's CA and the namespace
// into every container that has nothing else in its place.
func mountToken(p *corev1.Pod) {
	name := ""
	for i := range p.Spec.Volumes {
		if strings.HasPrefix(p.Spec.Volumes[i].Name, tokenVolumePrefix) {
			name = p.Spec.Volumes[i].Name
		}
	}
	known := name != ""
	if !known {
		name = tokenVolumePrefix + rand.String(5)
	}
	mounted := false
	for c := range pod.Containers(&p.Spec) {
		if slices.ContainsFunc(c.VolumeMounts, func(m corev1.VolumeMount) bool { return m.MountPath == tokenPath }) {
			continue
		}
		c.VolumeMounts = append(c.VolumeMounts, corev1.VolumeMount{Name: name, ReadOnly: true, MountPath: tokenPath})
		mounted = true
	}
	if mounted && !known {
		p.Spec.Volumes = append(p.Spec.Volumes, tokenVolume(name))
	}
}

func tokenVolume(name string) corev1.Volume {
	mode, seconds := int32(0o644), int64(tokenSeconds)
	return corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{
		DefaultMode: &mode,
		Sources: []corev1.VolumeProjection{
			{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "token", ExpirationSeconds: &seconds}},
			{ConfigMap: &corev1.ConfigMapProjection{
				LocalObjectReference: corev1.LocalObjectReference{Name: rootCAConfigMap},
				Items:                []corev1.KeyToPath{{Key: "ca.crt", Path: "ca.crt"}},
			}},
			{DownwardAPI: &corev1.DownwardAPIProjection{Items: []corev1.DownwardAPIVolumeFile{
				{Path: "namespace", FieldRef: &corev1.ObjectFieldSelector{APIVersion: "v1", FieldPath: "metadata.namespace"}},
			}}},
		},
	}}}
}

// checkMirror refuses mirror pods that would give their node an account.
func checkMirror(a *Attributes, p *corev1.Pod) error {
	if p.Spec.ServiceAccountName != "" {
		return forbid(a, "a mirror pod may not reference service accounts")
	}
	if refersTo(p, node.Secrets) {
		return forbid(a, "a mirror pod may not reference secrets")
	}
	for i := range p.Spec.Volumes {
		if hasToken(&p.Spec.Volumes[i]) {
			return forbid(a, "a mirror pod may not use ServiceAccountToken volume projections")
		}
	}
	return nil
}

func hasToken(v *corev1.Volume) bool {
	return v.Projected != nil && slices.ContainsFunc(v.Projected.Sources, func(s corev1.VolumeProjection) bool {
		return s.ServiceAccountToken != nil
	})
}

func refersTo(p *corev1.Pod, gr schema.GroupResource) bool {
	found := false
	node.References(p, func(r node.Ref) { found = found || r.Resource == gr })
	return found
}

// checkMountable refuses secrets that the service account does not list.
func checkMountable(a *Attributes, sa *corev1.ServiceAccount, p *corev1.Pod) error {
	listed := func(secret string) bool {
		return slices.ContainsFunc(sa.Secrets, func(r corev1.ObjectReference) bool { return r.Name == secret })
	}
	for i := range p.Spec.EphemeralContainers {
		c := &p.Spec.EphemeralContainers[i]
		if err := checkEnv(a, sa, "ephemeral container "+c.Name, c.Env, listed); err != nil {
			return err
		}
	}
	if a.Operation != Create {
		return nil
	}
	for i := range p.Spec.Volumes {
		if s := p.Spec.Volumes[i].Secret; s != nil && !listed(s.SecretName) {
			return forbid(a, "volume with secret.secretName=%q is not allowed because service account %s does not reference that secret", s.SecretName, sa.Name)
		}
	}
	for i := range p.Spec.InitContainers {
		c := &p.Spec.InitContainers[i]
		if err := checkEnv(a, sa, "init container "+c.Name, c.Env, listed); err != nil {
			return err
		}
	}
	for i := range p.Spec.Containers {
		c := &p.Spec.Containers[i]
		if err := checkEnv(a, sa, "container "+c.Name, c.Env, listed); err != nil {
			return err
		}
	}
	for i, s := range p.Spec.ImagePullSecrets {
		if !slices.Contains(sa.ImagePullSecrets, s) {
			return forbid(a, "imagePullSecrets[%d].name=%q is not allowed because service account %s does not reference that imagePullSecret", i, s.Name, sa.Name)
		}
	}
	return nil
}

func checkEnv(a *Attributes, sa *corev1.ServiceAccount, container string, env []corev1.EnvVar, listed func(string) bool) error {
	for i := range env {
		v := env[i].ValueFrom
		if v == nil || v.SecretKeyRef == nil || listed(v.SecretKeyRef.Name) {
			continue
		}
		return forbidden(a, fmt.Errorf("%s with envVar %s referencing secret.secretName=%q is not allowed because service account %s does not reference that secret",
			container, env[i].Name, v.SecretKeyRef.Name, sa.Name))
	}
	return nil
}
