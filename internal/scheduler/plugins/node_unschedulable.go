package plugins

import (
	corev1 "k8s.io/api/core/v1"

	"skiff.dev/skiff/internal/node"
	"skiff.dev/skiff/internal/scheduler/framework"
)

// NodeUnschedulable keeps pods off nodes with spec.unschedulable (cordoned
// ones), unless they tolerate the taint that says the same.
// https://kubernetes.io/docs/concepts/architecture/nodes/#manual-node-administration
func NodeUnschedulable() *framework.Any {
	return framework.Of(&framework.Plugin[struct{}]{
		Name: "NodeUnschedulable",
		Sign: func(s *framework.Signer, pod *framework.Pod) { s.Bool(toleratesUnschedulable(pod.Pod)) },
		Prepare: func(pod *framework.Pod, _ *framework.Snapshot) framework.Preparation[struct{}] {
			return framework.Preparation[struct{}]{Skip: toleratesUnschedulable(pod.Pod)}
		},
		Filter: func(_ struct{}, n *framework.Node) *framework.Status {
			if !n.Object.Spec.Unschedulable {
				return nil
			}
			return framework.RejectFinally("node(s) were unschedulable")
		},
		Wakes: []framework.Wake{
			framework.On(framework.NodeAdded|framework.NodeTaints, func(_ *framework.Pod, old, new *corev1.Node) bool {
				return !new.Spec.Unschedulable && (old == nil || old.Spec.Unschedulable)
			}),
			framework.On[*corev1.Pod](framework.SelfTolerations, nil),
		},
	})
}

func toleratesUnschedulable(pod *corev1.Pod) bool {
	cordon := []corev1.Taint{{Key: corev1.TaintNodeUnschedulable, Effect: corev1.TaintEffectNoSchedule}}
	return node.Untolerated(cordon, pod.Spec.Tolerations) == nil
}
