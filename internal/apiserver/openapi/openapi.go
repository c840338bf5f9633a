package openapi

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"net/url"
	"reflect"
	"slices"
	"strings"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"skiff.dev/skiff/internal/resource"
	"skiff.dev/skiff/internal/scheme"
	"skiff.dev/skiff/internal/version"
)

// Handler serves /openapi/v3, the document of each group and version below it,
// and all of them in one at /openapi/v2.
// https://kubernetes.io/docs/concepts/overview/kubernetes-api/#openapi-v3
type Handler struct {
	groups map[string][]resource.Info // by "api/v1" or "apis/<group>/<version>"
}

// New returns the handler for the given resources.
func New(all []resource.Info) *Handler {
	h := &Handler{groups: map[string][]resource.Info{}}
	for _, i := range all {
		h.groups[rootOf(i)] = append(h.groups[rootOf(i)], i)
	}
	return h
}

func rootOf(i resource.Info) string {
	if i.Name.Group == "" {
		return "api/" + i.Name.Version
	}
	return "apis/" + i.Name.Group + "/" + i.Name.Version
}

// ServeHTTP answers the index, or one document.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch p := strings.TrimSuffix(r.URL.Path, "/"); {
	case p == "/openapi/v2":
		h.serveV2(w, r)
		return
	case p != "/openapi/v3" && !strings.HasPrefix(p, "/openapi/v3/"):
		http.Error(w, "404 page not found", http.StatusNotFound)
		return
	}
	root := strings.Trim(strings.TrimPrefix(r.URL.Path, "/openapi/v3"), "/")
	if root == "" {
		h.index(w)
		return
	}
	all, ok := h.groups[root]
	if !ok {
		http.Error(w, "404 page not found", http.StatusNotFound)
		return
	}
	if r.URL.Query().Get("hash") == h.hash(root) { // the address names the content
		w.Header().Set("Cache-Control", "public, max-age=31536000, immutable")
	}
	if unchanged(w, r, h.hash(root)) {
		return
	}
	write(w, document(root, all))
}

// unchanged names the content of the answer and reports whether the client has
// it already, in which case it has been told so.
func unchanged(w http.ResponseWriter, r *http.Request, hash string) bool {
	etag := `"` + hash + `"`
	w.Header().Set("Etag", etag)
	w.Header().Set("Vary", "Accept")
	if r.Header.Get("If-None-Match") != etag {
		return false
	}
	w.WriteHeader(http.StatusNotModified)
	return true
}

func write(w http.ResponseWriter, v any) {
	data, err := json.Marshal(v)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(data) // the client may have gone
}

func (h *Handler) index(w http.ResponseWriter) {
	paths := object{}
	for root := range h.groups {
		paths[root] = object{"serverRelativeURL": "/openapi/v3/" + root + "?hash=" + url.QueryEscape(h.hash(root))}
	}
	write(w, object{"paths": paths})
}

// hash names the content of a document: it changes with the program only.
func (h *Handler) hash(roots ...string) string {
	sum := sha256.New()
	sum.Write([]byte(version.Git() + version.Commit))
	for _, root := range roots {
		sum.Write([]byte(root))
		for _, i := range h.groups[root] {
			sum.Write([]byte(i.Name.Plural))
		}
	}
	return strings.ToUpper(hex.EncodeToString(sum.Sum(nil)))
}

// document describes one group and version.
func document(root string, all []resource.Info) object {
	s := &schemas{refs: "#/components/schemas/", found: map[string]object{}}
	paths := object{}
	for _, i := range all {
		d := describer{s: s, i: i, tag: tagOf(root)}
		d.paths(paths, "/"+root)
	}
	return object{
		"openapi":    "3.0.0",
		"info":       object{"title": "Kubernetes", "version": version.Git()},
		"paths":      paths,
		"components": object{"schemas": s.found},
	}
}

func tagOf(root string) string {
	if root == "api/v1" {
		return "core_v1"
	}
	group, version, _ := strings.Cut(strings.TrimPrefix(root, "apis/"), "/")
	first, _, _ := strings.Cut(group, ".")
	return first + "_" + version
}

// describer adds what one resource is to a document.
type describer struct {
	s   *schemas
	i   resource.Info
	tag string
}

// model adds the schema of a kind, marked as such, and returns a reference.
func (d describer) model(kind schema.GroupVersionKind, obj any) object {
	t := reflect.TypeOf(obj).Elem()
	name := d.s.add(t)
	d.s.found[name]["x-kubernetes-group-version-kind"] = []object{gvk(kind)}
	return object{"$ref": d.s.refs + name}
}

func gvk(k schema.GroupVersionKind) object {
	return object{"group": k.Group, "version": k.Version, "kind": k.Kind}
}

func (d describer) paths(paths object, root string) {
	kind := d.i.Name.GVK()
	own := d.known(kind)
	collection, params := root+"/"+d.i.Name.Plural, []object{}
	if d.i.Scope == resource.Namespaced {
		collection = root + "/namespaces/{namespace}/" + d.i.Name.Plural
		params = append(params, pathParameter("namespace"))
	}
	post := d.operation("post", kind, own, own)
	if d.i.Virtual && !d.i.Observed {
		paths[collection] = object{"post": post, "parameters": params}
		return
	}
	list := d.known(listKind(kind))
	if d.i.Scope == resource.Namespaced {
		paths[root+"/"+d.i.Name.Plural] = object{"get": d.operation("list", kind, nil, list)}
	}
	one := append(slices.Clone(params), pathParameter("name"))
	if d.i.Observed {
		paths[collection] = object{"get": d.operation("list", kind, nil, list), "parameters": params}
		paths[collection+"/{name}"] = object{"get": d.operation("get", kind, nil, own), "parameters": one}
		return
	}
	paths[collection] = object{
		"get": d.operation("list", kind, nil, list), "post": post,
		"delete": d.operation("deletecollection", kind, d.model(optionsKind("DeleteOptions"), &metav1.DeleteOptions{}), list), "parameters": params,
	}
	paths[collection+"/{name}"] = object{
		"get": d.operation("get", kind, nil, own), "put": d.operation("put", kind, own, own),
		"patch": d.operation("patch", kind, d.model(optionsKind("Patch"), &metav1.Patch{}), own),
		"delete": d.operation("delete", kind, d.model(optionsKind("DeleteOptions"), &metav1.DeleteOptions{}),
			d.model(schema.GroupVersionKind{Version: "v1", Kind: "Status"}, &metav1.Status{})), "parameters": one,
	}
	d.subresources(paths, collection+"/{name}/", one, own)
}

func (d describer) subresources(paths object, base string, params []object, own object) {
	change := func(name string, kind schema.GroupVersionKind, model object) {
		paths[base+name] = object{
			"get": d.operation("get", kind, nil, model), "put": d.operation("put", kind, model, model),
			"patch": d.operation("patch", kind, d.model(optionsKind("Patch"), &metav1.Patch{}), model), "parameters": params,
		}
	}
	for _, v := range d.i.Views {
		change(v, d.i.Name.GVK(), own)
	}
	if d.i.HasScale {
		kind := autoscalingv1.SchemeGroupVersion.WithKind("Scale")
		change("scale", kind, d.model(kind, &autoscalingv1.Scale{}))
	}
	for _, a := range d.i.Actions {
		model := d.model(a.Kind, a.Body())
		paths[base+a.Name] = object{"post": d.operation("post", a.Kind, model, model), "parameters": params}
	}
}

// known is the model of a compiled-in kind.
func (d describer) known(kind schema.GroupVersionKind) object {
	obj, err := scheme.Known.New(kind)
	if err != nil {
		return object{"type": "object"}
	}
	return d.model(kind, runtime.Object(obj))
}

func listKind(k schema.GroupVersionKind) schema.GroupVersionKind {
	k.Kind += "List"
	return k
}

func optionsKind(kind string) schema.GroupVersionKind {
	return schema.GroupVersionKind{Version: "v1", Kind: kind}
}

var patchMedia = []string{
	"application/json-patch+json", "application/merge-patch+json", "application/strategic-merge-patch+json", "application/apply-patch+yaml",
}

func (d describer) operation(verb string, kind schema.GroupVersionKind, body, answer object) object {
	op := object{
		"tags":                            []string{d.tag},
		"x-kubernetes-action":             verb,
		"x-kubernetes-group-version-kind": gvk(kind),
		"responses": object{
			"200": object{"description": "OK", "content": content(answer, scheme.JSON, scheme.YAML, scheme.Protobuf)},
			"401": object{"description": "Unauthorized"},
		},
	}
	if body != nil {
		media := []string{"*/*"}
		if verb == "patch" {
			media = patchMedia
		}
		op["requestBody"] = object{"content": content(body, media...), "required": verb != "delete" && verb != "deletecollection"}
	}
	if q := queryOf[verb]; len(q) > 0 {
		op["parameters"] = q
	}
	return op
}

func content(model object, media ...string) object {
	out := object{}
	for _, m := range media {
		out[m] = object{"schema": model}
	}
	return out
}

func pathParameter(name string) object {
	return object{"name": name, "in": "path", "required": true, "schema": object{"type": "string", "uniqueItems": true}}
}

func query(typ string, names ...string) (out []object) {
	for _, n := range names {
		out = append(out, object{"name": n, "in": "query", "schema": object{"type": typ, "uniqueItems": true}})
	}
	return out
}

// queryOf are the query parameters of each operation; kubectl looks here for
// fieldValidation to know that the server validates fields.
var queryOf = map[string][]object{
	"post":  query("string", "dryRun", "fieldManager", "fieldValidation"),
	"put":   query("string", "dryRun", "fieldManager", "fieldValidation"),
	"patch": append(query("string", "dryRun", "fieldManager", "fieldValidation"), query("boolean", "force")...),
	"list": append(query("string", "continue", "fieldSelector", "labelSelector", "resourceVersion", "resourceVersionMatch"),
		append(query("boolean", "allowWatchBookmarks", "sendInitialEvents", "watch"), query("integer", "limit", "timeoutSeconds")...)...),
	"deletecollection": query("string", "continue", "dryRun", "fieldSelector", "labelSelector", "propagationPolicy", "resourceVersion"),
	"delete":           append(query("string", "dryRun", "propagationPolicy"), query("integer", "gracePeriodSeconds")...),
}
