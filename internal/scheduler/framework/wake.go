package framework

import "skiff.dev/skiff/internal/meta"

// Action says what changed about an object; several may be combined.
type Action uint32

const (
	NodeAdded Action = 1 << iota
	NodeDeleted
	NodeAllocatable
	NodeLabels
	NodeTaints // taints, or spec.unschedulable
	NodeOther  // conditions, annotations, images, declared features

	// The following are about pods that have a node.
	PodAdded
	PodDeleted
	PodLabels
	PodScaledDown // its requests shrank in place

	// The following are about the waiting pod itself.
	SelfGates
	SelfTolerations
	SelfLabels
	SelfScaledDown
	SelfOther
)

// SelfUpdated is any change of the waiting pod itself.
const SelfUpdated = SelfGates | SelfTolerations | SelfLabels | SelfScaledDown | SelfOther

// Event is a change in the cluster that may let waiting pods in. Old is nil
// for what came, New for what went.
type Event struct {
	Action   Action
	Old, New meta.Object
}

// A Wake is an event that may let in a pod that the plugin has rejected.
type Wake struct {
	on   Action
	hint func(waiting *Pod, e Event) bool
}

// On returns the wake for the actions, all about objects of type T. The hint
// says whether a waiting pod should be tried again because old became new; a
// nil hint says yes to all.
func On[T meta.Object](actions Action, hint func(waiting *Pod, old, new T) bool) Wake {
	w := Wake{on: actions}
	if hint != nil {
		w.hint = func(waiting *Pod, e Event) bool {
			old, _ := e.Old.(T)
			new, _ := e.New.(T)
			return hint(waiting, old, new)
		}
	}
	return w
}

// Wakes reports whether the event should wake the pod.
func (w Wake) Wakes(waiting *Pod, e Event) bool {
	return w.on&e.Action != 0 && (w.hint == nil || w.hint(waiting, e))
}
