package plugins

import (
	"slices"

	corev1 "k8s.io/api/core/v1"

	"skiff.dev/skiff/internal/scheduler/framework"
)

// NodePorts keeps pods off nodes where a host port they want is taken.
func NodePorts() *framework.Any {
	return framework.Of(&framework.Plugin[[]framework.HostPort]{
		Name: "NodePorts",
		Sign: func(s *framework.Signer, pod *framework.Pod) {
			s.Int(int64(len(pod.HostPorts)))
			for _, p := range pod.HostPorts {
				s.String(p.IP)
				s.String(string(p.Protocol))
				s.Int(int64(p.Port))
			}
		},
		Prepare: func(pod *framework.Pod, _ *framework.Snapshot) framework.Preparation[[]framework.HostPort] {
			return framework.Preparation[[]framework.HostPort]{State: pod.HostPorts, Skip: len(pod.HostPorts) == 0}
		},
		Filter: func(wanted []framework.HostPort, n *framework.Node) *framework.Status {
			if !anyConflict(wanted, n.HostPorts) {
				return nil
			}
			return framework.Reject("node(s) didn't have free ports for the requested pod ports")
		},
		Wakes: []framework.Wake{
			framework.On[*corev1.Node](framework.NodeAdded, nil),
			framework.On(framework.PodDeleted, func(waiting *framework.Pod, gone, _ *corev1.Pod) bool {
				return anyConflict(waiting.HostPorts, framework.HostPorts(gone))
			}),
		},
	})
}

func anyConflict(wanted, taken []framework.HostPort) bool {
	return slices.ContainsFunc(wanted, func(w framework.HostPort) bool {
		return slices.ContainsFunc(taken, w.Conflicts)
	})
}
