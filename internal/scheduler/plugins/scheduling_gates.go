package plugins

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"

	"skiff.dev/skiff/internal/scheduler/framework"
)

// SchedulingGates holds a pod back until its spec.schedulingGates are gone
// (KEP-3521).
func SchedulingGates() *framework.Any {
	return framework.Of(&framework.Plugin[struct{}]{
		Name: "SchedulingGates",
		Admit: func(pod *corev1.Pod) *framework.Status {
			if len(pod.Spec.SchedulingGates) == 0 {
				return nil
			}
			names := make([]string, len(pod.Spec.SchedulingGates))
			for i := range pod.Spec.SchedulingGates {
				names[i] = pod.Spec.SchedulingGates[i].Name
			}
			return framework.RejectFinally(fmt.Sprintf("waiting for scheduling gates: %v", names))
		},
		Wakes: []framework.Wake{framework.On[*corev1.Pod](framework.SelfGates, nil)},
	})
}
