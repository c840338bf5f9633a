package admission

import (
	"context"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"skiff.dev/skiff/internal/meta"
)

// NamespaceLifecycle refuses to write into a namespace that does not exist, to
// create in one that is being deleted, and to delete the namespaces without
// which a cluster does not work.
// https://kubernetes.io/docs/reference/access-authn-authz/admission-controllers/#namespacelifecycle
func NamespaceLifecycle(objects Objects) *Plugin {
	return &Plugin{
		Name:    "NamespaceLifecycle",
		Handles: func(a *Attributes) bool { return a.Operation != Connect },
		Mutate: func(ctx context.Context, a *Attributes) error {
			if a.Resource.GroupResource() == namespaceResource {
				return guardImmortal(a)
			}
			// What is left in a namespace may always be deleted, and an access
			// review asks about a namespace without writing to it.
			if a.Namespace == "" || a.Operation == Delete || isAccessReview(a) {
				return nil
			}
			ns, err := get[*corev1.Namespace](ctx, objects, namespaceResource, meta.Key{Name: a.Namespace})
			if err != nil {
				return err
			}
			if a.Operation == Create && (ns.Status.Phase == corev1.NamespaceTerminating || ns.DeletionTimestamp != nil) {
				return terminating(a)
			}
			return nil
		},
	}
}

func guardImmortal(a *Attributes) error {
	if a.Operation != Delete {
		return nil
	}
	switch a.Name {
	case metav1.NamespaceDefault, metav1.NamespaceSystem, metav1.NamespacePublic:
		return forbidden(a, errors.New("this namespace may not be deleted"))
	}
	return nil
}

func isAccessReview(a *Attributes) bool {
	return a.Resource.GroupResource() == schema.GroupResource{Group: "authorization.k8s.io", Resource: "localsubjectaccessreviews"}
}

func terminating(a *Attributes) error {
	err := forbid(a, "unable to create new content in namespace %s because it is being terminated", a.Namespace)
	err.ErrStatus.Details.Causes = append(err.ErrStatus.Details.Causes, metav1.StatusCause{
		Type:    corev1.NamespaceTerminatingCause,
		Message: fmt.Sprintf("namespace %s is being terminated", a.Namespace),
		Field:   "metadata.namespace",
	})
	return err
}
