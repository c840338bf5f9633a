package plugins

import (
	corev1 "k8s.io/api/core/v1"

	"skiff.dev/skiff/internal/scheduler/framework"
)

// NodeName lets a pod that names its node onto that node only.
// https://kubernetes.io/docs/concepts/scheduling-eviction/assign-pod-node/#nodename
func NodeName() *framework.Any {
	return framework.Of(&framework.Plugin[string]{
		Name: "NodeName",
		Sign: func(s *framework.Signer, pod *framework.Pod) { s.String(pod.Spec.NodeName) },
		Prepare: func(pod *framework.Pod, _ *framework.Snapshot) framework.Preparation[string] {
			return framework.Preparation[string]{State: pod.Spec.NodeName, Skip: pod.Spec.NodeName == ""}
		},
		Filter: func(wanted string, n *framework.Node) *framework.Status {
			if n.Name() == wanted {
				return nil
			}
			return framework.RejectFinally("node(s) didn't match the requested node name")
		},
		Wakes: []framework.Wake{framework.On(framework.NodeAdded, func(waiting *framework.Pod, _, new *corev1.Node) bool {
			return new.Name == waiting.Spec.NodeName
		})},
	})
}
