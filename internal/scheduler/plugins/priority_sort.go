package plugins

import (
	"skiff.dev/skiff/internal/pod"
	"skiff.dev/skiff/internal/scheduler/framework"
)

// PrioritySort tries pods of higher priority first, and among equals the one
// that has waited longest.
// https://kubernetes.io/docs/concepts/scheduling-eviction/pod-priority-preemption/
func PrioritySort() *framework.Any {
	return framework.Of(&framework.Plugin[struct{}]{
		Name: "PrioritySort",
		Less: func(a, b framework.Waiting) bool {
			pa, pb := pod.Priority(a.Pod), pod.Priority(b.Pod)
			return pa > pb || pa == pb && a.Since.Before(b.Since)
		},
	})
}
