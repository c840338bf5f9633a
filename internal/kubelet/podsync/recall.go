package podsync

import (
	"cmp"
	"slices"

	v1 "k8s.io/api/core/v1"
)

// Recall adds to seen the instances that the pod's status tells of and the
// runtime has lost (removed behind the kubelet's back, or with the runtime's
// data), so that what has run is neither forgotten nor counted anew.
func Recall(pod *v1.Pod, seen Seen) Seen {
	out := Seen{Sandboxes: slices.Clone(seen.Sandboxes), Containers: slices.Clone(seen.Containers)}
	known := map[string]bool{}
	for i := range out.Containers {
		known[out.Containers[i].ID] = true
	}
	for _, list := range [][]v1.ContainerStatus{
		pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses, pod.Status.EphemeralContainerStatuses,
	} {
		for i := range list {
			if c, ok := lost(&list[i]); ok && !known[c.ID] {
				out.Containers = append(out.Containers, c)
			}
		}
	}
	return Sort(out)
}

// Sort puts both lists into the order that Seen promises, in place.
func Sort(seen Seen) Seen {
	slices.SortStableFunc(seen.Sandboxes, func(a, b Sandbox) int {
		return cmp.Or(cmp.Compare(b.Attempt, a.Attempt), b.CreatedAt.Compare(a.CreatedAt))
	})
	slices.SortStableFunc(seen.Containers, func(a, b Container) int {
		return cmp.Or(cmp.Compare(b.Attempt, a.Attempt), b.CreatedAt.Compare(a.CreatedAt))
	})
	return seen
}

// lost makes an ended instance out of a status that tells of one.
func lost(s *v1.ContainerStatus) (Container, bool) {
	c := Container{ID: RuntimeID(s.ContainerID), Name: s.Name, State: Exited, Attempt: int(s.RestartCount),
		Image: s.Image, ImageRef: s.ImageID, ImageID: s.ImageID, Lost: true}
	t := s.State.Terminated
	if t == nil && s.State.Running == nil {
		t = s.LastTerminationState.Terminated
	}
	switch {
	case c.ID == "":
		return c, false
	case t != nil:
		if t.ContainerID != "" {
			c.ID = RuntimeID(t.ContainerID)
		}
		c.StartedAt, c.FinishedAt, c.CreatedAt = t.StartedAt.Time, t.FinishedAt.Time, t.StartedAt.Time
		c.ExitCode, c.Reason, c.Message = t.ExitCode, t.Reason, t.Message
	case s.State.Running != nil:
		c.StartedAt, c.CreatedAt = s.State.Running.StartedAt.Time, s.State.Running.StartedAt.Time
		c.FinishedAt = c.StartedAt
		c.ExitCode, c.Reason = 137, "ContainerStatusUnknown"
		c.Message = "The container could not be located when the pod was terminated"
	default:
		return c, false
	}
	return c, true
}

// RuntimeID takes the runtime's name off a container id of a pod's status.
func RuntimeID(id string) string {
	for i := 0; i+2 < len(id); i++ {
		if id[i:i+3] == "://" {
			return id[i+3:]
		}
	}
	return id
}
