package coordination

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	coordinationv1 "k8s.io/api/coordination/v1"

	"skiff.dev/skiff/internal/check"
)

func TestLease(t *testing.T) {
	seconds := func(n int32) *int32 { return &n }
	holder, strategy := "me", coordinationv1.OldestEmulationVersion
	for _, tc := range []struct {
		name string
		spec coordinationv1.LeaseSpec
		want []string
	}{
		{"empty", coordinationv1.LeaseSpec{}, nil},
		{"no time", coordinationv1.LeaseSpec{LeaseDurationSeconds: seconds(0)},
			[]string{"spec.leaseDurationSeconds: Invalid value: 0: must be greater than 0"}},
		{"negative transitions", coordinationv1.LeaseSpec{LeaseTransitions: seconds(-1)},
			[]string{"spec.leaseTransitions: Invalid value: -1: must be greater than or equal to 0"}},
		{"preferred without a strategy", coordinationv1.LeaseSpec{PreferredHolder: &holder},
			[]string{"spec.preferredHolder: Forbidden: may only be specified if `strategy` is defined"}},
		{"preferred", coordinationv1.LeaseSpec{PreferredHolder: &holder, Strategy: &strategy}, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := check.NewReport()
			validateLease(r, &coordinationv1.Lease{Spec: tc.spec}, nil)
			var got []string
			for _, f := range r.Errors() {
				got = append(got, f.Error())
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}
