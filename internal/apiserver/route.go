package apiserver

import (
	"fmt"
	"net/http"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	pathvalidation "k8s.io/apimachinery/pkg/api/validation/path"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"skiff.dev/skiff/internal/apiserver/request"
	"skiff.dev/skiff/internal/apiserver/verbs"
	"skiff.dev/skiff/internal/meta"
	"skiff.dev/skiff/internal/resource"
)

// A call is one request to a resource on its way through the verbs.
type call struct {
	s    *Server
	w    http.ResponseWriter
	r    *http.Request
	info *request.Info
	res  *verbs.Resource
	form form // of the answer, negotiated before anything is done
}

// key is the object asked for. A namespace stands in its own path as the
// namespace too, but has none.
func (c *call) key() meta.Key {
	if c.res.Info().Scope == resource.Cluster {
		return meta.Key{Name: c.info.Name}
	}
	return meta.Key{Namespace: c.info.Namespace, Name: c.info.Name}
}

// serveResource routes an authorized resource request.
func (s *Server) serveResource(w http.ResponseWriter, r *http.Request, info *request.Info) {
	gvr := schema.GroupVersionResource{Group: info.Group, Version: info.Version, Resource: info.Resource}
	res, ok := s.engine.Resource(gvr)
	if !ok {
		if _, served := s.discovery.resources[gvr.GroupVersion().String()]; served {
			writeError(w, r, errNoSuchPath)
			return
		}
		notFoundPage(w)
		return
	}
	c := &call{s: s, w: w, r: r, info: info, res: res}
	if err := c.check(); err != nil {
		writeError(w, r, err)
		return
	}
	if err := c.route(); err != nil {
		writeError(w, r, err)
	}
}

// notFoundPage is upstream's answer to a path that no API has.
func notFoundPage(w http.ResponseWriter) {
	http.Error(w, "404 page not found", http.StatusNotFound)
}

var (
	errNoSuchPath = apierrors.NewGenericServerResponse(http.StatusNotFound, "", schema.GroupResource{}, "", "", 0, false)
	errNoMethod   = apierrors.NewGenericServerResponse(http.StatusMethodNotAllowed, "", schema.GroupResource{}, "", "", 0, false)
)

// check refuses paths and methods that no resource of the kind has, and
// negotiates the form of the answer: what cannot be answered is not done.
func (c *call) check() (err error) {
	if err := c.checkScope(); err != nil {
		return err
	}
	if c.info.Rest != "" && !c.takesPath() {
		return errNoSuchPath
	}
	for _, segment := range []string{c.info.Name, c.info.Namespace} {
		if faults := pathvalidation.IsValidPathSegmentName(segment); segment != "" && len(faults) > 0 {
			return apierrors.NewBadRequest(fmt.Sprintf("Name parameter invalid: %q: %s", segment, strings.Join(faults, ";")))
		}
	}
	if c.connects() != nil {
		return nil // the other end negotiates
	}
	if c.r.Method == http.MethodHead {
		return errNoMethod
	}
	if c.info.Verb == "watch" {
		c.form, err = accept(c.r, true, streamed)
	} else {
		info := c.res.Info()
		// A review that is answered at once has no columns, nor metadata worth having.
		c.form, err = accept(c.r, !info.Virtual || info.Observed, offer)
	}
	return err
}

// checkScope refuses a namespaced resource addressed without its namespace and
// a cluster-scoped one addressed within one (CVE-2019-11247).
func (c *call) checkScope() error {
	namespaced := c.res.Info().Scope == resource.Namespaced
	switch {
	case !namespaced && c.info.Namespace != "" && c.info.Resource != "namespaces":
		return errNoSuchPath
	case namespaced && c.info.Namespace == "" && c.inPath():
		return errNoSuchPath
	case namespaced && c.info.Namespace == "" && c.info.Verb != "list" && c.info.Verb != "watch":
		return errNoMethod
	}
	return nil
}

// inPath reports whether the request names one object in its path, not by a
// field selector.
func (c *call) inPath() bool { return c.info.Name != "" && c.info.FieldSelector == "" }

func (c *call) connects() *resource.Connect {
	for _, k := range c.res.Info().Connects {
		if k.Name == c.info.Subresource {
			return k
		}
	}
	return nil
}

func (c *call) takesPath() bool {
	k := c.connects()
	return k != nil && k.TakesPath
}

// route finds the verb. Collections are listed, watched, created in and
// deleted from; the rest is done to one object.
func (c *call) route() error {
	if c.info.Subresource != "" {
		return c.subresource()
	}
	one := c.inPath()
	if !slices.Contains(c.res.Info().Verbs(), c.info.Verb) {
		return errNoMethod
	}
	switch {
	case c.info.Verb == "list":
		return c.list()
	case c.info.Verb == "watch":
		return c.watch()
	case c.info.Verb == "create" && !one:
		return c.create()
	case c.info.Verb == "deletecollection":
		return c.deleteCollection()
	case !one:
		return errNoMethod
	case c.info.Verb == "get":
		return c.get()
	case c.info.Verb == "update":
		return c.update("")
	case c.info.Verb == "patch":
		return c.patch("")
	case c.info.Verb == "delete":
		return c.delete()
	}
	return errNoMethod
}

func (c *call) subresource() error {
	if k := c.connects(); k != nil {
		return c.connect(k)
	}
	info := c.res.Info()
	sub := c.info.Subresource
	if i := slices.IndexFunc(info.Actions, func(a *resource.Action) bool { return a.Name == sub }); i >= 0 {
		if c.info.Verb != "create" {
			return errNoMethod
		}
		return c.act(info.Actions[i])
	}
	if sub == "scale" && info.HasScale {
		return c.scale()
	}
	if c.res.View(sub) == nil {
		return errNoSuchPath
	}
	switch c.info.Verb {
	case "get":
		return c.get()
	case "update":
		return c.update(sub)
	case "patch":
		return c.patch(sub)
	}
	return errNoMethod
}
