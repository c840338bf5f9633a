package admission

import (
	"context"
	"fmt"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	psa "k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/policy"

	"skiff.dev/skiff/internal/apiserver/request"
	"skiff.dev/skiff/internal/meta"
)

// PodSecurity holds pods to the Pod Security Standards that the labels of their
// namespace name. Without labels everything is allowed. Workloads are warned
// about what their pods would violate. The level of the label audit has no
// effect here: it goes to the audit log, which admission does not write.
// https://kubernetes.io/docs/concepts/security/pod-security-admission/
func PodSecurity(objects Objects) *Plugin {
	evaluator, err := policy.NewEvaluator(policy.DefaultChecks(), nil)
	if err != nil {
		panic(fmt.Sprintf("the library's own pod security checks are invalid: %v", err))
	}
	s := podSecurity{objects, evaluator}
	return &Plugin{
		Name: "PodSecurity",
		Handles: func(a *Attributes) bool {
			return (a.Operation == Create || a.Operation == Update) && (a.Subresource == "" || isEphemeralUpdate(a))
		},
		Validate: s.check,
	}
}

type podSecurity struct {
	objects   Objects
	evaluator policy.Evaluator
}

// The most that a change of a namespace's labels looks at and tells of.
const (
	maxPodsChecked  = 3000
	maxPodsReported = 10
)

func (s podSecurity) check(ctx context.Context, a *Attributes) error {
	switch o := a.Object.(type) {
	case *corev1.Namespace:
		old, _ := a.Old.(*corev1.Namespace)
		return s.namespace(ctx, o, old)
	case *corev1.Pod:
		old, _ := a.Old.(*corev1.Pod)
		if old != nil && !matters(o, old) {
			return nil
		}
		return s.pod(ctx, a, o)
	}
	if t := templateOf(a.Object); t != nil {
		return s.template(ctx, a, t)
	}
	return nil
}

func policyOf(labels map[string]string) psa.Policy {
	latest := psa.LevelVersion{Level: psa.LevelPrivileged, Version: psa.LatestVersion()}
	// Labels that cannot be read make the strictest policy; the namespace was
	// refused with the error when it was written.
	p, _ := psa.PolicyToEvaluate(labels, psa.Policy{Enforce: latest, Audit: latest, Warn: latest})
	return p
}

func (s podSecurity) policyIn(ctx context.Context, namespace string) (psa.Policy, error) {
	ns, err := get[*corev1.Namespace](ctx, s.objects, namespaceResource, meta.Key{Name: namespace})
	if err != nil {
		return psa.Policy{}, err
	}
	return policyOf(ns.Labels), nil
}

func (s podSecurity) evaluate(lv psa.LevelVersion, m *metav1.ObjectMeta, spec *corev1.PodSpec) policy.AggregateCheckResult {
	return policy.AggregateCheckResults(s.evaluator.EvaluatePod(lv, m, spec))
}

func (s podSecurity) pod(ctx context.Context, a *Attributes, p *corev1.Pod) error {
	pol, err := s.policyIn(ctx, a.Namespace)
	if err != nil || pol.FullyPrivileged() {
		return err
	}
	if r := s.evaluate(pol.Enforce, &p.ObjectMeta, &p.Spec); !r.Allowed {
		return forbid(a, "violates PodSecurity %q: %s", pol.Enforce.String(), r.ForbiddenDetail())
	}
	s.warn(ctx, pol.Warn, &p.ObjectMeta, &p.Spec)
	return nil
}

func (s podSecurity) template(ctx context.Context, a *Attributes, t *corev1.PodTemplateSpec) error {
	pol, err := s.policyIn(ctx, a.Namespace)
	if err != nil {
		return err
	}
	s.warn(ctx, pol.Warn, &t.ObjectMeta, &t.Spec)
	return nil
}

func (s podSecurity) warn(ctx context.Context, lv psa.LevelVersion, m *metav1.ObjectMeta, spec *corev1.PodSpec) {
	if r := s.evaluate(lv, m, spec); !r.Allowed {
		request.Warn(ctx, fmt.Sprintf("would violate PodSecurity %q: %s", lv.String(), r.ForbiddenDetail()))
	}
}

// matters reports whether an update of a pod can change the verdict. What was
// there before the policy may go on.
func matters(p, old *corev1.Pod) bool {
	if !equality.Semantic.DeepEqual(p.Annotations, old.Annotations) {
		return true
	}
	now, was := p.Spec.DeepCopy(), old.Spec.DeepCopy()
	for _, spec := range []*corev1.PodSpec{now, was} {
		spec.ActiveDeadlineSeconds, spec.Tolerations, spec.TerminationGracePeriodSeconds = nil, nil, nil
	}
	return !equality.Semantic.DeepEqual(now, was)
}

// templateOf returns the pods that a workload makes, nil if it is none.
func templateOf(obj runtime.Object) *corev1.PodTemplateSpec {
	switch o := obj.(type) {
	case *corev1.PodTemplate:
		return &o.Template
	case *corev1.ReplicationController:
		return o.Spec.Template
	case *appsv1.ReplicaSet:
		return &o.Spec.Template
	case *appsv1.Deployment:
		return &o.Spec.Template
	case *appsv1.StatefulSet:
		return &o.Spec.Template
	case *appsv1.DaemonSet:
		return &o.Spec.Template
	case *batchv1.Job:
		return &o.Spec.Template
	case *batchv1.CronJob:
		return &o.Spec.JobTemplate.Spec.Template
	}
	return nil
}

// namespace refuses labels that cannot be read, and tells which pods of a
// namespace violate a level that is now enforced.
func (s podSecurity) namespace(ctx context.Context, ns, old *corev1.Namespace) error {
	_, faults := psa.PolicyToEvaluate(ns.Labels, psa.Policy{})
	if old == nil {
		return invalidNamespace(ns.Name, faults)
	}
	if _, before := psa.PolicyToEvaluate(old.Labels, psa.Policy{}); len(before) > 0 && len(faults) > 0 {
		return nil // no worse than it was
	}
	if len(faults) > 0 {
		return invalidNamespace(ns.Name, faults)
	}
	now, was := policyOf(ns.Labels).Enforce, policyOf(old.Labels).Enforce
	if now.Equivalent(&was) || (now.Version == was.Version && psa.CompareLevels(now.Level, was.Level) < 1) {
		return nil
	}
	pods, err := s.objects.List(ctx, podResource, ns.Name)
	if err != nil {
		return err
	}
	s.warnOfPods(ctx, ns.Name, now, pods)
	return nil
}

func invalidNamespace(name string, faults field.ErrorList) error {
	if len(faults) == 0 {
		return nil
	}
	return apierrors.NewInvalid(schema.GroupKind{Kind: "Namespace"}, name, faults)
}

// warnOfPods tells each violation once, with the first pod and how many more.
func (s podSecurity) warnOfPods(ctx context.Context, namespace string, lv psa.LevelVersion, pods []meta.Object) {
	names := map[string][]string{}
	var reasons []string
	for _, obj := range pods[:min(len(pods), maxPodsChecked)] {
		p, ok := obj.(*corev1.Pod)
		if !ok {
			continue
		}
		r := s.evaluate(lv, &p.ObjectMeta, &p.Spec)
		if r.Allowed {
			continue
		}
		reason := r.ForbiddenReason()
		if names[reason] == nil {
			reasons = append(reasons, reason)
		}
		names[reason] = append(names[reason], p.Name)
	}
	if len(reasons) == 0 {
		return
	}
	request.Warn(ctx, fmt.Sprintf("existing pods in namespace %q violate the new PodSecurity enforce level %q", namespace, lv.String()))
	if len(pods) > maxPodsChecked {
		request.Warn(ctx, fmt.Sprintf("new PodSecurity enforce level only checked against the first %d of %d existing pods", maxPodsChecked, len(pods)))
	}
	var lines []string
	for _, reason := range reasons {
		list := names[reason]
		slices.Sort(list)
		line := list[0]
		switch n := len(list) - 1; {
		case n == 1:
			line += " (and 1 other pod)"
		case n > 1:
			line += fmt.Sprintf(" (and %d other pods)", n)
		}
		lines = append(lines, line+": "+reason)
	}
	slices.Sort(lines)
	for _, line := range lines[:min(len(lines), maxPodsReported)] {
		request.Warn(ctx, line)
	}
}
