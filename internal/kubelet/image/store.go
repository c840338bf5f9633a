package image

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/distribution/reference"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	crierrors "k8s.io/cri-api/pkg/errors"

	"skiff.dev/skiff/internal/kubelet/cri"
	"skiff.dev/skiff/internal/meta"
)

// PullConfig is how images are pulled and removed.
type PullConfig struct {
	// Parallel limits the pulls at one time; 0 for no limit.
	Parallel int
	// HighPercent of the disk in use begins a clean-up, down to LowPercent; 100
	// for never.
	HighPercent, LowPercent int
	// MinAge keeps images that have just come; MaxAge removes those unused for
	// longer, 0 for never.
	MinAge, MaxAge time.Duration
}

// DefaultPullConfig is upstream's.
func DefaultPullConfig() PullConfig {
	return PullConfig{HighPercent: 85, LowPercent: 80, MinAge: 2 * time.Minute}
}

// Secrets is where pull secrets are read.
type Secrets interface {
	Secret(ctx context.Context, namespace, name string) (*v1.Secret, error)
}

// Events reports to people what happened to a pod; see client.Events.
type Events interface {
	Normal(obj meta.Object, reason, note string, args ...any)
	Warning(obj meta.Object, reason, note string, args ...any)
}

// Config is what a store depends on. All of it is required.
type Config struct {
	Images  cri.Images
	Secrets Secrets
	Users   Users
	Events  Events
	Pulls   PullConfig
	Log     *slog.Logger
}

// Store keeps the images of the node. It is safe for concurrent use.
type Store struct {
	Config
	slots chan struct{} // nil for no limit

	mu      sync.Mutex
	backoff map[pullKey]backoff
	history map[string]usage // by image id, for the clean-up
}

type pullKey struct {
	pod   types.UID
	image string
}

type backoff struct {
	next time.Duration // after the next failure
	at   time.Time     // of the last one
}

// The wait after a failed pull doubles from one to the other, and begins anew
// when the last failure is twice the longest wait ago.
const (
	firstBackoff = 10 * time.Second
	lastBackoff  = 5 * time.Minute
)

// NewStore returns a store over the runtime's images.
func NewStore(c Config) *Store {
	s := &Store{Config: c, backoff: map[pullKey]backoff{}, history: map[string]usage{}}
	if c.Pulls.Parallel > 0 {
		s.slots = make(chan struct{}, c.Pulls.Parallel)
	}
	return s
}

// Ensure makes the image of a container present as its pull policy asks and
// returns the reference to create the container from. Its error is an *Error.
func (s *Store) Ensure(ctx context.Context, pod *v1.Pod, c *v1.Container) (string, error) {
	name, err := normalize(c.Image)
	if err != nil {
		message := fmt.Sprintf("Failed to apply default image tag %q: couldn't parse image name %q: %v", c.Image, c.Image, err)
		s.Events.Warning(pod, "InspectFailed", "%s", message)
		return "", s.failed(pod, c, InvalidImageName, message)
	}
	spec := &runtimeapi.ImageSpec{Image: name, UserSpecifiedImage: c.Image}
	have, err := s.Images.ImageStatus(ctx, spec)
	if err != nil {
		message := fmt.Sprintf("Failed to inspect image %q: %v", c.Image, err)
		s.Events.Warning(pod, "InspectFailed", "%s", message)
		return "", s.failed(pod, c, ErrImageInspect, message)
	}
	switch {
	case have != nil && c.ImagePullPolicy != v1.PullAlways:
		s.Events.Normal(pod, "Pulled", "Container image %q already present on machine and can be accessed by the pod", c.Image)
		s.succeeded(pod, c, have.Id)
		return have.Id, nil
	case have == nil && c.ImagePullPolicy == v1.PullNever:
		message := fmt.Sprintf("Container image %q is not present with pull policy of Never", c.Image)
		s.Events.Warning(pod, ErrImageNeverPull, "%s", message)
		return "", s.failed(pod, c, ErrImageNeverPull, message)
	}
	return s.pull(ctx, pod, c, spec)
}

func (s *Store) pull(ctx context.Context, pod *v1.Pod, c *v1.Container, spec *runtimeapi.ImageSpec) (string, error) {
	asked := time.Now()
	s.Events.Normal(pod, "Pulling", "Pulling image %q", c.Image)
	if s.slots != nil {
		select {
		case s.slots <- struct{}{}:
			defer func() { <-s.slots }()
		case <-ctx.Done():
			return "", &Error{Reason: ErrImagePull, Message: ctx.Err().Error()}
		}
	}
	began := time.Now()
	ref, err := s.pullAs(ctx, pod, spec)
	if err != nil {
		if ctx.Err() != nil {
			return "", &Error{Reason: ErrImagePull, Message: err.Error()}
		}
		reason, message := explain(err)
		s.Events.Warning(pod, "Failed", "Failed to pull image %q: %s", c.Image, message)
		s.Events.Warning(pod, "Failed", "Error: %s", reason)
		return "", s.failed(pod, c, reason, message)
	}
	size := uint64(0)
	if got, err := s.Images.ImageStatus(ctx, &runtimeapi.ImageSpec{Image: ref}); err == nil && got != nil {
		size = got.Size
	}
	s.Events.Normal(pod, "Pulled", "Successfully pulled image %q in %v (%v including waiting). Image size: %v bytes.",
		c.Image, time.Since(began).Truncate(time.Millisecond), time.Since(asked).Truncate(time.Millisecond), size)
	s.succeeded(pod, c, ref)
	return ref, nil
}

// pullAs tries the credentials that fit the image, the most specific first,
// and none if none fits.
func (s *Store) pullAs(ctx context.Context, pod *v1.Pod, spec *runtimeapi.ImageSpec) (string, error) {
	logins, err := s.logins(ctx, pod, spec.Image)
	if err != nil {
		return "", err
	}
	if len(logins) == 0 {
		return s.Images.PullImage(ctx, spec, nil, nil)
	}
	var failures []error
	for _, login := range logins {
		ref, err := s.Images.PullImage(ctx, spec, login, nil)
		if err == nil {
			return ref, nil
		}
		failures = append(failures, err)
	}
	return "", errors.Join(failures...)
}

// explain turns the runtime's error into a waiting reason and a message
// without the transport's own words.
func explain(err error) (reason, message string) {
	message = strings.TrimPrefix(err.Error(), "rpc error: code = Unknown desc = ")
	switch {
	case strings.HasPrefix(message, crierrors.ErrRegistryUnavailable.Error()):
		return RegistryUnavailable, message
	case strings.HasPrefix(message, crierrors.ErrSignatureValidationFailed.Error()):
		return SignatureValidation, message
	}
	return ErrImagePull, message
}

func (s *Store) failed(pod *v1.Pod, c *v1.Container, reason, message string) *Error {
	s.mu.Lock()
	defer s.mu.Unlock()
	key, now := pullKey{pod.UID, c.Image}, time.Now()
	for k, b := range s.backoff {
		if now.Sub(b.at) > 2*lastBackoff {
			delete(s.backoff, k)
		}
	}
	wait := max(s.backoff[key].next, firstBackoff)
	s.backoff[key] = backoff{next: min(2*wait, lastBackoff), at: now}
	return &Error{Reason: reason, Message: message, Retry: wait}
}

func (s *Store) succeeded(pod *v1.Pod, c *v1.Container, id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.backoff, pullKey{pod.UID, c.Image})
	u := s.history[id]
	u.used = time.Now()
	s.history[id] = u
}

// normalize gives an image's name its registry and, if it names neither tag
// nor digest, the tag latest.
func normalize(name string) (string, error) {
	ref, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return "", err
	}
	return reference.TagNameOnly(ref).String(), nil
}

// maxListed is how many images a node's status names.
const maxListed = 50

// List returns the node's largest images for its status, which the scheduler
// prefers nodes by.
func (s *Store) List(ctx context.Context) ([]v1.ContainerImage, error) {
	images, err := s.Images.ListImages(ctx)
	if err != nil {
		return nil, fmt.Errorf("listing images: %w", err)
	}
	slices.SortFunc(images, func(a, b *runtimeapi.Image) int {
		return cmp.Or(cmp.Compare(b.Size, a.Size), cmp.Compare(a.Id, b.Id))
	})
	var out []v1.ContainerImage
	for _, i := range images[:min(len(images), maxListed)] {
		names := append(slices.Clone(i.RepoDigests), i.RepoTags...)
		out = append(out, v1.ContainerImage{Names: names, SizeBytes: int64(i.Size)})
	}
	return out, nil
}
