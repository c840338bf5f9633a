package apiserver

import (
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metainternal "k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metainternalvalidation "k8s.io/apimachinery/pkg/apis/meta/internalversion/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"skiff.dev/skiff/internal/apiserver/verbs"
	"skiff.dev/skiff/internal/scheme"
)

func (c *call) get() error {
	item, err := c.res.Get(c.r.Context(), c.key(), c.r.URL.Query().Get("resourceVersion"))
	if err != nil {
		return err
	}
	if c.form.as != "" {
		return c.transformed(200, item.Object)
	}
	writeItem(c.w, c.r, c.form, c.res.Info().Name.GVK(), item)
	return nil
}

func (c *call) list() error {
	opts, err := c.listOptions()
	if err != nil {
		return err
	}
	listed, err := c.res.List(c.r.Context(), c.key().Namespace, opts.ListOptions)
	if err != nil {
		return err
	}
	return c.answerList(listed)
}

func (c *call) answerList(listed *verbs.Listed) error {
	switch c.form.as {
	case "Table":
		include, err := includeObject(c.r)
		if err != nil {
			return err
		}
		writeTransformed(c.w, c.r, 200, c.form, tableOf(c.res, listed, include))
	case "":
		writeList(c.w, c.r, c.res, c.form, listed)
	default:
		writeTransformed(c.w, c.r, 200, c.form, metadataList(listed))
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
	if errs := metainternalvalidation.ValidateListOptions(&internal, true); len(errs) > 0 {
		return opts, apierrors.NewInvalid(schema.GroupKind{Group: "meta.k8s.io", Kind: "ListOptions"}, "", errs)
	}
	opts.Labels, opts.Fields = internal.LabelSelector, internal.FieldSelector
	opts.Limit, opts.Continue = max(raw.Limit, 0), raw.Continue
	opts.ResourceVersion, opts.ResourceVersionMatch = raw.ResourceVersion, raw.ResourceVersionMatch
	opts.Bookmarks, opts.SendInitial = raw.AllowWatchBookmarks, raw.SendInitialEvents
	if c.inPath() { // /watch/<resource>/<name>
		opts.Fields = fields.OneTermEqualSelector("metadata.name", c.info.Name)
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
		if _, ok := known[req.Field]; ok || req.Field == "metadata.namespace" {
			continue
		}
		if len(known) <= 2 { // the name and the namespace only
			return apierrors.NewBadRequest(fmt.Sprintf(`%q is not a known field selector: only "metadata.name", "metadata.namespace"`, req.Field))
		}
		return apierrors.NewBadRequest("field label not supported: " + req.Field)
	}
	return nil
}
