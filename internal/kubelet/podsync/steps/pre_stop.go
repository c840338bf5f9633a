package steps

import (
	"context"

	v1 "k8s.io/api/core/v1"

	"skiff.dev/skiff/internal/kubelet/podsync"
)

// runPreStop runs the preStop hook of a container for as long as the deadline
// allows. Whether it succeeds makes no difference to the container's end.
func (s *Steps) runPreStop(ctx context.Context, pod *v1.Pod, a podsync.RunPreStop) podsync.Result {
	s.announceKill(pod, a.Message)
	c, _, ok := podsync.Find(pod, a.Container)
	if !ok || c.Lifecycle == nil || c.Lifecycle.PreStop == nil {
		return podsync.Result{}
	}
	limited, cancel := context.WithDeadline(ctx, a.Deadline)
	defer cancel()
	err := s.Hooks.Run(limited, pod, c, a.ID, c.Lifecycle.PreStop)
	if err != nil && ctx.Err() == nil {
		s.Events.Warning(pod, "FailedPreStopHook", "PreStopHook failed")
	}
	return result("running the preStop hook of "+a.Container, err)
}
