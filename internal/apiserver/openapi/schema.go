// Package openapi describes the API to clients: kubectl explain, field
// validation, generators. The documents are made from the Go types of the API
// (their field names, patch markers and SwaggerDoc texts) and the resource
// definitions, each time one is asked for: that is seldom, and a kept document
// would cost more memory than the rest of an idle server.
package openapi

import (
	"reflect"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// object is a JSON object under construction.
type object = map[string]any

// schemas collects the schemas of types, and of the types they are made of.
type schemas struct {
	refs  string // what a reference starts with
	v2    bool   // the dialect of OpenAPI 2, where a reference may have a description
	found map[string]object
}

// special are the types that are written otherwise than their Go form says.
var special = map[reflect.Type]object{
	reflect.TypeFor[metav1.Time]():            {"type": "string", "format": "date-time"},
	reflect.TypeFor[metav1.MicroTime]():       {"type": "string", "format": "date-time"},
	reflect.TypeFor[metav1.Duration]():        {"type": "string"},
	reflect.TypeFor[resource.Quantity]():      {"type": "string"},
	reflect.TypeFor[intstr.IntOrString]():     {"type": "string", "format": "int-or-string"},
	reflect.TypeFor[runtime.RawExtension]():   {"type": "object"},
	reflect.TypeFor[metav1.FieldsV1]():        {"type": "object"},
	reflect.TypeFor[metav1.Verbs]():           {"type": "array", "items": object{"type": "string"}},
	reflect.TypeFor[[]byte]():                 {"type": "string", "format": "byte"},
	reflect.TypeFor[map[string]interface{}](): {"type": "object"},
}

type documented interface{ SwaggerDoc() map[string]string }

type named interface{ OpenAPIModelName() string }

// nameOf returns the name of a type's schema, such as io.k8s.api.core.v1.Pod.
func nameOf(t reflect.Type) string {
	if n, ok := reflect.New(t).Interface().(named); ok {
		return n.OpenAPIModelName()
	}
	path := strings.Split(t.PkgPath(), "/")
	host := strings.Split(path[0], ".")
	slices.Reverse(host)
	return strings.Join(append(append(host, path[1:]...), t.Name()), ".")
}

// of returns the schema of a type: in place for plain ones, a reference for
// structs, whose own schema is added to those found.
func (s *schemas) of(t reflect.Type) object {
	switch t.Kind() {
	case reflect.Pointer:
		return s.of(t.Elem())
	case reflect.Struct:
		return object{"$ref": s.refs + s.add(t)}
	}
	if sp, ok := special[t]; ok {
		return sp
	}
	switch t.Kind() {
	case reflect.Bool:
		return object{"type": "boolean"}
	case reflect.Int32, reflect.Uint32, reflect.Int, reflect.Int16, reflect.Int8, reflect.Uint8, reflect.Uint16:
		return object{"type": "integer", "format": "int32"}
	case reflect.Int64, reflect.Uint64:
		return object{"type": "integer", "format": "int64"}
	case reflect.Float32, reflect.Float64:
		return object{"type": "number", "format": "double"}
	case reflect.Slice, reflect.Array:
		if t.Elem().Kind() == reflect.Uint8 {
			return special[reflect.TypeFor[[]byte]()]
		}
		return object{"type": "array", "items": s.of(t.Elem())}
	case reflect.Map:
		return object{"type": "object", "additionalProperties": s.of(t.Elem())}
	case reflect.Interface:
		return object{"type": "object"}
	}
	return object{"type": "string"}
}

// add makes the schema of a struct, once, and returns its name.
func (s *schemas) add(t reflect.Type) string {
	name := nameOf(t)
	if s.found[name] != nil {
		return name
	}
	docs := map[string]string{}
	if d, ok := reflect.New(t).Interface().(documented); ok {
		docs = d.SwaggerDoc()
	}
	if sp, ok := special[t]; ok {
		out := object{"description": docs[""]}
		for k, v := range sp {
			out[k] = v
		}
		s.found[name] = out
		return name
	}
	out := object{"type": "object"}
	s.found[name] = out // before its fields, which may refer back
	if docs[""] != "" {
		out["description"] = docs[""]
	}
	properties := object{}
	var required []string
	s.fields(t, docs, properties, &required)
	if len(properties) > 0 {
		out["properties"] = properties
	}
	if len(required) > 0 {
		slices.Sort(required)
		out["required"] = required
	}
	return name
}

// fields adds the properties of a struct; embedded structs add theirs.
func (s *schemas) fields(t reflect.Type, docs map[string]string, properties object, required *[]string) {
	for i := range t.NumField() {
		f := t.Field(i)
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case name == "-" || !f.IsExported():
			continue
		case name == "" && (f.Anonymous || strings.Contains(options, "inline")):
			inner := docs
			if d, ok := reflect.New(f.Type).Interface().(documented); ok {
				inner = d.SwaggerDoc()
			}
			s.fields(f.Type, inner, properties, required)
			continue
		case name == "":
			continue
		}
		properties[name] = s.property(f, docs[name])
		if !strings.Contains(options, "omitempty") && !strings.Contains(options, "omitzero") {
			*required = append(*required, name)
		}
	}
}

// property is the schema of a field, with what its tags say of patches.
func (s *schemas) property(f reflect.StructField, doc string) object {
	p := object{}
	for k, v := range s.of(f.Type) {
		p[k] = v
	}
	if ref, ok := p["$ref"]; ok && !s.v2 { // in OpenAPI 3 it may have nothing beside it
		delete(p, "$ref")
		p["allOf"] = []object{{"$ref": ref}}
		p["default"] = object{}
		if f.Type.Kind() == reflect.Pointer || isScalar(f.Type) {
			delete(p, "default")
		}
	}
	if doc != "" {
		p["description"] = doc
	}
	if strategy := f.Tag.Get("patchStrategy"); strategy != "" {
		p["x-kubernetes-patch-strategy"] = strategy
	}
	if key := f.Tag.Get("patchMergeKey"); key != "" {
		p["x-kubernetes-patch-merge-key"] = key
		p["x-kubernetes-list-map-keys"] = mapKeys(f, key)
		p["x-kubernetes-list-type"] = "map"
	}
	return p
}

func isScalar(t reflect.Type) bool { _, ok := special[t]; return ok }

// mapKeys are what tells the elements of a list apart: the merge key, and what
// else the API documentation names.
func mapKeys(f reflect.StructField, key string) []string {
	if f.Type.Kind() == reflect.Slice {
		switch f.Type.Elem() {
		case reflect.TypeFor[corev1.ContainerPort](), reflect.TypeFor[corev1.ServicePort]():
			return []string{key, "protocol"}
		case reflect.TypeFor[corev1.TopologySpreadConstraint]():
			return []string{key, "whenUnsatisfiable"}
		}
	}
	return []string{key}
}
