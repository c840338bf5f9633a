package pod

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

func TestPullPolicy(t *testing.T) {
	for image, want := range map[string]corev1.PullPolicy{
		"nginx":                         corev1.PullAlways,
		"nginx:latest":                  corev1.PullAlways,
		"nginx:1.27":                    corev1.PullIfNotPresent,
		"registry:5000/nginx":           corev1.PullAlways,
		"registry:5000/team/nginx:v1":   corev1.PullIfNotPresent,
		"nginx@sha256:" + digits:        corev1.PullIfNotPresent,
		"nginx:latest@sha256:" + digits: corev1.PullAlways,
		"":                              corev1.PullIfNotPresent,
		"no such/IMAGE":                 corev1.PullIfNotPresent,
	} {
		if got := pullPolicy(image); got != want {
			t.Errorf("%q: got %s, want %s", image, got, want)
		}
	}
}

const digits = "0123456789012345678901234567890123456789012345678901234567890123"

func TestDefaultResources(t *testing.T) {
	p := &corev1.Pod{Spec: corev1.PodSpec{
		Containers: []corev1.Container{{
			Name: "a", Image: "a",
			Resources: corev1.ResourceRequirements{
				Limits:   corev1.ResourceList{"cpu": resource.MustParse("1"), "memory": resource.MustParse("1Gi")},
				Requests: corev1.ResourceList{"cpu": resource.MustParse("0.1005")},
			},
		}},
		Resources: &corev1.ResourceRequirements{Limits: corev1.ResourceList{"cpu": resource.MustParse("2"), "memory": resource.MustParse("2Gi")}},
	}}
	Default(p)
	got := map[string]string{}
	for name, q := range p.Spec.Containers[0].Resources.Requests {
		got["container "+string(name)] = q.String()
	}
	for name, q := range p.Spec.Resources.Requests {
		got["pod "+string(name)] = q.String()
	}
	want := map[string]string{"container cpu": "101m", "container memory": "1Gi", "pod cpu": "101m", "pod memory": "1Gi"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestDefaultHostPorts(t *testing.T) {
	p := simple()
	p.Spec.HostNetwork = true
	p.Spec.Containers[0].Ports = []corev1.ContainerPort{{ContainerPort: 80}}
	Default(p)
	if got := p.Spec.Containers[0].Ports[0]; got.HostPort != 80 || got.Protocol != corev1.ProtocolTCP {
		t.Errorf("got %+v", got)
	}
	template := &corev1.PodTemplateSpec{Spec: p.Spec}
	template.Spec.Containers[0].Ports[0].HostPort = 0
	DefaultTemplate(template)
	if got := template.Spec.Containers[0].Ports[0].HostPort; got != 0 {
		t.Errorf("a template got host port %d", got)
	}
}

func TestQOSClass(t *testing.T) {
	list := func(cpu, memory string) corev1.ResourceList {
		l := corev1.ResourceList{}
		if cpu != "" {
			l["cpu"] = resource.MustParse(cpu)
		}
		if memory != "" {
			l["memory"] = resource.MustParse(memory)
		}
		return l
	}
	for _, tc := range []struct {
		name             string
		requests, limits corev1.ResourceList
		pod              *corev1.ResourceRequirements
		want             corev1.PodQOSClass
	}{
		{"nothing", nil, nil, nil, corev1.PodQOSBestEffort},
		{"equal", list("1", "1Gi"), list("1", "1Gi"), nil, corev1.PodQOSGuaranteed},
		{"one resource", list("1", ""), list("1", ""), nil, corev1.PodQOSBurstable},
		{"less requested", list("1", "1Gi"), list("2", "1Gi"), nil, corev1.PodQOSBurstable},
		{"request only", list("1", ""), nil, nil, corev1.PodQOSBurstable},
		{"zero", list("0", "0"), nil, nil, corev1.PodQOSBestEffort},
		{"by the pod", nil, nil, &corev1.ResourceRequirements{Requests: list("1", "1Gi"), Limits: list("1", "1Gi")}, corev1.PodQOSGuaranteed},
	} {
		p := simple()
		p.Spec.Containers[0].Resources = corev1.ResourceRequirements{Requests: tc.requests, Limits: tc.limits}
		p.Spec.Resources = tc.pod
		if got := QOSClass(p); got != tc.want {
			t.Errorf("%s: got %s, want %s", tc.name, got, tc.want)
		}
	}
}
