package openapi

import (
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"strings"

	openapi_v2 "github.com/google/gnostic-models/openapiv2"
	"google.golang.org/protobuf/proto"

	"skiff.dev/skiff/internal/scheme"
	"skiff.dev/skiff/internal/version"
)

// The names of OpenAPI 2 as protobuf: kubectl before 1.27 reads nothing else.
var protobufV2 = []string{
	"application/com.github.proto-openapi.spec.v2@v1.0+protobuf",
	"application/com.github.proto-openapi.spec.v2.v1.0+protobuf",
}

// serveV2 answers with the whole API as one OpenAPI 2 document.
// https://kubernetes.io/docs/concepts/overview/kubernetes-api/#openapi-v2
func (h *Handler) serveV2(w http.ResponseWriter, r *http.Request) {
	roots := slices.Sorted(maps.Keys(h.groups))
	asProtobuf := slices.ContainsFunc(protobufV2, func(m string) bool { return strings.Contains(r.Header.Get("Accept"), m) })
	media := scheme.JSON
	if asProtobuf {
		media = protobufV2[1]
	}
	if unchanged(w, r, h.hash(roots...)) {
		return
	}
	data, err := json.Marshal(h.documentV2(roots))
	if err == nil && asProtobuf {
		data, err = toProtobuf(data)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", media)
	_, _ = w.Write(data) // the client may have gone
}

func toProtobuf(document []byte) ([]byte, error) {
	doc, err := openapi_v2.ParseDocument(document)
	if err != nil {
		return nil, err
	}
	return proto.Marshal(doc)
}

func (h *Handler) documentV2(roots []string) object {
	s := &schemas{refs: "#/definitions/", v2: true, found: map[string]object{}}
	paths := object{}
	for _, root := range roots {
		part := object{}
		for _, i := range h.groups[root] {
			d := describer{s: s, i: i, tag: tagOf(root)}
			d.paths(part, "/"+root)
		}
		for path, item := range part {
			paths[path] = pathV2(item.(object))
		}
	}
	return object{
		"swagger":     "2.0",
		"info":        object{"title": "Kubernetes", "version": version.Git()},
		"paths":       paths,
		"definitions": s.found,
	}
}

// pathV2 turns a path of OpenAPI 3 into one of OpenAPI 2: bodies are
// parameters, media types belong to the operation.
func pathV2(item object) object {
	out := object{}
	for key, v := range item {
		if op, ok := v.(object); ok {
			out[key] = operationV2(op)
		} else {
			out[key] = parametersV2(v.([]object))
		}
	}
	return out
}

func operationV2(op object) object {
	out := object{"schemes": []string{"https"}, "consumes": []string{"*/*"}, "produces": []string{scheme.JSON, scheme.YAML, scheme.Protobuf}}
	for _, key := range []string{"tags", "x-kubernetes-action", "x-kubernetes-group-version-kind"} {
		out[key] = op[key]
	}
	var params []object
	if q, ok := op["parameters"].([]object); ok {
		params = parametersV2(q)
	}
	if b, ok := op["requestBody"].(object); ok {
		media := b["content"].(object)
		params = append(params, object{"name": "body", "in": "body", "required": b["required"], "schema": firstSchema(media)})
		out["consumes"] = slices.Sorted(maps.Keys(media))
	}
	if len(params) > 0 {
		out["parameters"] = params
	}
	responses := object{}
	for code, v := range op["responses"].(object) {
		r := object{"description": v.(object)["description"]}
		if c, ok := v.(object)["content"].(object); ok {
			r["schema"] = firstSchema(c)
		}
		responses[code] = r
	}
	out["responses"] = responses
	return out
}

func firstSchema(content object) any {
	for _, v := range content {
		return v.(object)["schema"] // the same for all media types
	}
	return object{"type": "object"}
}

// parametersV2 puts the type of each parameter beside its name.
func parametersV2(params []object) []object {
	out := make([]object, len(params))
	for i, p := range params {
		out[i] = object{"name": p["name"], "in": p["in"]}
		for k, v := range p["schema"].(object) {
			out[i][k] = v
		}
		if p["required"] != nil {
			out[i]["required"] = p["required"]
		}
	}
	return out
}
