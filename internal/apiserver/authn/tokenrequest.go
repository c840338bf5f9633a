package authn

import (
	"context"
	"fmt"
	"slices"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"skiff.dev/skiff/internal/apiserver/request"
	"skiff.dev/skiff/internal/check"
	"skiff.dev/skiff/internal/meta"
	"skiff.dev/skiff/internal/resource"
)

const (
	defaultExpirationSeconds = 3600
	minExpirationSeconds     = 10 * 60
	maxExpirationSeconds     = 1 << 32
	// injectedExpirationSeconds is what the ServiceAccount admission plugin asks
	// for: an odd number, by which its tokens are told from others.
	injectedExpirationSeconds = 3607
	extendedExpiration        = 365 * 24 * time.Hour
)

// TokenAction is the subresource token of service accounts.
// https://kubernetes.io/docs/reference/kubernetes-api/authentication-resources/token-request-v1/
func TokenAction(issuer *Issuer) *resource.Action {
	return &resource.Action{
		Name: "token",
		Kind: authenticationv1.SchemeGroupVersion.WithKind("TokenRequest"),
		Body: func() runtime.Object { return &authenticationv1.TokenRequest{} },
		Do: func(ctx context.Context, a resource.Access, key meta.Key, body runtime.Object) (runtime.Object, error) {
			req, ok := body.(*authenticationv1.TokenRequest)
			if !ok {
				return nil, apierrors.NewBadRequest(fmt.Sprintf("not a TokenRequest: %T", body))
			}
			out, err := TokenRequest(ctx, issuer, a, key, req)
			if err != nil {
				return nil, err // and not a nil *TokenRequest
			}
			if a.DryRun() {
				out.Status.Token = "" // a token that was issued could be used
			}
			return out, nil
		},
	}
}

// TokenRequest answers req for the service account of key. req is not changed.
func TokenRequest(ctx context.Context, issuer *Issuer, objects Reader, key meta.Key, req *authenticationv1.TokenRequest) (*authenticationv1.TokenRequest, error) {
	out := req.DeepCopy()
	if err := prepareTokenRequest(issuer, key, out); err != nil {
		return nil, err
	}
	obj, err := objects.Get(ctx, serviceAccounts, key)
	if err != nil {
		return nil, err
	}
	sa, ok := obj.(*corev1.ServiceAccount)
	if !ok {
		return nil, apierrors.NewInternalError(fmt.Errorf("reading service account %s: got %T", key, obj))
	}
	b, err := bind(ctx, objects, sa, out.Spec.BoundObjectRef)
	if err != nil {
		return nil, err
	}
	asked := *out.Spec.ExpirationSeconds
	injected := b.pod != nil && slices.Equal(out.Spec.Audiences, issuer.Audiences())
	life, warnAfter := issuer.lifetime(asked, injected)
	shown := life
	if warnAfter > 0 {
		shown = warnAfter
	}
	if got := int64(shown / time.Second); got < asked {
		request.Warn(ctx, fmt.Sprintf("requested expiration of %d seconds shortened to %d seconds", asked, got))
		*out.Spec.ExpirationSeconds = got
	}
	now := time.Now()
	token, err := issuer.bound(sa, b, out.Spec.Audiences, now, life, warnAfter)
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	out.Status = authenticationv1.TokenRequestStatus{Token: token, ExpirationTimestamp: metav1.NewTime(now.Add(shown))}
	return out, nil
}

// prepareTokenRequest sets the defaults of req and validates it.
func prepareTokenRequest(issuer *Issuer, key meta.Key, req *authenticationv1.TokenRequest) error {
	if req.Name == "" {
		req.Name = key.Name
	}
	if req.Namespace == "" {
		req.Namespace = key.Namespace
	}
	if req.Name != key.Name || req.Namespace != key.Namespace {
		return apierrors.NewBadRequest(fmt.Sprintf("the name and namespace of the token request (%s/%s) do not match the URL (%s)", req.Namespace, req.Name, key))
	}
	req.CreationTimestamp = metav1.Now()
	if len(req.Spec.Audiences) == 0 {
		req.Spec.Audiences = slices.Clone(issuer.Audiences())
	}
	if req.Spec.ExpirationSeconds == nil {
		seconds := int64(defaultExpirationSeconds)
		req.Spec.ExpirationSeconds = &seconds
	}
	r := check.NewReport()
	at := r.At("spec", "expirationSeconds")
	switch seconds := *req.Spec.ExpirationSeconds; {
	case seconds < minExpirationSeconds:
		at.Invalid(seconds, "may not specify a duration less than 10 minutes")
	case seconds > maxExpirationSeconds:
		at.Invalid(seconds, "may not specify a duration larger than 2^32 seconds")
	}
	if r.Failed() {
		return apierrors.NewInvalid(schema.GroupKind{Group: authenticationv1.GroupName, Kind: "TokenRequest"}, "", r.Errors())
	}
	return nil
}

// bind finds the object that a token is to depend on.
func bind(ctx context.Context, objects Reader, sa *corev1.ServiceAccount, to *authenticationv1.BoundObjectReference) (binding, error) {
	if to == nil {
		return binding{}, nil
	}
	gvk := schema.FromAPIVersionAndKind(to.APIVersion, to.Kind)
	var b binding
	var uid types.UID
	switch gvk {
	case corev1.SchemeGroupVersion.WithKind("Pod"):
		pod, err := get[*corev1.Pod](ctx, objects, pods, meta.Key{Namespace: sa.Namespace, Name: to.Name})
		if err != nil {
			return b, err
		}
		if pod.Spec.ServiceAccountName != sa.Name {
			return b, apierrors.NewBadRequest(fmt.Sprintf("cannot bind token for serviceaccount %q to pod running with different serviceaccount name.", sa.Name))
		}
		uid, b.pod = pod.UID, &ref{pod.Name, pod.UID}
		if name := pod.Spec.NodeName; name != "" {
			b.node = &ref{Name: name}
			node, err := get[*corev1.Node](ctx, objects, nodes, meta.Key{Name: name})
			if err == nil {
				b.node.UID = node.UID
			} else if !apierrors.IsNotFound(err) {
				return b, err
			}
		}
	case corev1.SchemeGroupVersion.WithKind("Node"):
		node, err := get[*corev1.Node](ctx, objects, nodes, meta.Key{Name: to.Name})
		if err != nil {
			return b, err
		}
		uid, b.node = node.UID, &ref{node.Name, node.UID}
	case corev1.SchemeGroupVersion.WithKind("Secret"):
		secret, err := get[*corev1.Secret](ctx, objects, secrets, meta.Key{Namespace: sa.Namespace, Name: to.Name})
		if err != nil {
			return b, err
		}
		uid, b.secret = secret.UID, &ref{secret.Name, secret.UID}
	default:
		return b, apierrors.NewBadRequest(fmt.Sprintf("cannot bind token to object of type %s", gvk))
	}
	if to.UID != "" && to.UID != uid {
		return b, apierrors.NewConflict(schema.GroupResource{Group: gvk.Group, Resource: gvk.Kind}, to.Name,
			fmt.Errorf("the UID in the bound object reference (%s) does not match the UID in record. The object might have been deleted and then recreated", to.UID))
	}
	return b, nil
}

// get reads an object whose Go type is known.
func get[T meta.Object](ctx context.Context, objects Reader, gr schema.GroupResource, key meta.Key) (T, error) {
	var none T
	obj, err := objects.Get(ctx, gr, key)
	if err != nil {
		return none, err
	}
	t, ok := obj.(T)
	if !ok {
		return none, fmt.Errorf("reading %s %s: got %T", gr, key, obj)
	}
	return t, nil
}
