package check

import (
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Each reports value once per message, as the rules of apimachinery return them.
func (r *Report) Each(value any, messages []string) {
	for _, m := range messages {
		r.Invalid(value, m)
	}
}

// Rule reports what is wrong with a name that must be a valid object name.
func (r *Report) Rule(name string, rule NameRule) { r.Each(name, rule(name, false)) }

// RequiredString reports an empty value and returns whether it was given.
func (r *Report) RequiredString(value string) bool {
	if value == "" {
		r.Required("")
	}
	return value != ""
}

// OneOf reports a value that is not one of allowed, which are listed in
// alphabetical order.
func OneOf[S ~string](r *Report, value S, allowed ...S) {
	if slices.Contains(allowed, value) {
		return
	}
	r.Add(field.NotSupported(r.path, value, slices.Sorted(slices.Values(allowed))))
}

// RequiredOneOf is OneOf for a field that must be given.
func RequiredOneOf[S ~string](r *Report, value S, allowed ...S) {
	if r.RequiredString(string(value)) {
		OneOf(r, value, allowed...)
	}
}

// Labels reports malformed label keys and values.
func (r *Report) Labels(labels map[string]string) {
	r.Add(metavalidation.ValidateLabels(labels, r.path)...)
}

// LabelName reports a malformed label key.
func (r *Report) LabelName(key string) {
	r.Add(metavalidation.ValidateLabelName(key, r.path)...)
}

// LabelSelector reports a malformed selector; nil is well formed.
func (r *Report) LabelSelector(s *metav1.LabelSelector) {
	r.Add(metavalidation.ValidateLabelSelector(s, metavalidation.LabelSelectorValidationOptions{}, r.path)...)
}

// IP reports a malformed address in a field that existed before Kubernetes
// became strict about leading zeros; addresses in stored stay allowed (KEP-4858).
func (r *Report) IP(value string, stored ...string) {
	r.Add(validation.IsValidIPForLegacyField(r.path, value, true, stored)...)
}

// CIDR is IP for address ranges.
func (r *Report) CIDR(value string, stored ...string) {
	r.Add(validation.IsValidCIDRForLegacyField(r.path, value, true, stored)...)
}

// RelativePath reports a path that is absolute or climbs out of its directory.
func (r *Report) RelativePath(p string) {
	if strings.HasPrefix(p, "/") {
		r.Invalid(p, "must be a relative path")
	}
	r.NoBacksteps(p)
}

// FileName is RelativePath for the path of a projected file, which may also not
// start with "..", the prefix of the files that the kubelet keeps for itself.
func (r *Report) FileName(p string) {
	r.RelativePath(p)
	if strings.HasPrefix(p, "..") && !strings.HasPrefix(p, "../") {
		r.Invalid(p, "must not start with '..'")
	}
}

// NoBacksteps reports a path that has ".." as one of its parts.
func (r *Report) NoBacksteps(p string) {
	if slices.Contains(strings.Split(p, "/"), "..") {
		r.Invalid(p, "must not contain '..'")
	}
}

// UserID and GroupID report numbers outside of what Linux allows.
func (r *Report) UserID(id *int64) {
	if id != nil {
		r.Each(*id, validation.IsValidUserID(*id))
	}
}

// GroupID is UserID for groups.
func (r *Report) GroupID(id *int64) {
	if id != nil {
		r.Each(*id, validation.IsValidGroupID(*id))
	}
}
