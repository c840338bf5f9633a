package node

import (
	"sync"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"skiff.dev/skiff/internal/meta"
	"skiff.dev/skiff/internal/pod"
)

// The resources whose changes the graph wants to be told of.
var (
	Pods              = schema.GroupResource{Resource: "pods"}
	PersistentVolumes = schema.GroupResource{Resource: "persistentvolumes"}
	VolumeAttachments = schema.GroupResource{Group: "storage.k8s.io", Resource: "volumeattachments"}
	ResourceSlices    = schema.GroupResource{Group: "resource.k8s.io", Resource: "resourceslices"}
)

// graph knows which node needs which object: node ← pod → secret, config map,
// service account, claim ← volume → secret, and node ← attachment, slice.
type graph struct {
	mu   sync.RWMutex
	pods map[meta.Key]*boundPod
	// uses counts for each object the pods of each node that refer to it.
	uses map[Ref]map[string]int
	// volumes are the bound ones, bySecret those that need a secret.
	volumes     map[string]*volume
	bySecret    map[meta.Key]map[string]struct{}
	attachments map[string]string
	slices      map[string]string
}

type boundPod struct {
	node string
	refs []Ref
}

type volume struct {
	claim   meta.Key
	secrets []meta.Key
}

func newGraph() *graph {
	return &graph{
		pods: map[meta.Key]*boundPod{}, uses: map[Ref]map[string]int{},
		volumes: map[string]*volume{}, bySecret: map[meta.Key]map[string]struct{}{},
		attachments: map[string]string{}, slices: map[string]string{},
	}
}

func (g *graph) changed(gr schema.GroupResource, key meta.Key, obj meta.Object) {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch gr {
	case Pods:
		p, _ := obj.(*corev1.Pod)
		g.setPod(key, p)
	case PersistentVolumes:
		v, _ := obj.(*corev1.PersistentVolume)
		g.setVolume(key.Name, v)
	case VolumeAttachments:
		delete(g.attachments, key.Name)
		if a, ok := obj.(*storagev1.VolumeAttachment); ok {
			g.attachments[key.Name] = a.Spec.NodeName
		}
	case ResourceSlices:
		delete(g.slices, key.Name)
		if s, ok := obj.(*resourcev1.ResourceSlice); ok && s.Spec.NodeName != nil {
			g.slices[key.Name] = *s.Spec.NodeName
		}
	}
}

func (g *graph) setPod(key meta.Key, p *corev1.Pod) {
	if old := g.pods[key]; old != nil {
		delete(g.pods, key)
		for _, r := range old.refs {
			g.count(r, old.node, -1)
		}
	}
	if p == nil || p.Spec.NodeName == "" {
		return
	}
	b := &boundPod{node: p.Spec.NodeName}
	g.pods[key] = b
	// A mirror pod is made by the node itself: it must not open anything to it.
	if pod.IsMirror(p) {
		return
	}
	References(p, func(r Ref) {
		b.refs = append(b.refs, r)
		g.count(r, b.node, 1)
	})
}

func (g *graph) count(r Ref, node string, n int) {
	nodes := g.uses[r]
	if nodes == nil {
		nodes = map[string]int{}
		g.uses[r] = nodes
	}
	if nodes[node] += n; nodes[node] > 0 {
		return
	}
	delete(nodes, node)
	if len(nodes) == 0 {
		delete(g.uses, r)
	}
}

func (g *graph) setVolume(name string, v *corev1.PersistentVolume) {
	if old := g.volumes[name]; old != nil {
		delete(g.volumes, name)
		for _, s := range old.secrets {
			delete(g.bySecret[s], name)
			if len(g.bySecret[s]) == 0 {
				delete(g.bySecret, s)
			}
		}
	}
	if v == nil || v.Spec.ClaimRef == nil {
		return
	}
	n := &volume{claim: meta.Key{Namespace: v.Spec.ClaimRef.Namespace, Name: v.Spec.ClaimRef.Name}}
	g.volumes[name] = n
	volumeSecrets(v, func(s meta.Key) {
		n.secrets = append(n.secrets, s)
		if g.bySecret[s] == nil {
			g.bySecret[s] = map[string]struct{}{}
		}
		g.bySecret[s][name] = struct{}{}
	})
}

// needs reports whether something on the node needs the object.
func (g *graph) needs(node string, gr schema.GroupResource, key meta.Key) bool {
	g.mu.RLock()
	defer g.mu.RUnlock()
	switch gr {
	case Pods:
		p := g.pods[key]
		return p != nil && p.node == node
	case PersistentVolumes:
		return g.mounts(node, key.Name)
	case VolumeAttachments:
		return g.attachments[key.Name] == node
	case ResourceSlices:
		return g.slices[key.Name] == node
	}
	if g.uses[Ref{gr, key}][node] > 0 {
		return true
	}
	if gr == Secrets {
		for v := range g.bySecret[key] {
			if g.mounts(node, v) {
				return true
			}
		}
	}
	return false
}

func (g *graph) mounts(node, name string) bool {
	v := g.volumes[name]
	return v != nil && g.uses[Ref{PersistentVolumeClaims, v.claim}][node] > 0
}
