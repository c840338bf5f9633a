package pod

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"skiff.dev/skiff/internal/check"
)

const weightRange = "must be in the range 1-100"

func (v *validator) validateAffinity(r *check.Report, a *corev1.Affinity) {
	if a == nil {
		return
	}
	const required, preferred = "requiredDuringSchedulingIgnoredDuringExecution", "preferredDuringSchedulingIgnoredDuringExecution"
	if n := a.NodeAffinity; n != nil {
		at := r.At("nodeAffinity")
		if n.RequiredDuringSchedulingIgnoredDuringExecution != nil {
			ValidateNodeSelector(at.At(required), n.RequiredDuringSchedulingIgnoredDuringExecution)
		}
		for i := range n.PreferredDuringSchedulingIgnoredDuringExecution {
			t, at := &n.PreferredDuringSchedulingIgnoredDuringExecution[i], at.At(preferred).Index(i)
			if t.Weight <= 0 || t.Weight > 100 {
				at.At("weight").Invalid(t.Weight, weightRange)
			}
			validateNodeTerm(at.At("preference"), &t.Preference)
		}
	}
	if p := a.PodAffinity; p != nil {
		at := r.At("podAffinity")
		v.validatePodTerms(at.At(required), p.RequiredDuringSchedulingIgnoredDuringExecution)
		v.validateWeighted(at.At(preferred), p.PreferredDuringSchedulingIgnoredDuringExecution)
	}
	if p := a.PodAntiAffinity; p != nil {
		at := r.At("podAntiAffinity")
		v.validatePodTerms(at.At(required), p.RequiredDuringSchedulingIgnoredDuringExecution)
		v.validateWeighted(at.At(preferred), p.PreferredDuringSchedulingIgnoredDuringExecution)
	}
}

// ValidateNodeSelector reports the faults of a selector for nodes.
func ValidateNodeSelector(r *check.Report, s *corev1.NodeSelector) {
	at := r.At("nodeSelectorTerms")
	if len(s.NodeSelectorTerms) == 0 {
		at.Required("must have at least one node selector term")
	}
	for i := range s.NodeSelectorTerms {
		validateNodeTerm(at.Index(i), &s.NodeSelectorTerms[i])
	}
}

func validateNodeTerm(r *check.Report, t *corev1.NodeSelectorTerm) {
	for i := range t.MatchExpressions {
		validateNodeRequirement(r.At("matchExpressions").Index(i), &t.MatchExpressions[i])
	}
	for i := range t.MatchFields {
		validateFieldRequirement(r.At("matchFields").Index(i), &t.MatchFields[i])
	}
}

func validateNodeRequirement(r *check.Report, q *corev1.NodeSelectorRequirement) {
	values := r.At("values")
	switch q.Operator {
	case corev1.NodeSelectorOpIn, corev1.NodeSelectorOpNotIn:
		if len(q.Values) == 0 {
			values.Required("must be specified when `operator` is 'In' or 'NotIn'")
		}
	case corev1.NodeSelectorOpExists, corev1.NodeSelectorOpDoesNotExist:
		if len(q.Values) > 0 {
			values.Forbidden("may not be specified when `operator` is 'Exists' or 'DoesNotExist'")
		}
	case corev1.NodeSelectorOpGt, corev1.NodeSelectorOpLt:
		if len(q.Values) != 1 {
			values.Required("must be specified single value when `operator` is 'Lt' or 'Gt'")
		}
	default:
		r.At("operator").Invalid(q.Operator, "not a valid selector operator")
	}
	r.At("key").LabelName(q.Key)
	if q.Operator == corev1.NodeSelectorOpIn || q.Operator == corev1.NodeSelectorOpNotIn {
		for i, val := range q.Values {
			values.Index(i).Each(val, validation.IsValidLabelValue(val))
		}
	}
}

func validateFieldRequirement(r *check.Report, q *corev1.NodeSelectorRequirement) {
	switch q.Operator {
	case corev1.NodeSelectorOpIn, corev1.NodeSelectorOpNotIn:
		if len(q.Values) != 1 {
			r.At("values").Required("must be only one value when `operator` is 'In' or 'NotIn' for node field selector")
		}
	default:
		r.At("operator").Invalid(q.Operator, "not a valid selector operator")
	}
	if q.Key != "metadata.name" {
		r.At("key").Invalid(q.Key, "not a valid field selector key")
		return
	}
	for i, val := range q.Values {
		r.At("values").Index(i).Rule(val, check.DNSSubdomain)
	}
}

func (v *validator) validateWeighted(r *check.Report, terms []corev1.WeightedPodAffinityTerm) {
	for i := range terms {
		if w := terms[i].Weight; w <= 0 || w > 100 {
			r.Index(i).At("weight").Invalid(w, weightRange)
		}
		v.validatePodTerm(r.Index(i).At("podAffinityTerm"), &terms[i].PodAffinityTerm)
	}
}

func (v *validator) validatePodTerms(r *check.Report, terms []corev1.PodAffinityTerm) {
	for i := range terms {
		v.validatePodTerm(r.Index(i), &terms[i])
	}
}

func (v *validator) validatePodTerm(r *check.Report, t *corev1.PodAffinityTerm) {
	r.At("labelSelector").LabelSelector(t.LabelSelector)
	r.At("namespaceSelector").LabelSelector(t.NamespaceSelector)
	for _, ns := range t.Namespaces {
		r.At("namespace").Each(ns, validation.IsDNS1123Label(ns))
	}
	v.validateLabelKeys(r, "matchLabelKeys", t.MatchLabelKeys, t.LabelSelector)
	v.validateLabelKeys(r, "mismatchLabelKeys", t.MismatchLabelKeys, t.LabelSelector)
	for i, k := range t.MatchLabelKeys {
		if slices.Contains(t.MismatchLabelKeys, k) {
			r.At("matchLabelKeys").Index(i).Invalid(k, "exists in both matchLabelKeys and mismatchLabelKeys")
		}
	}
	if t.TopologyKey == "" {
		r.At("topologyKey").Required("can not be empty")
	}
	r.At("topologyKey").LabelName(t.TopologyKey)
}
