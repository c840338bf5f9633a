package node

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"skiff.dev/skiff/internal/check"
)

func TestRuntimeClass(t *testing.T) {
	any := corev1.Toleration{Operator: corev1.TolerationOpExists}
	for _, tc := range []struct {
		name     string
		obj, old *nodev1.RuntimeClass
		want     []string
	}{
		{"valid", &nodev1.RuntimeClass{Handler: "runc"}, nil, nil},
		{"bad handler", &nodev1.RuntimeClass{Handler: "a.b"}, nil, []string{
			`handler: Invalid value: "a.b": must not contain dots`}},
		{"changed", &nodev1.RuntimeClass{Handler: "b"}, &nodev1.RuntimeClass{Handler: "a"},
			[]string{`handler: Invalid value: "b": field is immutable`}},
		{"negative overhead", &nodev1.RuntimeClass{Handler: "a", Overhead: &nodev1.Overhead{PodFixed: corev1.ResourceList{"cpu": resource.MustParse("-1")}}}, nil,
			[]string{`overhead.podFixed.limits[cpu]: Invalid value: "-1": must be greater than or equal to 0`}},
		{"toleration twice", &nodev1.RuntimeClass{Handler: "a", Scheduling: &nodev1.Scheduling{Tolerations: []corev1.Toleration{any, any}}}, nil,
			[]string{`scheduling.tolerations[1]: Duplicate value: {"operator":"Exists"}`}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := check.NewReport()
			validateRuntimeClass(r, tc.obj, tc.old)
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
