package framework

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Snapshot is the cluster as a scheduling decision sees it. It has one owner,
// who changes it between decisions only; during one it stands still. Because
// nothing is copied, a change costs as much as what changed.
type Snapshot struct {
	nodes  []*Node
	byName map[string]*Node // also nodes known only from pods bound to them
	pods   map[types.UID]place
	images map[string]int // how many nodes have the image

	clock uint64
	// changed lists the slots that changed, oldest first; forgotten counts
	// those that have been dropped from its front.
	changed   []int32
	forgotten uint64
}

type place struct {
	pod  *Pod
	node *Node
}

// NewSnapshot returns a snapshot of an empty cluster.
func NewSnapshot() *Snapshot {
	return &Snapshot{byName: map[string]*Node{}, pods: map[types.UID]place{}, images: map[string]int{}}
}

// Nodes returns all nodes, in no particular but a stable order: a node keeps
// its slot, unless one before it is deleted.
func (s *Snapshot) Nodes() []*Node { return s.nodes }

// Node returns the node of that name, nil if there is none.
func (s *Snapshot) Node(name string) *Node {
	if n := s.byName[name]; n != nil && n.Object != nil {
		return n
	}
	return nil
}

// NodesWithImage returns how many nodes have the image.
func (s *Snapshot) NodesWithImage(name string) int { return s.images[name] }

// Pod returns the pod with the uid and the name of its node, if it is placed.
func (s *Snapshot) Pod(uid types.UID) (pod *Pod, node string, ok bool) {
	at, ok := s.pods[uid]
	if !ok {
		return nil, "", false
	}
	return at.pod, at.node.name, true
}

// SetNode adds a node or replaces what is known about it.
func (s *Snapshot) SetNode(obj *corev1.Node) {
	n := s.entry(obj.Name)
	if n.Object == nil {
		n.slot = len(s.nodes)
		s.nodes = append(s.nodes, n)
	}
	s.countImages(n, -1)
	n.setObject(obj)
	s.countImages(n, 1)
	s.touch(n)
}

// DeleteNode removes a node. Pods still bound to it are remembered, in case
// it comes back.
func (s *Snapshot) DeleteNode(name string) {
	n := s.byName[name]
	if n == nil || n.Object == nil {
		return
	}
	s.countImages(n, -1)
	last := s.nodes[len(s.nodes)-1]
	s.nodes = s.nodes[:len(s.nodes)-1]
	if last != n {
		last.slot = n.slot
		s.nodes[last.slot] = last
		s.touch(last)
	}
	n.Object, n.Images = nil, nil
	s.dropUnused(n)
}

// SetPod places a pod on the named node, or replaces what is known about it.
func (s *Snapshot) SetPod(pod *Pod, node string) {
	if at, ok := s.pods[pod.UID]; ok {
		if at.node.name == node && at.pod.placedLike(pod) {
			at.node.Pods[slices.Index(at.node.Pods, at.pod)] = pod
			s.pods[pod.UID] = place{pod, at.node}
			return
		}
		s.RemovePod(pod.UID)
	}
	n := s.entry(node)
	n.addPod(pod)
	s.pods[pod.UID] = place{pod, n}
	s.touch(n)
}

// RemovePod takes away a pod, if it is placed.
func (s *Snapshot) RemovePod(uid types.UID) {
	at, ok := s.pods[uid]
	if !ok {
		return
	}
	delete(s.pods, uid)
	at.node.removePod(at.pod)
	s.touch(at.node)
	s.dropUnused(at.node)
}

// Now returns the present position in the list of changes.
func (s *Snapshot) Now() uint64 { return s.forgotten + uint64(len(s.changed)) }

// ChangedSince returns the slots that changed since a position, repetitions
// included; false if so much has changed that all slots must be looked at.
func (s *Snapshot) ChangedSince(position uint64) ([]int32, bool) {
	if position < s.forgotten {
		return nil, false
	}
	return s.changed[position-s.forgotten:], true
}

func (s *Snapshot) entry(name string) *Node {
	n := s.byName[name]
	if n == nil {
		n = &Node{name: name}
		s.byName[name] = n
	}
	return n
}

func (s *Snapshot) dropUnused(n *Node) {
	if n.Object == nil && len(n.Pods) == 0 {
		delete(s.byName, n.name)
	}
}

func (s *Snapshot) countImages(n *Node, by int) {
	for name := range n.Images {
		s.images[name] += by
		if s.images[name] == 0 {
			delete(s.images, name)
		}
	}
}

// touch records that a node has changed. Following the list of changes pays
// only while it is shorter than the list of nodes, so it is cut in half when
// it has grown past twice that.
func (s *Snapshot) touch(n *Node) {
	s.clock++
	n.generation = s.clock
	if n.Object == nil {
		return
	}
	if limit := max(2*len(s.nodes), 64); len(s.changed) >= limit {
		half := len(s.changed) / 2
		s.forgotten += uint64(half)
		s.changed = append(s.changed[:0], s.changed[half:]...)
	}
	s.changed = append(s.changed, int32(n.slot))
}
