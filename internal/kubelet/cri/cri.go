// Package cri is the kubelet's side of the Container Runtime Interface: the
// part of it that the kubelet uses as two small interfaces, and a client that
// speaks them to a runtime's socket. It holds no state of its own.
package cri

import (
	"context"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Runtime runs sandboxes and containers. All calls are safe for concurrent
// use; errors are gRPC status errors (see IsNotFound).
type Runtime interface {
	Version(ctx context.Context) (*runtimeapi.VersionResponse, error)
	// Status tells whether runtime and network are ready, and the handlers.
	Status(ctx context.Context) (*runtimeapi.StatusResponse, error)
	// RuntimeConfig tells the runtime's cgroup driver.
	RuntimeConfig(ctx context.Context) (*runtimeapi.RuntimeConfigResponse, error)
	// SetPodCIDR tells the runtime the node's pod networks, comma separated.
	SetPodCIDR(ctx context.Context, cidrs string) error

	RunSandbox(ctx context.Context, config *runtimeapi.PodSandboxConfig, handler string) (string, error)
	StopSandbox(ctx context.Context, id string) error
	RemoveSandbox(ctx context.Context, id string) error
	SandboxStatus(ctx context.Context, id string) (*runtimeapi.PodSandboxStatus, error)
	ListSandboxes(ctx context.Context, filter *runtimeapi.PodSandboxFilter) ([]*runtimeapi.PodSandbox, error)

	CreateContainer(ctx context.Context, sandboxID string, config *runtimeapi.ContainerConfig, sandbox *runtimeapi.PodSandboxConfig) (string, error)
	StartContainer(ctx context.Context, id string) error
	// StopContainer sends the stop signal and, when grace is over, KILL. It
	// returns when the container has stopped. Grace is counted in whole seconds.
	StopContainer(ctx context.Context, id string, grace time.Duration) error
	RemoveContainer(ctx context.Context, id string) error
	ContainerStatus(ctx context.Context, id string) (*runtimeapi.ContainerStatus, error)
	ListContainers(ctx context.Context, filter *runtimeapi.ContainerFilter) ([]*runtimeapi.Container, error)
	UpdateContainer(ctx context.Context, id string, resources *runtimeapi.LinuxContainerResources) error
	ReopenLog(ctx context.Context, id string) error

	// ExecSync runs cmd in a container and returns its output and exit code;
	// the error is about the running of it. Timeout 0 means none.
	ExecSync(ctx context.Context, id string, cmd []string, timeout time.Duration) (*runtimeapi.ExecSyncResponse, error)
	// Exec, Attach and PortForward prepare a stream and return its URL.
	Exec(ctx context.Context, req *runtimeapi.ExecRequest) (string, error)
	Attach(ctx context.Context, req *runtimeapi.AttachRequest) (string, error)
	PortForward(ctx context.Context, req *runtimeapi.PortForwardRequest) (string, error)

	ListContainerStats(ctx context.Context, filter *runtimeapi.ContainerStatsFilter) ([]*runtimeapi.ContainerStats, error)
	ListSandboxStats(ctx context.Context, filter *runtimeapi.PodSandboxStatsFilter) ([]*runtimeapi.PodSandboxStats, error)

	// Events calls connected once the stream stands and then f for every
	// event, in order, until the stream or ctx ends.
	Events(ctx context.Context, connected func(), f func(*runtimeapi.ContainerEventResponse)) error
}

// Images keeps the images of the node.
type Images interface {
	ListImages(ctx context.Context) ([]*runtimeapi.Image, error)
	// ImageStatus returns nil if the image is not there.
	ImageStatus(ctx context.Context, image *runtimeapi.ImageSpec) (*runtimeapi.Image, error)
	// PullImage fetches an image and returns its reference for CreateContainer.
	PullImage(ctx context.Context, image *runtimeapi.ImageSpec, auth *runtimeapi.AuthConfig, sandbox *runtimeapi.PodSandboxConfig) (string, error)
	RemoveImage(ctx context.Context, image *runtimeapi.ImageSpec) error
	ImageFSInfo(ctx context.Context) (*runtimeapi.ImageFsInfoResponse, error)
}
