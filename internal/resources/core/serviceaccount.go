package core

import (
	"context"

	corev1 "k8s.io/api/core/v1"

	"skiff.dev/skiff/internal/resource"
)

// ServiceAccounts returns v1 ServiceAccount; token is the action that issues
// its tokens.
// https://kubernetes.io/docs/concepts/security/service-accounts/
func ServiceAccounts(token *resource.Action) *resource.Definition[*corev1.ServiceAccount] {
	d := &resource.Definition[*corev1.ServiceAccount]{
		Name: resource.Name{Version: "v1", Kind: "ServiceAccount", Plural: "serviceaccounts", Short: []string{"sa"}},
		Prepare: func(_ context.Context, a, _ *corev1.ServiceAccount) {
			// A reference to a secret is its name; the rest means nothing.
			for i := range a.Secrets {
				a.Secrets[i] = corev1.ObjectReference{Name: a.Secrets[i].Name}
			}
		},
		// The secrets of an account have meant nothing since 1.24 and are not shown.
		Columns: []resource.Column[*corev1.ServiceAccount]{resource.Age[*corev1.ServiceAccount]()},
	}
	if token != nil {
		d.Actions = []*resource.Action{token}
	}
	return d
}
