package apiserver

import (
	"strconv"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metainternal "k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metainternalvalidation "k8s.io/apimachinery/pkg/apis/meta/internalversion/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff.dev/skiff/internal/apiserver/verbs"
	"skiff.dev/skiff/internal/meta"
	"skiff.dev/skiff/internal/patch"
	"skiff.dev/skiff/internal/scheme"
	"skiff.dev/skiff/internal/watchcache"
)

var (
	dryRunPath       = field.NewPath("dryRun")
	fieldManagerPath = field.NewPath("fieldManager")
)

func validateListOptions(o *metainternal.ListOptions) field.ErrorList {
	return metainternalvalidation.ValidateListOptions(o, true)
}

// listOf makes a list of objects that a deletecollection returned.
func listOf(objs []meta.Object) *verbs.Listed {
	l := &verbs.Listed{}
	for _, obj := range objs {
		rev, _ := strconv.ParseInt(obj.GetResourceVersion(), 10, 64) // ours are numbers
		l.Rev = max(l.Rev, rev)
		l.Items = append(l.Items, &watchcache.Item{Object: obj, Rev: rev})
	}
	return l
}

// patchScale applies a patch to the scale subresource. An apply carries the
// whole scale.
func patchScale(now *autoscalingv1.Scale, p patchRequest) (*autoscalingv1.Scale, error) {
	want := &autoscalingv1.Scale{}
	if p.pt == types.ApplyPatchType {
		if _, err := scheme.DecodeYAML(p.data, want); err != nil {
			return nil, apierrors.NewBadRequest("error decoding YAML: " + err.Error())
		}
		want.ResourceVersion = now.ResourceVersion
		return want, nil
	}
	doc, err := scheme.EncodeJSON(now)
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	changed, err := patch.Apply(p.pt, doc, p.data, want)
	if err != nil {
		return nil, err
	}
	if _, err := scheme.DecodeJSON(changed, want); err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	return want, nil
}

// success is the Status of a request that has nothing else to say.
func success() *metav1.Status {
	return &metav1.Status{TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: metav1.StatusSuccess}
}
