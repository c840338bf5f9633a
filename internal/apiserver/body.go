package apiserver

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"skiff.dev/skiff/internal/apiserver/request"
	"skiff.dev/skiff/internal/scheme"
)

// maxBody is the largest request body, in bytes, as upstream's.
const maxBody = 3 << 20

// readBody reads a bounded body: more than maxBody is a 413.
func readBody(r *http.Request) ([]byte, error) {
	if r.Body == nil {
		return nil, nil
	}
	data, err := io.ReadAll(io.LimitReader(r.Body, maxBody+1))
	switch {
	case err != nil && errors.Is(err, http.ErrBodyReadAfterClose):
		return nil, apierrors.NewBadRequest("the body of the request was closed early")
	case err != nil:
		return nil, apierrors.NewBadRequest(fmt.Sprintf("reading the body of the request: %v", err))
	case len(data) > maxBody:
		return nil, apierrors.NewRequestEntityTooLargeError(fmt.Sprintf("limit is %d", maxBody))
	}
	return data, nil
}

// decodeInto decodes the body of a create, update or action into obj, whose
// kind is what the resource wants. Unknown and doubled fields are refused,
// warned of or ignored as the request's fieldValidation says.
func decodeInto(r *http.Request, obj runtime.Object, want schema.GroupVersionKind) error {
	data, err := readBody(r)
	if err != nil {
		return err
	}
	media, err := contentType(r)
	if err != nil {
		return err
	}
	validation, err := fieldValidation(r)
	if err != nil {
		return err
	}
	if len(data) == 0 {
		return apierrors.NewBadRequest("the request has no body")
	}
	var faults []error
	var got schema.GroupVersionKind
	switch media {
	case scheme.Protobuf:
		got, err = scheme.DecodeProtobuf(data, obj)
	default:
		obj.GetObjectKind().SetGroupVersionKind(schema.GroupVersionKind{})
		if media == scheme.YAML {
			faults, err = scheme.DecodeYAML(data, obj)
		} else {
			faults, err = scheme.DecodeJSON(data, obj)
		}
		got = obj.GetObjectKind().GroupVersionKind()
	}
	if err != nil {
		return apierrors.NewBadRequest(fmt.Sprintf("%s in version %q cannot be handled as a %s: %v", want.Kind, want.Version, want.Kind, err))
	}
	if err := checkKind(got, want); err != nil {
		return err
	}
	obj.GetObjectKind().SetGroupVersionKind(want)
	return reportFaults(r, want, validation, faults)
}

// checkKind refuses a body of another kind. A body without one is taken for
// what the URL says, as upstream does.
func checkKind(got, want schema.GroupVersionKind) error {
	switch {
	case got.Empty() || got == want:
		return nil
	case got.Kind != "" && got.Kind != want.Kind:
		return apierrors.NewBadRequest(fmt.Sprintf("%s in version %q cannot be handled as a %s: the kind in the data does not match the kind of the resource",
			got.Kind, got.Version, want.Kind))
	case got.GroupVersion() != want.GroupVersion() && !got.GroupVersion().Empty():
		return apierrors.NewBadRequest(fmt.Sprintf("the API version in the data (%s) does not match the expected API version (%s)",
			got.GroupVersion(), want.GroupVersion()))
	}
	return nil
}

// fieldValidation reads the query parameter; upstream's default is Warn.
func fieldValidation(r *http.Request) (string, error) {
	v := r.URL.Query().Get("fieldValidation")
	switch v {
	case "":
		return metav1.FieldValidationWarn, nil
	case metav1.FieldValidationIgnore, metav1.FieldValidationWarn, metav1.FieldValidationStrict:
		return v, nil
	}
	return "", apierrors.NewBadRequest(fmt.Sprintf("fieldValidation: Unsupported value: %q: supported values: \"Ignore\", \"Warn\", \"Strict\"", v))
}

// reportFaults does with strict decoding errors what the validation asks.
func reportFaults(r *http.Request, kind schema.GroupVersionKind, validation string, faults []error) error {
	if len(faults) == 0 || validation == metav1.FieldValidationIgnore {
		return nil
	}
	if validation == metav1.FieldValidationWarn {
		for _, f := range faults {
			request.Warn(r.Context(), f.Error())
		}
		return nil
	}
	texts := make([]string, len(faults))
	for i, f := range faults {
		texts[i] = f.Error()
	}
	return apierrors.NewBadRequest(fmt.Sprintf("%s in version %q cannot be handled as a %s: strict decoding error: %s",
		kind.Kind, kind.Version, kind.Kind, strings.Join(texts, ", ")))
}
