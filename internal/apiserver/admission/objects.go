package admission

import (
	"context"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"skiff.dev/skiff/internal/apiserver/authz"
	"skiff.dev/skiff/internal/apiserver/authz/rbac"
	"skiff.dev/skiff/internal/meta"
)

// Objects reads what plugins decide by. It may answer from a cache, but must
// have asked the store before it answers NotFound. Objects are read-only.
type Objects interface {
	Get(ctx context.Context, gr schema.GroupResource, key meta.Key) (meta.Object, error)
	// List returns all objects of a namespace ("" for all).
	List(ctx context.Context, gr schema.GroupResource, namespace string) ([]meta.Object, error)
}

// Deps are what the default plugins need.
type Deps struct {
	Objects    Objects
	Authorizer authz.Authorizer
	// Rules knows who has which rights by RBAC.
	Rules *rbac.Authorizer
	// Await returns an object as soon as it exists, or an error once ctx is done.
	// It lets a pod that is created right after its namespace wait for the
	// service account controller. Nil means not to wait.
	Await func(ctx context.Context, gr schema.GroupResource, key meta.Key) (meta.Object, error)
}

// Default returns the plugins that run unless configured otherwise, in the
// order in which they run: what refuses comes before what fills in.
func Default(d Deps) Chain {
	return Chain{
		NamespaceLifecycle(d.Objects),
		ServiceAccount(d.Objects, d.Await),
		NodeRestriction(d.Objects, d.Authorizer),
		TaintNodesByCondition(),
		PodSecurity(d.Objects),
		Priority(d.Objects),
		DefaultTolerationSeconds(),
		RuntimeClass(d.Objects),
		CertificateApproval(d.Authorizer),
		CertificateSigning(d.Authorizer),
		CertificateSubjectRestriction(),
		RBACEscalation(d.Rules, d.Authorizer),
	}
}

var (
	podResource       = schema.GroupResource{Resource: "pods"}
	nodeResource      = schema.GroupResource{Resource: "nodes"}
	namespaceResource = schema.GroupResource{Resource: "namespaces"}
)

// forbidden is the 403 of a plugin.
func forbidden(a *Attributes, err error) *apierrors.StatusError {
	return apierrors.NewForbidden(a.Resource.GroupResource(), nameOf(a), err)
}

func forbid(a *Attributes, format string, args ...any) *apierrors.StatusError {
	return forbidden(a, fmt.Errorf(format, args...))
}

// nameOf returns how to call the object: when it is created its name may still
// be in the body only, or be generated later.
func nameOf(a *Attributes) string {
	if a.Name != "" {
		return a.Name
	}
	o, err := apimeta.Accessor(a.Object)
	switch {
	case err != nil:
		return "Unknown"
	case o.GetName() != "":
		return o.GetName()
	default:
		return o.GetGenerateName()
	}
}

// get reads an object whose Go type is known.
func get[T meta.Object](ctx context.Context, objects Objects, gr schema.GroupResource, key meta.Key) (T, error) {
	var none T
	obj, err := objects.Get(ctx, gr, key)
	if err != nil {
		return none, err
	}
	t, ok := obj.(T)
	if !ok {
		return none, apierrors.NewInternalError(fmt.Errorf("reading %s %s: got %T", gr, key, obj))
	}
	return t, nil
}

var errNotPod = errors.New("resource was marked with kind Pod but was unable to be converted")

// podOf returns the pod that is written.
func podOf(a *Attributes) (*corev1.Pod, error) {
	p, ok := a.Object.(*corev1.Pod)
	if !ok {
		return nil, apierrors.NewBadRequest(errNotPod.Error())
	}
	return p, nil
}

// createsPod and the like are what Handles of many plugins asks for.
func createsPod(a *Attributes) bool {
	return a.Resource.GroupResource() == podResource && a.Subresource == "" && a.Operation == Create
}

func writesPod(a *Attributes) bool {
	return a.Resource.GroupResource() == podResource && a.Subresource == "" && (a.Operation == Create || a.Operation == Update)
}
