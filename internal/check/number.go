package check

import (
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
)

// NonNegative checks that n is at least 0.
func (r *Report) NonNegative(n int64) {
	r.Add(apivalidation.ValidateNonnegativeField(n, r.path)...)
}

// Immutable checks that a field has not changed.
func (r *Report) Immutable(now, old any) {
	if !equality.Semantic.DeepEqual(now, old) {
		r.Invalid(now, apivalidation.FieldImmutableErrorMsg)
	}
}

// CountOrPercent checks a field that holds a non-negative number or a
// percentage such as "25%".
func (r *Report) CountOrPercent(v *intstr.IntOrString) {
	if v == nil {
		return
	}
	if v.Type == intstr.Int {
		r.NonNegative(int64(v.IntVal))
		return
	}
	for _, fault := range validation.IsValidPercent(v.StrVal) {
		r.Invalid(v, fault)
	}
}

// AtMostPercent checks that a percentage does not exceed max; plain numbers pass.
func (r *Report) AtMostPercent(v *intstr.IntOrString, max int) {
	if p, ok := percent(v); ok && p > max {
		r.Invalid(v, "must not be greater than "+strconv.Itoa(max)+"%")
	}
}

// IsZero reports whether v is 0 or "0%".
func IsZero(v *intstr.IntOrString) bool {
	if v == nil {
		return false
	}
	if p, ok := percent(v); ok {
		return p == 0
	}
	return v.Type == intstr.Int && v.IntVal == 0
}

func percent(v *intstr.IntOrString) (int, bool) {
	if v == nil || v.Type != intstr.String {
		return 0, false
	}
	n, err := strconv.Atoi(strings.TrimSuffix(v.StrVal, "%"))
	return n, err == nil && strings.HasSuffix(v.StrVal, "%")
}
