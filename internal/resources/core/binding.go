package core

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"skiff.dev/skiff/internal/check"
	"skiff.dev/skiff/internal/meta"
	"skiff.dev/skiff/internal/pod"
	"skiff.dev/skiff/internal/resource"
)

var bindingKind = corev1.SchemeGroupVersion.WithKind("Binding")

// bindingAction is pods/binding: the scheduler's word on where a pod runs.
var bindingAction = &resource.Action{
	Name: "binding",
	Kind: bindingKind,
	Body: func() runtime.Object { return &corev1.Binding{} },
	Do: func(ctx context.Context, a resource.Access, key meta.Key, body runtime.Object) (runtime.Object, error) {
		b := body.(*corev1.Binding)
		if b.Name != "" && b.Name != key.Name {
			return nil, apierrors.NewBadRequest("name in URL does not match name in Binding object")
		}
		return Bind(ctx, a, key, b)
	},
}

// Bind binds the pod at key to the node that b names, with b's annotations and
// labels added to the pod's own, and answers with success.
func Bind(ctx context.Context, a resource.Access, key meta.Key, b *corev1.Binding) (runtime.Object, error) {
	r := check.NewReport()
	validateBinding(r, b, nil)
	if r.Failed() {
		return nil, apierrors.NewInvalid(bindingKind.GroupKind(), key.Name, r.Errors())
	}
	_, err := a.Modify(ctx, named("pods"), key, func(obj meta.Object) error { return bind(obj.(*corev1.Pod), b) })
	if err != nil {
		return nil, err
	}
	return &metav1.Status{Status: metav1.StatusSuccess, Code: 201}, nil
}

func validateBinding(r *check.Report, b, _ *corev1.Binding) {
	target := r.At("target")
	if k := b.Target.Kind; k != "" && k != "Node" {
		target.At("kind").NotSupported(k, []string{"Node", "<empty>"})
	}
	target.At("name").RequiredString(b.Target.Name)
}

// bind changes p as b says, or refuses with a conflict.
func bind(p *corev1.Pod, b *corev1.Binding) error {
	refuse := func(format string, args ...any) error {
		return apierrors.NewConflict(named("pods/binding"), p.Name, fmt.Errorf(format, args...))
	}
	switch {
	case b.UID != "" && b.UID != p.UID:
		return refuse("Precondition failed: UID in precondition: %v, UID in object meta: %v", b.UID, p.UID)
	case b.ResourceVersion != "" && b.ResourceVersion != p.ResourceVersion:
		return refuse("Precondition failed: ResourceVersion in precondition: %v, ResourceVersion in object meta: %v", b.ResourceVersion, p.ResourceVersion)
	case p.DeletionTimestamp != nil:
		return refuse("pod %s is being deleted, cannot be assigned to a host", p.Name)
	case p.Spec.NodeName != "":
		return refuse("pod %v is already assigned to node %q", p.Name, p.Spec.NodeName)
	case len(p.Spec.SchedulingGates) > 0:
		return refuse("pod %v has non-empty .spec.schedulingGates", p.Name)
	}
	p.Spec.NodeName = b.Target.Name
	p.Status.NominatedNodeName = ""
	p.Annotations = merge(p.Annotations, b.Annotations)
	p.Labels = merge(p.Labels, b.Labels)
	pod.SetCondition(&p.Status, corev1.PodCondition{
		Type: corev1.PodScheduled, Status: corev1.ConditionTrue, LastTransitionTime: metav1.Now(), ObservedGeneration: p.Generation,
	})
	return nil
}

func merge(into, more map[string]string) map[string]string {
	if into == nil && len(more) > 0 {
		into = map[string]string{}
	}
	for k, v := range more {
		into[k] = v
	}
	return into
}

// Bindings returns v1 Binding, the older way to bind a pod: a kind that is only
// created. bind does what pods/binding does with the pod of the binding's name.
func Bindings(bind func(ctx context.Context, b *corev1.Binding) error) *resource.Definition[*corev1.Binding] {
	return &resource.Definition[*corev1.Binding]{
		Name:     resource.Name{Version: "v1", Kind: "Binding", Plural: "bindings"},
		Validate: validateBinding,
		Answer:   bind,
	}
}
