package steps

import (
	"context"
	"os"

	v1 "k8s.io/api/core/v1"

	"skiff.dev/skiff/internal/kubelet/cri"
	"skiff.dev/skiff/internal/kubelet/podsync"
)

// createSandbox makes the pod's cgroup and log directory and has the runtime
// make the namespaces and the network.
func (s *Steps) createSandbox(ctx context.Context, pod *v1.Pod, a podsync.CreateSandbox) podsync.Result {
	if a.Attempt > 0 {
		s.Events.Normal(pod, "SandboxChanged", "Pod sandbox changed, it will be killed and re-created.")
	}
	err := s.runSandbox(ctx, pod, a.Attempt)
	if err != nil && ctx.Err() == nil {
		s.Events.Warning(pod, "FailedCreatePodSandBox", "Failed to create pod sandbox: %v", err)
	}
	return result("creating the pod's sandbox", err)
}

func (s *Steps) runSandbox(ctx context.Context, pod *v1.Pod, attempt uint32) error {
	parent, err := s.Cgroups.EnsurePod(pod)
	if err != nil {
		return err
	}
	config, err := s.Configs.Sandbox(ctx, pod, attempt, parent)
	if err != nil {
		return err
	}
	handler, err := s.Configs.Handler(ctx, pod)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(config.LogDirectory, 0o755); err != nil {
		return err
	}
	done, err := s.Turns.take(ctx, makingSandbox)
	if err != nil {
		return err
	}
	defer done()
	_, err = s.Runtime.RunSandbox(ctx, config, handler)
	return err
}

// stopSandbox takes the sandbox off the network and ends its processes.
func (s *Steps) stopSandbox(ctx context.Context, a podsync.StopSandbox) podsync.Result {
	if err := s.Runtime.StopSandbox(ctx, a.ID); err != nil && !cri.IsNotFound(err) {
		return result("stopping the pod's sandbox", err)
	}
	return podsync.Result{}
}

// removeSandbox removes a stopped sandbox from the runtime.
func (s *Steps) removeSandbox(ctx context.Context, a podsync.RemoveSandbox) podsync.Result {
	if err := s.Runtime.RemoveSandbox(ctx, a.ID); err != nil && !cri.IsNotFound(err) {
		return result("removing the pod's sandbox", err)
	}
	return podsync.Result{}
}
