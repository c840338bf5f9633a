package cri

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const (
	// maxMessage bounds one answer: a node's list of containers is one message.
	maxMessage = 16 << 20
	// callTimeout is for calls that answer from the runtime's memory, workTimeout
	// for those that make or end something.
	callTimeout = 2 * time.Minute
	workTimeout = 4 * time.Minute
)

// Client speaks to a runtime's socket. It implements Runtime and Images.
type Client struct {
	conn    *grpc.ClientConn
	runtime runtimeapi.RuntimeServiceClient
	images  runtimeapi.ImageServiceClient
}

var (
	_ Runtime = (*Client)(nil)
	_ Images  = (*Client)(nil)
)

// New returns a client of the runtime at endpoint, a unix:// URL or an absolute
// path. It connects when first used, and again whenever the runtime comes back.
func New(endpoint string) (*Client, error) {
	path, err := socketPath(endpoint)
	if err != nil {
		return nil, err
	}
	dial := func(ctx context.Context, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", path)
	}
	conn, err := grpc.NewClient("passthrough:///runtime",
		grpc.WithTransportCredentials(insecure.NewCredentials()), // a local socket only root can open
		grpc.WithContextDialer(dial), grpc.WithAuthority("localhost"),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage)))
	if err != nil {
		return nil, fmt.Errorf("container runtime %s: %w", endpoint, err)
	}
	return &Client{conn: conn, runtime: runtimeapi.NewRuntimeServiceClient(conn), images: runtimeapi.NewImageServiceClient(conn)}, nil
}

func socketPath(endpoint string) (string, error) {
	path := strings.TrimPrefix(endpoint, "unix://")
	if !strings.HasPrefix(path, "/") {
		return "", fmt.Errorf("container runtime endpoint %q: want unix:///path/of.sock", endpoint)
	}
	return path, nil
}

// Close ends the connection.
func (c *Client) Close() error { return c.conn.Close() }

// call makes one request with a time limit of its own.
func call[Req, Resp any](ctx context.Context, limit time.Duration, f func(context.Context, Req, ...grpc.CallOption) (Resp, error), req Req) (Resp, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	return f(ctx, req)
}

func (c *Client) Version(ctx context.Context) (*runtimeapi.VersionResponse, error) {
	return call(ctx, callTimeout, c.runtime.Version, &runtimeapi.VersionRequest{Version: "v1"})
}

func (c *Client) Status(ctx context.Context) (*runtimeapi.StatusResponse, error) {
	return call(ctx, callTimeout, c.runtime.Status, &runtimeapi.StatusRequest{})
}

func (c *Client) RuntimeConfig(ctx context.Context) (*runtimeapi.RuntimeConfigResponse, error) {
	return call(ctx, callTimeout, c.runtime.RuntimeConfig, &runtimeapi.RuntimeConfigRequest{})
}

func (c *Client) SetPodCIDR(ctx context.Context, cidrs string) error {
	_, err := call(ctx, callTimeout, c.runtime.UpdateRuntimeConfig, &runtimeapi.UpdateRuntimeConfigRequest{
		RuntimeConfig: &runtimeapi.RuntimeConfig{NetworkConfig: &runtimeapi.NetworkConfig{PodCidr: cidrs}},
	})
	return err
}

func (c *Client) RunSandbox(ctx context.Context, config *runtimeapi.PodSandboxConfig, handler string) (string, error) {
	resp, err := call(ctx, workTimeout, c.runtime.RunPodSandbox, &runtimeapi.RunPodSandboxRequest{Config: config, RuntimeHandler: handler})
	return resp.GetPodSandboxId(), err
}

func (c *Client) StopSandbox(ctx context.Context, id string) error {
	_, err := call(ctx, workTimeout, c.runtime.StopPodSandbox, &runtimeapi.StopPodSandboxRequest{PodSandboxId: id})
	return err
}

func (c *Client) RemoveSandbox(ctx context.Context, id string) error {
	_, err := call(ctx, workTimeout, c.runtime.RemovePodSandbox, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: id})
	return err
}

func (c *Client) SandboxStatus(ctx context.Context, id string) (*runtimeapi.PodSandboxStatus, error) {
	resp, err := call(ctx, callTimeout, c.runtime.PodSandboxStatus, &runtimeapi.PodSandboxStatusRequest{PodSandboxId: id})
	return resp.GetStatus(), err
}

func (c *Client) ListSandboxes(ctx context.Context, filter *runtimeapi.PodSandboxFilter) ([]*runtimeapi.PodSandbox, error) {
	resp, err := call(ctx, callTimeout, c.runtime.ListPodSandbox, &runtimeapi.ListPodSandboxRequest{Filter: filter})
	return resp.GetItems(), err
}

func (c *Client) CreateContainer(ctx context.Context, sandboxID string, config *runtimeapi.ContainerConfig, sandbox *runtimeapi.PodSandboxConfig) (string, error) {
	resp, err := call(ctx, workTimeout, c.runtime.CreateContainer, &runtimeapi.CreateContainerRequest{
		PodSandboxId: sandboxID, Config: config, SandboxConfig: sandbox,
	})
	return resp.GetContainerId(), err
}

func (c *Client) StartContainer(ctx context.Context, id string) error {
	_, err := call(ctx, workTimeout, c.runtime.StartContainer, &runtimeapi.StartContainerRequest{ContainerId: id})
	return err
}

func (c *Client) StopContainer(ctx context.Context, id string, grace time.Duration) error {
	_, err := call(ctx, workTimeout+grace, c.runtime.StopContainer, &runtimeapi.StopContainerRequest{
		ContainerId: id, Timeout: int64(grace / time.Second),
	})
	return err
}

func (c *Client) RemoveContainer(ctx context.Context, id string) error {
	_, err := call(ctx, workTimeout, c.runtime.RemoveContainer, &runtimeapi.RemoveContainerRequest{ContainerId: id})
	return err
}

func (c *Client) ContainerStatus(ctx context.Context, id string) (*runtimeapi.ContainerStatus, error) {
	resp, err := call(ctx, callTimeout, c.runtime.ContainerStatus, &runtimeapi.ContainerStatusRequest{ContainerId: id})
	return resp.GetStatus(), err
}

func (c *Client) ListContainers(ctx context.Context, filter *runtimeapi.ContainerFilter) ([]*runtimeapi.Container, error) {
	resp, err := call(ctx, callTimeout, c.runtime.ListContainers, &runtimeapi.ListContainersRequest{Filter: filter})
	return resp.GetContainers(), err
}

func (c *Client) UpdateContainer(ctx context.Context, id string, resources *runtimeapi.LinuxContainerResources) error {
	_, err := call(ctx, callTimeout, c.runtime.UpdateContainerResources, &runtimeapi.UpdateContainerResourcesRequest{
		ContainerId: id, Linux: resources,
	})
	return err
}

func (c *Client) ReopenLog(ctx context.Context, id string) error {
	_, err := call(ctx, callTimeout, c.runtime.ReopenContainerLog, &runtimeapi.ReopenContainerLogRequest{ContainerId: id})
	return err
}

func (c *Client) ExecSync(ctx context.Context, id string, cmd []string, timeout time.Duration) (*runtimeapi.ExecSyncResponse, error) {
	if timeout > 0 {
		// The runtime's own limit should strike first: it also ends the process.
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, timeout+callTimeout)
		defer cancel()
	}
	seconds := int64((timeout + time.Second - 1) / time.Second)
	return c.runtime.ExecSync(ctx, &runtimeapi.ExecSyncRequest{ContainerId: id, Cmd: cmd, Timeout: seconds})
}

func (c *Client) Exec(ctx context.Context, req *runtimeapi.ExecRequest) (string, error) {
	resp, err := call(ctx, callTimeout, c.runtime.Exec, req)
	return resp.GetUrl(), err
}

func (c *Client) Attach(ctx context.Context, req *runtimeapi.AttachRequest) (string, error) {
	resp, err := call(ctx, callTimeout, c.runtime.Attach, req)
	return resp.GetUrl(), err
}

func (c *Client) PortForward(ctx context.Context, req *runtimeapi.PortForwardRequest) (string, error) {
	resp, err := call(ctx, callTimeout, c.runtime.PortForward, req)
	return resp.GetUrl(), err
}

func (c *Client) ListContainerStats(ctx context.Context, filter *runtimeapi.ContainerStatsFilter) ([]*runtimeapi.ContainerStats, error) {
	resp, err := call(ctx, callTimeout, c.runtime.ListContainerStats, &runtimeapi.ListContainerStatsRequest{Filter: filter})
	return resp.GetStats(), err
}

func (c *Client) ListSandboxStats(ctx context.Context, filter *runtimeapi.PodSandboxStatsFilter) ([]*runtimeapi.PodSandboxStats, error) {
	resp, err := call(ctx, callTimeout, c.runtime.ListPodSandboxStats, &runtimeapi.ListPodSandboxStatsRequest{Filter: filter})
	return resp.GetStats(), err
}

// Events reads the runtime's stream of container events. The stream counts as
// standing once the server has answered with its headers or the first event;
// containerd sends headers only with an event, so a successful call after
// opening it is what shows that the runtime is there.
func (c *Client) Events(ctx context.Context, connected func(), f func(*runtimeapi.ContainerEventResponse)) error {
	stream, err := c.runtime.GetContainerEvents(ctx, &runtimeapi.GetEventsRequest{}, grpc.WaitForReady(true))
	if err != nil {
		return fmt.Errorf("opening the event stream: %w", err)
	}
	if _, err := c.Version(ctx); err != nil {
		return fmt.Errorf("opening the event stream: %w", err)
	}
	connected()
	for {
		event, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("reading the event stream: %w", err)
		}
		f(event)
	}
}

func (c *Client) ListImages(ctx context.Context) ([]*runtimeapi.Image, error) {
	resp, err := call(ctx, callTimeout, c.images.ListImages, &runtimeapi.ListImagesRequest{})
	return resp.GetImages(), err
}

func (c *Client) ImageStatus(ctx context.Context, image *runtimeapi.ImageSpec) (*runtimeapi.Image, error) {
	resp, err := call(ctx, callTimeout, c.images.ImageStatus, &runtimeapi.ImageStatusRequest{Image: image})
	return resp.GetImage(), err
}

// PullImage has no limit but ctx: the runtime watches over its own progress.
func (c *Client) PullImage(ctx context.Context, image *runtimeapi.ImageSpec, auth *runtimeapi.AuthConfig, sandbox *runtimeapi.PodSandboxConfig) (string, error) {
	resp, err := c.images.PullImage(ctx, &runtimeapi.PullImageRequest{Image: image, Auth: auth, SandboxConfig: sandbox})
	return resp.GetImageRef(), err
}

func (c *Client) RemoveImage(ctx context.Context, image *runtimeapi.ImageSpec) error {
	_, err := call(ctx, callTimeout, c.images.RemoveImage, &runtimeapi.RemoveImageRequest{Image: image})
	return err
}

func (c *Client) ImageFSInfo(ctx context.Context) (*runtimeapi.ImageFsInfoResponse, error) {
	return call(ctx, callTimeout, c.images.ImageFsInfo, &runtimeapi.ImageFsInfoRequest{})
}
