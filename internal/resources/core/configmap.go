package core

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/validation"

	"skiff.dev/skiff/internal/check"
	"skiff.dev/skiff/internal/resource"
)

// ConfigMap is v1 ConfigMap.
// https://kubernetes.io/docs/reference/kubernetes-api/config-and-storage-resources/config-map-v1/
var ConfigMap = &resource.Definition[*corev1.ConfigMap]{
	Name:     resource.Name{Version: "v1", Kind: "ConfigMap", Plural: "configmaps", Short: []string{"cm"}},
	Validate: validateConfigMap,
	Columns: []resource.Column[*corev1.ConfigMap]{
		{Name: "Data", Type: "string", Description: corev1.ConfigMap{}.SwaggerDoc()["data"],
			Value: func(c *corev1.ConfigMap) any { return int64(len(c.Data) + len(c.BinaryData)) }},
		resource.Age[*corev1.ConfigMap](),
	},
}

// sealed is the text for changes of a ConfigMap or Secret that is immutable.
const sealed = "field is immutable when `immutable` is set"

func isSealed(immutable *bool) bool { return immutable != nil && *immutable }

func validateConfigMap(r *check.Report, c, old *corev1.ConfigMap) {
	size := 0
	for k, v := range c.Data {
		at := r.At("data").Key(k)
		at.Each(k, validation.IsConfigMapKey(k))
		if _, twice := c.BinaryData[k]; twice {
			at.Invalid(k, "duplicate of key present in binaryData")
		}
		size += len(v)
	}
	for k, v := range c.BinaryData {
		r.At("binaryData").Key(k).Each(k, validation.IsConfigMapKey(k))
		size += len(v)
	}
	if size > maxDataBytes {
		r.At("").TooLong(maxDataBytes)
	}
	if old == nil || !isSealed(old.Immutable) {
		return
	}
	if !isSealed(c.Immutable) {
		r.At("immutable").Forbidden(sealed)
	}
	if !equality.Semantic.DeepEqual(c.Data, old.Data) {
		r.At("data").Forbidden(sealed)
	}
	if !equality.Semantic.DeepEqual(c.BinaryData, old.BinaryData) {
		r.At("binaryData").Forbidden(sealed)
	}
}
