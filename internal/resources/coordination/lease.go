// Package coordination defines the resources of the API group
// coordination.k8s.io.
package coordination

import (
	coordinationv1 "k8s.io/api/coordination/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"skiff.dev/skiff/internal/check"
	"skiff.dev/skiff/internal/resource"
)

// Lease is coordination.k8s.io/v1 Lease: the heartbeat of a node, or the sign
// of who leads.
// https://kubernetes.io/docs/concepts/architecture/leases/
var Lease = &resource.Definition[*coordinationv1.Lease]{
	Name:         resource.Name{Group: coordinationv1.GroupName, Version: "v1", Kind: "Lease", Plural: "leases"},
	Upsert:       true,
	NeedsVersion: true,
	Validate:     validateLease,
	Columns: []resource.Column[*coordinationv1.Lease]{
		{Name: "Holder", Description: coordinationv1.LeaseSpec{}.SwaggerDoc()["holderIdentity"],
			Value: func(l *coordinationv1.Lease) any {
				if l.Spec.HolderIdentity == nil {
					return ""
				}
				return *l.Spec.HolderIdentity
			}},
		resource.Age[*coordinationv1.Lease](),
	},
}

const maxPreferredHolder = 255

func validateLease(r *check.Report, l, _ *coordinationv1.Lease) {
	spec := r.At("spec")
	if s := l.Spec.LeaseDurationSeconds; s != nil && *s <= 0 {
		spec.At("leaseDurationSeconds").Invalid(*s, "must be greater than 0")
	}
	if n := l.Spec.LeaseTransitions; n != nil && *n < 0 {
		spec.At("leaseTransitions").Invalid(*n, "must be greater than or equal to 0")
	}
	if s := l.Spec.Strategy; s != nil {
		if *s == "" {
			spec.At("strategy").Required("")
		} else {
			spec.At("strategy").Each(*s, validation.IsQualifiedName(string(*s)))
		}
	}
	h := l.Spec.PreferredHolder
	if h == nil || *h == "" {
		return
	}
	if l.Spec.Strategy == nil {
		spec.At("preferredHolder").Forbidden("may only be specified if `strategy` is defined")
	}
	if len(*h) > maxPreferredHolder {
		spec.At("preferredHolder").TooLong(maxPreferredHolder)
	}
}
