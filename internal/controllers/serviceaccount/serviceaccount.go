// Package serviceaccount sees to it that every namespace has the service
// account "default". It reads namespaces and service accounts and creates the
// latter.
//
// https://kubernetes.io/docs/reference/access-authn-authz/service-accounts-admin/
package serviceaccount

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff.dev/skiff/internal/client"
	"skiff.dev/skiff/internal/controller"
	"skiff.dev/skiff/internal/meta"
)

// name of the account that pods run as unless they name another.
const name = "default"

type serviceAccounts struct {
	client     *client.Client
	namespaces client.Cache[*corev1.Namespace]
	accounts   client.Cache[*corev1.ServiceAccount]
}

// New returns the service account controller.
func New(c *client.Client) *controller.Controller {
	s := &serviceAccounts{client: c}
	return controller.New(c, "serviceaccount", &s.namespaces, s.reconcile,
		controller.Maps(&s.accounts, func(ch client.Change[*corev1.ServiceAccount]) []meta.Key {
			if ch.Deleted && ch.Old.Name == name {
				return []meta.Key{{Name: ch.Old.Namespace}}
			}
			return nil
		}),
		controller.Workers(1),
		controller.Writes("", "serviceaccounts", "create"),
	)
}

func (s *serviceAccounts) reconcile(ctx context.Context, ns *corev1.Namespace) (controller.Result, error) {
	if ns.Status.Phase != corev1.NamespaceActive {
		return controller.Result{}, nil
	}
	if _, ok := s.accounts.Get(ns.Name, name); ok {
		return controller.Result{}, nil
	}
	_, err := client.For[*corev1.ServiceAccount](s.client).Create(ctx, &corev1.ServiceAccount{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "ServiceAccount"},
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: ns.Name},
	})
	if apierrors.IsAlreadyExists(err) || apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
		err = nil
	}
	return controller.Result{}, err
}
