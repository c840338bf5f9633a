package fakecri

import (
	"context"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func (r *Runtime) CreateContainer(ctx context.Context, sandboxID string, config *runtimeapi.ContainerConfig, _ *runtimeapi.PodSandboxConfig) (string, error) {
	m := config.GetMetadata()
	if err := r.begin(ctx, "CreateContainer", m.GetName()); err != nil {
		return "", err
	}
	defer r.mu.Unlock()
	s := r.sandboxes[sandboxID]
	switch {
	case s == nil:
		return "", notFound("sandbox", sandboxID)
	case !s.ready:
		r.violate("CreateContainer: %s in a sandbox that is not ready", m.Name)
		return "", status.Error(codes.Unknown, "sandbox is not ready")
	case r.image(config.GetImage().GetImage()) == nil:
		return "", status.Errorf(codes.NotFound, "image %q not found", config.Image.Image)
	}
	for _, c := range r.containers {
		if uid(c.config.Labels) != uid(config.Labels) || c.config.Metadata.Name != m.Name {
			continue
		}
		if c.status.State == runtimeapi.ContainerState_CONTAINER_RUNNING {
			r.violate("CreateContainer: another instance of %s runs", m.Name)
		}
		if c.sandbox == s && c.config.Metadata.Attempt == m.Attempt {
			return "", status.Errorf(codes.AlreadyExists, "container %s attempt %d is reserved", m.Name, m.Attempt)
		}
	}
	c := &container{config: config, sandbox: s, ended: make(chan struct{})}
	if r.Program != nil {
		if p := r.Program(config); p != nil {
			c.program = *p
		}
	}
	c.status = &runtimeapi.ContainerStatus{
		Id: r.id("c"), Metadata: m, State: runtimeapi.ContainerState_CONTAINER_CREATED, CreatedAt: time.Now().UnixNano(),
		Image: config.Image, ImageRef: config.Image.Image, ImageId: config.Image.Image,
		Labels: config.Labels, Annotations: config.Annotations, Mounts: config.Mounts, LogPath: config.LogPath,
	}
	r.containers[c.status.Id] = c
	r.send(s, c.status.Id, runtimeapi.ContainerEventType_CONTAINER_CREATED_EVENT)
	return c.status.Id, nil
}

func (r *Runtime) nameOf(id string) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if c := r.containers[id]; c != nil {
		return c.config.Metadata.Name
	}
	return id
}

func (r *Runtime) StartContainer(ctx context.Context, id string) error {
	if err := r.begin(ctx, "StartContainer", r.nameOf(id)); err != nil {
		return err
	}
	defer r.mu.Unlock()
	c := r.containers[id]
	if c == nil {
		return notFound("container", id)
	}
	if c.status.State != runtimeapi.ContainerState_CONTAINER_CREATED {
		r.violate("StartContainer: %s was started before", c.config.Metadata.Name)
		return status.Error(codes.FailedPrecondition, "container was started before")
	}
	r.change(c, func(s *runtimeapi.ContainerStatus) {
		s.State, s.StartedAt = runtimeapi.ContainerState_CONTAINER_RUNNING, time.Now().UnixNano()
	})
	if c.program.Runs > 0 {
		c.timer = time.AfterFunc(c.program.Runs, func() {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.exit(c, c.program.Exit)
		})
	}
	r.send(c.sandbox, id, runtimeapi.ContainerEventType_CONTAINER_STARTED_EVENT)
	return nil
}

// change replaces a status, for those handed out are not to change.
func (r *Runtime) change(c *container, f func(*runtimeapi.ContainerStatus)) {
	old := c.status
	c.status = &runtimeapi.ContainerStatus{
		Id: old.Id, Metadata: old.Metadata, State: old.State, CreatedAt: old.CreatedAt, StartedAt: old.StartedAt,
		FinishedAt: old.FinishedAt, ExitCode: old.ExitCode, Image: old.Image, ImageRef: old.ImageRef, ImageId: old.ImageId,
		Reason: old.Reason, Labels: old.Labels, Annotations: old.Annotations, Mounts: old.Mounts, LogPath: old.LogPath,
	}
	f(c.status)
}

// exit ends a running container.
func (r *Runtime) exit(c *container, code int32) {
	if c.status.State != runtimeapi.ContainerState_CONTAINER_RUNNING {
		return
	}
	if c.timer != nil {
		c.timer.Stop()
	}
	r.change(c, func(s *runtimeapi.ContainerStatus) {
		s.State, s.ExitCode, s.FinishedAt = runtimeapi.ContainerState_CONTAINER_EXITED, code, time.Now().UnixNano()
		s.Reason = "Error"
		if code == 0 {
			s.Reason = "Completed"
		}
	})
	close(c.ended)
	r.send(c.sandbox, c.status.Id, runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT)
}

// StopContainer waits for the program to end, or for the grace and kills it.
func (r *Runtime) StopContainer(ctx context.Context, id string, grace time.Duration) error {
	if err := r.begin(ctx, "StopContainer", r.nameOf(id)); err != nil {
		return err
	}
	c := r.containers[id]
	running := c != nil && c.status.State == runtimeapi.ContainerState_CONTAINER_RUNNING
	r.mu.Unlock()
	if c == nil {
		return notFound("container", id)
	}
	if !running {
		return nil
	}
	wait, code := c.program.StopsAfter, int32(0)
	if wait > grace {
		wait, code = grace, 137
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return status.FromContextError(ctx.Err()).Err()
	case <-c.ended:
		return nil
	case <-timer.C:
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.exit(c, code)
	return nil
}

func (r *Runtime) RemoveContainer(ctx context.Context, id string) error {
	if err := r.begin(ctx, "RemoveContainer", r.nameOf(id)); err != nil {
		return err
	}
	defer r.mu.Unlock()
	c := r.containers[id]
	if c == nil {
		return nil
	}
	if c.status.State == runtimeapi.ContainerState_CONTAINER_RUNNING {
		r.violate("RemoveContainer: %s runs", c.config.Metadata.Name)
		r.exit(c, 137)
	}
	delete(r.containers, id)
	r.send(c.sandbox, id, runtimeapi.ContainerEventType_CONTAINER_DELETED_EVENT)
	return nil
}

func (r *Runtime) ContainerStatus(_ context.Context, id string) (*runtimeapi.ContainerStatus, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.containers[id]
	if c == nil {
		return nil, notFound("container", id)
	}
	return c.status, nil
}

func (r *Runtime) ListContainers(_ context.Context, f *runtimeapi.ContainerFilter) ([]*runtimeapi.Container, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []*runtimeapi.Container
	for _, c := range r.containers {
		s := c.status
		if !selected(s.Labels, f.GetLabelSelector()) || f.GetState() != nil && f.GetState().State != s.State {
			continue
		}
		out = append(out, &runtimeapi.Container{Id: s.Id, PodSandboxId: c.sandbox.id, Metadata: s.Metadata, Image: s.Image,
			ImageRef: s.ImageRef, ImageId: s.ImageId, State: s.State, CreatedAt: s.CreatedAt, Labels: s.Labels, Annotations: s.Annotations})
	}
	return out, nil
}

func (r *Runtime) UpdateContainer(ctx context.Context, id string, resources *runtimeapi.LinuxContainerResources) error {
	if err := r.begin(ctx, "UpdateContainer", r.nameOf(id)); err != nil {
		return err
	}
	defer r.mu.Unlock()
	c := r.containers[id]
	if c == nil {
		return notFound("container", id)
	}
	r.change(c, func(s *runtimeapi.ContainerStatus) {
		s.Resources = &runtimeapi.ContainerResources{Linux: resources}
	})
	return nil
}

func (r *Runtime) ReopenLog(ctx context.Context, id string) error {
	if err := r.begin(ctx, "ReopenLog", r.nameOf(id)); err != nil {
		return err
	}
	r.mu.Unlock()
	return nil
}

func (r *Runtime) ExecSync(ctx context.Context, id string, cmd []string, _ time.Duration) (*runtimeapi.ExecSyncResponse, error) {
	if err := r.begin(ctx, "ExecSync", r.nameOf(id)); err != nil {
		return nil, err
	}
	c := r.containers[id]
	r.mu.Unlock()
	if c == nil {
		return nil, notFound("container", id)
	}
	if c.program.Exec == nil {
		return &runtimeapi.ExecSyncResponse{}, nil
	}
	out, code := c.program.Exec(cmd)
	return &runtimeapi.ExecSyncResponse{Stdout: []byte(out), ExitCode: code}, nil
}

// The streams need a server of their own, which is not here.
var errNoStreams = status.Error(codes.Unimplemented, "the fake runtime has no streams")

func (r *Runtime) Exec(context.Context, *runtimeapi.ExecRequest) (string, error) {
	return "", errNoStreams
}

func (r *Runtime) Attach(context.Context, *runtimeapi.AttachRequest) (string, error) {
	return "", errNoStreams
}

func (r *Runtime) PortForward(context.Context, *runtimeapi.PortForwardRequest) (string, error) {
	return "", errNoStreams
}

func (r *Runtime) ListContainerStats(context.Context, *runtimeapi.ContainerStatsFilter) ([]*runtimeapi.ContainerStats, error) {
	return nil, nil
}

func (r *Runtime) ListSandboxStats(context.Context, *runtimeapi.PodSandboxStatsFilter) ([]*runtimeapi.PodSandboxStats, error) {
	return nil, nil
}
