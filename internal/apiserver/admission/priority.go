package admission

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"skiff.dev/skiff/internal/meta"
)

var priorityClasses = schema.GroupResource{Group: schedulingv1.GroupName, Resource: "priorityclasses"}

// Priority resolves the priority class of new pods into a number, and keeps
// the default class unique.
// https://kubernetes.io/docs/concepts/scheduling-eviction/pod-priority-preemption/
func Priority(objects Objects) *Plugin {
	return &Plugin{
		Name: "Priority",
		Handles: func(a *Attributes) bool {
			writes := a.Subresource == "" && (a.Operation == Create || a.Operation == Update)
			return writes && (a.Resource.GroupResource() == podResource || a.Resource.GroupResource() == priorityClasses)
		},
		Mutate: func(ctx context.Context, a *Attributes) error {
			if a.Resource.GroupResource() != podResource {
				return nil
			}
			p, err := podOf(a)
			if err != nil {
				return err
			}
			if a.Operation == Update {
				keepPriority(p, a.Old)
				return nil
			}
			return resolvePriority(ctx, objects, a, p)
		},
		Validate: func(ctx context.Context, a *Attributes) error {
			class, ok := a.Object.(*schedulingv1.PriorityClass)
			if !ok || !class.GlobalDefault {
				return nil
			}
			if old, ok := a.Old.(*schedulingv1.PriorityClass); ok && old.GlobalDefault {
				return nil
			}
			have, err := defaultClass(ctx, objects)
			if err != nil {
				return err
			}
			if have != nil && have.Name != class.Name {
				return forbid(a, "PriorityClass %v is already marked as default. Only one default can exist", have.Name)
			}
			return nil
		},
	}
}

// keepPriority lets clients that know nothing of priority update pods.
func keepPriority(p *corev1.Pod, old any) {
	was, ok := old.(*corev1.Pod)
	if !ok {
		return
	}
	if p.Spec.Priority == nil {
		p.Spec.Priority = was.Spec.Priority
	}
	if p.Spec.PreemptionPolicy == nil {
		p.Spec.PreemptionPolicy = was.Spec.PreemptionPolicy
	}
}

func resolvePriority(ctx context.Context, objects Objects, a *Attributes, p *corev1.Pod) error {
	var class *schedulingv1.PriorityClass
	var err error
	if name := p.Spec.PriorityClassName; name == "" {
		if class, err = defaultClass(ctx, objects); err != nil {
			return err
		}
	} else {
		class, err = get[*schedulingv1.PriorityClass](ctx, objects, priorityClasses, meta.Key{Name: name})
		if apierrors.IsNotFound(err) {
			return forbid(a, "no PriorityClass with name %v was found", name)
		}
		if err != nil {
			return err
		}
	}
	value, policy := int32(0), corev1.PreemptLowerPriority
	if class != nil {
		p.Spec.PriorityClassName, value = class.Name, class.Value
		if class.PreemptionPolicy != nil {
			policy = *class.PreemptionPolicy
		}
	}
	if n := p.Spec.Priority; n != nil && *n != value {
		return forbid(a, "the integer value of priority (%d) must not be provided in pod spec; priority admission controller computed %d from the given PriorityClass name", *n, value)
	}
	if given := p.Spec.PreemptionPolicy; given != nil && *given != policy {
		return forbid(a, "the string value of PreemptionPolicy (%s) must not be provided in pod spec; priority admission controller computed %s from the given PriorityClass name", *given, policy)
	}
	p.Spec.Priority, p.Spec.PreemptionPolicy = &value, &policy
	return nil
}

// defaultClass returns the default class, nil if there is none. Should there be
// several, it is the lowest, as the API documentation says.
func defaultClass(ctx context.Context, objects Objects) (*schedulingv1.PriorityClass, error) {
	list, err := objects.List(ctx, priorityClasses, "")
	if err != nil {
		return nil, err
	}
	var lowest *schedulingv1.PriorityClass
	for _, obj := range list {
		class, ok := obj.(*schedulingv1.PriorityClass)
		if ok && class.GlobalDefault && (lowest == nil || class.Value < lowest.Value) {
			lowest = class
		}
	}
	return lowest, nil
}
