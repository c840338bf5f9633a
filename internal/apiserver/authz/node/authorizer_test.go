package node

import (
	"context"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff.dev/skiff/internal/apiserver/authz"
	"skiff.dev/skiff/internal/apiserver/request"
	"skiff.dev/skiff/internal/meta"
)

// known says that everything has been told.
func known(context.Context) error { return nil }

func podOn(node, name string, change func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name}, Spec: corev1.PodSpec{NodeName: node}}
	if change != nil {
		change(p)
	}
	return p
}

func needsAll(p *corev1.Pod) {
	name := func(n string) corev1.LocalObjectReference { return corev1.LocalObjectReference{Name: n} }
	p.Spec.ServiceAccountName = "sa"
	p.Spec.ImagePullSecrets = []corev1.LocalObjectReference{name("pull")}
	p.Spec.InitContainers = []corev1.Container{{EnvFrom: []corev1.EnvFromSource{{SecretRef: &corev1.SecretEnvSource{LocalObjectReference: name("env")}}}}}
	p.Spec.EphemeralContainers = []corev1.EphemeralContainer{{EphemeralContainerCommon: corev1.EphemeralContainerCommon{
		Env: []corev1.EnvVar{{ValueFrom: &corev1.EnvVarSource{ConfigMapKeyRef: &corev1.ConfigMapKeySelector{LocalObjectReference: name("key")}}}}}}}
	p.Spec.Volumes = []corev1.Volume{
		{VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
			{ConfigMap: &corev1.ConfigMapProjection{LocalObjectReference: name("ca")}}}}}},
		{VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "data"}}},
		{Name: "tmp", VolumeSource: corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{}}},
	}
	claim := "gpu"
	p.Spec.ResourceClaims = []corev1.PodResourceClaim{{ResourceClaimName: &claim}}
}

func volumeFor(claim, secret string) *corev1.PersistentVolume {
	return &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "pv"}, Spec: corev1.PersistentVolumeSpec{
		ClaimRef: &corev1.ObjectReference{Namespace: "ns", Name: claim},
		PersistentVolumeSource: corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{
			NodePublishSecretRef: &corev1.SecretReference{Namespace: "storage", Name: secret}}},
	}}
}

// ask parses "verb group/resource/subresource namespace name selector".
func ask(s string) *request.Info {
	f := append(strings.Fields(s), "-", "-", "-")
	for i := range f {
		f[i] = strings.TrimPrefix(f[i], "-")
	}
	r := append(strings.SplitN(f[1], "/", 3), "")
	return &request.Info{IsResource: true, Verb: f[0], Group: r[0], Resource: r[1], Subresource: r[2],
		Namespace: f[2], Name: f[3], FieldSelector: f[4]}
}

func TestAuthorize(t *testing.T) {
	a := New(known)
	for _, p := range []*corev1.Pod{
		podOn("n1", "p", needsAll),
		podOn("n2", "other", func(p *corev1.Pod) { p.Spec.ServiceAccountName = "other" }),
		podOn("n1", "mirror", func(p *corev1.Pod) {
			p.Annotations = map[string]string{corev1.MirrorPodAnnotationKey: "x"}
			p.Spec.ImagePullSecrets = []corev1.LocalObjectReference{{Name: "stolen"}}
		}),
		podOn("", "unbound", func(p *corev1.Pod) { p.Spec.ServiceAccountName = "waiting" }),
	} {
		a.Changed(Pods, meta.KeyOf(p), p)
	}
	pv := volumeFor("data", "csi")
	a.Changed(PersistentVolumes, meta.KeyOf(pv), pv)
	va := &storagev1.VolumeAttachment{ObjectMeta: metav1.ObjectMeta{Name: "va"}, Spec: storagev1.VolumeAttachmentSpec{NodeName: "n1"}}
	a.Changed(VolumeAttachments, meta.KeyOf(va), va)

	n1 := &request.User{Name: "system:node:n1", Groups: []string{request.GroupNodes}}
	const none = "no relationship found between node 'n1' and this object"
	for _, c := range []struct {
		ask    string
		allow  bool
		reason string
	}{
		{"get /secrets ns pull", true, ""},
		{"get /secrets ns env", true, ""},
		{"watch /secrets ns env", true, ""},
		{"get /secrets storage csi", true, ""},
		{"get /secrets ns stolen", false, none},
		{"get /secrets other pull", false, none},
		{"list /secrets ns", false, "No Object name found"},
		{"list /secrets", false, "can only read namespaced object of this type"},
		{"update /secrets ns pull", false, "can only read resources of this type"},
		{"get /configmaps ns key", true, ""},
		{"get /configmaps ns ca", true, ""},
		{"get /configmaps ns x", false, none},
		{"create /serviceaccounts/token ns sa", true, ""},
		{"create /serviceaccounts/token ns other", false, none},
		{"create /serviceaccounts/token ns waiting", false, none},
		{"get /persistentvolumeclaims ns data", true, ""},
		{"get /persistentvolumeclaims ns p-tmp", true, ""},
		{"update /persistentvolumeclaims/status ns data", true, ""},
		{"delete /persistentvolumeclaims ns data", false, "can only get individual resources of this type"},
		{"get /persistentvolumes - pv", true, ""},
		{"get /persistentvolumes - x", false, none},
		{"get resource.k8s.io/resourceclaims ns gpu", true, ""},
		{"get storage.k8s.io/volumeattachments - va", true, ""},
		{"get /nodes - n1", true, ""},
		{"get /nodes - n2", false, "node 'n1' cannot read 'n2', only its own Node object"},
		{"list /nodes - -", false, "node 'n1' cannot read all nodes, only its own Node object"},
		{"watch /nodes - - metadata.name=n1", true, ""},
		{"delete /nodes - n1", false, ""},
		{"patch /nodes/status - n1", true, ""},
		{"get /pods ns p", true, ""},
		{"get /pods ns other", false, none},
		{"list /pods - - spec.nodeName=n1", true, ""},
		{"list /pods - - spec.nodeName=n2", false, "can only list/watch pods with spec.nodeName field selector"},
		{"list /pods - - spec.nodeName!=n1", false, "can only list/watch pods with spec.nodeName field selector"},
		{"create /pods/exec ns p", false, ""},
		{"update coordination.k8s.io/leases kube-node-lease n1", true, ""},
		{"update coordination.k8s.io/leases kube-node-lease n2", false, "can only access node lease with the same name as the requesting node"},
		{"update coordination.k8s.io/leases kube-system n1", false, `can only access leases in the "kube-node-lease" system namespace`},
		{"update storage.k8s.io/csinodes - n1", true, ""},
		{"update storage.k8s.io/csinodes - n2", false, "can only access CSINode with the same name as the requesting node"},
		{"list /services", true, ""},
		{"create /events ns", true, ""},
		{"delete /services ns s", false, ""},
		{"get rbac.authorization.k8s.io/clusterroles - admin", false, ""},
		{"impersonate /users - root", false, ""},
	} {
		d, reason, err := a.Authorize(context.Background(), n1, ask(c.ask))
		if (d == authz.Allow) != c.allow || reason != c.reason || err != nil {
			t.Errorf("%s: %v %q %v", c.ask, d, reason, err)
		}
	}
	// What the node may depends on the pods as they are now.
	a.Changed(Pods, meta.Key{Namespace: "ns", Name: "p"}, nil)
	for _, s := range []string{"get /secrets ns pull", "get /secrets storage csi", "get /persistentvolumes - pv", "get /pods ns p"} {
		if _, reason, _ := a.Authorize(context.Background(), n1, ask(s)); reason != none {
			t.Errorf("%s after the pod is gone: %q", s, reason)
		}
	}
	a.Changed(PersistentVolumes, meta.Key{Name: "pv"}, nil)
	if g := a.graph; len(g.volumes)+len(g.bySecret) != 0 {
		t.Errorf("left behind: %v %v", g.volumes, g.bySecret)
	}
}

func TestWhoIsANode(t *testing.T) {
	a := New(known)
	for _, c := range []struct {
		user   *request.User
		allow  bool
		reason string
	}{
		{&request.User{Name: "system:node:n1", Groups: []string{request.GroupNodes}}, true, ""},
		{&request.User{Name: "system:node:n1"}, false, ""},
		{&request.User{Name: "ann", Groups: []string{request.GroupNodes}}, false, `unknown node for user "ann"`},
	} {
		d, reason, _ := a.Authorize(context.Background(), c.user, ask("get /nodes - n1"))
		if (d == authz.Allow) != c.allow || reason != c.reason {
			t.Errorf("%s: %v %q", c.user.Name, d, reason)
		}
	}
}

// A kubelet sees its pod on another way than the authorizer, perhaps sooner.
func TestAuthorizerHearsOfPodsLate(t *testing.T) {
	var a *Authorizer
	a = New(func(context.Context) error {
		a.Changed(Pods, meta.Key{Namespace: "ns", Name: "p"}, podOn("n1", "p", needsAll))
		return nil
	})
	for name, want := range map[string]authz.Decision{"env": authz.Allow, "other": authz.NoOpinion} {
		info := &request.Info{IsResource: true, Verb: "get", Version: "v1", Resource: "secrets", Namespace: "ns", Name: name}
		user := &request.User{Name: "system:node:n1", Groups: []string{request.GroupNodes}}
		if got, reason, err := a.Authorize(t.Context(), user, info); got != want || err != nil {
			t.Errorf("%s: %v, %s, %v; want %v", name, got, reason, err, want)
		}
	}
}
