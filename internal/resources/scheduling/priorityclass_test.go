package scheduling

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	schedulingv1 "k8s.io/api/scheduling/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff.dev/skiff/internal/check"
)

func TestPriorityClass(t *testing.T) {
	class := func(name string, value int32) *schedulingv1.PriorityClass {
		return &schedulingv1.PriorityClass{ObjectMeta: metav1.ObjectMeta{Name: name}, Value: value}
	}
	for _, tc := range []struct {
		name     string
		obj, old *schedulingv1.PriorityClass
		want     []string
	}{
		{"valid", class("high", 1_000_000_000), nil, nil},
		{"too high", class("high", 1_000_000_001), nil, []string{"value: Forbidden: maximum allowed value of a user defined priority is 1000000000"}},
		{"system's", SystemClasses()[0], nil, nil},
		{"not the system's", class("system-mine", 1), nil, []string{
			"metadata.name: Forbidden: priority class names with 'system-' prefix are reserved for system use only. error: system-mine is not a known system priority class"}},
		{"system's with another value", class("system-node-critical", 1), nil, []string{
			"metadata.name: Forbidden: priority class names with 'system-' prefix are reserved for system use only. error: value of system-node-critical PriorityClass must be 2000001000"}},
		{"changed", class("high", 1), class("high", 2), []string{"value: Forbidden: may not be changed in an update."}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			PriorityClass.Default(tc.obj)
			if tc.old != nil {
				PriorityClass.Default(tc.old)
			}
			r := check.NewReport()
			validatePriorityClass(r, tc.obj, tc.old)
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
