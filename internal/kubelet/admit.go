package kubelet

import (
	"fmt"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	v1helper "k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	"k8s.io/klog/v2"

	"skiff.dev/skiff/internal/kubelet/podsync"
	"skiff.dev/skiff/internal/pod"
)

// admit starts a pod that is new to the node. The scheduler decided on what it
// knew; a pod that does not fit fails here. A pod that has been started
// before, by an earlier kubelet, is not asked again.
func (k *Kubelet) admit(p *v1.Pod) {
	if p.Status.StartTime != nil || podsync.Terminal(p.Status.Phase) || p.DeletionTimestamp != nil {
		k.start(p, false, nil)
		return
	}
	reason, message := k.refuse(p)
	if reason == "" {
		k.start(p, false, nil)
		return
	}
	zero := int64(0)
	k.Events.Warning(p, reason, "%s", message)
	k.start(p, false, &podsync.Eviction{Reason: reason, Message: "Pod was rejected: " + message, Grace: &zero})
}

// refuse returns why a pod cannot run here, or "".
func (k *Kubelet) refuse(p *v1.Pod) (reason, message string) {
	if os := p.Spec.OS; os != nil && os.Name != v1.Linux {
		return "PodOSNotSupported", "Failed to admit pod as the OS field doesn't match node OS"
	}
	if reason, message := refuseSysctls(p, k.UnsafeSysctls); reason != "" {
		return reason, message
	}
	node, ok := k.sources.node()
	if !ok {
		return "", "" // not registered yet: then only static pods are here
	}
	if match, err := nodeaffinity.GetRequiredNodeAffinity(p).Match(node); err != nil || !match {
		return "NodeAffinity", "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector"
	}
	if taint, untolerated := v1helper.FindMatchingUntoleratedTaint(klog.Background(), node.Spec.Taints, p.Spec.Tolerations, func(t *v1.Taint) bool {
		return t.Effect == v1.TaintEffectNoExecute
	}, true); untolerated && !isStatic(p) {
		return "TaintToleration", fmt.Sprintf("Predicate TaintToleration failed: node(s) had untolerated taint {%s: %s}", taint.Key, taint.Value)
	}
	return k.refuseResources(p, node)
}

// refuseResources compares what the pod requests with what the others leave.
func (k *Kubelet) refuseResources(p *v1.Pod, node *v1.Node) (reason, message string) {
	used, count := v1.ResourceList{}, int64(0)
	ports := map[string]bool{}
	for _, other := range k.Pods() {
		if other.UID == p.UID || podsync.Terminal(other.Status.Phase) {
			continue
		}
		count++
		for _, port := range pod.HostPorts(&other.Spec) {
			ports[portKey(port)] = true
		}
		for name, q := range pod.Requests(other) {
			sum := used[name]
			sum.Add(q)
			used[name] = sum
		}
	}
	if limit := k.podLimit(node); limit > 0 && count+1 > limit {
		return outOf(v1.ResourcePods, 1, count, limit)
	}
	for name, q := range pod.Requests(p) {
		have, known := node.Status.Allocatable[name]
		taken := used[name]
		if q.IsZero() || !known && len(node.Status.Allocatable) == 0 {
			continue
		}
		sum := taken.DeepCopy()
		sum.Add(q)
		if sum.Cmp(have) > 0 {
			return outOf(name, amount(name, q), amount(name, taken), amount(name, have))
		}
	}
	for _, port := range pod.HostPorts(&p.Spec) {
		if ports[portKey(port)] {
			return "NodePorts", "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports"
		}
	}
	return "", ""
}

func portKey(p v1.ContainerPort) string {
	return fmt.Sprintf("%s/%s/%d", p.HostIP, p.Protocol, p.HostPort)
}

func (k *Kubelet) podLimit(node *v1.Node) int64 {
	if q, ok := node.Status.Allocatable[v1.ResourcePods]; ok {
		return q.Value()
	}
	return int64(k.MaxPods)
}

func outOf(name v1.ResourceName, requested, used, capacity int64) (reason, message string) {
	return "OutOf" + string(name), fmt.Sprintf("Node didn't have enough resource: %s, requested: %d, used: %d, capacity: %d", name, requested, used, capacity)
}

func amount(name v1.ResourceName, q resource.Quantity) int64 {
	if name == v1.ResourceCPU {
		return q.MilliValue()
	}
	return q.Value()
}
