package framework

import (
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	resourcehelper "k8s.io/component-helpers/resource"

	"skiff.dev/skiff/internal/pod"
)

// Pod is a pod and what the scheduler has worked out about it. It is
// read-only once made.
type Pod struct {
	*corev1.Pod
	// Requests is what the pod takes of a node, itself included (Pods is 1).
	Requests Resources
	// Assumed is Requests as scoring sees it: a container that asks for no CPU
	// or memory is taken to use 100m and 200Mi, or nodes full of such
	// containers would look empty.
	Assumed Resources
	// HostPorts are the ports the pod takes on the node's own addresses.
	HostPorts []HostPort
	// Class is shared by pods that all plugins treat alike.
	Class string
}

// HostPort is a port on an address of the node; IP 0.0.0.0 is all addresses.
type HostPort struct {
	IP       string
	Protocol corev1.Protocol
	Port     int32
}

// Conflicts reports whether p and o cannot be had at the same time.
func (p HostPort) Conflicts(o HostPort) bool {
	return p.Port == o.Port && p.Protocol == o.Protocol && (p.IP == o.IP || p.IP == anyIP || o.IP == anyIP)
}

const anyIP = "0.0.0.0"

// assumedRequests is what a container is taken to use that does not say.
var assumedRequests = corev1.ResourceList{
	corev1.ResourceCPU:    resource.MustParse("100m"),
	corev1.ResourceMemory: resource.MustParse("200Mi"),
}

// NewPod works out what the scheduler needs to know of a pod.
func NewPod(obj *corev1.Pod) *Pod {
	p := &Pod{Pod: obj, HostPorts: HostPorts(obj)}
	p.Requests = ResourcesOf(pod.Requests(obj))
	p.Requests.Pods = 1
	p.Assumed = p.Requests
	if !requestsAll(&obj.Spec) {
		p.Assumed = ResourcesOf(resourcehelper.PodRequests(obj, resourcehelper.PodResourcesOptions{
			UseStatusResources: true, InPlacePodLevelResourcesVerticalScalingEnabled: true,
			NonMissingContainerRequests: assumedRequests,
		}))
		p.Assumed.Pods = 1
	}
	return p
}

// requestsAll reports whether there is nothing to assume: every container says
// what it requests.
func requestsAll(s *corev1.PodSpec) bool {
	for c := range pod.Containers(s) {
		for name := range assumedRequests {
			if _, ok := c.Resources.Requests[name]; !ok {
				return false
			}
		}
	}
	return true
}

// HostPorts lists the ports that a pod takes on its node's addresses.
func HostPorts(obj *corev1.Pod) []HostPort {
	var ports []HostPort
	for _, cp := range pod.HostPorts(&obj.Spec) {
		p := HostPort{IP: cp.HostIP, Protocol: cp.Protocol, Port: cp.HostPort}
		if p.IP == "" {
			p.IP = anyIP
		}
		if p.Protocol == "" {
			p.Protocol = corev1.ProtocolTCP
		}
		ports = append(ports, p)
	}
	return ports
}

// placedLike reports whether it is all the same to every other pod whether p
// or o is placed on a node.
func (p *Pod) placedLike(o *Pod) bool {
	return p.Requests.equal(&o.Requests) && p.Assumed.equal(&o.Assumed) && slices.Equal(p.HostPorts, o.HostPorts) &&
		maps.Equal(p.Labels, o.Labels) && (p.DeletionTimestamp == nil) == (o.DeletionTimestamp == nil)
}
