// Package fakecri is a container runtime in memory, for tests and simulations:
// it keeps sandboxes, containers and images, lets containers run for as long
// as their program says (in virtual time too), sends events, and takes note of
// every call that breaks the runtime's contract. See Violations.
package fakecri

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	kubelettypes "k8s.io/kubelet/pkg/types"

	"skiff.dev/skiff/internal/kubelet/cri"
)

// Program is what a container does.
type Program struct {
	Runs time.Duration // until it exits by itself; 0 for never
	Exit int32         // with this code
	// StopsAfter is how long it goes on after the stop signal; it then exits
	// with 0. A grace shorter than that ends it with 137.
	StopsAfter time.Duration
	// Exec answers commands; nil answers all with success.
	Exec func(cmd []string) (output string, exit int32)
}

// Runtime is the runtime. The zero value is not usable; see New.
type Runtime struct {
	// Program returns what an instance does; nil or a nil answer runs for ever.
	Program func(config *runtimeapi.ContainerConfig) *Program
	// Fail is asked before every call that changes something, by its method
	// name and the name of the pod or container; its error is the answer.
	Fail func(method, name string) error
	// Address gives a new sandbox its address.
	Address func(config *runtimeapi.PodSandboxConfig) string

	mu         sync.Mutex
	next       int
	sandboxes  map[string]*sandbox
	containers map[string]*container
	images     map[string]*runtimeapi.Image // by name
	streams    map[int]*stream
	violations []string
	calls      []string
}

type sandbox struct {
	config    *runtimeapi.PodSandboxConfig
	id, ip    string
	ready     bool
	createdAt time.Time
}

type container struct {
	config  *runtimeapi.ContainerConfig
	status  *runtimeapi.ContainerStatus
	sandbox *sandbox
	program Program
	ended   chan struct{} // closed when it has exited
	timer   *time.Timer
}

type stream struct {
	pending []*runtimeapi.ContainerEventResponse
	wake    chan struct{}
}

var (
	_ cri.Runtime = (*Runtime)(nil)
	_ cri.Images  = (*Runtime)(nil)
)

// New returns a runtime that has the images of these names.
func New(images ...string) *Runtime {
	r := &Runtime{
		sandboxes: map[string]*sandbox{}, containers: map[string]*container{},
		images: map[string]*runtimeapi.Image{}, streams: map[int]*stream{},
	}
	for _, name := range images {
		r.AddImage(name)
	}
	return r
}

// AddImage puts an image there.
func (r *Runtime) AddImage(name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.images[name] = &runtimeapi.Image{Id: "sha256:" + name, RepoTags: []string{name}, Size: 1 << 20, Uid: &runtimeapi.Int64Value{Value: 1000}}
}

// Violations returns what callers did that no caller may do: a container made
// while one of its name runs, started twice, removed while it runs, and so on.
func (r *Runtime) Violations() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.violations)
}

// Calls returns the changing calls that went through, as "Method name".
func (r *Runtime) Calls() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.calls)
}

// Running returns the names of the running containers as pod/container, sorted.
func (r *Runtime) Running() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []string
	for _, c := range r.containers {
		if c.status.State == runtimeapi.ContainerState_CONTAINER_RUNNING {
			out = append(out, c.sandbox.config.Metadata.Name+"/"+c.config.Metadata.Name)
		}
	}
	slices.Sort(out)
	return out
}

// Empty reports whether no sandbox and no container is there.
func (r *Runtime) Empty() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.sandboxes) == 0 && len(r.containers) == 0
}

// Kill ends a running container of a pod with that code, as the kernel would.
func (r *Runtime) Kill(pod, name string, exit int32) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range r.containers {
		if c.sandbox.config.Metadata.Name == pod && c.config.Metadata.Name == name {
			r.exit(c, exit)
		}
	}
}

// LoseSandbox makes the sandbox of a pod not ready, as if its first process had
// died; the containers go on.
func (r *Runtime) LoseSandbox(pod string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range r.sandboxes {
		if s.config.Metadata.Name == pod && s.ready {
			s.ready = false
			r.send(s, "", runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT)
		}
	}
}

// DropStreams ends all event streams, as a restart of the runtime does.
func (r *Runtime) DropStreams() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for id, s := range r.streams {
		close(s.wake)
		delete(r.streams, id)
	}
}

func (r *Runtime) violate(format string, args ...any) {
	r.violations = append(r.violations, fmt.Sprintf(format, args...))
}

// begin answers a changing call with the injected error, if there is one. It
// returns with the lock held if not.
func (r *Runtime) begin(ctx context.Context, method, name string) error {
	if err := ctx.Err(); err != nil {
		return status.FromContextError(err).Err()
	}
	if r.Fail != nil {
		if err := r.Fail(method, name); err != nil {
			return err
		}
	}
	r.mu.Lock()
	r.calls = append(r.calls, method+" "+name)
	return nil
}

func (r *Runtime) id(kind string) string {
	r.next++
	return fmt.Sprintf("%s%d", kind, r.next)
}

func notFound(what, id string) error {
	return status.Errorf(codes.NotFound, "%s %q not found", what, id)
}

// Version and the calls after it tell of a runtime that is ready.
func (r *Runtime) Version(context.Context) (*runtimeapi.VersionResponse, error) {
	return &runtimeapi.VersionResponse{RuntimeName: "containerd", RuntimeVersion: "fake", RuntimeApiVersion: "v1"}, nil
}

func (r *Runtime) Status(context.Context) (*runtimeapi.StatusResponse, error) {
	return &runtimeapi.StatusResponse{Status: &runtimeapi.RuntimeStatus{Conditions: []*runtimeapi.RuntimeCondition{
		{Type: runtimeapi.RuntimeReady, Status: true}, {Type: runtimeapi.NetworkReady, Status: true},
	}}}, nil
}

func (r *Runtime) RuntimeConfig(context.Context) (*runtimeapi.RuntimeConfigResponse, error) {
	return &runtimeapi.RuntimeConfigResponse{Linux: &runtimeapi.LinuxRuntimeConfiguration{CgroupDriver: runtimeapi.CgroupDriver_CGROUPFS}}, nil
}

func (r *Runtime) SetPodCIDR(context.Context, string) error { return nil }

func (r *Runtime) RunSandbox(ctx context.Context, config *runtimeapi.PodSandboxConfig, _ string) (string, error) {
	if err := r.begin(ctx, "RunSandbox", config.GetMetadata().GetName()); err != nil {
		return "", err
	}
	defer r.mu.Unlock()
	m := config.Metadata
	for _, s := range r.sandboxes {
		if s.config.Metadata.Uid != m.Uid {
			continue
		}
		if s.config.Metadata.Attempt == m.Attempt {
			return "", status.Errorf(codes.AlreadyExists, "sandbox %s attempt %d is reserved", m.Name, m.Attempt)
		}
		if s.ready {
			r.violate("RunSandbox: pod %s has a ready sandbox", m.Name)
		}
	}
	s := &sandbox{config: config, id: r.id("s"), ready: true, createdAt: time.Now()}
	if r.Address != nil {
		s.ip = r.Address(config)
	} else {
		s.ip = fmt.Sprintf("10.0.%d.%d", r.next/250, r.next%250+1)
	}
	if config.GetLinux().GetSecurityContext().GetNamespaceOptions().GetNetwork() == runtimeapi.NamespaceMode_NODE {
		s.ip = ""
	}
	r.sandboxes[s.id] = s
	r.send(s, s.id, runtimeapi.ContainerEventType_CONTAINER_STARTED_EVENT)
	return s.id, nil
}

func (r *Runtime) StopSandbox(ctx context.Context, id string) error {
	if err := r.begin(ctx, "StopSandbox", r.sandboxName(id)); err != nil {
		return err
	}
	defer r.mu.Unlock()
	s := r.sandboxes[id]
	if s == nil {
		return nil
	}
	for _, c := range r.containers {
		if c.sandbox == s && c.status.State == runtimeapi.ContainerState_CONTAINER_RUNNING {
			r.violate("StopSandbox: %s still runs", c.config.Metadata.Name)
			r.exit(c, 137)
		}
	}
	s.ready = false
	r.send(s, s.id, runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT)
	return nil
}

func (r *Runtime) RemoveSandbox(ctx context.Context, id string) error {
	if err := r.begin(ctx, "RemoveSandbox", r.sandboxName(id)); err != nil {
		return err
	}
	defer r.mu.Unlock()
	s := r.sandboxes[id]
	if s == nil {
		return nil
	}
	if s.ready {
		r.violate("RemoveSandbox: %s is not stopped", s.config.Metadata.Name)
	}
	maps.DeleteFunc(r.containers, func(_ string, c *container) bool { return c.sandbox == s })
	delete(r.sandboxes, id)
	r.send(s, s.id, runtimeapi.ContainerEventType_CONTAINER_DELETED_EVENT)
	return nil
}

func (r *Runtime) sandboxName(id string) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if s := r.sandboxes[id]; s != nil {
		return s.config.Metadata.Name
	}
	return id
}

func (r *Runtime) SandboxStatus(_ context.Context, id string) (*runtimeapi.PodSandboxStatus, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.sandboxes[id]
	if s == nil {
		return nil, notFound("sandbox", id)
	}
	return s.status(), nil
}

func (s *sandbox) status() *runtimeapi.PodSandboxStatus {
	out := &runtimeapi.PodSandboxStatus{Id: s.id, Metadata: s.config.Metadata, State: s.state(), CreatedAt: s.createdAt.UnixNano(),
		Labels: s.config.Labels, Annotations: s.config.Annotations, Network: &runtimeapi.PodSandboxNetworkStatus{}}
	if s.ready {
		out.Network.Ip = s.ip
	}
	return out
}

func (s *sandbox) state() runtimeapi.PodSandboxState {
	if s.ready {
		return runtimeapi.PodSandboxState_SANDBOX_READY
	}
	return runtimeapi.PodSandboxState_SANDBOX_NOTREADY
}

func (r *Runtime) ListSandboxes(_ context.Context, f *runtimeapi.PodSandboxFilter) ([]*runtimeapi.PodSandbox, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []*runtimeapi.PodSandbox
	for _, s := range r.sandboxes {
		if selected(s.config.Labels, f.GetLabelSelector()) {
			out = append(out, &runtimeapi.PodSandbox{Id: s.id, Metadata: s.config.Metadata, State: s.state(),
				CreatedAt: s.createdAt.UnixNano(), Labels: s.config.Labels, Annotations: s.config.Annotations})
		}
	}
	return out, nil
}

func selected(labels, selector map[string]string) bool {
	for k, v := range selector {
		if labels[k] != v {
			return false
		}
	}
	return true
}

// uid is the pod's, by which events are sent.
func uid(labels map[string]string) string { return labels[kubelettypes.KubernetesPodUIDLabel] }
