package plugins

import (
	corev1 "k8s.io/api/core/v1"

	"skiff.dev/skiff/internal/node"
	"skiff.dev/skiff/internal/scheduler/framework"
)

// TaintToleration keeps pods off nodes whose taints they do not tolerate, and
// prefers nodes with few PreferNoSchedule taints that they do not tolerate.
// https://kubernetes.io/docs/concepts/scheduling-eviction/taint-and-toleration/
func TaintToleration() *framework.Any {
	return framework.Of(&framework.Plugin[tolerations]{
		Name: "TaintToleration",
		Sign: func(s *framework.Signer, pod *framework.Pod) {
			s.Int(int64(len(pod.Spec.Tolerations)))
			for i := range pod.Spec.Tolerations {
				s.Message(&pod.Spec.Tolerations[i])
			}
		},
		Prepare: func(pod *framework.Pod, _ *framework.Snapshot) framework.Preparation[tolerations] {
			return framework.Preparation[tolerations]{State: pod.Spec.Tolerations}
		},
		Filter: func(t tolerations, n *framework.Node) *framework.Status {
			if t.admit(n.Object) {
				return nil
			}
			return framework.RejectFinally("node(s) had untolerated taint(s)")
		},
		Score:     tolerations.unwanted,
		Normalize: framework.FewerIsBetter,
		Wakes: []framework.Wake{
			framework.On(framework.NodeAdded|framework.NodeTaints, func(waiting *framework.Pod, old, new *corev1.Node) bool {
				t := tolerations(waiting.Spec.Tolerations)
				return t.admit(new) && (old == nil || !t.admit(old))
			}),
			framework.On[*corev1.Pod](framework.SelfTolerations, nil),
		},
	})
}

// tolerations are those of one pod.
type tolerations []corev1.Toleration

// admit reports whether no taint of the node forbids the pod to start there.
func (t tolerations) admit(n *corev1.Node) bool {
	return node.Untolerated(n.Spec.Taints, t, corev1.TaintEffectNoSchedule, corev1.TaintEffectNoExecute) == nil
}

// unwanted counts the taints that ask for other nodes to be preferred.
func (t tolerations) unwanted(n *framework.Node) int64 {
	var count int64
	for i := range n.Object.Spec.Taints {
		if node.Untolerated(n.Object.Spec.Taints[i:i+1], t, corev1.TaintEffectPreferNoSchedule) != nil {
			count++
		}
	}
	return count
}
