package steps

import (
	"context"
	"errors"

	v1 "k8s.io/api/core/v1"

	"skiff.dev/skiff/internal/kubelet/image"
	"skiff.dev/skiff/internal/kubelet/podsync"
)

// pullImage makes the image of a container present. The image store reports
// events itself, as only it knows whether a pull was needed.
func (s *Steps) pullImage(ctx context.Context, pod *v1.Pod, a podsync.PullImage) podsync.Result {
	c, _, ok := podsync.Find(pod, a.Container)
	if !ok {
		return podsync.Result{Err: podsync.ErrCancelled}
	}
	ref, err := s.Images.Ensure(ctx, pod, c)
	if err == nil {
		return podsync.Result{Image: ref}
	}
	r := podsync.Result{Err: err, Reason: image.ErrImagePull}
	if e := (*image.Error)(nil); errors.As(err, &e) {
		r.Reason, r.Retry = e.Reason, e.Retry
	}
	return r
}

// reportBackoff tells people that a container waits for its next try.
func (s *Steps) reportBackoff(pod *v1.Pod, a podsync.ReportBackoff) podsync.Result {
	c, _, ok := podsync.Find(pod, a.Container)
	switch {
	case !ok:
	case a.Pull:
		s.Events.Normal(pod, "BackOff", "Back-off pulling image %q", c.Image)
		s.Events.Warning(pod, "Failed", "Error: %s", image.ErrImagePullBackOff)
	default:
		s.Events.Warning(pod, "BackOff", "Back-off restarting failed container %s in pod %s", c.Name, podsync.Format(pod))
	}
	return podsync.Result{}
}
