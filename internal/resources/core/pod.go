package core

import (
	"context"
	"fmt"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/util/duration"

	"skiff.dev/skiff/internal/check"
	"skiff.dev/skiff/internal/meta"
	"skiff.dev/skiff/internal/pod"
	"skiff.dev/skiff/internal/resource"
)

// Pods returns v1 Pod. budget guards evictions, see EvictionBudget; with nil
// there are no disruption budgets.
// https://kubernetes.io/docs/reference/kubernetes-api/workload-resources/pod-v1/
func Pods(budget EvictionBudget) *resource.Definition[*corev1.Pod] {
	return &resource.Definition[*corev1.Pod]{
		Name:     resource.Name{Version: "v1", Kind: "Pod", Plural: "pods", Short: []string{"po"}, Categories: []string{"all"}},
		Default:  pod.Default,
		Prepare:  preparePod,
		Validate: validatePod,
		Spec:     specOfPod,
		Status:   podStatus,
		Views:    []*resource.View[*corev1.Pod]{podEphemeralContainers, podResize},
		Actions:  []*resource.Action{bindingAction, evictionAction(budget)},
		Connects: podConnects,
		Columns:  podColumns,
		Fields:   podFields,
		Indexes:  []meta.Index{pod.ByNode, meta.ByOwner},
		Deletion: &resource.Deletion[*corev1.Pod]{Grace: podGrace},
	}
}

// specOfPod is what the generation counts the changes of: binding a pod to its
// node is not one (KEP-5067).
func specOfPod(p *corev1.Pod) any {
	spec := p.Spec
	spec.NodeName = ""
	return &spec
}

func preparePod(_ context.Context, p, old *corev1.Pod) {
	pod.DropAlpha(&p.Spec)
	if old != nil {
		return
	}
	p.Status = corev1.PodStatus{Phase: corev1.PodPending, QOSClass: pod.QOSClass(p)}
	if len(p.Spec.SchedulingGates) > 0 {
		pod.SetCondition(&p.Status, corev1.PodCondition{
			Type: corev1.PodScheduled, Status: corev1.ConditionFalse, ObservedGeneration: 1,
			Reason: corev1.PodReasonSchedulingGated, Message: "Scheduling is blocked due to non-empty scheduling gates",
		})
	}
	pod.ResolveLabelKeys(p)
	pod.SyncProfiles(p)
}

func validatePod(r *check.Report, p, old *corev1.Pod) {
	pod.Warn(r, &p.ObjectMeta, &p.Spec)
	if old == nil {
		pod.ValidateCreate(r, p)
		return
	}
	pod.ValidateUpdate(r, p, old)
}

var podStatus = &resource.View[*corev1.Pod]{
	Keep: func(p, old *corev1.Pod) { p.Status = *old.Status.DeepCopy() },
	Reset: func(p, old *corev1.Pod) {
		p.Spec, p.OwnerReferences = *old.Spec.DeepCopy(), old.OwnerReferences
		p.Status.QOSClass = old.Status.QOSClass
	},
	Validate: pod.ValidateStatusUpdate,
}

// podEphemeralContainers and podResize have no Keep: a write of the pod itself
// that changes what they show is refused rather than undone.
var podEphemeralContainers = &resource.View[*corev1.Pod]{
	Name: "ephemeralcontainers",
	Reset: func(p, old *corev1.Pod) {
		wanted := p.Spec.EphemeralContainers
		p.Spec, p.Status = *old.Spec.DeepCopy(), *old.Status.DeepCopy()
		p.Labels, p.Annotations, p.OwnerReferences, p.Finalizers = old.Labels, old.Annotations, old.OwnerReferences, old.Finalizers
		p.Spec.EphemeralContainers = wanted
	},
	Prepare:  func(_ context.Context, p, _ *corev1.Pod) { pod.DropAlpha(&p.Spec) },
	Validate: pod.ValidateEphemeralUpdate,
}

var podResize = &resource.View[*corev1.Pod]{
	Name: "resize",
	Reset: func(p, old *corev1.Pod) {
		wanted := p.Spec
		p.Spec, p.Status = *old.Spec.DeepCopy(), *old.Status.DeepCopy()
		p.Labels, p.Annotations, p.OwnerReferences, p.Finalizers = old.Labels, old.Annotations, old.OwnerReferences, old.Finalizers
		takeResources(p.Spec.Containers, wanted.Containers)
		takeResources(p.Spec.InitContainers, wanted.InitContainers)
		if wanted.Resources != nil {
			p.Spec.Resources = wanted.Resources.DeepCopy()
		}
	},
	Validate: pod.ValidateResize,
}

// takeResources copies resources and resize policies to containers of the same
// name.
func takeResources(to, from []corev1.Container) {
	for i := range to {
		for j := range from {
			if to[i].Name == from[j].Name {
				to[i].Resources, to[i].ResizePolicy = from[j].Resources, from[j].ResizePolicy
			}
		}
	}
}

// podGrace: a pod that no kubelet runs goes at once, else it has the time that
// was asked for, or that its spec gives.
func podGrace(p *corev1.Pod, asked *int64) (int64, bool) {
	var seconds int64
	switch {
	case asked != nil:
		seconds = *asked
	case p.Spec.TerminationGracePeriodSeconds != nil:
		seconds = *p.Spec.TerminationGracePeriodSeconds
	}
	if p.Spec.NodeName == "" || pod.IsTerminal(p) {
		seconds = 0
	}
	if seconds < 0 {
		seconds = 1
	}
	return seconds, seconds == 0
}

func podFields(p *corev1.Pod) fields.Set {
	ip := p.Status.PodIP
	if ip == "" && len(p.Status.PodIPs) > 0 {
		ip = p.Status.PodIPs[0].IP
	}
	return fields.Set{
		"spec.nodeName":            p.Spec.NodeName,
		"spec.restartPolicy":       string(p.Spec.RestartPolicy),
		"spec.schedulerName":       p.Spec.SchedulerName,
		"spec.serviceAccountName":  p.Spec.ServiceAccountName,
		"spec.hostNetwork":         strconv.FormatBool(p.Spec.HostNetwork),
		"status.phase":             string(p.Status.Phase),
		"status.podIP":             ip,
		"status.nominatedNodeName": p.Status.NominatedNodeName,
	}
}

var podColumns = []resource.Column[*corev1.Pod]{
	{Name: "Ready", Description: "The aggregate readiness state of this pod for accepting traffic.", Value: func(p *corev1.Pod) any {
		s := pod.Summarize(p)
		return fmt.Sprintf("%d/%d", s.Ready, s.Total)
	}},
	{Name: "Status", Description: "The aggregate status of the containers in this pod.",
		Value: func(p *corev1.Pod) any { return pod.Summarize(p).Status }},
	{Name: "Restarts", Description: "The number of times the containers in this pod have been restarted and when the last container in this pod has restarted.",
		Value: func(p *corev1.Pod) any { return restarts(pod.Summarize(p), time.Now()) }},
	resource.Age[*corev1.Pod](),
	{Name: "IP", Wide: true, Description: corev1.PodStatus{}.SwaggerDoc()["podIP"], Value: func(p *corev1.Pod) any {
		if len(p.Status.PodIPs) > 0 {
			return orNone(p.Status.PodIPs[0].IP)
		}
		return orNone(p.Status.PodIP)
	}},
	{Name: "Node", Wide: true, Description: corev1.PodSpec{}.SwaggerDoc()["nodeName"],
		Value: func(p *corev1.Pod) any { return orNone(p.Spec.NodeName) }},
	{Name: "Nominated Node", Wide: true, Description: corev1.PodStatus{}.SwaggerDoc()["nominatedNodeName"],
		Value: func(p *corev1.Pod) any { return orNone(p.Status.NominatedNodeName) }},
	{Name: "Readiness Gates", Wide: true, Description: corev1.PodSpec{}.SwaggerDoc()["readinessGates"], Value: func(p *corev1.Pod) any {
		if len(p.Spec.ReadinessGates) == 0 {
			return none
		}
		open := 0
		for _, g := range p.Spec.ReadinessGates {
			if c := pod.Condition(&p.Status, g.ConditionType); c != nil && c.Status == corev1.ConditionTrue {
				open++
			}
		}
		return fmt.Sprintf("%d/%d", open, len(p.Spec.ReadinessGates))
	}},
}

func restarts(s pod.Summary, now time.Time) string {
	if s.Restarts == 0 || s.LastRestart == nil || s.LastRestart.FinishedAt.IsZero() {
		return strconv.Itoa(s.Restarts)
	}
	return fmt.Sprintf("%d (%s ago)", s.Restarts, duration.HumanDuration(now.Sub(s.LastRestart.FinishedAt.Time)))
}

// PodTemplate is v1 PodTemplate.
var PodTemplate = &resource.Definition[*corev1.PodTemplate]{
	Name:    resource.Name{Version: "v1", Kind: "PodTemplate", Plural: "podtemplates"},
	Default: func(t *corev1.PodTemplate) { pod.DefaultTemplate(&t.Template) },
	Prepare: func(_ context.Context, t, _ *corev1.PodTemplate) { pod.DropAlpha(&t.Template.Spec) },
	Validate: func(r *check.Report, t, old *corev1.PodTemplate) {
		var was *corev1.PodTemplateSpec
		if old != nil {
			was = &old.Template
		}
		pod.ValidateTemplate(r.At("template"), &t.Template, was)
	},
	Spec: func(t *corev1.PodTemplate) any { return &t.Template },
	Columns: []resource.Column[*corev1.PodTemplate]{
		{Name: "Containers", Description: "Names of each container in the template.",
			Value: func(t *corev1.PodTemplate) any { return pod.ContainerNames(&t.Template.Spec) }},
		{Name: "Images", Description: "Images referenced by each container in the template.",
			Value: func(t *corev1.PodTemplate) any { return pod.ContainerImages(&t.Template.Spec) }},
		{Name: "Pod Labels", Description: "The labels for the pod template.",
			Value: func(t *corev1.PodTemplate) any {
				return metav1.FormatLabelSelector(&metav1.LabelSelector{MatchLabels: t.Template.Labels})
			}},
	},
}
