package apiserver

import (
	"encoding/hex"
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

// A body is what a request carries, and in which media type.
type body struct {
	data  []byte
	media string
}

func (c *call) readBody() (b body, err error) {
	if b.media, err = contentType(c.r); err != nil {
		return b, err
	}
	b.data, err = c.readAll()
	return b, err
}

// readAll reads a bounded body: more than maxBody is a 413.
func (c *call) readAll() ([]byte, error) {
	tooLarge := apierrors.NewRequestEntityTooLargeError(fmt.Sprintf("limit is %d", maxBody))
	if c.r.Body == nil {
		return nil, nil
	}
	if c.r.ContentLength > maxBody {
		return nil, tooLarge
	}
	data, err := io.ReadAll(io.LimitReader(c.r.Body, maxBody+1))
	switch {
	case err != nil && errors.Is(err, io.ErrUnexpectedEOF):
		return nil, apierrors.NewBadRequest("the body of the request ended early")
	case err != nil:
		return nil, apierrors.NewBadRequest(fmt.Sprintf("reading the body of the request: %v", err))
	case len(data) > maxBody:
		return nil, tooLarge
	}
	return data, nil
}

// decode decodes the body of a create, update or action into obj, whose kind
// is what the resource wants. Unknown and doubled fields are refused, warned of
// or ignored as validation says.
func (c *call) decode(b body, validation string, obj runtime.Object, want schema.GroupVersionKind) error {
	named, err := kindIn(b)
	if err != nil {
		return apierrors.NewBadRequest(fmt.Sprintf("the object provided is unrecognized (must be of type %s): %v (%s)", want.Kind, err, summary(b.data)))
	}
	got := withDefaults(named, want)
	if got.GroupKind() != want.GroupKind() || !scheme.Known.Recognizes(got) {
		return cannotHandle(got, want, notConvertible(got, want))
	}
	if got != want {
		return apierrors.NewBadRequest(fmt.Sprintf("the API version in the data (%s) does not match the expected API version (%s)",
			got.GroupVersion(), want.GroupVersion()))
	}
	var faults []error
	switch b.media {
	case scheme.Protobuf:
		_, err = scheme.DecodeProtobuf(b.data, obj)
	case scheme.YAML:
		faults, err = scheme.DecodeYAML(b.data, obj)
	default:
		faults, err = scheme.DecodeJSON(b.data, obj)
	}
	if err != nil {
		return cannotHandle(got, want, err)
	}
	obj.GetObjectKind().SetGroupVersionKind(want)
	if err := c.reportFaults(validation, faults); err != nil {
		return cannotHandle(got, want, err)
	}
	return nil
}

// kindIn reads what kind the body says it is.
func kindIn(b body) (schema.GroupVersionKind, error) {
	switch b.media {
	case scheme.Protobuf:
		kind, _, err := scheme.Unwrap(b.data)
		return kind, err
	case scheme.YAML:
		return scheme.PeekYAMLKind(b.data)
	}
	kind, err := scheme.PeekKind(b.data)
	if err != nil {
		return kind, fmt.Errorf("couldn't get version/kind; json parse error: %w", err)
	}
	return kind, nil
}

// withDefaults takes what a body does not say from what the URL stands for.
func withDefaults(got, want schema.GroupVersionKind) schema.GroupVersionKind {
	if got.Kind == "" {
		got.Kind = want.Kind
	}
	if got.Version == "" {
		got.Group, got.Version = want.Group, want.Version
	}
	return got
}

func notConvertible(got, want schema.GroupVersionKind) error {
	if !scheme.Known.Recognizes(got) {
		return fmt.Errorf("no kind %q is registered for version %q in scheme %q", got.Kind, got.GroupVersion(), "skiff")
	}
	return fmt.Errorf("converting (%s.%s) to (%s.%s): unknown conversion", got.Version, got.Kind, internalPackage(want.Group), want.Kind)
}

// internalPackage is what upstream's messages call a group.
func internalPackage(group string) string {
	if group == "" {
		return "core"
	}
	first, _, _ := strings.Cut(group, ".")
	return first
}

func cannotHandle(got, want schema.GroupVersionKind, why error) error {
	return apierrors.NewBadRequest(fmt.Sprintf("%s in version %q cannot be handled as a %s: %v", got.Kind, got.Version, want.Kind, why))
}

// summary shows the start of what could not be read.
func summary(data []byte) string {
	const most = 30
	if len(data) == 0 {
		return "<empty>"
	}
	more := ""
	if len(data) > most {
		data, more = data[:most], " ..."
	}
	if data[0] == '{' {
		return string(data) + more
	}
	return hex.EncodeToString(data) + more
}

// reportFaults does with strict decoding errors what the validation asks.
func (c *call) reportFaults(validation string, faults []error) error {
	switch {
	case len(faults) == 0 || validation == metav1.FieldValidationIgnore:
		return nil
	case validation == metav1.FieldValidationWarn:
		for _, f := range faults {
			request.Warn(c.r.Context(), f.Error())
		}
		return nil
	}
	return runtime.NewStrictDecodingError(faults)
}

// contentType returns the media type of the request's body.
func contentType(r *http.Request) (string, error) {
	header := r.Header.Get("Content-Type")
	if header == "" {
		return scheme.JSON, nil
	}
	media, ok := mediaType(header, offer)
	if !ok {
		return "", unsupportedMedia(offer)
	}
	return media, nil
}
