package volume

import (
	"context"
	"maps"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

const (
	refreshRetryMin = time.Second
	refreshRetryMax = 2 * time.Minute
)

// Run keeps the volumes current until ctx ends: when an object or the pod's
// own labels and annotations change, and when a token is due. It sleeps while
// nothing is.
func (m *Manager) Run(ctx context.Context) {
	var parts sync.WaitGroup
	defer parts.Wait()
	parts.Go(func() { m.Objects.FollowPods(ctx, func(p *v1.Pod) { m.update(ctx, p) }) })
	for ctx.Err() == nil {
		now := time.Now()
		due, next := m.due(now)
		for _, uid := range due {
			m.refresh(ctx, uid)
		}
		if len(due) > 0 {
			continue
		}
		if !m.sleep(ctx, next.Sub(now), !next.IsZero()) {
			return
		}
	}
}

// sleep waits until something is due or, if timed, d is over.
func (m *Manager) sleep(ctx context.Context, d time.Duration, timed bool) bool {
	var timeout <-chan time.Time
	if timed {
		t := time.NewTimer(d)
		defer t.Stop()
		timeout = t.C
	}
	select {
	case <-ctx.Done():
		return false
	case <-m.wake:
	case <-timeout:
	}
	return true
}

// due returns the pods to be refreshed and when the next one will be.
func (m *Manager) due(now time.Time) (uids []types.UID, next time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for uid, v := range m.pods {
		switch {
		case v.dirty, !v.due.IsZero() && !v.due.After(now):
			uids = append(uids, uid)
			v.dirty, v.due = false, time.Time{}
		case !v.due.IsZero() && (next.IsZero() || v.due.Before(next)):
			next = v.due
		}
	}
	return uids, next
}

// refresh brings a pod's files up to date. A volume that cannot be is left as
// it was, and tried again.
func (m *Manager) refresh(ctx context.Context, uid types.UID) {
	m.mu.Lock()
	v := m.pods[uid]
	m.mu.Unlock()
	if v == nil {
		return
	}
	select {
	case v.lock <- struct{}{}:
	case <-ctx.Done():
		return
	}
	defer v.leave()
	if v.pod == nil {
		return // not mounted, or not any more
	}
	err := m.setUp(ctx, v, hasFiles)
	m.mu.Lock()
	defer m.mu.Unlock()
	if err == nil {
		v.fails = 0
		return
	}
	if v.ending {
		return // what it uses goes as well, as with a whole namespace
	}
	v.fails++
	v.due = time.Now().Add(min(refreshRetryMin<<min(v.fails, 10), refreshRetryMax))
	// The first failure may be the first thing heard of the pod's end.
	if v.fails == 2 && ctx.Err() == nil {
		m.Log.Warn("volumes are not up to date", "namespace", v.pod.Namespace, "pod", v.pod.Name, "err", err)
	}
}

func hasFiles(vol *v1.Volume) bool {
	return vol.ConfigMap != nil || vol.Secret != nil || vol.Projected != nil || vol.DownwardAPI != nil
}

// update takes over the newest labels and annotations of a pod, which files of
// the downward API may show, and whether it is being deleted.
func (m *Manager) update(ctx context.Context, pod *v1.Pod) {
	m.mu.Lock()
	v := m.pods[pod.UID]
	if v != nil && pod.DeletionTimestamp != nil {
		v.ending = true
	}
	m.mu.Unlock()
	if v == nil || !usesFields(pod) {
		return
	}
	select {
	case v.lock <- struct{}{}:
	case <-ctx.Done():
		return
	}
	defer v.leave()
	if v.pod == nil || maps.Equal(v.pod.Labels, pod.Labels) && maps.Equal(v.pod.Annotations, pod.Annotations) {
		return
	}
	v.pod = pod
	m.soil(v)
}

func usesFields(pod *v1.Pod) bool {
	for i := range pod.Spec.Volumes {
		vol := &pod.Spec.Volumes[i]
		if vol.DownwardAPI != nil {
			return true
		}
		if vol.Projected == nil {
			continue
		}
		for j := range vol.Projected.Sources {
			if vol.Projected.Sources[j].DownwardAPI != nil {
				return true
			}
		}
	}
	return false
}
