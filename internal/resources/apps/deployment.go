// Package apps defines the resources of the API group apps.
package apps

import (
	"maps"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"skiff.dev/skiff/internal/check"
	"skiff.dev/skiff/internal/pod"
	"skiff.dev/skiff/internal/resource"
)

// Deployment is apps/v1 Deployment.
// https://kubernetes.io/docs/reference/kubernetes-api/workload-resources/deployment-v1/
var Deployment = &resource.Definition[*appsv1.Deployment]{
	Name: resource.Name{
		Group: "apps", Version: "v1", Kind: "Deployment", Plural: "deployments",
		Short: []string{"deploy"}, Categories: []string{"all"},
	},
	Default:  defaultDeployment,
	Validate: validateDeployment,
	Spec:     func(d *appsv1.Deployment) any { return &d.Spec },
	Status: &resource.View[*appsv1.Deployment]{
		Keep: func(d, old *appsv1.Deployment) { d.Status = *old.Status.DeepCopy() },
		Reset: func(d, old *appsv1.Deployment) {
			d.Spec, d.Labels = *old.Spec.DeepCopy(), maps.Clone(old.Labels)
		},
		Validate: validateDeploymentStatus,
	},
	Scale: &resource.Scale[*appsv1.Deployment]{
		Replicas:    func(d *appsv1.Deployment) int32 { return *d.Spec.Replicas },
		SetReplicas: func(d *appsv1.Deployment, n int32) { d.Spec.Replicas = &n },
		Status: func(d *appsv1.Deployment) (int32, string) {
			return d.Status.Replicas, metav1.FormatLabelSelector(d.Spec.Selector)
		},
	},
	Columns: []resource.Column[*appsv1.Deployment]{
		{Name: "Ready", Description: "Number of the pod with ready state", Value: func(d *appsv1.Deployment) any {
			return ratio(d.Status.ReadyReplicas, *d.Spec.Replicas)
		}},
		{Name: "Up-to-date", Description: "Total number of non-terminated pods targeted by this deployment that have the desired template spec.",
			Value: func(d *appsv1.Deployment) any { return text(d.Status.UpdatedReplicas) }},
		{Name: "Available", Description: "Total number of available pods (ready for at least minReadySeconds) targeted by this deployment.",
			Value: func(d *appsv1.Deployment) any { return text(d.Status.AvailableReplicas) }},
		resource.Age[*appsv1.Deployment](),
		{Name: "Containers", Wide: true, Description: "Names of each container in the template.",
			Value: func(d *appsv1.Deployment) any { return pod.ContainerNames(&d.Spec.Template.Spec) }},
		{Name: "Images", Wide: true, Description: "Images referenced by each container in the template.",
			Value: func(d *appsv1.Deployment) any { return pod.ContainerImages(&d.Spec.Template.Spec) }},
		{Name: "Selector", Wide: true, Description: "Label selector for pods.",
			Value: func(d *appsv1.Deployment) any { return metav1.FormatLabelSelector(d.Spec.Selector) }},
	},
}

func defaultDeployment(d *appsv1.Deployment) {
	spec := &d.Spec
	pod.DefaultTemplate(&spec.Template)
	setDefault(&spec.Replicas, 1)
	setDefault(&spec.RevisionHistoryLimit, 10)
	setDefault(&spec.ProgressDeadlineSeconds, 600)
	if spec.Strategy.Type == "" {
		spec.Strategy.Type = appsv1.RollingUpdateDeploymentStrategyType
	}
	if spec.Strategy.Type != appsv1.RollingUpdateDeploymentStrategyType {
		return
	}
	if spec.Strategy.RollingUpdate == nil {
		spec.Strategy.RollingUpdate = &appsv1.RollingUpdateDeployment{}
	}
	setDefault(&spec.Strategy.RollingUpdate.MaxUnavailable, intstr.FromString("25%"))
	setDefault(&spec.Strategy.RollingUpdate.MaxSurge, intstr.FromString("25%"))
}

func validateDeployment(r *check.Report, d, old *appsv1.Deployment) {
	spec := r.At("spec")
	spec.At("replicas").NonNegative(int64(*d.Spec.Replicas))
	validateWorkloadSelector(spec, d.Spec.Selector, d.Spec.Template.Labels)
	if old != nil {
		spec.At("selector").Immutable(d.Spec.Selector, old.Spec.Selector)
	}
	validateTemplate(spec.At("template"), &d.Spec.Template, templateOf(old))
	validateStrategy(spec.At("strategy"), &d.Spec.Strategy)
	spec.At("minReadySeconds").NonNegative(int64(d.Spec.MinReadySeconds))
	if n := d.Spec.RevisionHistoryLimit; n != nil {
		spec.At("revisionHistoryLimit").NonNegative(int64(*n))
	}
	if n := d.Spec.ProgressDeadlineSeconds; n != nil {
		at := spec.At("progressDeadlineSeconds")
		at.NonNegative(int64(*n))
		if *n <= d.Spec.MinReadySeconds {
			at.Invalid(*n, "must be greater than minReadySeconds")
		}
	}
}

func templateOf(d *appsv1.Deployment) *corev1.PodTemplateSpec {
	if d == nil {
		return nil
	}
	return &d.Spec.Template
}

func validateStrategy(r *check.Report, s *appsv1.DeploymentStrategy) {
	switch s.Type {
	case appsv1.RecreateDeploymentStrategyType:
		if s.RollingUpdate != nil {
			r.At("rollingUpdate").Forbidden("may not be specified when strategy `type` is 'Recreate'")
		}
	case appsv1.RollingUpdateDeploymentStrategyType:
		if s.RollingUpdate == nil {
			r.At("rollingUpdate").Required("this should be defaulted and never be nil")
			return
		}
		validateRollingUpdate(r.At("rollingUpdate"), s.RollingUpdate)
	default:
		r.At("type").NotSupported(string(s.Type), []string{
			string(appsv1.RecreateDeploymentStrategyType), string(appsv1.RollingUpdateDeploymentStrategyType)})
	}
}

func validateRollingUpdate(r *check.Report, u *appsv1.RollingUpdateDeployment) {
	r.At("maxUnavailable").CountOrPercent(u.MaxUnavailable)
	r.At("maxSurge").CountOrPercent(u.MaxSurge)
	if check.IsZero(u.MaxUnavailable) && check.IsZero(u.MaxSurge) {
		r.At("maxUnavailable").Invalid(u.MaxUnavailable, "may not be 0 when `maxSurge` is 0")
	}
	r.At("maxUnavailable").AtMostPercent(u.MaxUnavailable, 100)
}

func validateDeploymentStatus(r *check.Report, d, old *appsv1.Deployment) {
	s, r := &d.Status, r.At("status")
	r.At("observedGeneration").NonNegative(s.ObservedGeneration)
	r.At("replicas").NonNegative(int64(s.Replicas))
	r.At("updatedReplicas").NonNegative(int64(s.UpdatedReplicas))
	r.At("readyReplicas").NonNegative(int64(s.ReadyReplicas))
	r.At("availableReplicas").NonNegative(int64(s.AvailableReplicas))
	r.At("unavailableReplicas").NonNegative(int64(s.UnavailableReplicas))
	if n := s.TerminatingReplicas; n != nil {
		r.At("terminatingReplicas").NonNegative(int64(*n))
	}
	if n := s.CollisionCount; n != nil {
		r.At("collisionCount").NonNegative(int64(*n))
	}
	if s.UpdatedReplicas > s.Replicas {
		r.At("updatedReplicas").Invalid(s.UpdatedReplicas, tooMany)
	}
	validateReady(r, s.Replicas, s.ReadyReplicas, s.AvailableReplicas)
	if was := old.Status.CollisionCount; was != nil && (s.CollisionCount == nil || *s.CollisionCount < *was) {
		var now int32
		if s.CollisionCount != nil {
			now = *s.CollisionCount
		}
		r.At("collisionCount").Invalid(now, "cannot be decremented")
	}
}
