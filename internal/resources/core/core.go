// Package core defines the resources of the API's core group: pods, nodes,
// services and what they are configured with.
package core

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"skiff.dev/skiff/internal/meta"
)

func named(resource string) schema.GroupResource { return schema.GroupResource{Resource: resource} }

// stored reports whether old is an object that exists: a view's Keep gets an
// empty one on create.
func stored(old meta.Object) bool { return old.GetUID() != "" }

const none = "<none>"

func orNone(list ...string) string {
	if s := strings.Join(list, ","); s != "" {
		return s
	}
	return none
}

func setDefault[V any](field **V, v V) {
	if *field == nil {
		*field = &v
	}
}

// maxDataBytes bounds the data of a ConfigMap or Secret.
const maxDataBytes = corev1.MaxSecretSize
