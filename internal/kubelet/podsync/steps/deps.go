// Package steps carries out what podsync.Compute decided: one file per step.
// A step talks to the runtime, the volumes and the image store through the
// interfaces below, reads no clock but its context's deadline, and reports
// what came of it as a podsync.Result. It decides nothing.
package steps

import (
	"context"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"skiff.dev/skiff/internal/meta"
)

// Volumes makes the volumes of pods usable by containers.
type Volumes interface {
	// Mount returns when every volume of the pod is ready below its directory
	// and has the pod's fsGroup. Calling it again keeps what is there.
	Mount(ctx context.Context, pod *v1.Pod) error
	// Mounts returns what a container (of any of the three lists) of a mounted
	// pod gets, with subPath, subPathExpr (expanded from env), propagation and
	// read-only modes worked out, in the order of the spec.
	Mounts(ctx context.Context, pod *v1.Pod, container *v1.Container, env map[string]string) ([]*runtimeapi.Mount, error)
	// Unmount takes every volume of the pod away, with the data that belongs to
	// the pod alone. It knows the pod by uid only, so that it also works for
	// pods that the API forgot. A pod without volumes is no error.
	Unmount(ctx context.Context, uid types.UID) error
}

// Cgroups makes the cgroup of a pod.
type Cgroups interface {
	// EnsurePod creates the pod's cgroup with its limits, or updates them, and
	// returns the parent that the runtime wants for it.
	EnsurePod(pod *v1.Pod) (parent string, err error)
	// RemovePod removes the pod's cgroup and what is still in it.
	RemovePod(uid types.UID) error
}

// Events reports to people what happened to a pod; see client.Events.
type Events interface {
	Normal(obj meta.Object, reason, note string, args ...any)
	Warning(obj meta.Object, reason, note string, args ...any)
}
