package admission

import (
	"context"
	"slices"
	"strings"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	resourcev1 "k8s.io/api/resource/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"skiff.dev/skiff/internal/apiserver/authz"
	"skiff.dev/skiff/internal/apiserver/authz/node"
	"skiff.dev/skiff/internal/meta"
)

// NodeRestriction limits what a kubelet may write: its own node without the
// labels, taints and owners that others rely on, bare mirror pods, the status
// of its pods, tokens for them, its own lease. It is the other half of the Node
// authorizer, which does not see the objects.
// https://kubernetes.io/docs/reference/access-authn-authz/admission-controllers/#noderestriction
func NodeRestriction(objects Objects, a authz.Authorizer) *Plugin {
	r := restriction{objects, a}
	return &Plugin{
		Name:     "NodeRestriction",
		Handles:  func(a *Attributes) bool { return a.Operation != Connect },
		Validate: r.check,
	}
}

type restriction struct {
	objects    Objects
	authorizer authz.Authorizer
}

func (r restriction) check(ctx context.Context, a *Attributes) error {
	name, is := node.NameOf(a.User)
	if !is {
		return nil
	}
	if name == "" {
		return forbid(a, "could not determine node from user %q", a.User.Name)
	}
	switch a.Resource.GroupResource() {
	case podResource:
		return r.pods(ctx, name, a)
	case nodeResource:
		return restrictNode(name, a)
	case node.PersistentVolumeClaims:
		return restrictClaim(name, a)
	case serviceAccounts:
		if a.Subresource == "token" && a.Operation == Create {
			return r.token(ctx, name, a)
		}
	case schema.GroupResource{Group: coordinationv1.GroupName, Resource: "leases"}:
		if a.Namespace != corev1.NamespaceNodeLease {
			return forbid(a, "can only access leases in the %q system namespace", corev1.NamespaceNodeLease)
		}
		if objectName(a) != name {
			return forbid(a, "can only access node lease with the same name as the requesting node")
		}
	case schema.GroupResource{Group: storagev1.GroupName, Resource: "csinodes"}:
		if objectName(a) != name {
			return forbid(a, "can only access CSINode with the same name as the requesting node")
		}
	case node.ResourceSlices:
		return restrictSlice(name, a)
	}
	return nil
}

func restrictSlice(name string, a *Attributes) error {
	verb, obj := "create", a.Object
	switch a.Operation {
	case Update:
		verb = "update"
	case Delete:
		verb, obj = "delete", a.Old
	}
	s, ok := obj.(*resourcev1.ResourceSlice)
	if !ok || s.Spec.NodeName == nil || *s.Spec.NodeName != name {
		return forbid(a, "can only %s ResourceSlice with the same NodeName as the requesting node", verb)
	}
	return nil
}

func restrictClaim(name string, a *Attributes) error {
	if a.Operation != Update {
		return forbid(a, "unexpected operation %q", a.Operation)
	}
	if a.Subresource != "status" {
		return forbid(a, "node %q may only update PVC status", name)
	}
	claim, ok := a.Object.(*corev1.PersistentVolumeClaim)
	old, ok2 := a.Old.(*corev1.PersistentVolumeClaim)
	if !ok || !ok2 {
		return apierrors.NewBadRequest("not a PersistentVolumeClaim")
	}
	now, was := claim.DeepCopy(), old.DeepCopy()
	for _, c := range []*corev1.PersistentVolumeClaim{now, was} {
		c.ResourceVersion, c.ManagedFields = "", nil
		c.Status.Capacity, c.Status.Conditions = nil, nil
		c.Status.AllocatedResources, c.Status.AllocatedResourceStatuses = nil, nil
	}
	if !equality.Semantic.DeepEqual(now, was) {
		return forbid(a, "node %q is not allowed to update fields other than status.capacity and status.conditions", name)
	}
	return nil
}

func restrictNode(name string, a *Attributes) error {
	if asked := objectName(a); asked != name {
		return forbid(a, "node %q is not allowed to modify node %q", name, asked)
	}
	n, ok := a.Object.(*corev1.Node)
	if !ok { // a delete, which the authorizer refuses
		return nil
	}
	switch a.Operation {
	case Create:
		if len(n.OwnerReferences) > 0 {
			return forbid(a, "node %q is not allowed to create its Node with ownerReferences", name)
		}
		if bad := reservedLabels(n.Labels, nil); len(bad) > 0 {
			return forbid(a, "node %q is not allowed to set the following labels: %s", name, strings.Join(bad, ", "))
		}
	case Update:
		old, ok := a.Old.(*corev1.Node)
		if !ok {
			return apierrors.NewBadRequest("not a Node")
		}
		if !equality.Semantic.DeepEqual(n.Spec.Taints, old.Spec.Taints) {
			return forbid(a, "node %q is not allowed to modify taints", name)
		}
		if !equality.Semantic.DeepEqual(n.OwnerReferences, old.OwnerReferences) {
			return forbid(a, "node %q is not allowed to modify ownerReferences", name)
		}
		if bad := reservedLabels(n.Labels, old.Labels); len(bad) > 0 {
			return forbid(a, "node %q is not allowed to modify labels: %s", name, strings.Join(bad, ", "))
		}
	}
	return nil
}

// reservedLabels returns the labels that differ and that a node may not choose
// for itself: by them pods are steered to it or kept away.
func reservedLabels(now, was map[string]string) []string {
	var bad []string
	consider := func(key string) {
		if !nodeOwnsLabel(key) && !slices.Contains(bad, key) {
			bad = append(bad, key)
		}
	}
	for key, value := range now {
		if old, ok := was[key]; !ok || old != value {
			consider(key)
		}
	}
	for key := range was {
		if _, ok := now[key]; !ok {
			consider(key)
		}
	}
	slices.Sort(bad)
	return bad
}

// nodeOwnsLabel: labels outside of Kubernetes' domains are free, within them
// those that describe the machine.
func nodeOwnsLabel(key string) bool {
	domain, _, ok := strings.Cut(key, "/")
	if !ok {
		return true
	}
	within := func(parent string) bool { return domain == parent || strings.HasSuffix(domain, "."+parent) }
	switch {
	case within("node-restriction.kubernetes.io"):
		return false
	case within("kubelet.kubernetes.io"), within("node.kubernetes.io"):
		return true
	case !within("kubernetes.io") && !within("k8s.io"):
		return true
	}
	switch key {
	case corev1.LabelHostname, corev1.LabelOSStable, corev1.LabelArchStable,
		corev1.LabelTopologyZone, corev1.LabelTopologyRegion,
		corev1.LabelFailureDomainBetaZone, corev1.LabelFailureDomainBetaRegion,
		corev1.LabelInstanceType, "beta.kubernetes.io/os", "beta.kubernetes.io/arch":
		return true
	}
	return false
}

func (r restriction) pods(ctx context.Context, name string, a *Attributes) error {
	switch a.Subresource {
	case "":
		switch a.Operation {
		case Create:
			return r.mirrorPod(ctx, name, a)
		case Delete:
			p, ok := a.Old.(*corev1.Pod)
			if !ok || p.Spec.NodeName != name {
				return forbid(a, "node %q can only delete pods with spec.nodeName set to itself", name)
			}
			return nil
		}
		return forbid(a, "unexpected operation %q, node %q can only create and delete mirror pods", a.Operation, name)
	case "status":
		return restrictPodStatus(name, a)
	case "eviction":
		return r.eviction(ctx, name, a)
	}
	return forbid(a, "unexpected pod subresource %q, only 'status' and 'eviction' are allowed", a.Subresource)
}

func restrictPodStatus(name string, a *Attributes) error {
	p, ok := a.Object.(*corev1.Pod)
	old, ok2 := a.Old.(*corev1.Pod)
	if a.Operation != Update || !ok || !ok2 {
		return forbid(a, "unexpected operation %q", a.Operation)
	}
	switch {
	case old.Spec.NodeName != name:
		return forbid(a, "node %q can only update pod status for pods with spec.nodeName set to itself", name)
	case !equality.Semantic.DeepEqual(p.Labels, old.Labels):
		return forbid(a, "node %q cannot update labels through pod status", name)
	case !equality.Semantic.DeepEqual(p.Status.ResourceClaimStatuses, old.Status.ResourceClaimStatuses):
		return forbid(a, "node %q cannot update resource claim statuses", name)
	case !equality.Semantic.DeepEqual(p.Status.ExtendedResourceClaimStatus, old.Status.ExtendedResourceClaimStatus):
		return forbid(a, "node %q cannot update extended resource claim statuses", name)
	}
	return nil
}

func (r restriction) eviction(ctx context.Context, name string, a *Attributes) error {
	e, ok := a.Object.(*policyv1.Eviction)
	if !ok || a.Operation != Create {
		return forbid(a, "unexpected operation %q", a.Operation)
	}
	pod := a.Name
	if pod == "" {
		pod = e.Name
	}
	p, err := get[*corev1.Pod](ctx, r.objects, podResource, meta.Key{Namespace: a.Namespace, Name: pod})
	if err != nil {
		return err
	}
	if p.Spec.NodeName != name {
		return forbid(a, "node %s can only evict pods with spec.nodeName set to itself", name)
	}
	return nil
}

// mirrorPod checks a pod that the node creates: the image of a static pod, with
// nothing that would open other objects to the node.
func (r restriction) mirrorPod(ctx context.Context, name string, a *Attributes) error {
	p, err := podOf(a)
	if err != nil {
		return err
	}
	if _, ok := p.Annotations[corev1.MirrorPodAnnotationKey]; !ok {
		return forbid(a, "pod does not have %q annotation, node %q can only create mirror pods", corev1.MirrorPodAnnotationKey, name)
	}
	if p.Spec.NodeName != name {
		return forbid(a, "node %q can only create pods with spec.nodeName set to itself", name)
	}
	if err := r.mirrorOwner(ctx, name, a, p.OwnerReferences); err != nil {
		return err
	}
	if p.Spec.ServiceAccountName != "" {
		return forbid(a, "node %q can not create pods that reference a service account", name)
	}
	for _, gr := range []schema.GroupResource{node.Secrets, node.ConfigMaps, node.PersistentVolumeClaims} {
		if refersTo(p, gr) {
			return forbid(a, "node %q can not create pods that reference %s", name, gr.Resource)
		}
	}
	if len(p.Spec.ResourceClaims) > 0 || refersTo(p, node.ResourceClaims) {
		return forbid(a, "node %q can not create pods that reference resourceclaims", name)
	}
	for i := range p.Spec.Volumes {
		if hasTrustBundle(&p.Spec.Volumes[i]) {
			return forbid(a, "node %q can not create pods that reference clustertrustbundles", name)
		}
	}
	return nil
}

func hasTrustBundle(v *corev1.Volume) bool {
	return v.Projected != nil && slices.ContainsFunc(v.Projected.Sources, func(s corev1.VolumeProjection) bool {
		return s.ClusterTrustBundle != nil
	})
}

// mirrorOwner checks that the node itself, as it is now, owns the pod: who
// could name another owner could have the garbage collector delete things.
func (r restriction) mirrorOwner(ctx context.Context, name string, a *Attributes, owners []metav1.OwnerReference) error {
	if len(owners) > 1 {
		return forbid(a, "node %q can only create pods with a single owner reference set to itself", name)
	}
	if len(owners) == 0 {
		return forbid(a, "node %q can only create pods with an owner reference set to itself", name)
	}
	owner := owners[0]
	switch {
	case owner.APIVersion != "v1" || owner.Kind != "Node" || owner.Name != name:
		return forbid(a, "node %q can only create pods with an owner reference set to itself", name)
	case owner.Controller == nil || !*owner.Controller:
		return forbid(a, "node %q can only create pods with a controller owner reference set to itself", name)
	case owner.BlockOwnerDeletion != nil && *owner.BlockOwnerDeletion:
		return forbid(a, "node %q must not set blockOwnerDeletion on an owner reference", name)
	}
	n, err := get[*corev1.Node](ctx, r.objects, nodeResource, meta.Key{Name: name})
	if err != nil {
		return err
	}
	if owner.UID != n.UID {
		return forbid(a, "node %s UID mismatch: expected %s got %s", name, owner.UID, n.UID)
	}
	return nil
}
