package apiserver

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"net/http"
	"slices"
	"strconv"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/yaml"

	"skiff.dev/skiff/internal/apiserver/verbs"
	"skiff.dev/skiff/internal/meta"
	"skiff.dev/skiff/internal/scheme"
	"skiff.dev/skiff/internal/watchcache"
)

// The encodings that the cache keeps per object, shared by every answer.
const (
	keepJSON     = "json"     // body without kind
	keepProtobuf = "protobuf" // message without envelope
)

func jsonBody(item *watchcache.Item) ([]byte, error) {
	return item.Encoded(keepJSON, func(obj meta.Object) ([]byte, error) { return scheme.Body(obj) })
}

func protobufMessage(item *watchcache.Item) ([]byte, error) {
	return item.Encoded(keepProtobuf, scheme.Message)
}

// writeItem answers with one cached object, from its kept encoding.
func writeItem(w http.ResponseWriter, r *http.Request, f form, kind schema.GroupVersionKind, item *watchcache.Item) {
	if f.media == scheme.Protobuf {
		msg, err := protobufMessage(item)
		if err != nil {
			writeError(w, r, err)
			return
		}
		writeBytes(w, r, http.StatusOK, f.media, scheme.Envelope(kind, len(msg)), msg)
		return
	}
	if f.media != scheme.JSON || f.pretty {
		writeObject(w, r, http.StatusOK, item.Object)
		return
	}
	body, err := jsonBody(item)
	if err != nil {
		writeError(w, r, apierrors.NewInternalError(err))
		return
	}
	prefix, rest := scheme.WithKind(kind, body)
	writeBytes(w, r, http.StatusOK, f.media, prefix, rest, newline)
}

var newline = []byte{'\n'}

// listMeta is the metadata of a list. What is not stored has no version.
func listMeta(listed *verbs.Listed) metav1.ListMeta {
	lm := metav1.ListMeta{Continue: listed.Continue, RemainingItemCount: listed.Remaining}
	if listed.Rev > 0 {
		lm.ResourceVersion = strconv.FormatInt(listed.Rev, 10)
	}
	return lm
}

// writeList answers with a list, put together from the kept encodings of its
// items: nothing is encoded that was encoded before.
func writeList(w http.ResponseWriter, r *http.Request, res *verbs.Resource, f form, listed *verbs.Listed) {
	listKind := res.Info().Name.GVK()
	listKind.Kind += "List"
	lm := listMeta(listed)
	if f.media == scheme.Protobuf {
		parts, err := protobufList(listKind, &lm, listed.Items)
		finishList(w, r, f, parts, err)
		return
	}
	parts, err := jsonList(listKind, &lm, listed.Items)
	if err == nil && (f.pretty || f.media == scheme.YAML) {
		whole := bytes.Join(parts, nil)
		parts = [][]byte{indent(whole)}
		if f.media == scheme.YAML {
			whole, err = yaml.JSONToYAML(whole)
			parts = [][]byte{whole}
		}
	}
	finishList(w, r, f, parts, err)
}

func finishList(w http.ResponseWriter, r *http.Request, f form, parts [][]byte, err error) {
	if err != nil {
		writeError(w, r, apierrors.NewInternalError(err))
		return
	}
	writeBytes(w, r, http.StatusOK, f.media, parts...)
}

func jsonList(kind schema.GroupVersionKind, lm *metav1.ListMeta, items []*watchcache.Item) ([][]byte, error) {
	head, err := json.Marshal(lm)
	if err != nil {
		return nil, err
	}
	parts := make([][]byte, 0, 2*len(items)+3)
	start, _ := scheme.WithKind(kind, []byte("{...}"))
	parts = append(parts, slices.Concat(start, []byte(`"metadata":`), head, []byte(`,"items":[`)))
	comma := []byte{','}
	for i, item := range items {
		body, err := jsonBody(item)
		if err != nil {
			return nil, err
		}
		if i > 0 {
			parts = append(parts, comma)
		}
		parts = append(parts, body)
	}
	return append(parts, []byte("]}\n")), nil
}

// protobufList writes the envelope around a list message: metadata is field 1,
// each item field 2, in every list kind of the API.
func protobufList(kind schema.GroupVersionKind, lm *metav1.ListMeta, items []*watchcache.Item) ([][]byte, error) {
	head, err := lm.Marshal()
	if err != nil {
		return nil, err
	}
	parts := make([][]byte, 0, 2*len(items)+2)
	parts = append(parts, nil) // the envelope, once the size is known
	parts = append(parts, append(tagged(1, len(head)), head...))
	size := len(parts[1])
	for _, item := range items {
		msg, err := protobufMessage(item)
		if err != nil {
			return nil, err
		}
		tag := tagged(2, len(msg))
		size += len(tag) + len(msg)
		parts = append(parts, tag, msg)
	}
	parts[0] = scheme.Envelope(kind, size)
	return parts, nil
}

// tagged is the tag and length of a length-delimited protobuf field.
func tagged(number, length int) []byte {
	buf := make([]byte, 0, 6)
	buf = append(buf, byte(number<<3|2))
	return binary.AppendUvarint(buf, uint64(length))
}

// metadataOf is an object reduced to its metadata.
func metadataOf(obj meta.Object) *metav1.PartialObjectMetadata {
	p := &metav1.PartialObjectMetadata{TypeMeta: metav1.TypeMeta{APIVersion: "meta.k8s.io/v1", Kind: "PartialObjectMetadata"}}
	p.ObjectMeta = *objectMeta(obj)
	return p
}

func objectMeta(obj meta.Object) *metav1.ObjectMeta {
	if a, ok := obj.(metav1.ObjectMetaAccessor); ok {
		if om, ok := a.GetObjectMeta().(*metav1.ObjectMeta); ok {
			return om
		}
	}
	return &metav1.ObjectMeta{Name: obj.GetName(), Namespace: obj.GetNamespace()}
}

// metadataList is a list reduced to the metadata of its items.
func metadataList(listed *verbs.Listed) runtime.Object {
	l := &metav1.PartialObjectMetadataList{
		TypeMeta: metav1.TypeMeta{APIVersion: "meta.k8s.io/v1", Kind: "PartialObjectMetadataList"},
		ListMeta: listMeta(listed),
		Items:    make([]metav1.PartialObjectMetadata, len(listed.Items)),
	}
	for i, item := range listed.Items {
		l.Items[i] = *metadataOf(item.Object)
	}
	return l
}
