package apiserver

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"mime"
	"net/http"
	"slices"
	"strings"

	discoveryv2 "k8s.io/api/apidiscovery/v2"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/sets"

	"skiff.dev/skiff/internal/apiserver/verbs"
	"skiff.dev/skiff/internal/resource"
	"skiff.dev/skiff/internal/scheme"
)

// discovery is what the API says of itself, made once from the definitions.
// https://kubernetes.io/docs/reference/using-api/api-concepts/#discovery
type discovery struct {
	groups    []metav1.APIGroup // without the core group
	resources map[string]*metav1.APIResourceList
	aggregate map[bool]*discoveryv2.APIGroupDiscoveryList // by: is the core group
}

// groupPriority is the order of groups, which decides what a short name means;
// the rest follows in the order of the list of resources.
var groupPriority = []string{"", "apiregistration.k8s.io", "apps", "events.k8s.io", "authentication.k8s.io",
	"authorization.k8s.io", "autoscaling", "batch", "certificates.k8s.io", "networking.k8s.io", "policy",
	"rbac.authorization.k8s.io", "storage.k8s.io", "admissionregistration.k8s.io", "apiextensions.k8s.io",
	"scheduling.k8s.io", "coordination.k8s.io", "node.k8s.io", "discovery.k8s.io"}

func newDiscovery(all []*verbs.Resource) discovery {
	d := discovery{
		resources: map[string]*metav1.APIResourceList{},
		aggregate: map[bool]*discoveryv2.APIGroupDiscoveryList{true: newAggregate(), false: newAggregate()},
	}
	byGroup := map[string][]*verbs.Resource{}
	order := slices.Clone(groupPriority)
	for _, r := range all {
		g := r.Info().Name.Group
		byGroup[g] = append(byGroup[g], r)
		if !slices.Contains(order, g) {
			order = append(order, g)
		}
	}
	for _, g := range order {
		if len(byGroup[g]) > 0 {
			d.add(g, byGroup[g])
		}
	}
	return d
}

func newAggregate() *discoveryv2.APIGroupDiscoveryList {
	return &discoveryv2.APIGroupDiscoveryList{
		TypeMeta: metav1.TypeMeta{APIVersion: discoveryv2.SchemeGroupVersion.String(), Kind: "APIGroupDiscoveryList"},
	}
}

// add describes one group. Its versions come in the order in which its
// resources name them, the preferred one first.
func (d *discovery) add(group string, all []*verbs.Resource) {
	g := metav1.APIGroup{TypeMeta: metav1.TypeMeta{Kind: "APIGroup", APIVersion: "v1"}, Name: group}
	agg := discoveryv2.APIGroupDiscovery{ObjectMeta: metav1.ObjectMeta{Name: group}}
	seen := sets.New[string]()
	for _, r := range all {
		v := r.Info().Name.Version
		if seen.Has(v) {
			continue
		}
		seen.Insert(v)
		gv := schema.GroupVersion{Group: group, Version: v}.String()
		g.Versions = append(g.Versions, metav1.GroupVersionForDiscovery{GroupVersion: gv, Version: v})
		list := &metav1.APIResourceList{TypeMeta: metav1.TypeMeta{Kind: "APIResourceList", APIVersion: "v1"}, GroupVersion: gv}
		av := discoveryv2.APIVersionDiscovery{Version: v, Freshness: discoveryv2.DiscoveryFreshnessCurrent}
		for _, r := range all {
			if r.Info().Name.Version == v {
				list.APIResources = append(list.APIResources, plain(r.Info())...)
				av.Resources = append(av.Resources, aggregated(r.Info()))
			}
		}
		d.resources[gv] = list
		agg.Versions = append(agg.Versions, av)
	}
	g.PreferredVersion = g.Versions[0]
	if group != "" {
		d.groups = append(d.groups, g)
	}
	core := d.aggregate[group == ""]
	core.Items = append(core.Items, agg)
}

// A part is one subresource as discovery shows it.
type part struct {
	name  string
	kind  schema.GroupVersionKind
	verbs []string
}

func partsOf(i resource.Info) []part {
	var parts []part
	change := []string{"get", "patch", "update"}
	for _, v := range i.Views {
		parts = append(parts, part{v, i.Name.GVK(), change})
	}
	if i.HasScale {
		parts = append(parts, part{"scale", scaleKind, change})
	}
	for _, a := range i.Actions {
		parts = append(parts, part{a.Name, a.Kind, []string{"create"}})
	}
	for _, c := range i.Connects {
		p := part{name: c.Name, kind: scheme.KindOf(c.Options())}
		if p.name != "log" {
			p.verbs = connectVerbs(c.Methods)
		} else {
			p.kind, p.verbs = i.Name.GVK(), []string{"get"}
		}
		parts = append(parts, p)
	}
	slices.SortFunc(parts, func(a, b part) int { return strings.Compare(a.name, b.name) })
	return parts
}

var methodVerbs = map[string]string{"GET": "get", "POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}

func connectVerbs(methods []string) []string {
	var out []string
	for _, m := range methods {
		if v := methodVerbs[m]; v != "" {
			out = append(out, v)
		}
	}
	slices.Sort(out)
	return out
}

func plain(i resource.Info) []metav1.APIResource {
	n := i.Name
	namespaced := i.Scope == resource.Namespaced
	out := []metav1.APIResource{{
		Name: n.Plural, SingularName: n.Singular, Namespaced: namespaced, Kind: n.Kind,
		Verbs: i.Verbs(), ShortNames: n.Short, Categories: n.Categories,
	}}
	for _, p := range partsOf(i) {
		r := metav1.APIResource{Name: n.Plural + "/" + p.name, Namespaced: namespaced, Kind: p.kind.Kind, Verbs: p.verbs}
		if p.kind.GroupVersion() != n.GVK().GroupVersion() {
			r.Group, r.Version = p.kind.Group, p.kind.Version
		}
		out = append(out, r)
	}
	return out
}

func aggregated(i resource.Info) discoveryv2.APIResourceDiscovery {
	n := i.Name
	scope := discoveryv2.ScopeCluster
	if i.Scope == resource.Namespaced {
		scope = discoveryv2.ScopeNamespace
	}
	r := discoveryv2.APIResourceDiscovery{
		Resource: n.Plural, SingularResource: n.Singular, Scope: scope, ResponseKind: responseKind(n.GVK()),
		Verbs: i.Verbs(), ShortNames: n.Short, Categories: n.Categories,
	}
	for _, p := range partsOf(i) {
		r.Subresources = append(r.Subresources, discoveryv2.APISubresourceDiscovery{
			Subresource: p.name, ResponseKind: responseKind(p.kind), Verbs: p.verbs,
		})
	}
	return r
}

func responseKind(k schema.GroupVersionKind) *metav1.GroupVersionKind {
	return &metav1.GroupVersionKind{Group: k.Group, Version: k.Version, Kind: k.Kind}
}

func (s *Server) serveDiscovery(w http.ResponseWriter, r *http.Request, p string) {
	d := &s.discovery
	switch parts := strings.Split(strings.TrimPrefix(p, "/"), "/"); {
	case p == "/api" || p == "/apis":
		if wantsAggregated(r) {
			writeAggregated(w, r, d.aggregate[p == "/api"])
			return
		}
		if p == "/apis" {
			writeObject(w, r, http.StatusOK, &metav1.APIGroupList{TypeMeta: metav1.TypeMeta{Kind: "APIGroupList", APIVersion: "v1"}, Groups: d.groups})
			return
		}
		writeObject(w, r, http.StatusOK, &metav1.APIVersions{
			TypeMeta: metav1.TypeMeta{Kind: "APIVersions"}, Versions: []string{"v1"},
			ServerAddressByClientCIDRs: []metav1.ServerAddressByClientCIDR{{ClientCIDR: "0.0.0.0/0", ServerAddress: r.Host}},
		})
	case parts[0] == "api" && len(parts) == 2, parts[0] == "apis" && len(parts) == 3:
		list, ok := d.resources[strings.Join(parts[1:], "/")]
		if !ok {
			notFoundPage(w)
			return
		}
		writeObject(w, r, http.StatusOK, list)
	case parts[0] == "apis" && len(parts) == 2:
		for i := range d.groups {
			if d.groups[i].Name == parts[1] {
				writeObject(w, r, http.StatusOK, &d.groups[i])
				return
			}
		}
		notFoundPage(w)
	default:
		notFoundPage(w)
	}
}

// wantsAggregated reports whether the client prefers all of discovery in one
// document (KEP-3352).
func wantsAggregated(r *http.Request) bool {
	for clause := range strings.SplitSeq(r.Header.Get("Accept"), ",") {
		media, params, err := mime.ParseMediaType(strings.TrimSpace(clause))
		if err != nil {
			continue
		}
		if params["as"] == "APIGroupDiscoveryList" && params["g"] == "apidiscovery.k8s.io" && params["v"] == "v2" {
			return media == scheme.JSON || media == "*/*"
		}
		if params["as"] == "" {
			return false
		}
	}
	return false
}

func writeAggregated(w http.ResponseWriter, r *http.Request, list *discoveryv2.APIGroupDiscoveryList) {
	data, err := json.Marshal(list)
	if err != nil {
		writeError(w, r, apierrors.NewInternalError(err))
		return
	}
	sum := sha256.Sum256(data)
	etag := `"` + strings.ToUpper(hex.EncodeToString(sum[:])) + `"`
	w.Header().Set("Vary", "Accept")
	w.Header().Set("Etag", etag)
	if r.Header.Get("If-None-Match") == etag {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	writeBytes(w, r, http.StatusOK, "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList", data)
}

func infosOf(all []*verbs.Resource) []resource.Info {
	infos := make([]resource.Info, len(all))
	for i, r := range all {
		infos[i] = r.Info()
	}
	return infos
}
