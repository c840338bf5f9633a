package status

import (
	"fmt"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff.dev/skiff/internal/kubelet/podsync"
	"skiff.dev/skiff/internal/pod"
)

// conditions sets the conditions that the kubelet owns; others are left alone.
// https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/#pod-conditions
func (m *maker) conditions(out *v1.PodStatus) {
	m.set(out, m.network())
	m.set(out, m.initialized(out))
	ready := m.containersReady(out)
	m.set(out, m.podReady(out, ready))
	m.set(out, ready)
	if pod.Condition(out, v1.PodScheduled) == nil { // a static pod: no scheduler said so
		m.set(out, v1.PodCondition{Type: v1.PodScheduled, Status: v1.ConditionTrue})
	}
	if m.Evicted != nil && m.Evicted.Disrupts {
		m.set(out, v1.PodCondition{Type: v1.DisruptionTarget, Status: v1.ConditionTrue,
			Reason: v1.PodReasonTerminationByKubelet, Message: m.Evicted.Message})
	}
	if m.Plan.Restarting {
		m.set(out, v1.PodCondition{Type: v1.AllContainersRestarting, Status: v1.ConditionTrue, Reason: "RestartAllContainersTriggered"})
	} else if pod.Condition(out, v1.AllContainersRestarting) != nil {
		m.set(out, v1.PodCondition{Type: v1.AllContainersRestarting, Status: v1.ConditionFalse, Reason: "AllContainersRestarted"})
	}
}

// set puts in a condition; its transition time moves only with its status.
func (m *maker) set(out *v1.PodStatus, c v1.PodCondition) {
	c.ObservedGeneration = m.Pod.Generation
	c.LastTransitionTime = metav1.NewTime(m.Now).Rfc3339Copy()
	i := slices.IndexFunc(out.Conditions, func(o v1.PodCondition) bool { return o.Type == c.Type })
	if i < 0 {
		out.Conditions = append(out.Conditions, c)
		return
	}
	if old := out.Conditions[i]; old.Status == c.Status {
		c.LastTransitionTime = old.LastTransitionTime
	}
	c.LastProbeTime = out.Conditions[i].LastProbeTime
	out.Conditions[i] = c
}

func status(ok bool) v1.ConditionStatus {
	if ok {
		return v1.ConditionTrue
	}
	return v1.ConditionFalse
}

func (m *maker) network() v1.PodCondition {
	up := slices.ContainsFunc(m.seen.Sandboxes, func(sb podsync.Sandbox) bool {
		return sb.Ready && (m.Pod.Spec.HostNetwork || len(sb.IPs) > 0)
	})
	return v1.PodCondition{Type: v1.PodReadyToStartContainers, Status: status(up)}
}

func (m *maker) initialized(out *v1.PodStatus) v1.PodCondition {
	c := v1.PodCondition{Type: v1.PodInitialized, Status: status(m.Plan.Initialized)}
	switch {
	case out.Phase == v1.PodSucceeded:
		c.Status, c.Reason = v1.ConditionTrue, "PodCompleted"
	case !m.Plan.Initialized:
		var names []string
		for i := range out.InitContainerStatuses {
			s := &out.InitContainerStatuses[i]
			done := s.Ready || s.State.Terminated != nil && s.State.Terminated.ExitCode == 0
			if podsync.KindOfInit(&m.Pod.Spec.InitContainers[i]) == podsync.Sidecar {
				done = s.Started != nil && *s.Started
			}
			if !done {
				names = append(names, s.Name)
			}
		}
		c.Reason = "ContainersNotInitialized"
		c.Message = fmt.Sprintf("containers with incomplete status: [%s]", strings.Join(names, " "))
	}
	return c
}

func (m *maker) containersReady(out *v1.PodStatus) v1.PodCondition {
	c := v1.PodCondition{Type: v1.ContainersReady, Status: v1.ConditionFalse}
	switch out.Phase {
	case v1.PodSucceeded:
		c.Reason = "PodCompleted"
		return c
	case v1.PodFailed:
		c.Reason = "PodFailed"
		return c
	}
	var unready []string
	for i := range m.Pod.Spec.InitContainers {
		if podsync.KindOfInit(&m.Pod.Spec.InitContainers[i]) == podsync.Sidecar && !out.InitContainerStatuses[i].Ready {
			unready = append(unready, out.InitContainerStatuses[i].Name)
		}
	}
	for i := range out.ContainerStatuses {
		if !out.ContainerStatuses[i].Ready {
			unready = append(unready, out.ContainerStatuses[i].Name)
		}
	}
	if len(unready) > 0 {
		c.Reason = "ContainersNotReady"
		c.Message = fmt.Sprintf("containers with unready status: [%s]", strings.Join(unready, " "))
		return c
	}
	c.Status = v1.ConditionTrue
	return c
}

// podReady is ContainersReady and all readiness gates.
func (m *maker) podReady(out *v1.PodStatus, containers v1.PodCondition) v1.PodCondition {
	c := containers
	c.Type = v1.PodReady
	if containers.Status != v1.ConditionTrue {
		return c
	}
	var unmet []string
	for _, gate := range m.Pod.Spec.ReadinessGates {
		switch have := pod.Condition(out, gate.ConditionType); {
		case have == nil:
			unmet = append(unmet, fmt.Sprintf("corresponding condition of pod readiness gate %q does not exist.", string(gate.ConditionType)))
		case have.Status != v1.ConditionTrue:
			unmet = append(unmet, fmt.Sprintf("the status of pod readiness gate %q is not \"True\", but %v", string(gate.ConditionType), have.Status))
		}
	}
	if len(unmet) > 0 {
		c.Status, c.Reason, c.Message = v1.ConditionFalse, "ReadinessGatesNotReady", strings.Join(unmet, ", ")
	}
	return c
}
