// Package meta holds the rules about object metadata that every other room
// shares: what an object is, its key, its owners, its conditions. It is pure:
// values in, values out.
package meta

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
)

// Object is anything the API stores: it has a kind and object metadata.
// Objects that come out of a cache or a store are shared and must not be
// changed; take a DeepCopy first (see Copy).
type Object interface {
	metav1.Object
	runtime.Object
}

// Key names one object of a resource. Namespace is empty for cluster-scoped
// resources.
type Key = types.NamespacedName

// KeyOf returns the key of o.
func KeyOf(o metav1.Object) Key {
	return Key{Namespace: o.GetNamespace(), Name: o.GetName()}
}

// Copy returns a deep copy of o with its static type kept.
func Copy[T Object](o T) T {
	return o.DeepCopyObject().(T)
}

// Index is a named secondary index of a cache: Keys returns the values under
// which an object can be found. Two indexes of one name must be the same.
type Index struct {
	Name string
	Keys func(Object) []string
}

// ByOwner finds objects by the uid of each of their owner references.
var ByOwner = Index{Name: "metadata.ownerReferences.uid", Keys: func(o Object) []string {
	refs := o.GetOwnerReferences()
	if len(refs) == 0 {
		return nil
	}
	uids := make([]string, len(refs))
	for i := range refs {
		uids[i] = string(refs[i].UID)
	}
	return uids
}}

// ControllerOf returns the owner reference that has controller set, or nil.
func ControllerOf(o metav1.Object) *metav1.OwnerReference {
	return metav1.GetControllerOfNoCopy(o)
}

// IsControlledBy reports whether owner is the controller of o, by uid.
func IsControlledBy(o, owner metav1.Object) bool {
	return metav1.IsControlledBy(o, owner)
}

// HasFinalizer reports whether o carries the finalizer name.
func HasFinalizer(o metav1.Object, name string) bool {
	for _, f := range o.GetFinalizers() {
		if f == name {
			return true
		}
	}
	return false
}
