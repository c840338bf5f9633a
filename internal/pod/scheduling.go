package pod

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"skiff.dev/skiff/internal/check"
)

// validateScheduling checks all by which the pod's node is chosen.
func (v *validator) validateScheduling(r *check.Report) {
	s := v.spec
	r.At("nodeSelector").Labels(s.NodeSelector)
	v.validateAffinity(r.At("affinity"), s.Affinity)
	v.validateSpread(r.At("topologySpreadConstraints"), s.TopologySpreadConstraints)
	for i := range s.Tolerations {
		ValidateToleration(r.At("tolerations").Index(i), &s.Tolerations[i])
	}
	gates := map[string]bool{}
	for i, g := range s.SchedulingGates {
		at := r.At("schedulingGates").Index(i)
		at.Each(g.Name, validation.IsQualifiedName(g.Name))
		if gates[g.Name] {
			at.Duplicate(g.Name)
		}
		gates[g.Name] = true
	}
	if s.PreemptionPolicy != nil {
		check.RequiredOneOf(r.At("preemptionPolicy"), *s.PreemptionPolicy, corev1.PreemptLowerPriority, corev1.PreemptNever)
	}
	ValidateOverhead(r.At("overhead"), s.Overhead)
	if g := s.SchedulingGroup; g != nil {
		at := r.At("schedulingGroup", "podGroupName")
		if g.PodGroupName == nil {
			r.At("schedulingGroup").Invalid("", "must specify one of: `podGroupName`")
		} else {
			at.Rule(*g.PodGroupName, check.DNSSubdomain)
		}
	}
}

func (v *validator) validateSpread(r *check.Report, constraints []corev1.TopologySpreadConstraint) {
	for i := range constraints {
		c, at := &constraints[i], r.Index(i)
		if c.MaxSkew <= 0 {
			at.At("maxSkew").Invalid(c.MaxSkew, "must be greater than zero")
		}
		if c.TopologyKey == "" {
			at.At("topologyKey").Required("can not be empty")
		} else {
			at.At("topologyKey").LabelName(c.TopologyKey)
		}
		check.OneOf(at.At("whenUnsatisfiable"), c.WhenUnsatisfiable, corev1.DoNotSchedule, corev1.ScheduleAnyway)
		for j := range constraints[i+1:] {
			d := &constraints[i+1+j]
			if d.TopologyKey == c.TopologyKey && d.WhenUnsatisfiable == c.WhenUnsatisfiable {
				at.At("{topologyKey, whenUnsatisfiable}").Duplicate(fmt.Sprintf("{%v, %v}", c.TopologyKey, c.WhenUnsatisfiable))
				break
			}
		}
		if m := c.MinDomains; m != nil {
			if *m <= 0 {
				at.At("minDomains").Invalid(m, "must be greater than zero")
			}
			if c.WhenUnsatisfiable == corev1.ScheduleAnyway {
				at.At("minDomains").Invalid(m, fmt.Sprintf("can only use minDomains if whenUnsatisfiable=%s, not %s", corev1.DoNotSchedule, c.WhenUnsatisfiable))
			}
		}
		for _, p := range []struct {
			field string
			value *corev1.NodeInclusionPolicy
		}{{"nodeAffinityPolicy", c.NodeAffinityPolicy}, {"nodeTaintsPolicy", c.NodeTaintsPolicy}} {
			if p.value != nil {
				check.OneOf(at.At(p.field), *p.value, corev1.NodeInclusionPolicyHonor, corev1.NodeInclusionPolicyIgnore)
			}
		}
		v.validateLabelKeys(at, "matchLabelKeys", c.MatchLabelKeys, c.LabelSelector)
		at.At("labelSelector").LabelSelector(c.LabelSelector)
	}
}

// validateLabelKeys checks a list of label keys whose values are taken from the
// pod itself (KEP-3243, KEP-3633). A key that the selector already has would
// contradict it; but a pod's selector has each key once as an expression, since
// ResolveLabelKeys has put it there.
func (v *validator) validateLabelKeys(r *check.Report, field string, keys []string, s *metav1.LabelSelector) {
	if len(keys) == 0 {
		return
	}
	at := r.At(field)
	if s == nil {
		at.Forbidden("must not be specified when labelSelector is not set")
		return
	}
	allowed := 0
	if v.meta != nil {
		allowed = 1
	}
	for i, k := range keys {
		at.Index(i).LabelName(k)
		_, has := s.MatchLabels[k]
		n := 0
		for _, e := range s.MatchExpressions {
			if e.Key == k {
				n++
			}
		}
		if has || n > allowed {
			at.Index(i).Invalid(k, "exists in both "+field+" and labelSelector")
		}
	}
}

// ValidateToleration reports the faults of one toleration.
func ValidateToleration(r *check.Report, t *corev1.Toleration) {
	if t.Key != "" {
		r.At("key").LabelName(t.Key)
	}
	if t.Key == "" && t.Operator != corev1.TolerationOpExists {
		r.At("operator").Invalid(t.Operator,
			"operator must be Exists when `key` is empty, which means \"match all values and all keys\"")
	}
	if t.TolerationSeconds != nil && t.Effect != corev1.TaintEffectNoExecute {
		r.At("effect").Invalid(t.Effect, "effect must be 'NoExecute' when `tolerationSeconds` is set")
	}
	switch t.Operator {
	case corev1.TolerationOpEqual, "":
		if faults := validation.IsValidLabelValue(t.Value); len(faults) > 0 {
			r.At("operator").Invalid(t.Value, strings.Join(faults, ";"))
		}
	case corev1.TolerationOpExists:
		if t.Value != "" {
			r.At("operator").Invalid(t, "value must be empty when `operator` is 'Exists'")
		}
	default:
		check.OneOf(r.At("operator"), t.Operator, corev1.TolerationOpEqual, corev1.TolerationOpExists)
	}
	if t.Effect != "" {
		ValidateEffect(r.At("effect"), t.Effect)
	}
}

// ValidateEffect reports an unknown effect; it lists the effects in the order of their strength, as upstream does.
func ValidateEffect(r *check.Report, e corev1.TaintEffect) {
	effects := []string{string(corev1.TaintEffectNoSchedule), string(corev1.TaintEffectPreferNoSchedule), string(corev1.TaintEffectNoExecute)}
	if !slices.Contains(effects, string(e)) {
		r.NotSupported(string(e), effects)
	}
}

// ValidateOverhead reports the faults of what a pod costs beyond its
// containers (KEP-688); they are shown as those of limits.
func ValidateOverhead(r *check.Report, overhead corev1.ResourceList) {
	validateRequirements(r, &corev1.ResourceRequirements{Limits: overhead}, validateContainerResourceName)
}
