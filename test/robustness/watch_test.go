package robustness

import (
	"context"
	"strconv"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
)

// follower watches the objects of the clients from before they begin until
// after they have ended, and resumes at the last version it has seen whenever
// the server has gone.
type follower struct {
	t      testing.TB
	api    kubernetes.Interface
	stop   context.CancelFunc
	done   chan struct{}
	last   int64
	resent int    // how often it resumed
	gone   int    // how often it was told 410
	why    string // what the last refusal said

	mu       sync.Mutex
	written  map[int64]string // ADDED and MODIFIED, by resourceVersion
	removals int
	reached  *sync.Cond
}

func follow(t testing.TB, api kubernetes.Interface) *follower {
	t.Helper()
	list, err := api.CoreV1().ConfigMaps(namespace).List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	f := &follower{t: t, api: api, done: make(chan struct{}), written: map[int64]string{}, last: revOf(t, list.ResourceVersion)}
	f.reached = sync.NewCond(&f.mu)
	ctx, cancel := context.WithCancel(context.Background())
	f.stop = cancel
	go func() {
		defer close(f.done)
		for ctx.Err() == nil {
			f.once(ctx)
			select {
			case <-ctx.Done():
			case <-time.After(5 * time.Millisecond): // the server is down
			}
		}
	}()
	return f
}

func revOf(t testing.TB, s string) int64 {
	t.Helper()
	rev, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		t.Errorf("resourceVersion %q: %v", s, err)
	}
	return rev
}

// once watches from the last version seen until the watch ends.
func (f *follower) once(ctx context.Context) {
	w, err := f.api.CoreV1().ConfigMaps(namespace).Watch(ctx, metav1.ListOptions{
		ResourceVersion: strconv.FormatInt(f.last, 10), AllowWatchBookmarks: true,
	})
	if err != nil {
		f.told(err)
		return
	}
	defer w.Stop()
	f.resent++
	for e := range w.ResultChan() {
		if e.Type == watch.Error {
			f.told(apierrors.FromObject(e.Object))
			return
		}
		f.see(e)
	}
}

// told keeps what a refusal said, and counts each 410: history is kept for
// longer than the test takes.
func (f *follower) told(err error) {
	f.why = err.Error()
	if apierrors.IsGone(err) || apierrors.IsResourceExpired(err) {
		f.gone++
	}
}

func (f *follower) see(e watch.Event) {
	cm := e.Object.(*corev1.ConfigMap)
	rev := revOf(f.t, cm.ResourceVersion)
	f.mu.Lock()
	defer f.mu.Unlock()
	defer f.reached.Broadcast()
	if e.Type == watch.Bookmark {
		if rev < f.last {
			f.t.Errorf("I5: a bookmark at %d after an event at %d", rev, f.last)
		}
		f.last = rev
		return
	}
	if rev <= f.last {
		f.t.Errorf("I5: %s %s at %d after one at %d", e.Type, cm.Name, rev, f.last)
	}
	f.last = rev
	if e.Type == watch.Deleted {
		f.removals++
		return
	}
	if cm.Data["value"] != "" {
		f.written[rev] = cm.Data["value"]
	}
}

// finish waits until the follower has seen all up to a last write, and compares
// what it saw with what the clients were told.
func (f *follower) finish(r *recorder) {
	f.t.Helper()
	last, err := f.api.CoreV1().ConfigMaps(namespace).Create(f.t.Context(), &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: "the-end"},
	}, metav1.CreateOptions{})
	if err != nil {
		f.t.Fatal(err)
	}
	end := revOf(f.t, last.ResourceVersion)
	timer := time.AfterFunc(30*time.Second, f.reached.Broadcast)
	defer timer.Stop()
	limit := time.Now().Add(30 * time.Second)
	f.mu.Lock()
	for f.last < end && time.Now().Before(limit) {
		f.reached.Wait()
	}
	if f.last < end {
		f.t.Errorf("I5: the watch has come to %d only, not to %d; the last refusal was: %s", f.last, end, f.why)
	}
	f.mu.Unlock()
	f.stop()
	<-f.done
	if f.gone > 0 {
		f.t.Errorf("I6: %d times 410 though the history is kept for minutes: %s", f.gone, f.why)
	}
	values, removals := r.acknowledged()
	for rev, value := range values {
		if got := f.written[rev]; got != value {
			f.t.Errorf("I5: the watch showed %q at %d, a client was told %q", got, rev, value)
		}
	}
	if f.removals < removals {
		f.t.Errorf("I5: the watch showed %d removals, clients were told %d", f.removals, removals)
	}
}
