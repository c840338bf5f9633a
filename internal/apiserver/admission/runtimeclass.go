package admission

import (
	"context"
	"slices"

	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"skiff.dev/skiff/internal/meta"
)

var runtimeClasses = schema.GroupResource{Group: nodev1.GroupName, Resource: "runtimeclasses"}

// RuntimeClass gives pods the overhead of their runtime class and steers them
// to the nodes that have it.
// https://kubernetes.io/docs/concepts/containers/runtime-class/
func RuntimeClass(objects Objects) *Plugin {
	return &Plugin{
		Name:    "RuntimeClass",
		Handles: createsPod,
		Mutate: func(ctx context.Context, a *Attributes) error {
			p, class, err := classOf(ctx, objects, a)
			if err != nil || class == nil {
				return err
			}
			if class.Overhead != nil {
				if p.Spec.Overhead == nil {
					p.Spec.Overhead = class.Overhead.PodFixed.DeepCopy()
				}
				if !equality.Semantic.DeepEqual(p.Spec.Overhead, class.Overhead.PodFixed) {
					return forbid(a, "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead")
				}
			}
			if class.Scheduling == nil {
				return nil
			}
			return steer(a, p, class.Scheduling)
		},
		Validate: func(ctx context.Context, a *Attributes) error {
			p, class, err := classOf(ctx, objects, a)
			if err != nil || p.Spec.Overhead == nil {
				return err
			}
			if class == nil || class.Overhead == nil {
				return forbid(a, "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead")
			}
			if !equality.Semantic.DeepEqual(p.Spec.Overhead, class.Overhead.PodFixed) {
				return forbid(a, "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead")
			}
			return nil
		},
	}
}

// classOf returns the pod and its runtime class, nil if it has none.
func classOf(ctx context.Context, objects Objects, a *Attributes) (*corev1.Pod, *nodev1.RuntimeClass, error) {
	p, err := podOf(a)
	if err != nil || p.Spec.RuntimeClassName == nil {
		return p, nil, err
	}
	class, err := get[*nodev1.RuntimeClass](ctx, objects, runtimeClasses, meta.Key{Name: *p.Spec.RuntimeClassName})
	if apierrors.IsNotFound(err) {
		return nil, nil, forbid(a, "pod rejected: RuntimeClass %q not found", *p.Spec.RuntimeClassName)
	}
	return p, class, err
}

func steer(a *Attributes, p *corev1.Pod, s *nodev1.Scheduling) error {
	for key, value := range s.NodeSelector {
		if have, ok := p.Spec.NodeSelector[key]; ok && have != value {
			return forbid(a, "conflict: runtimeClass.scheduling.nodeSelector[%s] = %s; pod.spec.nodeSelector[%s] = %s", key, value, key, have)
		}
	}
	for key, value := range s.NodeSelector {
		if p.Spec.NodeSelector == nil {
			p.Spec.NodeSelector = map[string]string{}
		}
		p.Spec.NodeSelector[key] = value
	}
	for _, t := range s.Tolerations {
		if !slices.ContainsFunc(p.Spec.Tolerations, func(have corev1.Toleration) bool { return equality.Semantic.DeepEqual(have, t) }) {
			p.Spec.Tolerations = append(p.Spec.Tolerations, *t.DeepCopy())
		}
	}
	return nil
}
