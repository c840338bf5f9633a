package core

import (
	"context"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/util/validation"

	"skiff.dev/skiff/internal/check"
	"skiff.dev/skiff/internal/resource"
)

// Namespace is v1 Namespace.
// https://kubernetes.io/docs/reference/kubernetes-api/cluster-resources/namespace-v1/
var Namespace = &resource.Definition[*corev1.Namespace]{
	Name:     resource.Name{Version: "v1", Kind: "Namespace", Plural: "namespaces", Short: []string{"ns"}},
	Scope:    resource.Cluster,
	NameRule: check.DNSLabel,
	Default: func(n *corev1.Namespace) {
		if n.Name == "" {
			return
		}
		if n.Labels == nil {
			n.Labels = map[string]string{}
		}
		n.Labels[corev1.LabelMetadataName] = n.Name
	},
	Prepare: func(_ context.Context, n, old *corev1.Namespace) {
		if old != nil {
			return
		}
		n.Status = corev1.NamespaceStatus{Phase: corev1.NamespaceActive}
		if !slices.Contains(n.Spec.Finalizers, corev1.FinalizerKubernetes) {
			n.Spec.Finalizers = append(n.Spec.Finalizers, corev1.FinalizerKubernetes)
		}
	},
	Validate: func(r *check.Report, n, _ *corev1.Namespace) { validateNamespaceFinalizers(r, n) },
	Status: &resource.View[*corev1.Namespace]{
		Keep:     func(n, old *corev1.Namespace) { n.Status = *old.Status.DeepCopy() },
		Reset:    func(n, old *corev1.Namespace) { n.Spec = *old.Spec.DeepCopy() },
		Validate: validateNamespaceStatus,
	},
	Views: []*resource.View[*corev1.Namespace]{{
		Name: "finalize",
		Keep: func(n, old *corev1.Namespace) {
			if stored(old) {
				n.Spec.Finalizers = slices.Clone(old.Spec.Finalizers)
			}
		},
		Reset:    func(n, old *corev1.Namespace) { n.Status = *old.Status.DeepCopy() },
		Validate: func(r *check.Report, n, _ *corev1.Namespace) { validateNamespaceFinalizers(r, n) },
	}},
	Columns: []resource.Column[*corev1.Namespace]{
		{Name: "Status", Description: "The status of the namespace", Value: func(n *corev1.Namespace) any { return string(n.Status.Phase) }},
		resource.Age[*corev1.Namespace](),
	},
	Fields: func(n *corev1.Namespace) fields.Set {
		return fields.Set{"status.phase": string(n.Status.Phase), "name": n.Name}
	},
	// A namespace goes when its contents have gone: the namespace controller
	// then empties spec.finalizers through the finalize view.
	Deletion: &resource.Deletion[*corev1.Namespace]{
		Grace: func(*corev1.Namespace, *int64) (int64, bool) { return 0, true },
		Begin: func(n *corev1.Namespace) { n.Status.Phase = corev1.NamespaceTerminating },
		Hold:  func(n *corev1.Namespace) bool { return len(n.Spec.Finalizers) > 0 },
	},
}

func validateNamespaceFinalizers(r *check.Report, n *corev1.Namespace) {
	at := r.At("spec", "finalizers")
	for i, f := range n.Spec.Finalizers {
		at.Index(i).Each(string(f), validation.IsQualifiedName(string(f)))
		if !strings.Contains(string(f), "/") && f != corev1.FinalizerKubernetes {
			at.Index(i).Invalid(string(f), "name is neither a standard finalizer name nor is it fully qualified")
		}
	}
}

func validateNamespaceStatus(r *check.Report, n, _ *corev1.Namespace) {
	at := r.At("status", "Phase")
	if n.DeletionTimestamp.IsZero() {
		if n.Status.Phase != corev1.NamespaceActive {
			at.Invalid(n.Status.Phase, "may only be 'Active' if `deletionTimestamp` is empty")
		}
	} else if n.Status.Phase != corev1.NamespaceTerminating {
		at.Invalid(n.Status.Phase, "may only be 'Terminating' if `deletionTimestamp` is not empty")
	}
}
