// Package pod holds the facts and rules about pods that the API server and its
// clients share: defaults and validation of pod specs and templates, what an
// update may change, quality of service, effective requests and limits,
// readiness, host ports, and the status text of kubectl get. It is pure: it
// reads the values it is given and does no I/O.
package pod

import (
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"skiff.dev/skiff/internal/meta"
)

// ByNode finds pods by the node they are bound to; unbound pods are under "".
var ByNode = meta.Index{Name: "spec.nodeName", Keys: func(o meta.Object) []string {
	if p, ok := o.(*corev1.Pod); ok {
		return []string{p.Spec.NodeName}
	}
	return nil
}}

// IsTerminal reports whether the pod has ended: its containers have stopped
// and will not be started again.
func IsTerminal(p *corev1.Pod) bool {
	return p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed
}

// IsActive reports whether the pod counts for its controller: it has neither
// ended nor begun to be deleted.
func IsActive(p *corev1.Pod) bool { return !IsTerminal(p) && p.DeletionTimestamp == nil }

// IsMirror reports whether the pod is the mirror of one that the kubelet runs
// from a file.
func IsMirror(p *corev1.Pod) bool {
	_, mirror := p.Annotations[corev1.MirrorPodAnnotationKey]
	return mirror
}

// Condition returns the condition of type t, or nil.
func Condition(s *corev1.PodStatus, t corev1.PodConditionType) *corev1.PodCondition {
	for i := range s.Conditions {
		if s.Conditions[i].Type == t {
			return &s.Conditions[i]
		}
	}
	return nil
}

// SetCondition adds c or replaces the condition of its type, and reports
// whether anything changed. The transition time is kept while the status is.
func SetCondition(s *corev1.PodStatus, c corev1.PodCondition) bool {
	was := Condition(s, c.Type)
	if was == nil {
		s.Conditions = append(s.Conditions, c)
		return true
	}
	if was.Status == c.Status {
		c.LastTransitionTime = was.LastTransitionTime
	}
	if *was == c {
		return false
	}
	*was = c
	return true
}

// IsReady reports whether the pod's Ready condition is true.
func IsReady(p *corev1.Pod) bool {
	c := Condition(&p.Status, corev1.PodReady)
	return c != nil && c.Status == corev1.ConditionTrue
}

// IsAvailable reports whether the pod has been ready for minReadySeconds at now.
func IsAvailable(p *corev1.Pod, minReadySeconds int32, now time.Time) bool {
	c := Condition(&p.Status, corev1.PodReady)
	if c == nil || c.Status != corev1.ConditionTrue {
		return false
	}
	if minReadySeconds == 0 {
		return true
	}
	since := c.LastTransitionTime.Time
	return !since.IsZero() && !since.Add(time.Duration(minReadySeconds)*time.Second).After(now)
}

// IsSidecar reports whether an init container is restarted for the pod's whole
// life (KEP-753).
func IsSidecar(init *corev1.Container) bool {
	return init.RestartPolicy != nil && *init.RestartPolicy == corev1.ContainerRestartPolicyAlways
}

// Containers calls yield for each init and regular container, and for each
// ephemeral one with its common part, until yield returns false. The
// containers are the pod's own, not copies.
func Containers(s *corev1.PodSpec) func(yield func(*corev1.Container) bool) {
	return func(yield func(*corev1.Container) bool) {
		for i := range s.InitContainers {
			if !yield(&s.InitContainers[i]) {
				return
			}
		}
		for i := range s.Containers {
			if !yield(&s.Containers[i]) {
				return
			}
		}
		for i := range s.EphemeralContainers {
			if !yield((*corev1.Container)(&s.EphemeralContainers[i].EphemeralContainerCommon)) {
				return
			}
		}
	}
}

// HostPorts returns the ports that the pod occupies on its node: those of its
// containers and sidecars that have a host port.
func HostPorts(s *corev1.PodSpec) []corev1.ContainerPort {
	var ports []corev1.ContainerPort
	add := func(c *corev1.Container) {
		for _, p := range c.Ports {
			if p.HostPort > 0 {
				ports = append(ports, p)
			}
		}
	}
	for i := range s.Containers {
		add(&s.Containers[i])
	}
	for i := range s.InitContainers {
		if IsSidecar(&s.InitContainers[i]) {
			add(&s.InitContainers[i])
		}
	}
	return ports
}

// ContainerNames lists the names of the regular containers, for a wide table.
func ContainerNames(s *corev1.PodSpec) string {
	names := make([]string, len(s.Containers))
	for i := range s.Containers {
		names[i] = s.Containers[i].Name
	}
	return strings.Join(names, ",")
}

// ContainerImages lists the images of the regular containers, for a wide table.
func ContainerImages(s *corev1.PodSpec) string {
	images := make([]string, len(s.Containers))
	for i := range s.Containers {
		images[i] = s.Containers[i].Image
	}
	return strings.Join(images, ",")
}
