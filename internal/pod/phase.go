package pod

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
)

// A Summary is the pod as the table of kubectl get shows it.
type Summary struct {
	Ready, Total int
	Status       string // phase, or the more telling reason of a container
	Restarts     int
	// LastRestart is when a container that counts in Restarts last ended.
	LastRestart *corev1.ContainerStateTerminated
}

// nodeLost is the reason of pods whose node has stopped reporting.
const nodeLost = "NodeLost"

// Summarize computes the summary of p.
func Summarize(p *corev1.Pod) Summary {
	s := Summary{Total: len(p.Spec.Containers), Status: string(p.Status.Phase)}
	if p.Status.Reason != "" {
		s.Status = p.Status.Reason
	}
	if c := Condition(&p.Status, corev1.PodScheduled); c != nil && c.Reason == corev1.PodReasonSchedulingGated {
		s.Status = corev1.PodReasonSchedulingGated
	}
	sidecars := map[string]bool{}
	for i := range p.Spec.InitContainers {
		if c := &p.Spec.InitContainers[i]; IsSidecar(c) {
			sidecars[c.Name] = true
			s.Total++
		}
	}
	initializing, sidecarSum := s.addInit(p, sidecars)
	if !initializing || isInitialized(p) {
		s.Restarts, s.LastRestart = sidecarSum.Restarts, sidecarSum.LastRestart
		s.addRegular(p)
	}
	switch {
	case p.DeletionTimestamp != nil && p.Status.Reason == nodeLost:
		s.Status = string(corev1.PodUnknown)
	case p.DeletionTimestamp != nil && !IsTerminal(p):
		s.Status = "Terminating"
	}
	return s
}

func isInitialized(p *corev1.Pod) bool {
	c := Condition(&p.Status, corev1.PodInitialized)
	return c != nil && c.Status == corev1.ConditionTrue
}

// addInit counts the init containers and reports whether they are still at
// work, with the restarts of the sidecars apart.
func (s *Summary) addInit(p *corev1.Pod, sidecars map[string]bool) (initializing bool, sidecarSum Summary) {
	for i := range p.Status.InitContainerStatuses {
		c := &p.Status.InitContainerStatuses[i]
		s.addRestarts(c)
		if sidecars[c.Name] {
			sidecarSum.addRestarts(c)
		}
		t, w := c.State.Terminated, c.State.Waiting
		switch {
		case t != nil && t.ExitCode == 0:
			continue
		case sidecars[c.Name] && c.Started != nil && *c.Started:
			if c.Ready {
				s.Ready++
			}
			continue
		case t != nil:
			s.Status = "Init:" + terminatedText(t)
		case w != nil && w.Reason != "" && w.Reason != "PodInitializing":
			s.Status = "Init:" + w.Reason
		default:
			s.Status = fmt.Sprintf("Init:%d/%d", i, len(p.Spec.InitContainers))
		}
		return true, sidecarSum
	}
	return false, sidecarSum
}

// addRegular counts the regular containers; the first one with something to
// tell gives the status its text.
func (s *Summary) addRegular(p *corev1.Pod) {
	running := false
	for i := len(p.Status.ContainerStatuses) - 1; i >= 0; i-- {
		c := &p.Status.ContainerStatuses[i]
		s.addRestarts(c)
		switch t, w := c.State.Terminated, c.State.Waiting; {
		case w != nil && w.Reason != "":
			s.Status = w.Reason
		case t != nil:
			s.Status = terminatedText(t)
		case c.Ready && c.State.Running != nil:
			running = true
			s.Ready++
		}
	}
	if s.Status == "Completed" && running {
		s.Status = "NotReady"
		if IsReady(p) {
			s.Status = "Running"
		}
	}
}

func (s *Summary) addRestarts(c *corev1.ContainerStatus) {
	s.Restarts += int(c.RestartCount)
	if t := c.LastTerminationState.Terminated; t != nil {
		if s.LastRestart == nil || s.LastRestart.FinishedAt.Before(&t.FinishedAt) {
			s.LastRestart = t
		}
	}
}

func terminatedText(t *corev1.ContainerStateTerminated) string {
	switch {
	case t.Reason != "":
		return t.Reason
	case t.Signal != 0:
		return fmt.Sprintf("Signal:%d", t.Signal)
	default:
		return fmt.Sprintf("ExitCode:%d", t.ExitCode)
	}
}
