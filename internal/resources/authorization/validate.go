package authorization

import (
	"fmt"
	"strings"

	authorizationv1 "k8s.io/api/authorization/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"

	"skiff.dev/skiff/internal/check"
)

func validateReview(r *check.Report, s *authorizationv1.SubjectAccessReviewSpec) {
	validateAttributes(r, s.ResourceAttributes, s.NonResourceAttributes)
	if s.User == "" && len(s.Groups) == 0 {
		r.At("user").Invalid(s.User, "at least one of user or group must be specified")
	}
}

func validateAttributes(r *check.Report, res *authorizationv1.ResourceAttributes, other *authorizationv1.NonResourceAttributes) {
	switch {
	case res == nil && other == nil:
		r.At("resourceAttributes").Invalid(other, "exactly one of nonResourceAttributes or resourceAttributes must be specified")
	case res != nil && other != nil:
		r.At("nonResourceAttributes").Invalid(other, "cannot be specified in combination with resourceAttributes")
	}
	if res == nil {
		return
	}
	at := r.At("resourceAttributes")
	if s := res.FieldSelector; s != nil {
		validateSelector(at.At("fieldSelector"), s.RawSelector, len(s.Requirements))
		for i := range s.Requirements {
			validateFieldRequirement(at.At("fieldSelector", "requirements").Index(i), &s.Requirements[i])
		}
	}
	if s := res.LabelSelector; s != nil {
		validateSelector(at.At("labelSelector"), s.RawSelector, len(s.Requirements))
		for i := range s.Requirements {
			q := &s.Requirements[i]
			if _, err := metav1.LabelSelectorAsSelector(&metav1.LabelSelector{MatchExpressions: s.Requirements[i : i+1]}); err != nil {
				at.At("labelSelector", "requirements").Index(i).Invalid(q, err.Error())
			}
		}
	}
}

func validateSelector(r *check.Report, raw string, requirements int) {
	switch {
	case raw != "" && requirements > 0:
		r.At("rawSelector").Invalid(raw, "may not specified at the same time as requirements")
	case raw == "" && requirements == 0:
		r.At("requirements").Required(fmt.Sprintf("when %s is specified, requirements or rawSelector is required", r.Path()))
	}
}

func validateFieldRequirement(r *check.Report, q *metav1.FieldSelectorRequirement) {
	if q.Key == "" {
		r.At("key").Required("must be specified")
	}
	switch q.Operator {
	case metav1.FieldSelectorOpIn, metav1.FieldSelectorOpNotIn:
		if len(q.Values) == 0 {
			r.At("values").Required("must be specified when `operator` is 'In' or 'NotIn'")
		}
	case metav1.FieldSelectorOpExists, metav1.FieldSelectorOpDoesNotExist:
		if len(q.Values) > 0 {
			r.At("values").Forbidden("may not be specified when `operator` is 'Exists' or 'DoesNotExist'")
		}
	default:
		r.At("operator").Invalid(q.Operator, "not a valid selector operator")
	}
}

func validateNoMeta(r *check.Report, m *metav1.ObjectMeta) {
	given := *m
	given.ManagedFields = nil
	// The server's own marks are not the client's.
	given.UID, given.CreationTimestamp = "", metav1.Time{}
	if !equality.Semantic.DeepEqual(given, metav1.ObjectMeta{}) {
		r.At("metadata").Invalid(m, "must be empty")
	}
}

// rawFields writes a selector as a URL has it. Requirements that a URL cannot
// say are left out: the question is then about more objects than meant, which
// may be refused though the narrower one would not be, never the reverse.
func rawFields(s *authorizationv1.FieldSelectorAttributes) string {
	if s.RawSelector != "" {
		return s.RawSelector
	}
	var terms []string
	for i := range s.Requirements {
		q := &s.Requirements[i]
		switch {
		case q.Operator == metav1.FieldSelectorOpIn && len(q.Values) == 1:
			terms = append(terms, q.Key+"="+fields.EscapeValue(q.Values[0]))
		case q.Operator == metav1.FieldSelectorOpNotIn && len(q.Values) == 1:
			terms = append(terms, q.Key+"!="+fields.EscapeValue(q.Values[0]))
		}
	}
	return strings.Join(terms, ",")
}

func rawLabels(s *authorizationv1.LabelSelectorAttributes) string {
	if s.RawSelector != "" {
		return s.RawSelector
	}
	selector, err := metav1.LabelSelectorAsSelector(&metav1.LabelSelector{MatchExpressions: s.Requirements})
	if err != nil { // refused by validation
		return ""
	}
	return selector.String()
}
