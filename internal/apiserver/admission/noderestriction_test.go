package admission

import (
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"skiff.dev/skiff/internal/apiserver/authz"
	"skiff.dev/skiff/internal/apiserver/authz/node"
	"skiff.dev/skiff/internal/apiserver/request"
)

func nodeObj(change func(*corev1.Node)) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1", UID: "u1", Labels: map[string]string{"kubernetes.io/hostname": "n1"}}}
	if change != nil {
		change(n)
	}
	return n
}

func label(key string) func(*corev1.Node) {
	return func(n *corev1.Node) { n.Labels[key] = "x" }
}

func mirrorPod(change func(*corev1.Pod)) *corev1.Pod {
	yes := true
	p := &corev1.Pod{ObjectMeta: inNS("m"), Spec: corev1.PodSpec{NodeName: "n1"}}
	p.Annotations = map[string]string{corev1.MirrorPodAnnotationKey: "x"}
	p.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: "n1", UID: "u1", Controller: &yes}}
	if change != nil {
		change(p)
	}
	return p
}

func tokenFor(pod string, uid types.UID, audiences ...string) *authenticationv1.TokenRequest {
	return &authenticationv1.TokenRequest{ObjectMeta: inNS("robot"), Spec: authenticationv1.TokenRequestSpec{Audiences: audiences,
		BoundObjectRef: &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: pod, UID: uid}}}
}

func TestNodeRestriction(t *testing.T) {
	mine := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "mine", UID: "p1"}, Spec: corev1.PodSpec{NodeName: "n1", Volumes: []corev1.Volume{
		tokenVolume("t"),
		{VolumeSource: corev1.VolumeSource{CSI: &corev1.CSIVolumeSource{Driver: "driver"}}},
	}}}
	theirs := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "theirs", UID: "p2"}, Spec: corev1.PodSpec{NodeName: "n2"}}
	labelled := mine.DeepCopy()
	labelled.Labels = map[string]string{"app": "web"}
	leases := schema.GroupResource{Group: coordinationv1.GroupName, Resource: "leases"}
	csiNodes := schema.GroupResource{Group: storagev1.GroupName, Resource: "csinodes"}
	lease := func(namespace, name string) *coordinationv1.Lease {
		return &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
	}
	evict := func(name string) *policyv1.Eviction { return &policyv1.Eviction{ObjectMeta: inNS(name)} }
	claim := func(change func(*corev1.PersistentVolumeClaim)) *corev1.PersistentVolumeClaim {
		c := &corev1.PersistentVolumeClaim{ObjectMeta: inNS("c")}
		if change != nil {
			change(c)
		}
		return c
	}
	plugin := NodeRestriction(fixed{
		podResource:  {mine, theirs},
		nodeResource: {nodeObj(nil)},
		csiDrivers:   {&storagev1.CSIDriver{ObjectMeta: named("driver"), Spec: storagev1.CSIDriverSpec{TokenRequests: []storagev1.TokenRequest{{Audience: "vault"}}}}},
	}, authz.AlwaysDeny{})
	for _, c := range []struct {
		name string
		op   Operation
		gr   schema.GroupResource
		sub  string
		obj  runtime.Object
		old  runtime.Object
		want string
	}{
		{"own node", Create, nodeResource, "", nodeObj(nil), nil, ""},
		{"other node", Create, nodeResource, "", nodeObj(func(n *corev1.Node) { n.Name = "n2" }), nil, `node "n1" is not allowed to modify node "n2"`},
		{"own label", Create, nodeResource, "", nodeObj(label("example.com/x")), nil, ""},
		{"kubelet label", Create, nodeResource, "", nodeObj(label("node.kubernetes.io/x")), nil, ""},
		{"restricted label", Create, nodeResource, "", nodeObj(label("node-restriction.kubernetes.io/x")), nil, `node "n1" is not allowed to set the following labels: node-restriction.kubernetes.io/x`},
		{"restricted label below", Create, nodeResource, "", nodeObj(label("a.node-restriction.kubernetes.io/x")), nil, "is not allowed to set the following labels"},
		{"role label", Create, nodeResource, "", nodeObj(label("node-role.kubernetes.io/control-plane")), nil, "is not allowed to set the following labels: node-role.kubernetes.io/control-plane"},
		{"owner at birth", Create, nodeResource, "", nodeObj(func(n *corev1.Node) { n.OwnerReferences = mirrorPod(nil).OwnerReferences }), nil, "is not allowed to create its Node with ownerReferences"},
		{"status", Update, nodeResource, "status", nodeObj(nil), nodeObj(nil), ""},
		{"taint", Update, nodeResource, "", nodeObj(func(n *corev1.Node) { n.Spec.Taints = []corev1.Taint{{Key: "x"}} }), nodeObj(nil), `node "n1" is not allowed to modify taints`},
		{"taint removed", Update, nodeResource, "", nodeObj(nil), nodeObj(func(n *corev1.Node) { n.Spec.Taints = []corev1.Taint{{Key: "x"}} }), "is not allowed to modify taints"},
		{"owner", Update, nodeResource, "", nodeObj(func(n *corev1.Node) { n.OwnerReferences = mirrorPod(nil).OwnerReferences }), nodeObj(nil), "is not allowed to modify ownerReferences"},
		{"label removed", Update, nodeResource, "", nodeObj(nil), nodeObj(label("node-restriction.kubernetes.io/x")), "is not allowed to modify labels: node-restriction.kubernetes.io/x"},
		{"label kept", Update, nodeResource, "", nodeObj(label("node-role.kubernetes.io/x")), nodeObj(label("node-role.kubernetes.io/x")), ""},

		{"mirror pod", Create, podResource, "", mirrorPod(nil), nil, ""},
		{"pod", Create, podResource, "", mirrorPod(func(p *corev1.Pod) { p.Annotations = nil }), nil, `pod does not have "kubernetes.io/config.mirror" annotation, node "n1" can only create mirror pods`},
		{"mirror pod elsewhere", Create, podResource, "", mirrorPod(func(p *corev1.Pod) { p.Spec.NodeName = "n2" }), nil, "can only create pods with spec.nodeName set to itself"},
		{"mirror pod without owner", Create, podResource, "", mirrorPod(func(p *corev1.Pod) { p.OwnerReferences = nil }), nil, "can only create pods with an owner reference set to itself"},
		{"mirror pod with two owners", Create, podResource, "", mirrorPod(func(p *corev1.Pod) { p.OwnerReferences = append(p.OwnerReferences, p.OwnerReferences[0]) }), nil, "single owner reference"},
		{"mirror pod of another owner", Create, podResource, "", mirrorPod(func(p *corev1.Pod) { p.OwnerReferences[0].Kind = "Pod" }), nil, "owner reference set to itself"},
		{"mirror pod of an old node", Create, podResource, "", mirrorPod(func(p *corev1.Pod) { p.OwnerReferences[0].UID = "old" }), nil, "node n1 UID mismatch: expected old got u1"},
		{"mirror pod with account", Create, podResource, "", mirrorPod(func(p *corev1.Pod) { p.Spec.ServiceAccountName = "x" }), nil, "can not create pods that reference a service account"},
		{"mirror pod with secret", Create, podResource, "", mirrorPod(func(p *corev1.Pod) { p.Spec.ImagePullSecrets = []corev1.LocalObjectReference{{Name: "x"}} }), nil, "can not create pods that reference secrets"},
		{"mirror pod with token", Create, podResource, "", mirrorPod(func(p *corev1.Pod) { p.Spec.Volumes = []corev1.Volume{tokenVolume("x")} }), nil, "can not create pods that reference configmaps"},
		{"mirror pod with device", Create, podResource, "", mirrorPod(func(p *corev1.Pod) { p.Spec.ResourceClaims = []corev1.PodResourceClaim{{Name: "x"}} }), nil, "can not create pods that reference resourceclaims"},
		{"delete own", Delete, podResource, "", nil, mine, ""},
		{"delete other", Delete, podResource, "", nil, theirs, "can only delete pods with spec.nodeName set to itself"},
		{"update", Update, podResource, "", mine, mine, "can only create and delete mirror pods"},
		{"status of own", Update, podResource, "status", mine, mine, ""},
		{"status of other", Update, podResource, "status", theirs, theirs, "can only update pod status for pods with spec.nodeName set to itself"},
		{"labels by status", Update, podResource, "status", labelled, mine, "cannot update labels through pod status"},
		{"ephemeral", Update, podResource, "ephemeralcontainers", mine, mine, `unexpected pod subresource "ephemeralcontainers", only 'status' and 'eviction' are allowed`},
		{"evict own", Create, podResource, "eviction", evict("mine"), nil, ""},
		{"evict other", Create, podResource, "eviction", evict("theirs"), nil, "node n1 can only evict pods with spec.nodeName set to itself"},

		{"token", Create, serviceAccounts, "token", tokenFor("mine", "p1"), nil, ""},
		{"token for driver", Create, serviceAccounts, "token", tokenFor("mine", "p1", "vault"), nil, ""},
		{"token for a stranger", Create, serviceAccounts, "token", tokenFor("mine", "p1", "stranger"), nil, `audience "stranger" not found in pod spec volume, system:node:n1 is not authorized to request tokens for this audience`},
		{"token for two", Create, serviceAccounts, "token", tokenFor("mine", "p1", "a", "b"), nil, "node may only request 0 or 1 audiences"},
		{"token of other pod", Create, serviceAccounts, "token", tokenFor("theirs", "p2"), nil, "node requested token bound to a pod scheduled on a different node"},
		{"token of old pod", Create, serviceAccounts, "token", tokenFor("mine", "old"), nil, "does not match the UID in record"},
		{"token without uid", Create, serviceAccounts, "token", tokenFor("mine", ""), nil, "node requested token with a pod binding without a uid"},
		{"token unbound", Create, serviceAccounts, "token", &authenticationv1.TokenRequest{ObjectMeta: inNS("robot")}, nil, "node requested token not bound to a pod"},

		{"lease", Update, leases, "", lease("kube-node-lease", "n1"), nil, ""},
		{"lease of other", Create, leases, "", lease("kube-node-lease", "n2"), nil, "can only access node lease with the same name as the requesting node"},
		{"lease elsewhere", Create, leases, "", lease("kube-system", "n1"), nil, `can only access leases in the "kube-node-lease" system namespace`},
		{"csi node", Create, csiNodes, "", &storagev1.CSINode{ObjectMeta: named("n1")}, nil, ""},
		{"csi node of other", Create, csiNodes, "", &storagev1.CSINode{ObjectMeta: named("n2")}, nil, "can only access CSINode with the same name as the requesting node"},
		{"claim capacity", Update, node.PersistentVolumeClaims, "status", claim(func(c *corev1.PersistentVolumeClaim) { c.Status.Capacity = corev1.ResourceList{} }), claim(nil), ""},
		{"claim phase", Update, node.PersistentVolumeClaims, "status", claim(func(c *corev1.PersistentVolumeClaim) { c.Status.Phase = "Bound" }), claim(nil), "is not allowed to update fields other than status.capacity and status.conditions"},
	} {
		a := write(c.op, c.gr, c.sub, c.obj, c.old)
		a.User = &request.User{Name: "system:node:n1", Groups: []string{request.GroupNodes}}
		wants(t, c.name, admit(plugin, a), c.want)
		a.User = &request.User{Name: "system:kube-controller-manager"}
		wants(t, c.name+", by another", admit(plugin, a), "")
	}
}
