// Package scheme knows the kinds of the API: which Go type is which
// group, version and kind, and how each is read and written as JSON, YAML,
// protobuf and CBOR.
package scheme

import (
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	clientscheme "k8s.io/client-go/kubernetes/scheme"
	metricsv1beta1 "k8s.io/metrics/pkg/apis/metrics/v1beta1"
)

// Known holds every kind that is compiled in. It is read-only.
var Known = build()

// Unversioned is the group-version of metav1 kinds such as Status.
var Unversioned = schema.GroupVersion{Version: "v1"}

func build() *runtime.Scheme {
	s := runtime.NewScheme()
	utilruntime.Must(clientscheme.AddToScheme(s))
	utilruntime.Must(metricsv1beta1.AddToScheme(s))
	metav1.AddToGroupVersion(s, Unversioned)
	utilruntime.Must(metav1.AddMetaToScheme(s))
	return s
}

// KindOf returns the kind of a compiled-in type; it panics on a type that is
// not in Known, which is a mistake in the program.
func KindOf(obj runtime.Object) schema.GroupVersionKind {
	kinds, _, err := Known.ObjectKinds(obj)
	if err != nil || len(kinds) == 0 {
		panic(fmt.Sprintf("scheme: %T is not a known kind: %v", obj, err))
	}
	return kinds[0]
}
