package kubelet

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strconv"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	kubelettypes "k8s.io/kubelet/pkg/types"

	"skiff.dev/skiff/internal/client"
	"skiff.dev/skiff/internal/kubelet/cri"
	"skiff.dev/skiff/internal/kubelet/podsync"
	"skiff.dev/skiff/internal/pod"
	"skiff.dev/skiff/internal/watchcache"
)

// found is a pod of which something is on the node: a sandbox, a container or
// a directory.
type found struct {
	uid             types.UID
	namespace, name string
	grace           *int64
}

// findPods lists the pods that an earlier kubelet has left on the node.
func (k *Kubelet) findPods(ctx context.Context) (map[types.UID]found, error) {
	out := map[types.UID]found{}
	note := func(labels, marks map[string]string) {
		uid := types.UID(kubelettypes.GetPodUID(labels))
		if uid == "" {
			return // made by someone else
		}
		f := found{uid: uid, namespace: kubelettypes.GetPodNamespace(labels), name: kubelettypes.GetPodName(labels), grace: out[uid].grace}
		if s, err := strconv.ParseInt(marks[cri.GraceMark], 10, 64); err == nil {
			f.grace = &s
		}
		out[uid] = f
	}
	sandboxes, err := k.Runtime.ListSandboxes(ctx, nil)
	if err != nil {
		return nil, fmt.Errorf("listing sandboxes: %w", err)
	}
	for _, s := range sandboxes {
		note(s.Labels, nil)
	}
	containers, err := k.Runtime.ListContainers(ctx, &runtimeapi.ContainerFilter{})
	if err != nil {
		return nil, fmt.Errorf("listing containers: %w", err)
	}
	for _, c := range containers {
		note(c.Labels, c.Annotations)
	}
	dirs, err := os.ReadDir(k.Layout.PodsDir())
	if err != nil && !os.IsNotExist(err) {
		return nil, fmt.Errorf("listing pod directories: %w", err)
	}
	for _, d := range dirs {
		if uid := types.UID(d.Name()); out[uid].uid == "" {
			out[uid] = found{uid: uid}
		}
	}
	return out, nil
}

// orphan returns a pod that is on the node only, as it was when it began, or
// as much of it as its labels tell.
func (k *Kubelet) orphan(f found) *v1.Pod {
	p := &v1.Pod{}
	data, err := os.ReadFile(k.Layout.SpecFile(f.uid))
	if err == nil && json.Unmarshal(data, p) == nil && p.UID == f.uid {
		return p
	}
	p = &v1.Pod{ObjectMeta: metav1.ObjectMeta{UID: f.uid, Namespace: f.namespace, Name: f.name}}
	p.Spec.TerminationGracePeriodSeconds = f.grace
	return p
}

// endOrphans ends what is on the node for pods that nobody wants.
func (k *Kubelet) endOrphans(all map[types.UID]found) {
	for uid, f := range all {
		if k.worker(uid) != nil {
			continue
		}
		p := k.orphan(f)
		k.Log.Info("ending a pod that is not wanted any more", "pod", podsync.Format(p))
		k.start(p, true, nil)
	}
}

// followPods keeps the workers in step with the API's pods of this node. When
// the API is first heard, what the node has beyond them ends.
func (k *Kubelet) followPods(ctx context.Context, onNode map[types.UID]found) {
	kind := client.For[*v1.Pod](k.Client)
	scope := watchcache.Scope{Index: pod.ByNode.Name, Value: k.Node.Name}
	for ctx.Err() == nil {
		cache, err := kind.CacheWhere(ctx, scope, pod.ByNode)
		if err == nil {
			err = k.sources.nodes.Sync(ctx) // admission looks at the node
		}
		if err == nil {
			first := true
			err = cache.Follow(ctx, k.apiChange, func() {
				if first {
					first = false
					k.endOrphans(onNode)
				}
			})
		}
		if ctx.Err() == nil {
			k.Log.Error("following the node's pods", "err", err)
			pause(ctx, time.Second)
		}
	}
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// apiChange takes over one change of a pod of this node.
func (k *Kubelet) apiChange(ch client.Change[*v1.Pod]) {
	p := ch.Object()
	if pod.IsMirror(p) {
		k.mirrorChange(p, ch.Deleted)
		return
	}
	if ch.Old != nil && ch.New != nil && ch.Old.UID != ch.New.UID {
		k.gone(ch.Old) // deleted and made anew between two looks
	}
	if ch.Deleted {
		k.gone(p)
		return
	}
	if w := k.worker(p.UID); w != nil {
		w.update(p, false)
		return
	}
	k.admit(p)
}

// gone ends a pod that the API has no more.
func (k *Kubelet) gone(p *v1.Pod) {
	if w := k.worker(p.UID); w != nil {
		w.update(nil, true)
	}
	k.writer.Forget(p.UID)
}

// start makes the worker of a pod.
func (k *Kubelet) start(p *v1.Pod, gone bool, evicted *podsync.Eviction) {
	w := newWorker(k, p, gone, evicted)
	k.mu.Lock()
	defer k.mu.Unlock()
	k.workers[p.UID] = w
	k.running.Go(func() {
		w.run(k.ctx)
		if k.ctx.Err() == nil {
			k.ended(w)
		}
	})
}

// ended takes a worker out whose pod is forgotten.
func (k *Kubelet) ended(w *worker) {
	k.mu.Lock()
	delete(k.workers, w.uid)
	next := k.waiting[w.name]
	delete(k.waiting, w.name)
	k.mu.Unlock()
	if next != nil {
		k.startStatic(next)
	}
}

func (k *Kubelet) worker(uid types.UID) *worker {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.workers[uid]
}

func (k *Kubelet) allWorkers() []*worker {
	k.mu.Lock()
	defer k.mu.Unlock()
	out := make([]*worker, 0, len(k.workers))
	for _, w := range k.workers {
		out = append(out, w)
	}
	return out
}

// Pods returns the pods of the node with their newest status, by name. They
// are read-only.
func (k *Kubelet) Pods() []*v1.Pod {
	var out []*v1.Pod
	for _, w := range k.allWorkers() {
		out = append(out, w.current())
	}
	slices.SortFunc(out, func(a, b *v1.Pod) int { return compareNames(a, b) })
	return out
}

func compareNames(a, b *v1.Pod) int {
	switch x, y := fullName(a), fullName(b); {
	case x < y:
		return -1
	case x > y:
		return 1
	}
	return 0
}

// Pod returns one pod with its newest status; read-only. A mirror's name finds
// its static pod.
func (k *Kubelet) Pod(namespace, name string) (*v1.Pod, bool) {
	var best *v1.Pod
	for _, w := range k.allWorkers() {
		p := w.current()
		if p.Namespace == namespace && p.Name == name && (best == nil || best.DeletionTimestamp != nil) {
			best = p
		}
	}
	return best, best != nil
}

// Images returns the node's largest images, for its status.
func (k *Kubelet) Images(ctx context.Context) ([]v1.ContainerImage, error) { return k.images.List(ctx) }

// Evict makes a pod fail, for a reason of the node's own.
func (k *Kubelet) Evict(uid types.UID, e podsync.Eviction) bool {
	w := k.worker(uid)
	if w == nil {
		return false
	}
	w.evict(e)
	return true
}

func fullName(p *v1.Pod) string { return p.Namespace + "/" + p.Name }

// apiPod returns the API's object for a pod of the node.
func (k *Kubelet) apiPod(uid types.UID) (*v1.Pod, bool) {
	w := k.worker(uid)
	if w == nil {
		return nil, false
	}
	if !w.static {
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.pod, true
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	mirror := k.mirrors[w.name]
	if mirror == nil || mirror.Annotations[v1.MirrorPodAnnotationKey] != string(uid) {
		return nil, false
	}
	return mirror, true
}

// followRuntime wakes the workers whose containers have changed. When the
// event stream is lost, and once in a while anyway, all look for themselves.
func (k *Kubelet) followRuntime(ctx context.Context) {
	for ctx.Err() == nil {
		limited, cancel := context.WithTimeout(ctx, relistEvery)
		err := k.Runtime.Events(limited, k.lookAll, func(e *runtimeapi.ContainerEventResponse) {
			uid := types.UID(e.GetPodSandboxStatus().GetMetadata().GetUid())
			if w := k.worker(uid); w != nil {
				w.look()
			}
		})
		renew := limited.Err() != nil
		cancel()
		if ctx.Err() == nil && !renew {
			k.Log.Warn("the runtime's event stream ended", "err", err)
			pause(ctx, runtimeRetry)
		}
	}
}

// lookAll makes every worker look, as events may have been missed.
func (k *Kubelet) lookAll() {
	for _, w := range k.allWorkers() {
		w.look()
	}
}
