package service

import (
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/intstr"

	"skiff.dev/skiff/internal/pod"
)

// PodChanged reports whether a pod has changed in anything that endpoints tell.
func PodChanged(was, is *corev1.Pod) bool {
	return was.Status.Phase != is.Status.Phase || pod.IsReady(was) != pod.IsReady(is) ||
		(was.DeletionTimestamp == nil) != (is.DeletionTimestamp == nil) ||
		was.Spec.NodeName != is.Spec.NodeName || was.UID != is.UID ||
		was.Spec.Hostname != is.Spec.Hostname || was.Spec.Subdomain != is.Spec.Subdomain ||
		!slices.Equal(was.Status.PodIPs, is.Status.PodIPs) || !equality.Semantic.DeepEqual(was.Labels, is.Labels)
}

// TargetPort returns the port of p that a service port leads to; ok is false
// where p has no port of the name asked for.
func TargetPort(p *corev1.Pod, sp *corev1.ServicePort) (port int32, ok bool) {
	if sp.TargetPort.Type == intstr.Int {
		return sp.TargetPort.IntVal, true
	}
	find := func(ports []corev1.ContainerPort) bool {
		for i := range ports {
			if ports[i].Name == sp.TargetPort.StrVal && ports[i].Protocol == sp.Protocol {
				port = ports[i].ContainerPort
				return true
			}
		}
		return false
	}
	for i := range p.Spec.Containers {
		if find(p.Spec.Containers[i].Ports) {
			return port, true
		}
	}
	for i := range p.Spec.InitContainers {
		if c := &p.Spec.InitContainers[i]; pod.IsSidecar(c) && find(c.Ports) {
			return port, true
		}
	}
	return 0, false
}

// HostnameOf returns the name that p has below the service's own, "" if none.
func HostnameOf(p *corev1.Pod, svc *corev1.Service) string {
	if p.Spec.Subdomain == svc.Name && p.Namespace == svc.Namespace {
		return p.Spec.Hostname
	}
	return ""
}

// Trigger returns the oldest cause of a change of endpoints that is newer than
// told, zero if none is, and the newest of all causes. It serves to measure how
// long programming the network takes.
func Trigger(svc *corev1.Service, pods []*corev1.Pod, told time.Time) (oldest, newest time.Time) {
	note := func(t time.Time) {
		if t.After(told) && (oldest.IsZero() || t.Before(oldest)) {
			oldest = t
		}
		if t.After(newest) {
			newest = t
		}
	}
	note(svc.CreationTimestamp.Time)
	for _, p := range pods {
		if c := pod.Condition(&p.Status, corev1.PodReady); c != nil {
			note(c.LastTransitionTime.Time)
		}
	}
	return oldest, newest
}
