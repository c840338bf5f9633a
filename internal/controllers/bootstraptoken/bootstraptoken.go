// Package bootstraptoken deletes the tokens by which nodes join once they have
// expired. It reads and deletes Secrets.
//
// https://kubernetes.io/docs/reference/access-authn-authz/bootstrap-tokens/
package bootstraptoken

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff.dev/skiff/internal/client"
	"skiff.dev/skiff/internal/controller"
)

// What makes a Secret a bootstrap token, and when it expires.
const (
	secretType = "bootstrap.kubernetes.io/token"
	expiration = "expiration"
)

type cleaner struct {
	client  *client.Client
	secrets client.Cache[*corev1.Secret]
}

// New returns the token cleaner.
func New(c *client.Client) *controller.Controller {
	t := &cleaner{client: c}
	return controller.New(c, "token-cleaner", &t.secrets, t.reconcile,
		controller.Workers(1),
		controller.Writes("", "secrets", "delete"),
	)
}

func (t *cleaner) reconcile(ctx context.Context, s *corev1.Secret) (controller.Result, error) {
	if s.Namespace != metav1.NamespaceSystem || s.Type != secretType || len(s.Data[expiration]) == 0 {
		return controller.Result{}, nil
	}
	// What cannot be read has expired: authentication sees it the same way.
	at, err := time.Parse(time.RFC3339, string(s.Data[expiration]))
	if left := time.Until(at); err == nil && left > 0 {
		return controller.Result{After: left}, nil
	}
	err = client.For[*corev1.Secret](t.client).Delete(ctx, s.Namespace, s.Name, metav1.DeleteOptions{
		Preconditions: &metav1.Preconditions{UID: &s.UID, ResourceVersion: &s.ResourceVersion},
	})
	if apierrors.IsNotFound(err) {
		err = nil
	}
	return controller.Result{}, err
}
