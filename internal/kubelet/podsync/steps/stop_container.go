package steps

import (
	"context"
	"time"

	v1 "k8s.io/api/core/v1"

	"skiff.dev/skiff/internal/kubelet/cri"
	"skiff.dev/skiff/internal/kubelet/podsync"
)

// stopContainer sends a container its stop signal and, at the action's
// deadline, KILL, and returns when the container has ended. Its preStop hook
// has run before, see runPreStop. A container that is already gone is stopped.
//
// If ctx ends, because less time is given now or the kubelet itself ends, the
// container goes on with the signal received; the next try waits for it again.
func (s *Steps) stopContainer(ctx context.Context, pod *v1.Pod, a podsync.StopContainer) podsync.Result {
	s.announceKill(pod, a.Message)
	err := s.Runtime.StopContainer(ctx, a.ID, wholeSeconds(time.Until(a.Deadline)))
	if err != nil && !cri.IsNotFound(err) {
		return result("stopping container "+a.Container, err)
	}
	return podsync.Result{}
}

// announceKill reports that a container is about to be stopped; message is
// empty where that has been reported before.
func (s *Steps) announceKill(pod *v1.Pod, message string) {
	if message != "" {
		s.Events.Normal(pod, "Killing", "%s", message)
	}
}

// wholeSeconds rounds to what the runtime counts in. A grace of less than half
// a second is none: the runtime then kills at once.
func wholeSeconds(d time.Duration) time.Duration {
	return max(d, 0).Round(time.Second)
}
