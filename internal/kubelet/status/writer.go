package status

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/strategicpatch"

	"skiff.dev/skiff/internal/meta"
)

// API is the part of the API that the writer uses: client.Kind[*v1.Pod].
type API interface {
	Patch(ctx context.Context, key meta.Key, sub string, pt types.PatchType, data []byte) (*v1.Pod, error)
	Delete(ctx context.Context, namespace, name string, opts metav1.DeleteOptions) error
}

const (
	writeLimit = 16 // writes in flight
	firstRetry = 200 * time.Millisecond
	lastRetry  = 10 * time.Second
)

// Writer brings statuses into the API: of each pod the newest, one write at a
// time. It keeps trying as long as the API cannot be reached, and never holds
// up who reports.
type Writer struct {
	api API
	// target returns the API's object for a pod of the node, which for a static
	// pod is its mirror.
	target func(uid types.UID) (*v1.Pod, bool)
	log    *slog.Logger

	mu      sync.Mutex
	pending map[types.UID]*job
	last    map[types.UID]*v1.Pod // what the API answered last
	wake    chan struct{}
}

type job struct {
	status v1.PodStatus
	remove bool // delete the pod once the status is written
	busy   bool
	again  bool // changed while busy
	tries  int
	at     time.Time // not before
}

// NewWriter returns a writer; see Writer for target.
func NewWriter(api API, target func(types.UID) (*v1.Pod, bool), log *slog.Logger) *Writer {
	return &Writer{api: api, target: target, log: log,
		pending: map[types.UID]*job{}, last: map[types.UID]*v1.Pod{}, wake: make(chan struct{}, 1)}
}

// Set says how a pod is now. Remove asks to delete the pod from the API after
// that, because its end is complete.
func (w *Writer) Set(uid types.UID, status v1.PodStatus, remove bool) {
	w.mu.Lock()
	j := w.pending[uid]
	if j == nil {
		j = &job{}
		w.pending[uid] = j
	}
	j.status, j.remove, j.again = status, remove, j.busy
	w.mu.Unlock()
	w.signal()
}

// Forget drops what is known of a pod that is gone.
func (w *Writer) Forget(uid types.UID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.last, uid)
	if j := w.pending[uid]; j != nil && !j.busy {
		delete(w.pending, uid)
	}
}

func (w *Writer) signal() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// Run writes until ctx ends, and returns when no write is in flight.
func (w *Writer) Run(ctx context.Context) {
	var writes sync.WaitGroup
	defer writes.Wait()
	slots := make(chan struct{}, writeLimit)
	for {
		uid, wait := w.next(time.Now())
		if uid == "" {
			if !sleep(ctx, w.wake, wait) {
				return
			}
			continue
		}
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			return
		}
		writes.Go(func() {
			defer func() { <-slots }()
			w.write(ctx, uid)
		})
	}
}

// sleep waits for a signal or, if wait is not 0, that long.
func sleep(ctx context.Context, wake <-chan struct{}, wait time.Duration) bool {
	var timeout <-chan time.Time
	if wait > 0 {
		t := time.NewTimer(wait)
		defer t.Stop()
		timeout = t.C
	}
	select {
	case <-ctx.Done():
		return false
	case <-wake:
	case <-timeout:
	}
	return true
}

// next takes a pod whose turn it is, or tells how long to wait.
func (w *Writer) next(now time.Time) (types.UID, time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	var wait time.Duration
	for uid, j := range w.pending {
		if j.busy {
			continue
		}
		if d := j.at.Sub(now); d > 0 {
			if wait == 0 || d < wait {
				wait = d
			}
			continue
		}
		j.busy = true
		return uid, 0
	}
	return "", wait
}

func (w *Writer) write(ctx context.Context, uid types.UID) {
	w.mu.Lock()
	j := w.pending[uid]
	status, remove := j.status, j.remove
	w.mu.Unlock()
	err := w.put(ctx, uid, status, remove)
	w.mu.Lock()
	defer w.mu.Unlock()
	j.busy = false
	switch {
	case err != nil && ctx.Err() == nil:
		j.at = time.Now().Add(min(firstRetry<<min(j.tries, 10), lastRetry))
		j.tries++
		w.log.Warn("writing a pod's status", "uid", uid, "tries", j.tries, "err", err)
	case j.again:
		j.again, j.tries, j.at = false, 0, time.Time{}
	default:
		delete(w.pending, uid)
	}
	w.signal()
}

// put writes one status, if it differs, and deletes the pod if asked to. A pod
// that is not there, or is another by uid, needs nothing.
func (w *Writer) put(ctx context.Context, uid types.UID, status v1.PodStatus, remove bool) error {
	base, ok := w.base(uid)
	if !ok {
		return nil
	}
	if !equality.Semantic.DeepEqual(base.Status, status) {
		patch, err := Patch(base, status)
		if err != nil {
			return err
		}
		got, err := w.api.Patch(ctx, meta.KeyOf(base), "status", types.StrategicMergePatchType, patch)
		if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
			return nil // by uid: this pod is gone
		}
		if err != nil {
			return err
		}
		w.mu.Lock()
		w.last[uid] = got
		w.mu.Unlock()
	}
	if !remove {
		return nil
	}
	zero := int64(0)
	err := w.api.Delete(ctx, base.Namespace, base.Name, metav1.DeleteOptions{
		GracePeriodSeconds: &zero, Preconditions: &metav1.Preconditions{UID: &base.UID},
	})
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil
	}
	return err
}

// base returns the newest state of the pod in the API that is known here: the
// answer to the last write may be ahead of the cache.
func (w *Writer) base(uid types.UID) (*v1.Pod, bool) {
	cached, ok := w.target(uid)
	if !ok {
		return nil, false
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if last := w.last[uid]; last != nil && last.UID == cached.UID && version(last) > version(cached) {
		return last, true
	}
	return cached, true
}

func version(p *v1.Pod) uint64 {
	// Not a number only for pods that never were in the API: the oldest of all.
	n, _ := strconv.ParseUint(p.ResourceVersion, 10, 64)
	return n
}

// Patch returns the strategic merge patch that turns the pod's status into
// status, for the pod with this uid only.
func Patch(p *v1.Pod, status v1.PodStatus) ([]byte, error) {
	from, err := json.Marshal(v1.Pod{Status: p.Status})
	if err != nil {
		return nil, fmt.Errorf("encoding a pod's status: %w", err)
	}
	// The uid differs between the two, so that the patch carries it.
	to, err := json.Marshal(v1.Pod{ObjectMeta: metav1.ObjectMeta{UID: p.UID}, Status: status})
	if err != nil {
		return nil, fmt.Errorf("encoding a pod's status: %w", err)
	}
	patch, err := strategicpatch.CreateTwoWayMergePatch(from, to, v1.Pod{})
	if err != nil {
		return nil, fmt.Errorf("making a patch of a pod's status: %w", err)
	}
	return patch, nil
}
