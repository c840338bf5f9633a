package apiserver

import (
	"net/http"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"

	"skiff.dev/skiff/internal/patch"
	"skiff.dev/skiff/internal/scheme"
)

var scaleKind = autoscalingv1.SchemeGroupVersion.WithKind("Scale")

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
	got, err := c.res.UpdateScale(c.r.Context(), c.key(), change, opts.WriteOptions)
	if err != nil {
		return err
	}
	writeObject(c.w, c.r, http.StatusOK, got)
	return nil
}

type changeScale = func(*autoscalingv1.Scale) (*autoscalingv1.Scale, error)

func (c *call) scaleChange() (changeScale, writeOptions, error) {
	switch c.info.Verb {
	case "update":
		return c.putScale()
	case "patch":
		p, err := c.readPatch()
		return func(now *autoscalingv1.Scale) (*autoscalingv1.Scale, error) { return c.patchScale(now, p) }, p.opts, err
	}
	return nil, writeOptions{}, errNoMethod
}

func (c *call) putScale() (changeScale, writeOptions, error) {
	b, err := c.readBody()
	if err != nil {
		return nil, writeOptions{}, err
	}
	opts, err := c.updateOptions()
	if err != nil {
		return nil, opts, err
	}
	want := &autoscalingv1.Scale{}
	if err := c.decode(b, opts.validation, want, scaleKind); err != nil {
		return nil, opts, err
	}
	if err := c.checkName(want.Name); err != nil {
		return nil, opts, err
	}
	if want.Namespace != "" && want.Namespace != c.info.Namespace {
		return nil, opts, apierrors.NewBadRequest("the namespace of the provided object does not match the namespace sent on the request")
	}
	return func(*autoscalingv1.Scale) (*autoscalingv1.Scale, error) { return want, nil }, opts, nil
}

// patchScale applies a patch to the scale subresource. An apply carries the
// whole scale.
func (c *call) patchScale(now *autoscalingv1.Scale, p patchRequest) (*autoscalingv1.Scale, error) {
	want := &autoscalingv1.Scale{}
	if p.pt == types.ApplyPatchType {
		faults, err := scheme.DecodeYAML(p.data, want)
		if err != nil {
			return nil, apierrors.NewBadRequest("error decoding YAML: " + err.Error())
		}
		want.ResourceVersion = now.ResourceVersion
		return want, c.reportFaults(p.opts.validation, faults)
	}
	doc, err := scheme.EncodeJSON(now)
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	changed, err := patch.Apply(p.pt, doc, p.data, want)
	if err != nil {
		return nil, err
	}
	faults, err := scheme.DecodeJSON(changed, want)
	if err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	if err := c.checkName(want.Name); err != nil {
		return nil, err
	}
	return want, c.reportFaults(p.opts.validation, faults)
}
