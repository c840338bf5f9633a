package steps

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"skiff.dev/skiff/internal/kubelet/cri"
	"skiff.dev/skiff/internal/kubelet/podsync"
)

// The waiting reasons of containers that could not be started.
const (
	createConfigError = "CreateContainerConfigError"
	createError       = "CreateContainerError"
	runError          = "RunContainerError"
	postStartError    = "PostStartHookError"
)

// startContainer creates an instance, starts it and waits for its postStart
// hook. An instance that could not be started stays as one that exited, with
// the runtime's reason; one that is only created is removed by the next plan.
func (s *Steps) startContainer(ctx context.Context, pod *v1.Pod, a podsync.StartContainer) podsync.Result {
	c, _, ok := podsync.Find(pod, a.Container)
	if !ok {
		return podsync.Result{Err: podsync.ErrCancelled}
	}
	config, sandbox, err := s.configure(ctx, pod, c, a)
	if err != nil {
		return s.startFailed(ctx, pod, createConfigError, err)
	}
	done, err := s.Turns.take(ctx, startingContainer)
	if err != nil {
		return podsync.Result{Err: podsync.ErrCancelled}
	}
	defer done()
	id, err := s.Runtime.CreateContainer(ctx, a.SandboxID, config, sandbox)
	if err != nil {
		return s.startFailed(ctx, pod, createError, err)
	}
	s.Events.Normal(pod, "Created", "Container created")
	if err := s.Runtime.StartContainer(ctx, id); err != nil {
		return s.startFailed(ctx, pod, runError, err)
	}
	done() // a hook may take its time
	s.Events.Normal(pod, "Started", "Container started")
	s.linkLog(pod, c.Name, id, filepath.Join(sandbox.LogDirectory, config.LogPath))
	return s.postStart(ctx, pod, c, id)
}

// configure returns what the runtime is told of container and sandbox.
func (s *Steps) configure(ctx context.Context, pod *v1.Pod, c *v1.Container, a podsync.StartContainer) (*runtimeapi.ContainerConfig, *runtimeapi.PodSandboxConfig, error) {
	parent, err := s.Cgroups.EnsurePod(pod)
	if err != nil {
		return nil, nil, err
	}
	sandbox, err := s.Configs.Sandbox(ctx, pod, 0, parent)
	if err != nil {
		return nil, nil, err
	}
	config, err := s.Configs.Container(ctx, pod, c, a)
	if err != nil {
		return nil, nil, err
	}
	logs := filepath.Join(sandbox.LogDirectory, filepath.Dir(config.LogPath))
	return config, sandbox, os.MkdirAll(logs, 0o755)
}

func (s *Steps) startFailed(ctx context.Context, pod *v1.Pod, reason string, err error) podsync.Result {
	if ctx.Err() != nil {
		return podsync.Result{Err: podsync.ErrCancelled}
	}
	s.Events.Warning(pod, "Failed", "Error: %v", err)
	return podsync.Result{Err: err, Reason: reason}
}

// linkLog makes the log findable by the names of pod and container. A log
// without its link can still be read through the API, so this only warns.
func (s *Steps) linkLog(pod *v1.Pod, container, id, log string) {
	link := s.Layout.LogLink(pod, container, id)
	err := os.MkdirAll(filepath.Dir(link), 0o755)
	if err == nil {
		err = os.Symlink(log, link)
	}
	if err != nil && !os.IsExist(err) {
		s.Log.Warn("linking a container's log", "pod", podsync.Format(pod), "container", container, "err", err)
	}
}

// postStart runs the postStart hook; the container of a failed one is stopped.
func (s *Steps) postStart(ctx context.Context, pod *v1.Pod, c *v1.Container, id string) podsync.Result {
	if c.Lifecycle == nil || c.Lifecycle.PostStart == nil {
		return podsync.Result{}
	}
	err := s.Hooks.Run(ctx, pod, c, id, c.Lifecycle.PostStart)
	if err == nil {
		return podsync.Result{}
	}
	if ctx.Err() != nil {
		return podsync.Result{Err: podsync.ErrCancelled}
	}
	s.Events.Warning(pod, "FailedPostStartHook", "PostStartHook failed")
	s.announceKill(pod, "FailedPostStartHook")
	grace := time.Duration(0)
	if t := pod.Spec.TerminationGracePeriodSeconds; t != nil {
		grace = time.Duration(*t) * time.Second
	}
	if serr := s.Runtime.StopContainer(ctx, id, grace); serr != nil && !cri.IsNotFound(serr) {
		err = fmt.Errorf("%w; stopping the container: %w", err, serr)
	}
	return podsync.Result{Err: err, Reason: postStartError}
}
