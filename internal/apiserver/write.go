package apiserver

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/types"

	"skiff.dev/skiff/internal/apiserver/authz"
	"skiff.dev/skiff/internal/apiserver/request"
	"skiff.dev/skiff/internal/meta"
	"skiff.dev/skiff/internal/resource"
	"skiff.dev/skiff/internal/scheme"
)

func (c *call) create() error {
	b, err := c.readBody()
	if err != nil {
		return err
	}
	opts, err := c.createOptions()
	if err != nil {
		return err
	}
	obj := c.res.New()
	if err := c.decode(b, opts.validation, obj, c.res.Info().Name.GVK()); err != nil {
		return err
	}
	if err := c.placeInNamespace(obj); err != nil {
		return err
	}
	if obj.GetResourceVersion() != "" {
		return apierrors.NewBadRequest("resourceVersion should not be set on objects to be created")
	}
	got, err := c.res.Create(c.r.Context(), obj, opts.WriteOptions)
	if err != nil {
		return err
	}
	return c.answer(http.StatusCreated, got)
}

// placeInNamespace sets the URL's namespace on the object, or refuses an
// object that names another. A cluster-scoped object loses what it names.
func (c *call) placeInNamespace(obj meta.Object) error {
	if c.res.Info().Scope == resource.Cluster {
		obj.SetNamespace("")
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

// checkName refuses an object that has another name than the URL says.
func (c *call) checkName(name string) error {
	switch name {
	case c.info.Name:
		return nil
	case "":
		return apierrors.NewBadRequest(fmt.Sprintf("the name of the object (%s based on URL) was undeterminable: name must be provided", c.info.Name))
	}
	return apierrors.NewBadRequest(fmt.Sprintf("the name of the object (%s) does not match the name on the URL (%s)", name, c.info.Name))
}

// answer writes an object that a write returned, transformed if asked for.
func (c *call) answer(code int, obj meta.Object) error {
	if c.form.as != "" {
		return c.transformed(code, obj)
	}
	writeObject(c.w, c.r, code, obj)
	return nil
}

// transformed writes obj as a Table or as its metadata.
func (c *call) transformed(code int, obj meta.Object) error {
	include, err := includeObject(c.r)
	if err != nil {
		return err
	}
	writeTransformed(c.w, c.r, code, c.form, transform(c.res, c.form, obj, true, include))
	return nil
}

func (c *call) update(view string) error {
	b, err := c.readBody()
	if err != nil {
		return err
	}
	opts, err := c.updateOptions()
	if err != nil {
		return err
	}
	obj := c.res.New()
	if err := c.decode(b, opts.validation, obj, c.res.Info().Name.GVK()); err != nil {
		return err
	}
	if err := c.placeInNamespace(obj); err != nil {
		return err
	}
	if err := c.checkName(obj.GetName()); err != nil {
		return err
	}
	opts.MayCreate = c.mayCreate
	got, created, err := c.res.Update(c.r.Context(), c.key(), view, func(context.Context, meta.Object, bool) (meta.Object, error) {
		return meta.Copy(obj), nil
	}, nil, opts.WriteOptions)
	if err != nil {
		return err
	}
	return c.answer(okOrCreated(created), got)
}

// mayCreate is asked before an update or an apply creates what is not there:
// that takes the right to create as well.
func (c *call) mayCreate(ctx context.Context) error {
	as := *c.info
	as.Verb = "create"
	return authz.Require(ctx, c.s.Authorizer, request.UserFrom(ctx), &as)
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
	opts  writeOptions
}

func (c *call) readPatch() (p patchRequest, err error) {
	media, _, _ := strings.Cut(c.r.Header.Get("Content-Type"), ";")
	if media = strings.TrimSpace(media); !slices.Contains(patchTypes, media) {
		return p, unsupportedMedia(patchTypes)
	}
	p.pt = types.PatchType(media)
	if p.data, err = c.readAll(); err != nil {
		return p, err
	}
	o := &metav1.PatchOptions{TypeMeta: optionsType("PatchOptions")}
	if err := scheme.DecodeQuery(c.r.URL.Query(), o); err != nil {
		return p, apierrors.NewBadRequest(err.Error())
	}
	if errs := metavalidation.ValidatePatchOptions(o, p.pt); len(errs) > 0 {
		return p, invalidOptions(o, errs)
	}
	p.force = o.Force != nil && *o.Force
	p.opts = c.writeOptions(o, o.DryRun, o.FieldManager, o.FieldValidation)
	return p, nil
}

func (c *call) patch(view string) error {
	p, err := c.readPatch()
	if err != nil {
		return err
	}
	strict := func(faults []error) error { return c.reportFaults(p.opts.validation, faults) }
	p.opts.MayCreate = c.mayCreate
	got, created, err := c.res.Patch(c.r.Context(), c.key(), view, p.pt, p.data, p.force, strict, p.opts.WriteOptions)
	if err != nil {
		return err
	}
	return c.answer(okOrCreated(created), got)
}

// deleteOptions come in the body or, without one, in the query.
func (c *call) deleteOptions() (metav1.DeleteOptions, error) {
	var opts metav1.DeleteOptions
	data, err := c.readAll()
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
		return opts, apierrors.NewBadRequest(err.Error())
	}
	if opts.Kind != "" && opts.Kind != "DeleteOptions" {
		return opts, apierrors.NewBadRequest(fmt.Sprintf("decoded object cannot be converted to DeleteOptions: it is a %s", opts.Kind))
	}
	return opts, nil
}

func (c *call) delete() error {
	opts, err := c.deleteOptions()
	if err != nil {
		return err
	}
	obj, gone, err := c.res.Delete(c.r.Context(), c.key(), opts)
	switch {
	case err != nil:
		return err
	case !gone && opts.OrphanDependents != nil && !*opts.OrphanDependents: //nolint:staticcheck // still part of the API
		return c.answer(http.StatusAccepted, obj)
	case !gone || c.res.Info().HasGrace:
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
	return c.answerList(listOf(deleted))
}

func (c *call) act(a *resource.Action) error {
	b, err := c.readBody()
	if err != nil {
		return err
	}
	opts, err := c.createOptions()
	if err != nil {
		return err
	}
	body := a.Body()
	if err := c.decode(b, opts.validation, body, a.Kind); err != nil {
		return err
	}
	if obj, ok := body.(metav1.Object); ok {
		if obj.GetName() == "" {
			obj.SetName(c.info.Name)
		}
		if obj.GetNamespace() == "" {
			obj.SetNamespace(c.info.Namespace)
		}
		if err := c.checkName(obj.GetName()); err != nil {
			return err
		}
		if obj.GetNamespace() != c.info.Namespace {
			return apierrors.NewBadRequest("the namespace of the provided object does not match the namespace sent on the request")
		}
	}
	got, err := c.res.Act(c.r.Context(), c.key(), a, body, opts.WriteOptions)
	if err != nil {
		return err
	}
	writeObject(c.w, c.r, http.StatusCreated, got)
	return nil
}
