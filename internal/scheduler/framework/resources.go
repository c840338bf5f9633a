package framework

import (
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// Resources are amounts of everything a node offers and pods ask for: CPU in
// thousandths of a core, the rest in its own unit (bytes, pods, devices).
type Resources struct {
	MilliCPU         int64
	Memory           int64
	EphemeralStorage int64
	Pods             int64
	// Scalar holds extended resources, huge pages and attachable volumes.
	Scalar map[corev1.ResourceName]int64
}

// ResourcesOf reads a resource list of the API.
func ResourcesOf(list corev1.ResourceList) Resources {
	var r Resources
	for name, q := range list {
		switch name {
		case corev1.ResourceCPU:
			r.MilliCPU = q.MilliValue()
		case corev1.ResourceMemory:
			r.Memory = q.Value()
		case corev1.ResourceEphemeralStorage:
			r.EphemeralStorage = q.Value()
		case corev1.ResourcePods:
			r.Pods = q.Value()
		default:
			if r.Scalar == nil {
				r.Scalar = map[corev1.ResourceName]int64{}
			}
			r.Scalar[name] = q.Value()
		}
	}
	return r
}

// Get returns the amount of one resource.
func (r *Resources) Get(name corev1.ResourceName) int64 {
	switch name {
	case corev1.ResourceCPU:
		return r.MilliCPU
	case corev1.ResourceMemory:
		return r.Memory
	case corev1.ResourceEphemeralStorage:
		return r.EphemeralStorage
	case corev1.ResourcePods:
		return r.Pods
	}
	return r.Scalar[name]
}

func (r *Resources) equal(o *Resources) bool {
	return r.MilliCPU == o.MilliCPU && r.Memory == o.Memory && r.EphemeralStorage == o.EphemeralStorage &&
		r.Pods == o.Pods && maps.Equal(r.Scalar, o.Scalar)
}

// add adds sign times o.
func (r *Resources) add(o *Resources, sign int64) {
	r.MilliCPU += sign * o.MilliCPU
	r.Memory += sign * o.Memory
	r.EphemeralStorage += sign * o.EphemeralStorage
	r.Pods += sign * o.Pods
	for name, v := range o.Scalar {
		if r.Scalar == nil {
			r.Scalar = map[corev1.ResourceName]int64{}
		}
		r.Scalar[name] += sign * v
	}
}

// scalarNames returns the names of the scalar resources, sorted.
func (r *Resources) scalarNames() []corev1.ResourceName {
	if len(r.Scalar) == 0 {
		return nil
	}
	return slices.Sorted(maps.Keys(r.Scalar))
}

// AnyAbove reports whether there is more of anything in r than in o.
func (r *Resources) AnyAbove(o *Resources) bool {
	if r.MilliCPU > o.MilliCPU || r.Memory > o.Memory || r.EphemeralStorage > o.EphemeralStorage || r.Pods > o.Pods {
		return true
	}
	for name, v := range r.Scalar {
		if v > o.Scalar[name] {
			return true
		}
	}
	return false
}
