package apps

import (
	"fmt"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/labels"

	"skiff.dev/skiff/internal/check"
	"skiff.dev/skiff/internal/pod"
)

// What the kinds of this group have in common: a selector that must match its
// own pod template, and a template whose pods restart for ever.

func validateWorkloadSelector(spec *check.Report, selector *metav1.LabelSelector, template map[string]string) {
	at := spec.At("selector")
	if selector == nil {
		at.Required("")
		return
	}
	at.Add(metavalidation.ValidateLabelSelector(selector, metavalidation.LabelSelectorValidationOptions{}, at.Path())...)
	if len(selector.MatchLabels)+len(selector.MatchExpressions) == 0 {
		at.Invalid(selector, "empty selector is invalid for deployment")
	}
	s, err := metav1.LabelSelectorAsSelector(selector)
	if err != nil {
		at.Invalid(selector, "invalid label selector")
		return
	}
	if !s.Empty() && !s.Matches(labels.Set(template)) {
		spec.At("template", "metadata", "labels").Invalid(template, "`selector` does not match template `labels`")
	}
}

func validateTemplate(r *check.Report, t, old *corev1.PodTemplateSpec) {
	pod.ValidateTemplate(r, t, old)
	if t.Spec.RestartPolicy != corev1.RestartPolicyAlways {
		r.At("spec", "restartPolicy").NotSupported(string(t.Spec.RestartPolicy), []string{string(corev1.RestartPolicyAlways)})
	}
	if t.Spec.ActiveDeadlineSeconds != nil {
		r.At("spec", "activeDeadlineSeconds").Forbidden("activeDeadlineSeconds in ReplicaSet is not Supported")
	}
}

const tooMany = "cannot be greater than status.replicas"

// validateReady checks that available pods are ready ones, and ready pods ones
// that there are.
func validateReady(status *check.Report, replicas, ready, available int32) {
	if ready > replicas {
		status.At("readyReplicas").Invalid(ready, tooMany)
	}
	if available > replicas {
		status.At("availableReplicas").Invalid(available, tooMany)
	}
	if available > ready {
		status.At("availableReplicas").Invalid(available, "cannot be greater than readyReplicas")
	}
}

func setDefault[V any](field **V, v V) {
	if *field == nil {
		*field = &v
	}
}

func ratio(have, want int32) string { return fmt.Sprintf("%d/%d", have, want) }

// text makes a number a string cell, as kubectl's tables have it for counts
// that upstream declares as strings.
func text(n int32) string { return strconv.Itoa(int(n)) }
