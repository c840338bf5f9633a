package kubelet

import (
	"context"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	kubelettypes "k8s.io/kubelet/pkg/types"

	"skiff.dev/skiff/internal/kubelet/cri"
	"skiff.dev/skiff/internal/kubelet/podsync"
)

// observer looks at what the runtime has of one pod. Details are asked for
// only where the state has changed since the last look.
type observer struct {
	runtime    cri.Runtime
	filter     map[string]string
	sandboxes  map[string]podsync.Sandbox
	containers map[string]podsync.Container
}

func newObserver(runtime cri.Runtime, uid types.UID) observer {
	return observer{
		runtime: runtime, filter: map[string]string{kubelettypes.KubernetesPodUIDLabel: string(uid)},
		sandboxes: map[string]podsync.Sandbox{}, containers: map[string]podsync.Container{},
	}
}

// look returns the pod's sandboxes and containers.
func (o *observer) look(ctx context.Context) (podsync.Seen, error) {
	var seen podsync.Seen
	sandboxes, err := o.runtime.ListSandboxes(ctx, &runtimeapi.PodSandboxFilter{LabelSelector: o.filter})
	if err != nil {
		return seen, fmt.Errorf("listing sandboxes: %w", err)
	}
	containers, err := o.runtime.ListContainers(ctx, &runtimeapi.ContainerFilter{LabelSelector: o.filter})
	if err != nil {
		return seen, fmt.Errorf("listing containers: %w", err)
	}
	if seen.Sandboxes, err = o.lookAtSandboxes(ctx, sandboxes); err != nil {
		return seen, err
	}
	seen.Containers, err = o.lookAtContainers(ctx, containers)
	return podsync.Sort(seen), err
}

func (o *observer) lookAtSandboxes(ctx context.Context, list []*runtimeapi.PodSandbox) ([]podsync.Sandbox, error) {
	known := o.sandboxes
	o.sandboxes = map[string]podsync.Sandbox{}
	var out []podsync.Sandbox
	for _, s := range list {
		ready := s.State == runtimeapi.PodSandboxState_SANDBOX_READY
		sb, ok := known[s.Id]
		if !ok || sb.Ready != ready {
			full, err := o.runtime.SandboxStatus(ctx, s.Id)
			if cri.IsNotFound(err) {
				continue // removed since the list
			}
			if err != nil {
				return nil, fmt.Errorf("looking at sandbox %s: %w", s.Id, err)
			}
			sb = cri.Sandbox(full)
		}
		o.sandboxes[s.Id] = sb
		out = append(out, sb)
	}
	return out, nil
}

func (o *observer) lookAtContainers(ctx context.Context, list []*runtimeapi.Container) ([]podsync.Container, error) {
	known := o.containers
	o.containers = map[string]podsync.Container{}
	var out []podsync.Container
	for _, c := range list {
		got, ok := known[c.Id]
		if !ok || got.Status.State != c.State {
			full, err := o.runtime.ContainerStatus(ctx, c.Id)
			if cri.IsNotFound(err) {
				continue // removed since the list
			}
			if err != nil {
				return nil, fmt.Errorf("looking at container %s: %w", c.Id, err)
			}
			got = cri.Container(c.PodSandboxId, full)
		}
		o.containers[c.Id] = got
		out = append(out, got)
	}
	return out, nil
}

// relistEvery is how often all is looked at although no event came, and how
// long after a lost event stream at the latest.
const relistEvery = 5 * time.Minute
