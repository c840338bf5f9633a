package load

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff.dev/skiff/bench/measure"
)

// Pods starts pods that do nothing in a namespace.
type Pods struct {
	Client    *Client
	Namespace string
	// Image must be on the nodes.
	Image string
	made  int
}

// Path is that of the namespace's pods.
func (p *Pods) Path() string { return "/api/v1/namespaces/" + p.Namespace + "/pods" }

// Prepare makes the namespace.
func (p *Pods) Prepare(ctx context.Context) error {
	if err := p.Client.Namespace(ctx, p.Namespace); err != nil {
		return err
	}
	// Pods are not admitted without it; its controller may be slower than we.
	return p.Client.Account(ctx, p.Namespace)
}

func (p *Pods) pod() *corev1.Pod {
	p.made++
	zero := int64(0)
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("pod-%04d", p.made), Namespace: p.Namespace},
		Spec: corev1.PodSpec{
			TerminationGracePeriodSeconds: &zero,
			Containers:                    []corev1.Container{{Name: "main", Image: p.Image, ImagePullPolicy: corev1.PullNever}},
		},
	}
}

// started is the state of pods that are being started.
type started struct {
	mu    sync.Mutex
	sent  map[string]time.Time
	times measure.Times
}

// seen takes in an event and says whether it makes one more pod ready.
func (s *started) seen(event []byte) (bool, error) {
	var pod corev1.Pod
	if err := Object(event, &pod); err != nil {
		return false, err
	}
	if !ready(&pod) {
		return false, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	began, ours := s.sent[pod.Name]
	if ours {
		delete(s.sent, pod.Name)
		s.times.Add(time.Since(began))
	}
	return ours, nil
}

// Start makes n pods at once and waits until all run and are ready. It returns
// how long each took, from its request, and the whole.
func (p *Pods) Start(ctx context.Context, n int) (*measure.Times, time.Duration, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	s := started{sent: map[string]time.Time{}}
	pods := make([]*corev1.Pod, n)
	for i := range pods {
		pods[i] = p.pod()
	}
	opened, watched := make(chan struct{}), make(chan struct{})
	done := errors.New("done")
	go func() {
		defer close(watched)
		left := n
		err := p.Client.Watch(ctx, p.Path()+"?watch=1", JSON, func() { close(opened) }, func(event []byte) error {
			ready, err := s.seen(event)
			if ready {
				left--
			}
			if left == 0 {
				return done
			}
			return err
		})
		if !errors.Is(err, done) {
			cancel(fmt.Errorf("waiting for pods: %w, %d of %d not ready", err, left, n))
		}
	}()
	defer func() { cancel(nil); <-watched }()
	select {
	case <-opened:
	case <-watched:
		return nil, 0, context.Cause(ctx)
	}
	start := time.Now()
	_, _, err := Parallel(ctx, n, n, func(ctx context.Context, i int) error {
		body, err := Encode(Protobuf, pods[i])
		if err != nil {
			return err
		}
		s.mu.Lock()
		s.sent[pods[i].Name] = time.Now()
		s.mu.Unlock()
		_, err = p.Client.Discard(ctx, "POST", p.Path(), Protobuf, body)
		return err
	})
	if err != nil {
		return nil, 0, fmt.Errorf("creating pods: %w", err)
	}
	<-watched
	return &s.times, time.Since(start), context.Cause(ctx)
}

func ready(pod *corev1.Pod) bool {
	if pod.Status.Phase != corev1.PodRunning {
		return false
	}
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}
