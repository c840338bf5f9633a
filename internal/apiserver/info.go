package apiserver

import (
	"net/http"
	"strings"

	"k8s.io/apimachinery/pkg/fields"

	"skiff.dev/skiff/internal/apiserver/request"
)

// infoOf reads what a request asks for from its method, path and query:
//
//	/api/v1/..., /apis/<group>/<version>/...
//	  namespaces/<ns>/<resource>[/<name>[/<subresource>[/<rest>]]]
//	  <resource>[/<name>[/<subresource>[/<rest>]]]
//
// https://kubernetes.io/docs/reference/using-api/api-concepts/#resource-uris
func infoOf(r *http.Request) *request.Info {
	info := &request.Info{Path: r.URL.Path, Verb: strings.ToLower(r.Method)}
	parts := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	switch {
	case parts[0] == "api" && len(parts) > 2:
		info.Version, parts = parts[1], parts[2:]
	case parts[0] == "apis" && len(parts) > 3:
		info.Group, info.Version, parts = parts[1], parts[2], parts[3:]
	default:
		return info
	}
	info.IsResource = true
	watching := false
	if parts[0] == "watch" && len(parts) > 1 { // the deprecated watch prefix
		watching, parts = true, parts[1:]
	}
	parts = intoNamespace(info, parts)
	info.Resource = parts[0]
	if len(parts) > 1 {
		info.Name = parts[1]
	}
	if len(parts) > 2 {
		info.Subresource = parts[2]
	}
	if len(parts) > 3 {
		info.Rest = "/" + strings.Join(parts[3:], "/")
		if strings.HasSuffix(r.URL.Path, "/") {
			info.Rest += "/"
		}
	}
	info.Verb = verbOf(r, info, watching)
	return info
}

// intoNamespace takes "namespaces/<ns>" off the front where something of that
// namespace follows; status and finalize are the namespace's own.
func intoNamespace(info *request.Info, parts []string) []string {
	if parts[0] != "namespaces" || len(parts) < 2 {
		return parts
	}
	info.Namespace = parts[1]
	if len(parts) > 2 && parts[2] != "status" && parts[2] != "finalize" {
		return parts[2:]
	}
	return parts
}

func verbOf(r *http.Request, info *request.Info, watching bool) string {
	switch r.Method {
	case http.MethodPost:
		return "create"
	case http.MethodPut:
		return "update"
	case http.MethodPatch:
		return "patch"
	case http.MethodDelete:
		if info.Name == "" {
			readSelectors(info, r)
			return "deletecollection"
		}
		return "delete"
	case http.MethodGet, http.MethodHead:
	default:
		return ""
	}
	q := r.URL.Query()
	if info.Subresource == "" && (watching || info.Name == "" && isTrue(q.Get("watch"))) {
		readSelectors(info, r)
		nameFromSelector(info, q.Get("fieldSelector"))
		return "watch"
	}
	if info.Name == "" {
		readSelectors(info, r)
		nameFromSelector(info, q.Get("fieldSelector"))
		return "list"
	}
	return "get"
}

func readSelectors(info *request.Info, r *http.Request) {
	q := r.URL.Query()
	info.FieldSelector, info.LabelSelector = q.Get("fieldSelector"), q.Get("labelSelector")
}

// nameFromSelector lets rights on one name cover lists and watches that select
// just that name.
func nameFromSelector(info *request.Info, selector string) {
	if info.Name != "" || selector == "" {
		return
	}
	if s, err := fields.ParseSelector(selector); err == nil {
		if name, ok := s.RequiresExactMatch("metadata.name"); ok {
			info.Name = name
		}
	}
}

// isTrue reads a boolean query parameter as upstream does: any value but
// "false" and "0" is true.
func isTrue(v string) bool { return v != "" && v != "false" && v != "0" }
