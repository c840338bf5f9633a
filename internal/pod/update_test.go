package pod

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"skiff.dev/skiff/internal/check"
)

func TestValidateUpdate(t *testing.T) {
	const others = "spec: Forbidden: pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)"
	for _, tc := range []struct {
		name   string
		old    func(*corev1.Pod)
		change func(*corev1.Pod)
		want   []string
	}{
		{"nothing", nil, func(*corev1.Pod) {}, nil},
		{"image", nil, func(p *corev1.Pod) { p.Spec.Containers[0].Image = "nginx:2" }, nil},
		{"one more toleration", nil, func(p *corev1.Pod) {
			p.Spec.Tolerations = append(p.Spec.Tolerations, corev1.Toleration{Key: "a", Operator: corev1.TolerationOpExists})
		}, nil},
		{"one toleration less", func(p *corev1.Pod) {
			p.Spec.Tolerations = []corev1.Toleration{{Key: "a", Operator: corev1.TolerationOpExists}}
		}, func(p *corev1.Pod) { p.Spec.Tolerations = nil },
			[]string{"spec.tolerations: Forbidden: existing toleration can not be modified except its tolerationSeconds"}},
		{"command", nil, func(p *corev1.Pod) { p.Spec.Containers[0].Command = []string{"sh"} }, []string{others}},
		{"node name", nil, func(p *corev1.Pod) { p.Spec.NodeName = "n1" }, []string{others}},
		{"container added", nil, func(p *corev1.Pod) {
			p.Spec.Containers = append(p.Spec.Containers, *p.Spec.Containers[0].DeepCopy())
			p.Spec.Containers[1].Name = "two"
		}, []string{"spec.containers: Forbidden: pod updates may not add or remove containers"}},
		{"deadline taken away", func(p *corev1.Pod) { p.Spec.ActiveDeadlineSeconds = ptr(int64(5)) },
			func(p *corev1.Pod) { p.Spec.ActiveDeadlineSeconds = nil },
			[]string{"spec.activeDeadlineSeconds: Invalid value: null: must not update from a positive integer to nil value"}},
		{"gate added", nil, func(p *corev1.Pod) { p.Spec.SchedulingGates = []corev1.PodSchedulingGate{{Name: "x.io/g"}} },
			[]string{"spec.schedulingGates: Forbidden: only deletion is allowed, but found new scheduling gate 'x.io/g'"}},
		{"gated pod gets a node selector", func(p *corev1.Pod) { p.Spec.SchedulingGates = []corev1.PodSchedulingGate{{Name: "x.io/g"}} },
			func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{"a": "b"} }, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			old := simple()
			if tc.old != nil {
				tc.old(old)
			}
			p := old.DeepCopy()
			tc.change(p)
			r := check.NewReport()
			ValidateUpdate(r, p, old)
			got := faults(r)
			for i := range got { // the diff of the two specs follows in lines of its own
				got[i], _, _ = strings.Cut(got[i], "\n")
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func withResources(request, limit string) *corev1.Pod {
	p := simple()
	list := func(q string) corev1.ResourceList { return corev1.ResourceList{"cpu": resource.MustParse(q)} }
	p.Spec.Containers[0].Resources = corev1.ResourceRequirements{Requests: list(request), Limits: list(limit)}
	return p
}

func TestValidateResize(t *testing.T) {
	removed := withResources("1", "2")
	removed.Spec.Containers[0].Resources.Limits = nil
	image := withResources("1", "2")
	image.Spec.Containers[0].Image = "other:1"
	for _, tc := range []struct {
		name string
		to   *corev1.Pod
		want []string
	}{
		{"more", withResources("2", "3"), nil},
		{"other class", func() *corev1.Pod {
			p := withResources("1", "1")
			p.Spec.Containers[0].Resources.Limits["memory"] = resource.MustParse("1Gi")
			p.Spec.Containers[0].Resources.Requests["memory"] = resource.MustParse("1Gi")
			return p
		}(), []string{`spec: Invalid value: "Guaranteed": Pod QOS Class may not change as a result of resizing`}},
		{"limit removed", removed, []string{"spec.containers[0].resources.limits: Forbidden: resource limits cannot be removed"}},
		{"image", image, []string{"spec: Forbidden: only cpu and memory resources are mutable"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := check.NewReport()
			ValidateResize(r, tc.to, withResources("1", "2"))
			got := faults(r)
			for i := range got {
				got[i], _, _ = strings.Cut(got[i], "\n")
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}
