package fakecri

import (
	"context"
	"errors"
	"slices"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// send gives an event to every stream, in order. Streams are not bounded: the
// events of a test are.
func (r *Runtime) send(s *sandbox, id string, t runtimeapi.ContainerEventType) {
	for _, st := range r.streams {
		st.pending = append(st.pending, &runtimeapi.ContainerEventResponse{
			ContainerId: id, ContainerEventType: t, CreatedAt: time.Now().UnixNano(), PodSandboxStatus: s.status(),
		})
		select {
		case st.wake <- struct{}{}:
		default:
		}
	}
}

// Events streams until ctx ends or DropStreams is called.
func (r *Runtime) Events(ctx context.Context, connected func(), f func(*runtimeapi.ContainerEventResponse)) error {
	st := &stream{wake: make(chan struct{}, 1)}
	r.mu.Lock()
	r.next++
	id := r.next
	r.streams[id] = st
	r.mu.Unlock()
	defer func() {
		r.mu.Lock()
		delete(r.streams, id)
		r.mu.Unlock()
	}()
	connected()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case _, ok := <-st.wake:
			if !ok {
				return errors.New("the stream was dropped")
			}
		}
		r.mu.Lock()
		events := st.pending
		st.pending = nil
		r.mu.Unlock()
		for _, e := range events {
			f(e)
		}
	}
}

// image finds an image by any of its names.
func (r *Runtime) image(name string) *runtimeapi.Image {
	if i := r.images[name]; i != nil {
		return i
	}
	for _, i := range r.images {
		if i.Id == name || slices.Contains(i.RepoTags, name) {
			return i
		}
	}
	return nil
}

func (r *Runtime) ListImages(context.Context) ([]*runtimeapi.Image, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []*runtimeapi.Image
	for _, i := range r.images {
		out = append(out, i)
	}
	return out, nil
}

func (r *Runtime) ImageStatus(_ context.Context, spec *runtimeapi.ImageSpec) (*runtimeapi.Image, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.image(spec.Image), nil
}

// PullImage succeeds for every name unless Fail says otherwise.
func (r *Runtime) PullImage(ctx context.Context, spec *runtimeapi.ImageSpec, _ *runtimeapi.AuthConfig, _ *runtimeapi.PodSandboxConfig) (string, error) {
	if err := r.begin(ctx, "PullImage", spec.Image); err != nil {
		return "", err
	}
	r.mu.Unlock()
	r.AddImage(spec.Image)
	return "sha256:" + spec.Image, nil
}

func (r *Runtime) RemoveImage(ctx context.Context, spec *runtimeapi.ImageSpec) error {
	if err := r.begin(ctx, "RemoveImage", spec.Image); err != nil {
		return err
	}
	defer r.mu.Unlock()
	for name, i := range r.images {
		if name == spec.Image || i.Id == spec.Image {
			delete(r.images, name)
		}
	}
	return nil
}

func (r *Runtime) ImageFSInfo(context.Context) (*runtimeapi.ImageFsInfoResponse, error) {
	return &runtimeapi.ImageFsInfoResponse{}, nil
}
