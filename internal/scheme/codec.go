package scheme

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	kjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"
)

// The media types of the API.
const (
	JSON     = "application/json"
	YAML     = "application/yaml"
	Protobuf = "application/vnd.kubernetes.protobuf"
)

// envelope marks protobuf that Kubernetes wrote: it is followed by a
// runtime.Unknown that names the kind and carries the object.
var envelope = []byte{'k', '8', 's', 0}

// ErrNotProtobuf means that bytes do not start with the envelope's mark.
var ErrNotProtobuf = errors.New("does not start with the protobuf envelope k8s\\0")

// message is what the generated API types have.
type message interface {
	Size() int
	MarshalTo([]byte) (int, error)
	Unmarshal([]byte) error
}

// Body encodes obj as JSON without apiVersion and kind: the form that items of
// a list have, and from which WithKind makes the whole document.
func Body(obj runtime.Object) ([]byte, error) {
	whole, err := json.Marshal(obj)
	if err != nil {
		return nil, err
	}
	prefix := kindPrefix(obj.GetObjectKind().GroupVersionKind())
	if !bytes.HasPrefix(whole, prefix) {
		return whole, nil
	}
	body := whole[len(prefix)-1:]
	body[0] = '{'
	return body, nil
}

// WithKind puts apiVersion and kind back in front of a Body, as a prefix and
// the rest, so that bytes kept for many readers need not be copied.
func WithKind(kind schema.GroupVersionKind, body []byte) (prefix, rest []byte) {
	prefix, rest = kindPrefix(kind), body[1:]
	if len(rest) == 1 { // "}": no comma before it
		prefix = prefix[:len(prefix)-1]
	}
	return prefix, rest
}

func kindPrefix(kind schema.GroupVersionKind) []byte {
	return []byte(`{"kind":"` + kind.Kind + `","apiVersion":"` + kind.GroupVersion().String() + `",`)
}

// EncodeJSON encodes obj as JSON.
func EncodeJSON(obj runtime.Object) ([]byte, error) { return json.Marshal(obj) }

// EncodeYAML encodes obj as YAML.
func EncodeYAML(obj runtime.Object) ([]byte, error) { return yaml.Marshal(obj) }

// EncodeProtobuf encodes obj in the envelope, under its own kind.
func EncodeProtobuf(obj runtime.Object) ([]byte, error) {
	m, ok := obj.(message)
	if !ok {
		return nil, fmt.Errorf("encoding %T: the kind has no protobuf form", obj)
	}
	kind := obj.GetObjectKind().GroupVersionKind()
	if kind.Empty() {
		kind = KindOf(obj)
	}
	return wrap(kind, m)
}

// wrap encodes the envelope and the message into one buffer of the exact size.
func wrap(kind schema.GroupVersionKind, m message) ([]byte, error) {
	unknown := runtime.Unknown{TypeMeta: runtime.TypeMeta{APIVersion: kind.GroupVersion().String(), Kind: kind.Kind}}
	size := m.Size()
	buf := make([]byte, len(envelope)+unknown.Size()+fieldOverhead(size)+size)
	n, err := unknown.NestedMarshalTo(buf[len(envelope):], m, uint64(size))
	if err != nil {
		return nil, fmt.Errorf("encoding %s: %w", kind.Kind, err)
	}
	copy(buf, envelope)
	return buf[:len(envelope)+n], nil
}

// fieldOverhead is the size of the tag and length before n bytes of a message.
func fieldOverhead(n int) int {
	tag := 1
	for n >= 0x80 {
		n >>= 7
		tag++
	}
	return tag + 1
}

// Unwrap opens the envelope: it returns the kind and the object's own bytes,
// which share memory with data.
func Unwrap(data []byte) (schema.GroupVersionKind, []byte, error) {
	if !bytes.HasPrefix(data, envelope) {
		return schema.GroupVersionKind{}, nil, ErrNotProtobuf
	}
	var unknown runtime.Unknown
	if err := unknown.Unmarshal(data[len(envelope):]); err != nil {
		return schema.GroupVersionKind{}, nil, fmt.Errorf("reading protobuf envelope: %w", err)
	}
	return schema.FromAPIVersionAndKind(unknown.APIVersion, unknown.Kind), unknown.Raw, nil
}

// DecodeProtobuf decodes data, envelope included, into obj and returns the kind
// that the envelope names. obj's own kind is set only if the kinds agree.
func DecodeProtobuf(data []byte, obj runtime.Object) (schema.GroupVersionKind, error) {
	kind, raw, err := Unwrap(data)
	if err != nil {
		return kind, err
	}
	m, ok := obj.(message)
	if !ok {
		return kind, fmt.Errorf("decoding %T: the kind has no protobuf form", obj)
	}
	if err := m.Unmarshal(raw); err != nil {
		return kind, fmt.Errorf("decoding %s: %w", kind.Kind, err)
	}
	obj.GetObjectKind().SetGroupVersionKind(kind)
	return kind, nil
}

// DecodeJSON decodes data into obj. What is well-formed but not part of the
// kind (unknown or doubled fields) comes back in strict and is otherwise
// ignored.
func DecodeJSON(data []byte, obj any) (strict []error, err error) {
	return kjson.UnmarshalStrict(data, obj)
}

// DecodeYAML is DecodeJSON for YAML.
func DecodeYAML(data []byte, obj any) (strict []error, err error) {
	asJSON, err := yaml.YAMLToJSON(data)
	if err != nil {
		return nil, err
	}
	if _, doubled := yaml.YAMLToJSONStrict(data); doubled != nil {
		strict = append(strict, doubled)
	}
	unknown, err := kjson.UnmarshalStrict(asJSON, obj)
	return append(strict, unknown...), err
}

// PeekKind reads only apiVersion and kind of a JSON document.
func PeekKind(data []byte) (schema.GroupVersionKind, error) {
	var t metav1.TypeMeta
	if err := json.Unmarshal(data, &t); err != nil {
		return schema.GroupVersionKind{}, err
	}
	gv, err := schema.ParseGroupVersion(t.APIVersion)
	return gv.WithKind(t.Kind), err
}

// PeekYAMLKind is PeekKind for YAML.
func PeekYAMLKind(data []byte) (schema.GroupVersionKind, error) {
	asJSON, err := yaml.YAMLToJSON(data)
	if err != nil {
		return schema.GroupVersionKind{}, err
	}
	return PeekKind(asJSON)
}

// Message encodes obj as protobuf without the envelope: the form that items of
// a list have.
func Message[T runtime.Object](obj T) ([]byte, error) {
	m, ok := any(obj).(message)
	if !ok {
		return nil, fmt.Errorf("encoding %T: the kind has no protobuf form", obj)
	}
	buf := make([]byte, m.Size())
	n, err := m.MarshalTo(buf)
	return buf[:n], err
}

// Envelope returns what goes before a message of size bytes of the kind.
func Envelope(kind schema.GroupVersionKind, size int) []byte {
	meta := runtime.TypeMeta{APIVersion: kind.GroupVersion().String(), Kind: kind.Kind}
	head := binary.AppendUvarint(append(bytes.Clone(envelope), 1<<3|2), uint64(meta.Size()))
	named, err := meta.Marshal()
	if err != nil {
		panic(err) // two strings always marshal
	}
	head = append(head, named...)
	return binary.AppendUvarint(append(head, 2<<3|2), uint64(size))
}
