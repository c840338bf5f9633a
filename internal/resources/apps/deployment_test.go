package apps

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"skiff.dev/skiff/internal/check"
)

func valid(change func(*appsv1.Deployment)) *appsv1.Deployment {
	l := map[string]string{"app": "web"}
	d := &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "default"},
		Spec: appsv1.DeploymentSpec{
			Selector: &metav1.LabelSelector{MatchLabels: l},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "web"}},
				Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}},
			},
		},
	}
	if change != nil {
		change(d)
	}
	defaultDeployment(d)
	return d
}

func TestDeploymentDefaults(t *testing.T) {
	d := valid(nil)
	percent := intstr.FromString("25%")
	want := appsv1.DeploymentStrategy{
		Type:          appsv1.RollingUpdateDeploymentStrategyType,
		RollingUpdate: &appsv1.RollingUpdateDeployment{MaxUnavailable: &percent, MaxSurge: &percent},
	}
	if diff := cmp.Diff(want, d.Spec.Strategy); diff != "" {
		t.Error(diff)
	}
	if *d.Spec.Replicas != 1 || *d.Spec.RevisionHistoryLimit != 10 || *d.Spec.ProgressDeadlineSeconds != 600 {
		t.Errorf("got %d, %d, %d", *d.Spec.Replicas, *d.Spec.RevisionHistoryLimit, *d.Spec.ProgressDeadlineSeconds)
	}
	recreate := valid(func(d *appsv1.Deployment) { d.Spec.Strategy.Type = appsv1.RecreateDeploymentStrategyType })
	if recreate.Spec.Strategy.RollingUpdate != nil {
		t.Error("Recreate got rolling update parameters")
	}
}

func TestDeploymentValidation(t *testing.T) {
	number := func(n int32) *int32 { return &n }
	value := func(s string) *intstr.IntOrString { v := intstr.Parse(s); return &v }
	tests := []struct {
		name   string
		change func(*appsv1.Deployment)
		want   []string
	}{
		{"valid", nil, nil},
		{"negative replicas", func(d *appsv1.Deployment) { d.Spec.Replicas = number(-1) },
			[]string{"spec.replicas: Invalid value: -1: must be greater than or equal to 0"}},
		{"no selector", func(d *appsv1.Deployment) { d.Spec.Selector = nil }, []string{"spec.selector: Required value"}},
		{"selector does not match", func(d *appsv1.Deployment) { d.Spec.Selector.MatchLabels = map[string]string{"a": "b"} },
			[]string{"spec.template.metadata.labels: Invalid value: {\"app\":\"web\"}: `selector` does not match template `labels`"}},
		{"no strategy of that name", func(d *appsv1.Deployment) { d.Spec.Strategy.Type = "Sideways" },
			[]string{`spec.strategy.type: Unsupported value: "Sideways": supported values: "Recreate", "RollingUpdate"`}},
		{"recreate does not roll", func(d *appsv1.Deployment) {
			d.Spec.Strategy = appsv1.DeploymentStrategy{Type: "Recreate", RollingUpdate: &appsv1.RollingUpdateDeployment{}}
		}, []string{"spec.strategy.rollingUpdate: Forbidden: may not be specified when strategy `type` is 'Recreate'"}},
		{"no room to move", func(d *appsv1.Deployment) {
			d.Spec.Strategy.RollingUpdate = &appsv1.RollingUpdateDeployment{MaxSurge: value("0"), MaxUnavailable: value("0%")}
		}, []string{"spec.strategy.rollingUpdate.maxUnavailable: Invalid value: \"0%\": may not be 0 when `maxSurge` is 0"}},
		{"more than all", func(d *appsv1.Deployment) {
			d.Spec.Strategy.RollingUpdate = &appsv1.RollingUpdateDeployment{MaxSurge: value("1"), MaxUnavailable: value("101%")}
		}, []string{"spec.strategy.rollingUpdate.maxUnavailable: Invalid value: \"101%\": must not be greater than 100%"}},
		{"deadline before ready", func(d *appsv1.Deployment) {
			d.Spec.MinReadySeconds, d.Spec.ProgressDeadlineSeconds = 10, number(10)
		}, []string{"spec.progressDeadlineSeconds: Invalid value: 10: must be greater than minReadySeconds"}},
		{"pods that end", func(d *appsv1.Deployment) { d.Spec.Template.Spec.RestartPolicy = corev1.RestartPolicyNever },
			[]string{`spec.template.spec.restartPolicy: Unsupported value: "Never": supported values: "Always"`}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := check.NewReport()
			validateDeployment(r, valid(tt.change), nil)
			var got []string
			for _, e := range r.Errors() {
				got = append(got, e.Error())
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestDeploymentSelectorIsImmutable(t *testing.T) {
	old := valid(nil)
	now := valid(func(d *appsv1.Deployment) {
		d.Spec.Selector.MatchLabels["tier"] = "x"
		d.Spec.Template.Labels["tier"] = "x"
	})
	r := check.NewReport()
	validateDeployment(r, now, old)
	if len(r.Errors()) != 1 || r.Errors()[0].Field != "spec.selector" {
		t.Errorf("got %v", r.Errors())
	}
}

func TestDeploymentStatusValidation(t *testing.T) {
	one, two := int32(1), int32(2)
	tests := []struct {
		name     string
		now, was appsv1.DeploymentStatus
		want     int
	}{
		{"valid", appsv1.DeploymentStatus{Replicas: 3, UpdatedReplicas: 2, ReadyReplicas: 2, AvailableReplicas: 1}, appsv1.DeploymentStatus{}, 0},
		{"more ready than there", appsv1.DeploymentStatus{Replicas: 1, ReadyReplicas: 2}, appsv1.DeploymentStatus{}, 1},
		{"more available than ready", appsv1.DeploymentStatus{Replicas: 3, ReadyReplicas: 1, AvailableReplicas: 2}, appsv1.DeploymentStatus{}, 1},
		{"collisions only grow", appsv1.DeploymentStatus{CollisionCount: &one}, appsv1.DeploymentStatus{CollisionCount: &two}, 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := check.NewReport()
			validateDeploymentStatus(r, &appsv1.Deployment{Status: tt.now}, &appsv1.Deployment{Status: tt.was})
			if len(r.Errors()) != tt.want {
				t.Errorf("got %v", r.Errors())
			}
		})
	}
}
