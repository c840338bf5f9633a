package admission

import (
	"context"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"skiff.dev/skiff/internal/apiserver/authz"
	"skiff.dev/skiff/internal/apiserver/authz/node"
	"skiff.dev/skiff/internal/apiserver/request"
	"skiff.dev/skiff/internal/meta"
)

var (
	csiDrivers        = schema.GroupResource{Group: storagev1.GroupName, Resource: "csidrivers"}
	persistentVolumes = schema.GroupResource{Resource: "persistentvolumes"}
)

// token checks a token that a node asks for: it must be bound to a pod on the
// node, and be for an audience that the pod asks for.
func (r restriction) token(ctx context.Context, name string, a *Attributes) error {
	req, ok := a.Object.(*authenticationv1.TokenRequest)
	if !ok {
		return apierrors.NewBadRequest("not a TokenRequest")
	}
	to := req.Spec.BoundObjectRef
	if to == nil || to.APIVersion != "v1" || to.Kind != "Pod" || to.Name == "" {
		return forbid(a, "node requested token not bound to a pod")
	}
	if to.UID == "" {
		return forbid(a, "node requested token with a pod binding without a uid")
	}
	p, err := get[*corev1.Pod](ctx, r.objects, podResource, meta.Key{Namespace: a.Namespace, Name: to.Name})
	if err != nil {
		return err
	}
	if to.UID != p.UID {
		return forbid(a, "the UID in the bound object reference (%s) does not match the UID in record. The object might have been deleted and then recreated", to.UID)
	}
	if p.Spec.NodeName != name {
		return forbid(a, "node requested token bound to a pod scheduled on a different node")
	}
	return r.audience(ctx, name, a, p, req.Spec.Audiences)
}

func (r restriction) audience(ctx context.Context, name string, a *Attributes, p *corev1.Pod, audiences []string) error {
	if len(audiences) > 1 {
		return forbid(a, "node may only request 0 or 1 audiences")
	}
	audience := ""
	if len(audiences) == 1 {
		audience = audiences[0]
	}
	found, err := r.podWants(ctx, p, audience)
	if err != nil {
		return forbid(a, "error validating audience %q: %w", audience, err)
	}
	if found {
		return nil
	}
	d, _, err := r.authorizer.Authorize(ctx, a.User, &request.Info{
		IsResource: true, Verb: "request-serviceaccounts-token-audience", Version: "v1",
		Resource: audience, Namespace: a.Namespace, Name: a.Name,
	})
	if d == authz.Allow && err == nil {
		return nil
	}
	return forbid(a, "audience %q not found in pod spec volume, %s is not authorized to request tokens for this audience", audience, "system:node:"+name)
}

// podWants reports whether a volume of p needs a token for the audience:
// projected ones say so, those of CSI drivers have it in the driver's object.
func (r restriction) podWants(ctx context.Context, p *corev1.Pod, audience string) (bool, error) {
	for i := range p.Spec.Volumes {
		v := &p.Spec.Volumes[i]
		if v.Projected != nil {
			for _, s := range v.Projected.Sources {
				if s.ServiceAccountToken != nil && s.ServiceAccountToken.Audience == audience {
					return true, nil
				}
			}
			continue
		}
		driver, err := r.driverOf(ctx, p, v)
		if err != nil {
			return false, err
		}
		if driver == "" {
			continue
		}
		d, err := get[*storagev1.CSIDriver](ctx, r.objects, csiDrivers, meta.Key{Name: driver})
		if apierrors.IsNotFound(err) {
			continue
		}
		if err != nil {
			return false, err
		}
		for _, t := range d.Spec.TokenRequests {
			if t.Audience == audience {
				return true, nil
			}
		}
	}
	return false, nil
}

// driverOf returns the CSI driver behind a volume, "" if there is none.
func (r restriction) driverOf(ctx context.Context, p *corev1.Pod, v *corev1.Volume) (string, error) {
	claim := ""
	switch {
	case v.CSI != nil:
		return v.CSI.Driver, nil
	case v.PersistentVolumeClaim != nil:
		claim = v.PersistentVolumeClaim.ClaimName
	case v.Ephemeral != nil:
		claim = p.Name + "-" + v.Name
	default:
		return "", nil
	}
	c, err := get[*corev1.PersistentVolumeClaim](ctx, r.objects, node.PersistentVolumeClaims, meta.Key{Namespace: p.Namespace, Name: claim})
	if err != nil {
		return "", ignoreNotFound(err)
	}
	pv, err := get[*corev1.PersistentVolume](ctx, r.objects, persistentVolumes, meta.Key{Name: c.Spec.VolumeName})
	if err != nil {
		return "", ignoreNotFound(err)
	}
	if pv.Spec.CSI == nil {
		return "", nil
	}
	return pv.Spec.CSI.Driver, nil
}

func ignoreNotFound(err error) error {
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}
