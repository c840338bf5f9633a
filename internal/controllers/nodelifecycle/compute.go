package nodelifecycle

import (
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff.dev/skiff/internal/node"
)

// silence writes into n's conditions that nothing is known of it.
func silence(n *corev1.Node, now time.Time) {
	at := metav1.NewTime(now.Truncate(time.Second))
	for _, t := range []corev1.NodeConditionType{corev1.NodeReady, corev1.NodeMemoryPressure, corev1.NodeDiskPressure, corev1.NodePIDPressure} {
		switch c := node.Condition(&n.Status, t); {
		case c == nil:
			node.SetCondition(&n.Status, corev1.NodeCondition{
				Type: t, Status: corev1.ConditionUnknown, Reason: "NodeStatusNeverUpdated", Message: "Kubelet never posted node status.",
				LastHeartbeatTime: n.CreationTimestamp, LastTransitionTime: at,
			})
		case c.Status != corev1.ConditionUnknown:
			node.SetCondition(&n.Status, corev1.NodeCondition{
				Type: t, Status: corev1.ConditionUnknown, Reason: "NodeStatusUnknown", Message: "Kubelet stopped posting node status.",
				LastHeartbeatTime: c.LastHeartbeatTime, LastTransitionTime: at,
			})
		}
	}
}

// byCondition is which condition, in which state, keeps pods off a node.
var byCondition = []struct {
	condition corev1.NodeConditionType
	status    corev1.ConditionStatus
	taint     string
}{
	{corev1.NodeReady, corev1.ConditionFalse, corev1.TaintNodeNotReady},
	{corev1.NodeReady, corev1.ConditionUnknown, corev1.TaintNodeUnreachable},
	{corev1.NodeMemoryPressure, corev1.ConditionTrue, corev1.TaintNodeMemoryPressure},
	{corev1.NodeDiskPressure, corev1.ConditionTrue, corev1.TaintNodeDiskPressure},
	{corev1.NodePIDPressure, corev1.ConditionTrue, corev1.TaintNodePIDPressure},
	{corev1.NodeNetworkUnavailable, corev1.ConditionTrue, corev1.TaintNodeNetworkUnavailable},
}

// evicting are the taints that drive pods from a node.
var evicting = []string{corev1.TaintNodeNotReady, corev1.TaintNodeUnreachable}

// eviction returns the taint that n's readiness asks for, nil if it is ready.
func eviction(n *corev1.Node) *corev1.Taint {
	c := node.Condition(&n.Status, corev1.NodeReady)
	switch {
	case c == nil:
		return nil
	case c.Status == corev1.ConditionFalse:
		return &corev1.Taint{Key: corev1.TaintNodeNotReady, Effect: corev1.TaintEffectNoExecute}
	case c.Status == corev1.ConditionUnknown:
		return &corev1.Taint{Key: corev1.TaintNodeUnreachable, Effect: corev1.TaintEffectNoExecute}
	}
	return nil
}

// tainted reports whether pods are being driven from n already.
func tainted(n *corev1.Node) bool {
	return slices.ContainsFunc(evicting, func(key string) bool { return node.HasTaint(n, key, corev1.TaintEffectNoExecute) })
}

// taints returns the taints that n is to have; evict is the one by which pods
// are driven away, nil for none. Taints of others stay.
func taints(n *corev1.Node, evict *corev1.Taint, now time.Time) (want []corev1.Taint, differs bool) {
	want = n.Spec.Taints
	at := metav1.NewTime(now.Truncate(time.Second))
	put := func(key string, effect corev1.TaintEffect, wanted bool) {
		var changed bool
		if wanted {
			want, changed = node.WithTaint(want, corev1.Taint{Key: key, Effect: effect, TimeAdded: &at})
		} else {
			want, changed = node.WithoutTaint(want, key, effect)
		}
		differs = differs || changed
	}
	for _, b := range byCondition {
		c := node.Condition(&n.Status, b.condition)
		if c == nil && b.condition == corev1.NodeReady {
			continue // it has not said anything yet: what registration set stays
		}
		put(b.taint, corev1.TaintEffectNoSchedule, c != nil && c.Status == b.status)
	}
	put(corev1.TaintNodeUnschedulable, corev1.TaintEffectNoSchedule, n.Spec.Unschedulable)
	for _, key := range evicting {
		put(key, corev1.TaintEffectNoExecute, evict != nil && evict.Key == key)
	}
	return want, differs
}

// zoneOf names the zone of a node, with its region.
func zoneOf(n *corev1.Node) string {
	return n.Labels[corev1.LabelTopologyRegion] + "/" + node.Zone(n)
}
