package check

import (
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// ObjectMeta checks the metadata of a new object: name by rule, namespace,
// labels, annotations, owner references, finalizers, managed fields. Names have
// been generated before.
func ObjectMeta(r *Report, obj metav1.Object, namespaced bool, rule NameRule) {
	at := r.At("metadata")
	at.Add(apivalidation.ValidateObjectMetaAccessor(obj, namespaced, apivalidation.ValidateNameFunc(rule), at.Path())...)
}

// ObjectMetaUpdate checks the change of metadata from old to obj: what is
// immutable in it, and that an object being deleted gets no new finalizers.
// What is well-formedness is checked as on create, but the name is not: it was
// accepted once and cannot change.
func ObjectMetaUpdate(r *Report, obj, old metav1.Object) {
	at := r.At("metadata")
	at.Add(apivalidation.ValidateObjectMetaAccessorUpdate(obj, old, at.Path())...)
}

// TemplateMeta checks the metadata of a template, which has neither name nor
// namespace of its own.
func TemplateMeta(r *Report, m *metav1.ObjectMeta) {
	r.At("labels").Labels(m.Labels)
	annotations := r.At("annotations")
	annotations.Add(apivalidation.ValidateAnnotations(m.Annotations, annotations.Path())...)
}

// Annotations checks a map of annotations.
func (r *Report) Annotations(a map[string]string) {
	r.Add(apivalidation.ValidateAnnotations(a, r.path)...)
}
