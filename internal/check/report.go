// Package check is the vocabulary of validation: a Report that collects
// findings at field paths, and the rules for names, labels, quantities,
// addresses and immutability that all resources share. It is pure.
package check

import (
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// A Report collects the findings about one object. A Report is a cursor: At,
// Index and Key return a Report that writes to the same list from a deeper
// path, so that validation code reads like the document it validates:
//
//	spec := r.At("spec")
//	spec.At("replicas").NonNegative(int64(d.Spec.Replicas))
type Report struct {
	found *found
	path  *field.Path
}

type found struct {
	errors   field.ErrorList
	warnings []string
}

// NewReport returns an empty report at the document's root.
func NewReport() *Report { return &Report{found: &found{}} }

// At returns the report for the named child field, or for a path of them.
func (r *Report) At(names ...string) *Report {
	p := r.path
	for _, n := range names {
		p = p.Child(n)
	}
	return &Report{found: r.found, path: p}
}

// Index returns the report for the i-th element of a list.
func (r *Report) Index(i int) *Report {
	return &Report{found: r.found, path: r.path.Index(i)}
}

// Key returns the report for the element of a map under k.
func (r *Report) Key(k string) *Report {
	return &Report{found: r.found, path: r.path.Key(k)}
}

// Path returns the field path at which the report writes; nil at the root.
func (r *Report) Path() *field.Path { return r.path }

// Errors returns all findings so far, in the order they were made.
func (r *Report) Errors() field.ErrorList { return r.found.errors }

// Warnings returns the warnings so far.
func (r *Report) Warnings() []string { return r.found.warnings }

// Failed reports whether anything was found.
func (r *Report) Failed() bool { return len(r.found.errors) > 0 }

// Add appends findings that were made elsewhere, paths and all.
func (r *Report) Add(errs ...*field.Error) {
	r.found.errors = append(r.found.errors, errs...)
}

// Warn adds a warning for the client; it does not fail the request.
func (r *Report) Warn(text string) {
	r.found.warnings = append(r.found.warnings, text)
}

// Required says that the field must be given; detail may be empty.
func (r *Report) Required(detail string) { r.Add(field.Required(r.path, detail)) }

// Invalid says that value is malformed.
func (r *Report) Invalid(value any, detail string) { r.Add(field.Invalid(r.path, value, detail)) }

// Forbidden says that the field may not be given, or changed, here.
func (r *Report) Forbidden(detail string) { r.Add(field.Forbidden(r.path, detail)) }

// Duplicate says that value must be unique and is not.
func (r *Report) Duplicate(value any) { r.Add(field.Duplicate(r.path, value)) }

// NotSupported says that value is not one of the allowed ones.
func (r *Report) NotSupported(value string, allowed []string) {
	r.Add(field.NotSupported(r.path, value, allowed))
}

// NotFound says that value refers to something that does not exist.
func (r *Report) NotFound(value any) { r.Add(field.NotFound(r.path, value)) }

// TooLong says that the field's value is longer than max bytes.
func (r *Report) TooLong(max int) { r.Add(field.TooLong(r.path, "", max)) }

// TooMany says that a list has actual elements where at most max are allowed.
func (r *Report) TooMany(actual, max int) { r.Add(field.TooMany(r.path, actual, max)) }
