package apiserver

import (
	"net/http"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff.dev/skiff/internal/apiserver/verbs"
	"skiff.dev/skiff/internal/meta"
	"skiff.dev/skiff/internal/scheme"
	"skiff.dev/skiff/internal/watchcache"
)

// writeOptions are the options of a write, and what is to be done about fields
// that the kind does not have.
type writeOptions struct {
	verbs.WriteOptions
	validation string // metav1.FieldValidation…
}

func (c *call) createOptions() (writeOptions, error) {
	o := &metav1.CreateOptions{TypeMeta: optionsType("CreateOptions")}
	if err := scheme.DecodeQuery(c.r.URL.Query(), o); err != nil {
		return writeOptions{}, apierrors.NewBadRequest(err.Error())
	}
	if errs := metavalidation.ValidateCreateOptions(o); len(errs) > 0 {
		return writeOptions{}, invalidOptions(o, errs)
	}
	return c.writeOptions(o, o.DryRun, o.FieldManager, o.FieldValidation), nil
}

func (c *call) updateOptions() (writeOptions, error) {
	o := &metav1.UpdateOptions{TypeMeta: optionsType("UpdateOptions")}
	if err := scheme.DecodeQuery(c.r.URL.Query(), o); err != nil {
		return writeOptions{}, apierrors.NewBadRequest(err.Error())
	}
	if errs := metavalidation.ValidateUpdateOptions(o); len(errs) > 0 {
		return writeOptions{}, invalidOptions(o, errs)
	}
	return c.writeOptions(o, o.DryRun, o.FieldManager, o.FieldValidation), nil
}

func invalidOptions(options runtime.Object, errs field.ErrorList) error {
	return apierrors.NewInvalid(options.GetObjectKind().GroupVersionKind().GroupKind(), "", errs)
}

// writeOptions takes options that have been found valid; options is how
// admission sees them.
func (c *call) writeOptions(options runtime.Object, dryRun []string, manager, validation string) writeOptions {
	if manager == "" {
		manager = managerOf(c.r)
	}
	if validation == "" {
		validation = metav1.FieldValidationWarn // upstream's default
	}
	return writeOptions{
		WriteOptions: verbs.WriteOptions{Options: options, Manager: manager, DryRun: len(dryRun) > 0},
		validation:   validation,
	}
}

// managerOf derives the field manager from the user agent: what stands before
// the first slash, printable and at most 128 bytes long.
func managerOf(r *http.Request) string {
	agent, _, _ := strings.Cut(r.UserAgent(), "/")
	var name strings.Builder
	for _, c := range agent {
		if unicode.IsPrint(c) && name.Len()+utf8.RuneLen(c) <= metavalidation.FieldManagerMaxLength {
			name.WriteRune(c)
		}
	}
	if name.Len() == 0 {
		return "unknown"
	}
	return name.String()
}

func optionsType(kind string) metav1.TypeMeta {
	return metav1.TypeMeta{APIVersion: "meta.k8s.io/v1", Kind: kind}
}

// includeObject reads which part of the object goes with each row of a table.
func includeObject(r *http.Request) (metav1.IncludeObjectPolicy, error) {
	o := &metav1.TableOptions{TypeMeta: optionsType("TableOptions"), IncludeObject: metav1.IncludeObjectPolicy(r.URL.Query().Get("includeObject"))}
	if errs := metavalidation.ValidateTableOptions(o); len(errs) > 0 {
		return "", apierrors.NewInvalid(schema.GroupKind{Group: "meta.k8s.io", Kind: "TableOptions"}, "", errs)
	}
	if o.IncludeObject == "" {
		return metav1.IncludeMetadata, nil
	}
	return o.IncludeObject, nil
}

// listOf makes a list of objects that a deletecollection returned.
func listOf(objs []meta.Object) *verbs.Listed {
	l := &verbs.Listed{}
	for _, obj := range objs {
		rev, _ := strconv.ParseInt(obj.GetResourceVersion(), 10, 64) // ours are numbers
		l.Rev = max(l.Rev, rev)
		l.Items = append(l.Items, &watchcache.Item{Object: obj, Rev: rev})
	}
	return l
}
