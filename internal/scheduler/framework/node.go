package framework

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// Node is a node together with the pods that run on it or have been decided
// to. Plugins only read it.
type Node struct {
	// Object is never nil for a node that plugins are shown.
	Object *corev1.Node
	// Allocatable is what the node offers to pods.
	Allocatable Resources
	// Requested is the sum over the pods on the node; Assumed is the sum as
	// scoring sees it (see Pod).
	Requested, Assumed Resources
	// Pods are the pods on the node, in no order.
	Pods []*Pod
	// HostPorts are the ports taken on the node's addresses.
	HostPorts []HostPort
	// Images maps the images on the node, under all their names, to their size
	// in bytes.
	Images map[string]int64

	name string
	slot int
	// generation is unique among all nodes and times: two equal ones mean that
	// nothing has changed.
	generation uint64
}

// Slot is the node's place in Snapshot.Nodes.
func (n *Node) Slot() int { return n.slot }

// Generation changes whenever anything about the node does, or its slot.
func (n *Node) Generation() uint64 { return n.generation }

// Name returns the name of the node.
func (n *Node) Name() string { return n.name }

func (n *Node) setObject(obj *corev1.Node) {
	n.Object = obj
	n.Allocatable = ResourcesOf(obj.Status.Allocatable)
	n.Images = make(map[string]int64, len(obj.Status.Images))
	for i := range obj.Status.Images {
		for _, name := range obj.Status.Images[i].Names {
			n.Images[name] = obj.Status.Images[i].SizeBytes
		}
	}
}

func (n *Node) addPod(p *Pod) {
	n.Pods = append(n.Pods, p)
	n.Requested.add(&p.Requests, 1)
	n.Assumed.add(&p.Assumed, 1)
	n.HostPorts = append(n.HostPorts, p.HostPorts...)
}

func (n *Node) removePod(p *Pod) {
	i := slices.Index(n.Pods, p)
	n.Pods = slices.Delete(n.Pods, i, i+1)
	n.Requested.add(&p.Requests, -1)
	n.Assumed.add(&p.Assumed, -1)
	for _, port := range p.HostPorts {
		i := slices.Index(n.HostPorts, port)
		n.HostPorts = slices.Delete(n.HostPorts, i, i+1)
	}
}
