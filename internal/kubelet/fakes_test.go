package kubelet

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"skiff.dev/skiff/internal/meta"
)

func secondsOf(n int64) time.Duration { return time.Duration(n) * time.Second }

// events keeps what was reported, as "Normal Started: note".
type events struct {
	mu   sync.Mutex
	list []string
}

func (e *events) note(kind, reason, note string, args ...any) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.list = append(e.list, kind+" "+reason+": "+fmt.Sprintf(note, args...))
}

func (e *events) Normal(_ meta.Object, reason, note string, args ...any) {
	e.note("Normal", reason, note, args...)
}

func (e *events) Warning(_ meta.Object, reason, note string, args ...any) {
	e.note("Warning", reason, note, args...)
}

func (e *events) has(prefix string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.ContainsFunc(e.list, func(s string) bool { return strings.HasPrefix(s, prefix) })
}

// noVolumes is for pods without volumes.
type noVolumes struct{}

func (noVolumes) Mount(context.Context, *v1.Pod) error { return nil }
func (noVolumes) Mounts(context.Context, *v1.Pod, *v1.Container, map[string]string) ([]*runtimeapi.Mount, error) {
	return nil, nil
}
func (noVolumes) Unmount(context.Context, types.UID) error { return nil }

func running(p *v1.Pod) bool { return p != nil && p.Status.Phase == v1.PodRunning && ready(p) }

func ready(p *v1.Pod) bool {
	return slices.ContainsFunc(p.Status.Conditions, func(c v1.PodCondition) bool {
		return c.Type == v1.PodReady && c.Status == v1.ConditionTrue
	})
}

func gone(p *v1.Pod) bool { return p == nil }
