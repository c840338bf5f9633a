package steps

import (
	"context"
	"fmt"
	"log/slog"

	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"skiff.dev/skiff/internal/kubelet/cri"
	"skiff.dev/skiff/internal/kubelet/layout"
	"skiff.dev/skiff/internal/kubelet/podsync"
)

// Steps is what the steps work with. All of it is safe for concurrent use.
type Steps struct {
	Runtime cri.Runtime
	Volumes Volumes
	Cgroups Cgroups
	Images  Images
	Configs Configs
	Hooks   Hooks
	Turns   *Turns
	Events  Events
	Layout  layout.Layout
	Log     *slog.Logger
}

// Images makes images present.
type Images interface {
	// Ensure makes the image of a container present as its pull policy asks and
	// returns the reference to create the container from. A failure is a
	// *image.Error and says when to try again.
	Ensure(ctx context.Context, pod *v1.Pod, container *v1.Container) (ref string, err error)
}

// Configs turns specs into what the runtime is told.
type Configs interface {
	// Sandbox returns the configuration of the pod's sandbox.
	Sandbox(ctx context.Context, pod *v1.Pod, attempt uint32, cgroupParent string) (*runtimeapi.PodSandboxConfig, error)
	// Handler returns the runtime handler that the pod's RuntimeClass names.
	Handler(ctx context.Context, pod *v1.Pod) (string, error)
	// Container returns the configuration of one instance of a container. The
	// pod's status has the addresses of its sandbox.
	Container(ctx context.Context, pod *v1.Pod, container *v1.Container, start podsync.StartContainer) (*runtimeapi.ContainerConfig, error)
}

// Hooks runs lifecycle hooks.
type Hooks interface {
	// Run returns nil when the hook has succeeded. It gives up when ctx ends.
	Run(ctx context.Context, pod *v1.Pod, container *v1.Container, containerID string, hook *v1.LifecycleHandler) error
}

// Do carries out one action for a pod and returns what came of it. It ends
// early when ctx does. The pod is read-only; its status has the addresses.
func (s *Steps) Do(ctx context.Context, pod *v1.Pod, action podsync.Action) podsync.Result {
	switch a := action.(type) {
	case podsync.MountVolumes:
		return s.mountVolumes(ctx, pod)
	case podsync.CreateSandbox:
		return s.createSandbox(ctx, pod, a)
	case podsync.StopSandbox:
		return s.stopSandbox(ctx, a)
	case podsync.RemoveSandbox:
		return s.removeSandbox(ctx, a)
	case podsync.PullImage:
		return s.pullImage(ctx, pod, a)
	case podsync.StartContainer:
		return s.startContainer(ctx, pod, a)
	case podsync.RunPreStop:
		return s.runPreStop(ctx, pod, a)
	case podsync.StopContainer:
		return s.stopContainer(ctx, pod, a)
	case podsync.RemoveContainer:
		return s.removeContainer(ctx, pod, a)
	case podsync.ReportBackoff:
		return s.reportBackoff(pod, a)
	case podsync.ReleasePod:
		return s.releasePod(ctx, pod)
	case podsync.ForgetPod:
		return s.forgetPod(pod)
	}
	panic(fmt.Sprintf("steps: no step for %T", action))
}

// result wraps an error that is not one of a container's waiting reasons.
func result(doing string, err error) podsync.Result {
	if err == nil {
		return podsync.Result{}
	}
	return podsync.Result{Err: fmt.Errorf("%s: %w", doing, err)}
}
