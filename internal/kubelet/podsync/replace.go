package podsync

import (
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"
)

// between is how long a container may be on its way from one image to another
// before that is told of.
const between = time.Second

// Replacing returns until when what is seen of an active pod is a state between
// two: a container was stopped because its image changed, and the one in its
// place does not run yet. That takes some tens of milliseconds, in which nobody
// is to be told that the pod is not ready. It returns zero where it is no such
// state, or lasts too long for one.
func Replacing(pod *v1.Pod, seen Seen, now time.Time) time.Time {
	for _, spec := range slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers) {
		for i := range seen.Containers { // newest attempt first
			c := &seen.Containers[i]
			if c.Name != spec.Name || c.State == Created {
				continue
			}
			since := now.Sub(c.FinishedAt)
			if c.State == Exited && c.Hash != "" && c.Hash != Hash(&spec) && since >= 0 && since < between {
				return c.FinishedAt.Add(between)
			}
			break
		}
	}
	return time.Time{}
}
