package fieldmanager

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/client-go/applyconfigurations"

	"skiff.dev/skiff/internal/meta"
	"skiff.dev/skiff/internal/scheme"
)

// checking returns managers that check every object, as upstream does.
func checking() *Managers {
	m := New()
	m.types = func() managedfields.TypeConverter { return applyconfigurations.NewTypeConverter(scheme.Known) }
	return m
}

func podKind() Kind {
	return Kind{
		GVK:     schema.GroupVersionKind{Version: "v1", Kind: "Pod"},
		Default: func(meta.Object) {}, New: func() meta.Object { return &corev1.Pod{} },
	}
}

func pod(change func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
		ObjectMeta: metav1.ObjectMeta{Name: "a", Labels: map[string]string{"app": "a"}},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{
			Name: "main", Image: "a",
			Ports: []corev1.ContainerPort{{ContainerPort: 80, Protocol: corev1.ProtocolTCP}},
			Env:   []corev1.EnvVar{{Name: "A", Value: "1"}},
		}}},
	}
	change(p)
	return p
}

// Whoever trusts must record the same as who checks, also for objects that a
// check would complain about.
func TestTrustRecordsTheSame(t *testing.T) {
	for name, change := range map[string]func(*corev1.Pod){
		"nothing":       func(*corev1.Pod) {},
		"label":         func(p *corev1.Pod) { p.Labels["b"] = "c" },
		"no labels":     func(p *corev1.Pod) { p.Labels = nil },
		"image":         func(p *corev1.Pod) { p.Spec.Containers[0].Image = "b" },
		"container":     func(p *corev1.Pod) { p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Name: "b"}) },
		"no containers": func(p *corev1.Pod) { p.Spec.Containers = nil },
		"duplicate env": func(p *corev1.Pod) {
			e := &p.Spec.Containers[0].Env
			*e = append(*e, corev1.EnvVar{Name: "A", Value: "2"})
		},
		"duplicate port": func(p *corev1.Pod) { c := &p.Spec.Containers[0].Ports; *c = append(*c, (*c)[0]) },
		"nameless env":   func(p *corev1.Pod) { p.Spec.Containers[0].Env[0].Name = "" },
		"portless port":  func(p *corev1.Pod) { p.Spec.Containers[0].Ports[0].ContainerPort = 0 },
		"finalizers":     func(p *corev1.Pod) { p.Finalizers = []string{"x", "x"} },
		"empty item":     func(p *corev1.Pod) { p.Spec.Volumes = []corev1.Volume{{}} },
	} {
		t.Run(name, func(t *testing.T) {
			entries := func(m *Managers) []metav1.ManagedFieldsEntry {
				got := meta.Object(&corev1.Pod{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"}})
				// The middle write is there so that the kind is known before the one that matters.
				for i, next := range []*corev1.Pod{pod(func(*corev1.Pod) {}), pod(func(p *corev1.Pod) { p.Labels["app"] = "b" }), pod(change)} {
					next.ManagedFields = got.GetManagedFields()
					var err error
					if got, err = m.Update(podKind(), got, next, []string{"one", "two", "three"}[i]); err != nil {
						t.Fatal(err)
					}
				}
				return got.GetManagedFields()
			}
			want, got := entries(checking()), entries(New())
			for _, list := range [][]metav1.ManagedFieldsEntry{want, got} {
				for i := range list {
					list[i].Time = nil
				}
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func BenchmarkUpdate(b *testing.B) {
	kind := Kind{
		GVK:     schema.GroupVersionKind{Group: "apps", Version: "v1", Kind: "Deployment"},
		Default: func(meta.Object) {}, New: func() meta.Object { return &appsv1.Deployment{} },
	}
	object := func(image string) meta.Object {
		return &appsv1.Deployment{
			TypeMeta: metav1.TypeMeta{APIVersion: "apps/v1", Kind: "Deployment"},
			Spec:     appsv1.DeploymentSpec{Template: corev1.PodTemplateSpec{Spec: pod(func(p *corev1.Pod) { p.Spec.Containers[0].Image = image }).Spec}},
		}
	}
	for name, m := range map[string]*Managers{"checking": checking(), "trusting": New()} {
		b.Run(name, func(b *testing.B) {
			m.Warm()
			for b.Loop() {
				if _, err := m.Update(kind, object("a"), object("b"), "bench"); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
