package apps

import (
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"

	"skiff.dev/skiff/internal/check"
	"skiff.dev/skiff/internal/pod"
	"skiff.dev/skiff/internal/resource"
)

// ReplicaSet is apps/v1 ReplicaSet.
// https://kubernetes.io/docs/reference/kubernetes-api/workload-resources/replica-set-v1/
var ReplicaSet = &resource.Definition[*appsv1.ReplicaSet]{
	Name: resource.Name{
		Group: "apps", Version: "v1", Kind: "ReplicaSet", Plural: "replicasets",
		Short: []string{"rs"}, Categories: []string{"all"},
	},
	Default: func(rs *appsv1.ReplicaSet) {
		pod.DefaultTemplate(&rs.Spec.Template)
		setDefault(&rs.Spec.Replicas, 1)
	},
	Validate: validateReplicaSet,
	Spec:     func(rs *appsv1.ReplicaSet) any { return &rs.Spec },
	Status: &resource.View[*appsv1.ReplicaSet]{
		Keep:     func(rs, old *appsv1.ReplicaSet) { rs.Status = *old.Status.DeepCopy() },
		Reset:    func(rs, old *appsv1.ReplicaSet) { rs.Spec = *old.Spec.DeepCopy() },
		Validate: validateReplicaSetStatus,
	},
	Scale: &resource.Scale[*appsv1.ReplicaSet]{
		Replicas:    func(rs *appsv1.ReplicaSet) int32 { return *rs.Spec.Replicas },
		SetReplicas: func(rs *appsv1.ReplicaSet, n int32) { rs.Spec.Replicas = &n },
		Status: func(rs *appsv1.ReplicaSet) (int32, string) {
			return rs.Status.Replicas, metav1.FormatLabelSelector(rs.Spec.Selector)
		},
	},
	Fields: func(rs *appsv1.ReplicaSet) fields.Set { return fields.Set{"status.replicas": text(rs.Status.Replicas)} },
	Columns: []resource.Column[*appsv1.ReplicaSet]{
		{Name: "Desired", Type: "integer", Description: "Replicas is the number of desired replicas.",
			Value: func(rs *appsv1.ReplicaSet) any { return int64(*rs.Spec.Replicas) }},
		{Name: "Current", Type: "integer", Description: "Replicas is the most recently observed number of replicas.",
			Value: func(rs *appsv1.ReplicaSet) any { return int64(rs.Status.Replicas) }},
		{Name: "Ready", Type: "integer", Description: "The number of pods targeted by this ReplicaSet with a Ready Condition.",
			Value: func(rs *appsv1.ReplicaSet) any { return int64(rs.Status.ReadyReplicas) }},
		resource.Age[*appsv1.ReplicaSet](),
		{Name: "Containers", Wide: true, Description: "Names of each container in the template.",
			Value: func(rs *appsv1.ReplicaSet) any { return pod.ContainerNames(&rs.Spec.Template.Spec) }},
		{Name: "Images", Wide: true, Description: "Images referenced by each container in the template.",
			Value: func(rs *appsv1.ReplicaSet) any { return pod.ContainerImages(&rs.Spec.Template.Spec) }},
		{Name: "Selector", Wide: true, Description: "Label selector for pods.",
			Value: func(rs *appsv1.ReplicaSet) any { return metav1.FormatLabelSelector(rs.Spec.Selector) }},
	},
}

func validateReplicaSet(r *check.Report, rs, old *appsv1.ReplicaSet) {
	spec := r.At("spec")
	spec.At("replicas").NonNegative(int64(*rs.Spec.Replicas))
	spec.At("minReadySeconds").NonNegative(int64(rs.Spec.MinReadySeconds))
	validateWorkloadSelector(spec, rs.Spec.Selector, rs.Spec.Template.Labels)
	var before *corev1.PodTemplateSpec
	if old != nil {
		spec.At("selector").Immutable(rs.Spec.Selector, old.Spec.Selector)
		before = &old.Spec.Template
	}
	validateTemplate(spec.At("template"), &rs.Spec.Template, before)
}

func validateReplicaSetStatus(r *check.Report, rs, _ *appsv1.ReplicaSet) {
	s, r := &rs.Status, r.At("status")
	r.At("replicas").NonNegative(int64(s.Replicas))
	r.At("fullyLabeledReplicas").NonNegative(int64(s.FullyLabeledReplicas))
	r.At("readyReplicas").NonNegative(int64(s.ReadyReplicas))
	r.At("availableReplicas").NonNegative(int64(s.AvailableReplicas))
	r.At("observedGeneration").NonNegative(s.ObservedGeneration)
	if n := s.TerminatingReplicas; n != nil {
		r.At("terminatingReplicas").NonNegative(int64(*n))
	}
	if s.FullyLabeledReplicas > s.Replicas {
		r.At("fullyLabeledReplicas").Invalid(s.FullyLabeledReplicas, tooMany)
	}
	validateReady(r, s.Replicas, s.ReadyReplicas, s.AvailableReplicas)
}
