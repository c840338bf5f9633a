package apiserver

import (
	"context"
	"fmt"
	"mime"
	"net/http"
	"slices"
	"strconv"
	"strings"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metainternal "k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"skiff.dev/skiff/internal/apiserver/request"
	"skiff.dev/skiff/internal/apiserver/verbs"
	"skiff.dev/skiff/internal/meta"
	"skiff.dev/skiff/internal/resource"
	"skiff.dev/skiff/internal/scheme"
)

// A call is one request to a resource on its way through the verbs.
type call struct {
	s    *Server
	w    http.ResponseWriter
	r    *http.Request
	info *request.Info
	res  *verbs.Resource
}

func (c *call) key() meta.Key { return meta.Key{Namespace: c.info.Namespace, Name: c.info.Name} }

// serveResource routes an authorized resource request.
func (s *Server) serveResource(w http.ResponseWriter, r *http.Request, info *request.Info) {
	gvr := schema.GroupVersionResource{Group: info.Group, Version: info.Version, Resource: info.Resource}
	res, ok := s.engine.Resource(gvr)
	if !ok {
		notFoundPage(w)
		return
	}
	c := &call{s: s, w: w, r: r, info: info, res: res}
	if err := c.checkScope(); err != nil {
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

// checkScope refuses a namespaced resource addressed without its namespace and
// a cluster-scoped one addressed within one (CVE-2019-11247).
func (c *call) checkScope() error {
	namespaced := c.res.Info().Scope == resource.Namespaced
	inNamespace := strings.Contains(c.r.URL.Path, "/namespaces/"+c.info.Namespace+"/"+c.info.Resource)
	switch {
	case !namespaced && c.info.Namespace != "" && inNamespace && c.info.Resource != "namespaces":
		return errNoSuchPath
	case namespaced && c.info.Namespace == "" && c.info.Verb != "list" && c.info.Verb != "watch" && c.info.Verb != "create":
		return errNoSuchPath
	case namespaced && c.info.Namespace == "" && c.info.Verb == "create":
		return apierrors.NewMethodNotSupported(c.res.Info().Name.GroupResource(), "create")
	}
	return nil
}

var errNoSuchPath = apierrors.NewGenericServerResponse(http.StatusNotFound, "", schema.GroupResource{}, "",
	"the server could not find the requested resource", 0, false)

func (c *call) route() error {
	if c.info.Subresource != "" {
		return c.subresource()
	}
	info := c.res.Info()
	if info.Virtual && c.info.Verb != "create" {
		return apierrors.NewMethodNotSupported(info.Name.GroupResource(), c.info.Verb)
	}
	switch c.info.Verb {
	case "get":
		return c.get()
	case "list":
		return c.list()
	case "watch":
		return c.watch()
	case "create":
		return c.create()
	case "update":
		return c.update("")
	case "patch":
		return c.patch("")
	case "delete":
		return c.delete()
	case "deletecollection":
		return c.deleteCollection()
	}
	return apierrors.NewMethodNotSupported(info.Name.GroupResource(), c.info.Verb)
}

func (c *call) subresource() error {
	info := c.res.Info()
	sub := c.info.Subresource
	for _, a := range info.Actions {
		if a.Name == sub {
			if c.info.Verb != "create" {
				return c.noVerb()
			}
			return c.act(a)
		}
	}
	for _, k := range info.Connects {
		if k.Name == sub {
			return c.connect(k)
		}
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
	return c.noVerb()
}

func (c *call) noVerb() error {
	gr := c.res.Info().Name.GroupResource()
	if c.info.Subresource != "" {
		gr.Resource += "/" + c.info.Subresource
	}
	return apierrors.NewMethodNotSupported(gr, c.info.Verb)
}

func (c *call) get() error {
	f, err := accept(c.r, true)
	if err != nil {
		return err
	}
	item, err := c.res.Get(c.r.Context(), c.key(), c.r.URL.Query().Get("resourceVersion"))
	if err != nil {
		return err
	}
	if f.as != "" {
		writeTransformed(c.w, c.r, f, transform(c.r, c.res, f, item.Object, true))
		return nil
	}
	writeItem(c.w, c.r, http.StatusOK, c.res.Info().Name.GVK(), item)
	return nil
}

func (c *call) list() error {
	f, err := accept(c.r, true)
	if err != nil {
		return err
	}
	opts, err := c.listOptions()
	if err != nil {
		return err
	}
	listed, err := c.res.List(c.r.Context(), c.info.Namespace, opts.ListOptions)
	if err != nil {
		return err
	}
	switch f.as {
	case "Table":
		writeTransformed(c.w, c.r, f, tableOf(c.r, c.res, listed))
	case "":
		writeList(c.w, c.r, c.res, f, listed)
	default:
		writeTransformed(c.w, c.r, f, metadataList(listed))
	}
	return nil
}

// listOptions reads and validates the options of list, watch and
// deletecollection.
func (c *call) listOptions() (verbs.WatchOptions, error) {
	var opts verbs.WatchOptions
	raw := metav1.ListOptions{}
	if err := scheme.DecodeQuery(c.r.URL.Query(), &raw); err != nil {
		return opts, apierrors.NewBadRequest(err.Error())
	}
	raw.Watch = c.info.Verb == "watch"
	var internal metainternal.ListOptions
	if err := metainternal.Convert_v1_ListOptions_To_internalversion_ListOptions(&raw, &internal, nil); err != nil {
		return opts, apierrors.NewBadRequest(err.Error())
	}
	if errs := validateListOptions(&internal); len(errs) > 0 {
		return opts, apierrors.NewInvalid(schema.GroupKind{Group: "meta.k8s.io", Kind: "ListOptions"}, "", errs)
	}
	opts.Labels, opts.Fields = internal.LabelSelector, internal.FieldSelector
	opts.Limit, opts.Continue = raw.Limit, raw.Continue
	opts.ResourceVersion, opts.ResourceVersionMatch = raw.ResourceVersion, raw.ResourceVersionMatch
	opts.Bookmarks, opts.SendInitial = raw.AllowWatchBookmarks, raw.SendInitialEvents
	if opts.Limit < 0 {
		opts.Limit = 0
	}
	return opts, c.checkFields(&opts)
}

// checkFields refuses selectors on fields that the kind cannot select by.
func (c *call) checkFields(opts *verbs.WatchOptions) error {
	if opts.Fields == nil {
		return nil
	}
	known := c.res.SelectableFields(c.res.New())
	for _, req := range opts.Fields.Requirements() {
		if _, ok := known[req.Field]; !ok {
			gvk := c.res.Info().Name.GVK()
			return apierrors.NewBadRequest(fmt.Sprintf("Unable to find %q that match label selector %q, field selector %q: field label not supported: %s",
				schema.GroupVersionResource{Group: gvk.Group, Version: gvk.Version, Resource: c.info.Resource}.String(), c.info.LabelSelector, c.info.FieldSelector, req.Field))
		}
	}
	return nil
}

// writeOptions reads dryRun and fieldManager; options is how admission sees them.
func (c *call) writeOptions(options runtime.Object) (verbs.WriteOptions, error) {
	q := c.r.URL.Query()
	opts := verbs.WriteOptions{Options: options, Manager: q.Get("fieldManager")}
	for _, v := range q["dryRun"] {
		if v != metav1.DryRunAll {
			return opts, apierrors.NewInvalid(schema.GroupKind{Group: "meta.k8s.io", Kind: options.GetObjectKind().GroupVersionKind().Kind}, "",
				metavalidation.ValidateDryRun(dryRunPath, q["dryRun"]))
		}
		opts.DryRun = true
	}
	if errs := metavalidation.ValidateFieldManager(opts.Manager, fieldManagerPath); len(errs) > 0 {
		return opts, apierrors.NewInvalid(schema.GroupKind{Group: "meta.k8s.io", Kind: options.GetObjectKind().GroupVersionKind().Kind}, "", errs)
	}
	if opts.Manager == "" {
		opts.Manager = managerOf(c.r)
	}
	return opts, nil
}

// managerOf derives the field manager from the user agent: what stands before
// the first slash, printable and at most 128 characters long.
func managerOf(r *http.Request) string {
	name, _, _ := strings.Cut(r.UserAgent(), "/")
	name = strings.Map(func(c rune) rune {
		if !strconv.IsPrint(c) {
			return -1
		}
		return c
	}, name)
	if len(name) > metavalidation.FieldManagerMaxLength {
		name = name[:metavalidation.FieldManagerMaxLength]
	}
	if name == "" {
		return "unknown"
	}
	return name
}

func (c *call) create() error {
	obj := c.res.New()
	if err := decodeInto(c.r, obj, c.res.Info().Name.GVK()); err != nil {
		return err
	}
	if err := c.placeInNamespace(obj); err != nil {
		return err
	}
	opts, err := c.writeOptions(&metav1.CreateOptions{TypeMeta: optionsType("CreateOptions")})
	if err != nil {
		return err
	}
	if obj.GetResourceVersion() != "" {
		return apierrors.NewBadRequest("resourceVersion should not be set on objects to be created")
	}
	got, err := c.res.Create(c.r.Context(), obj, opts)
	if err != nil {
		return err
	}
	return c.answer(http.StatusCreated, got)
}

// placeInNamespace sets the URL's namespace on the object, or refuses an
// object that names another.
func (c *call) placeInNamespace(obj meta.Object) error {
	if c.res.Info().Scope == resource.Cluster {
		if obj.GetNamespace() != "" && c.info.Resource != "namespaces" {
			return apierrors.NewBadRequest("namespace may not be set on a cluster-scoped object")
		}
		return nil
	}
	if obj.GetNamespace() == "" {
		obj.SetNamespace(c.info.Namespace)
	}
	if obj.GetNamespace() != c.info.Namespace {
		return apierrors.NewBadRequest("the namespace of the provided object does not match the namespace sent on the request")
	}
	return nil
}

// answer writes an object that a write returned, transformed if asked for.
func (c *call) answer(code int, obj meta.Object) error {
	f, err := accept(c.r, true)
	if err != nil {
		return err
	}
	if f.as != "" {
		writeTransformed(c.w, c.r, f, transform(c.r, c.res, f, obj, true))
		return nil
	}
	writeObject(c.w, c.r, code, obj)
	return nil
}

func (c *call) update(view string) error {
	obj := c.res.New()
	if err := decodeInto(c.r, obj, c.res.Info().Name.GVK()); err != nil {
		return err
	}
	if err := c.placeInNamespace(obj); err != nil {
		return err
	}
	if obj.GetName() == "" {
		obj.SetName(c.info.Name)
	}
	if obj.GetName() != c.info.Name {
		return apierrors.NewBadRequest(fmt.Sprintf("the name of the object (%s) does not match the name on the URL (%s)", obj.GetName(), c.info.Name))
	}
	opts, err := c.writeOptions(&metav1.UpdateOptions{TypeMeta: optionsType("UpdateOptions")})
	if err != nil {
		return err
	}
	got, created, err := c.res.Update(c.r.Context(), c.key(), view, func(context.Context, meta.Object, bool) (meta.Object, error) {
		return meta.Copy(obj), nil
	}, nil, opts)
	if err != nil {
		return err
	}
	return c.answer(okOrCreated(created), got)
}

func okOrCreated(created bool) int {
	if created {
		return http.StatusCreated
	}
	return http.StatusOK
}

// patchTypes are the content types of PATCH.
var patchTypes = []string{
	string(types.JSONPatchType), string(types.MergePatchType),
	string(types.StrategicMergePatchType), string(types.ApplyPatchType),
}

// patchRequest is the body and the options of a PATCH.
type patchRequest struct {
	pt    types.PatchType
	data  []byte
	force bool
	opts  verbs.WriteOptions
}

func (c *call) readPatch() (p patchRequest, err error) {
	media, _, err := mime.ParseMediaType(c.r.Header.Get("Content-Type"))
	if err != nil || !slices.Contains(patchTypes, media) {
		return p, unsupportedMedia(c.r.Header.Get("Content-Type"), patchTypes)
	}
	p.pt = types.PatchType(media)
	if p.data, err = readBody(c.r); err != nil {
		return p, err
	}
	q := c.r.URL.Query()
	p.force = isTrue(q.Get("force"))
	if p.opts, err = c.writeOptions(&metav1.PatchOptions{TypeMeta: optionsType("PatchOptions")}); err != nil {
		return p, err
	}
	options := metav1.PatchOptions{FieldManager: q.Get("fieldManager")}
	if q.Has("force") {
		options.Force = &p.force
	}
	if errs := metavalidation.ValidatePatchOptions(&options, p.pt); len(errs) > 0 {
		return p, apierrors.NewInvalid(schema.GroupKind{Group: "meta.k8s.io", Kind: "PatchOptions"}, "", errs)
	}
	return p, nil
}

func (c *call) patch(view string) error {
	p, err := c.readPatch()
	if err != nil {
		return err
	}
	validation, err := fieldValidation(c.r)
	if err != nil {
		return err
	}
	strict := func(faults []error) error {
		return reportFaults(c.r, c.res.Info().Name.GVK(), validation, faults)
	}
	got, created, err := c.res.Patch(c.r.Context(), c.key(), view, p.pt, p.data, p.force, strict, p.opts)
	if err != nil {
		return err
	}
	return c.answer(okOrCreated(created), got)
}

// deleteOptions come in the body or, without one, in the query.
func (c *call) deleteOptions() (metav1.DeleteOptions, error) {
	var opts metav1.DeleteOptions
	data, err := readBody(c.r)
	if err != nil {
		return opts, err
	}
	if len(data) == 0 {
		if err := scheme.DecodeQuery(c.r.URL.Query(), &opts); err != nil {
			return opts, apierrors.NewBadRequest(err.Error())
		}
		return opts, nil
	}
	media, err := contentType(c.r)
	if err != nil {
		return opts, err
	}
	switch media {
	case scheme.Protobuf:
		_, err = scheme.DecodeProtobuf(data, &opts)
	case scheme.YAML:
		_, err = scheme.DecodeYAML(data, &opts)
	default:
		_, err = scheme.DecodeJSON(data, &opts)
	}
	if err != nil {
		return opts, apierrors.NewBadRequest(fmt.Sprintf("reading DeleteOptions: %v", err))
	}
	if opts.Kind != "" && opts.Kind != "DeleteOptions" {
		return opts, apierrors.NewBadRequest(fmt.Sprintf("the body of a delete must be DeleteOptions, not %s", opts.Kind))
	}
	return opts, nil
}

func (c *call) delete() error {
	opts, err := c.deleteOptions()
	if err != nil {
		return err
	}
	obj, gone, err := c.res.Delete(c.r.Context(), c.key(), opts)
	if err != nil {
		return err
	}
	if !gone || c.res.Info().HasGrace {
		return c.answer(http.StatusOK, obj)
	}
	name := c.res.Info().Name
	writeObject(c.w, c.r, http.StatusOK, &metav1.Status{
		TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"},
		Status:   metav1.StatusSuccess,
		Details:  &metav1.StatusDetails{Name: obj.GetName(), Group: name.Group, Kind: name.Plural, UID: obj.GetUID()},
	})
	return nil
}

func (c *call) deleteCollection() error {
	opts, err := c.deleteOptions()
	if err != nil {
		return err
	}
	sel, err := c.listOptions()
	if err != nil {
		return err
	}
	deleted, err := c.res.DeleteCollection(c.r.Context(), c.info.Namespace, opts, sel.ListOptions)
	if err != nil {
		return err
	}
	f, err := accept(c.r, false)
	if err != nil {
		return err
	}
	writeList(c.w, c.r, c.res, f, listOf(deleted))
	return nil
}

func (c *call) act(a *resource.Action) error {
	body := a.Body()
	if err := decodeInto(c.r, body, a.Kind); err != nil {
		return err
	}
	if obj, ok := body.(metav1.Object); ok {
		if n := obj.GetName(); n != "" && n != c.info.Name {
			return apierrors.NewBadRequest(fmt.Sprintf("the name of the object (%s) does not match the name on the URL (%s)", n, c.info.Name))
		}
		obj.SetName(c.info.Name)
		obj.SetNamespace(c.info.Namespace)
	}
	opts, err := c.writeOptions(&metav1.CreateOptions{TypeMeta: optionsType("CreateOptions")})
	if err != nil {
		return err
	}
	got, err := c.res.Act(c.r.Context(), c.key(), a, body, opts)
	if err != nil {
		return err
	}
	writeObject(c.w, c.r, http.StatusCreated, got)
	return nil
}

func (c *call) scale() error {
	if c.info.Verb == "get" {
		item, err := c.res.Get(c.r.Context(), c.key(), c.r.URL.Query().Get("resourceVersion"))
		if err != nil {
			return err
		}
		writeObject(c.w, c.r, http.StatusOK, c.res.ScaleOf(item.Object))
		return nil
	}
	change, opts, err := c.scaleChange()
	if err != nil {
		return err
	}
	got, err := c.res.UpdateScale(c.r.Context(), c.key(), change, opts)
	if err != nil {
		return err
	}
	writeObject(c.w, c.r, http.StatusOK, got)
	return nil
}

func (c *call) scaleChange() (func(*autoscalingv1.Scale) (*autoscalingv1.Scale, error), verbs.WriteOptions, error) {
	switch c.info.Verb {
	case "update":
		want := &autoscalingv1.Scale{}
		if err := decodeInto(c.r, want, scaleKind); err != nil {
			return nil, verbs.WriteOptions{}, err
		}
		opts, err := c.writeOptions(&metav1.UpdateOptions{TypeMeta: optionsType("UpdateOptions")})
		return func(*autoscalingv1.Scale) (*autoscalingv1.Scale, error) { return want, nil }, opts, err
	case "patch":
		p, err := c.readPatch()
		return func(now *autoscalingv1.Scale) (*autoscalingv1.Scale, error) { return patchScale(now, p) }, p.opts, err
	}
	return nil, verbs.WriteOptions{}, c.noVerb()
}

var scaleKind = autoscalingv1.SchemeGroupVersion.WithKind("Scale")

func optionsType(kind string) metav1.TypeMeta {
	return metav1.TypeMeta{APIVersion: "meta.k8s.io/v1", Kind: kind}
}
