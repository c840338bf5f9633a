// Package bootstraptoken knows the Secrets by which new nodes join. One
// controller deletes those that have expired: it reads and deletes Secrets of
// kube-system. Another signs with them the ConfigMap by which new nodes find
// the cluster: it reads them and writes kube-public/cluster-info.
// https://kubernetes.io/docs/reference/access-authn-authz/bootstrap-tokens/
package bootstraptoken

import (
	"context"
	"log/slog"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff.dev/skiff/internal/client"
	"skiff.dev/skiff/internal/controller"
	"skiff.dev/skiff/internal/meta"
)

// What a token's Secret is called and holds.
const (
	NamePrefix     = "bootstrap-token-" // and the token's ID
	Type           = corev1.SecretType("bootstrap.kubernetes.io/token")
	KeyID          = "token-id"
	KeySecret      = "token-secret"
	KeyExpiration  = "expiration" // RFC 3339; none means never
	KeyDescription = "description"
	KeyUsagePrefix = "usage-bootstrap-" // and "authentication" or "signing": "true"
	KeyGroups      = "auth-extra-groups"
)

// Expiration returns when a token ends; ok is false if it never does. What is
// not a time has ended already, as for authentication.
func Expiration(s *corev1.Secret) (end time.Time, ok bool) {
	text := string(s.Data[KeyExpiration])
	if text == "" {
		return time.Time{}, false
	}
	end, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return time.Time{}, true
	}
	return end, true
}

type cleaner struct {
	client  *client.Client
	secrets client.Cache[*corev1.Secret]
}

// New returns the controller that deletes expired tokens.
func New(c *client.Client) *controller.Controller {
	cl := &cleaner{client: c}
	return controller.Keyed(c, "token-cleaner", cl.reconcile,
		controller.MapsWithin(&cl.secrets, metav1.NamespaceSystem, func(ch client.Change[*corev1.Secret]) []meta.Key {
			if s := ch.Object(); s.Namespace == metav1.NamespaceSystem && s.Type == Type && !ch.Deleted {
				return []meta.Key{meta.KeyOf(s)}
			}
			return nil
		}),
		controller.Workers(1),
		controller.Writes("", "secrets", "delete"),
	)
}

func (cl *cleaner) reconcile(ctx context.Context, key meta.Key) (controller.Result, error) {
	s, ok := cl.secrets.Get(key.Namespace, key.Name)
	if !ok {
		return controller.Result{}, nil
	}
	end, ends := Expiration(s)
	if !ends {
		return controller.Result{}, nil
	}
	if left := time.Until(end); left > 0 {
		return controller.Result{After: left}, nil
	}
	err := client.For[*corev1.Secret](cl.client).Delete(ctx, s.Namespace, s.Name, metav1.DeleteOptions{
		Preconditions: &metav1.Preconditions{UID: &s.UID, ResourceVersion: &s.ResourceVersion},
	})
	if apierrors.IsNotFound(err) {
		err = nil
	}
	if err == nil {
		slog.Info("deleted an expired bootstrap token", "secret", s.Name)
	}
	return controller.Result{}, err
}
