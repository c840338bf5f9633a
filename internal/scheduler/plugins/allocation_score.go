package plugins

import (
	"fmt"
	"math"
	"strings"

	corev1 "k8s.io/api/core/v1"
	configv1 "k8s.io/kube-scheduler/config/v1"

	"skiff.dev/skiff/internal/scheduler/framework"
)

// allocationScore rates a node by how much of it would be requested if the pod
// ran there: the weighted mean of a rating per resource.
type allocationScore struct {
	resources []weighted
	// of rates one resource, 0 to MaxScore. Capacity is above 0.
	of func(requested, capacity int64) int64
	// skipZero leaves resources that rate 0 out of the mean, and rounds it to
	// the nearest whole: upstream does so for RequestedToCapacityRatio.
	skipZero bool
}

type weighted struct {
	name   corev1.ResourceName
	weight int64
}

var cpuAndMemory = []weighted{{corev1.ResourceCPU, 1}, {corev1.ResourceMemory, 1}}

func newAllocationScore(s *configv1.ScoringStrategy) (allocationScore, error) {
	if s == nil {
		s = &configv1.ScoringStrategy{}
	}
	resources, err := weightedResources(s.Resources)
	if err != nil {
		return allocationScore{}, fmt.Errorf("scoringStrategy.resources%w", err)
	}
	score := allocationScore{resources: resources}
	switch s.Type {
	case "", configv1.LeastAllocated:
		score.of = leastAllocated
	case configv1.MostAllocated:
		score.of = mostAllocated
	case configv1.RequestedToCapacityRatio:
		if s.RequestedToCapacityRatio == nil {
			return score, fmt.Errorf("scoringStrategy.requestedToCapacityRatio: Required value: must be set for type %s", s.Type)
		}
		curve, err := newCurve(s.RequestedToCapacityRatio.Shape)
		if err != nil {
			return score, fmt.Errorf("scoringStrategy.requestedToCapacityRatio.shape%w", err)
		}
		score.of, score.skipZero = curve.rate, true
	default:
		return score, fmt.Errorf("scoringStrategy.type: Unsupported value: %q: supported values: %q, %q, %q",
			s.Type, configv1.LeastAllocated, configv1.MostAllocated, configv1.RequestedToCapacityRatio)
	}
	return score, nil
}

func weightedResources(specs []configv1.ResourceSpec) ([]weighted, error) {
	if len(specs) == 0 {
		return cpuAndMemory, nil
	}
	var all []weighted
	for i, spec := range specs {
		if spec.Weight == 0 {
			spec.Weight = 1
		}
		if spec.Weight < 1 || spec.Weight > 100 {
			return nil, fmt.Errorf("[%d].weight: Invalid value: %d: resource weight of %s not in valid range [1, 100]", i, spec.Weight, spec.Name)
		}
		all = append(all, weighted{corev1.ResourceName(spec.Name), spec.Weight})
	}
	return all, nil
}

func (a *allocationScore) rate(s fitState, n *framework.Node) int64 {
	var sum, weights int64
	for _, r := range a.resources {
		requested, capacity := s.after(r.name, n)
		if capacity == 0 {
			continue
		}
		rating := a.of(requested, capacity)
		if rating == 0 && a.skipZero {
			continue
		}
		sum += rating * r.weight
		weights += r.weight
	}
	if weights == 0 {
		return 0
	}
	if a.skipZero {
		return int64(math.Round(float64(sum) / float64(weights)))
	}
	return sum / weights
}

// after returns how much of a resource would be requested with the pod on the
// node, and how much there is; 0, 0 for an extended resource that the pod does
// not ask for.
func (s fitState) after(name corev1.ResourceName, n *framework.Node) (requested, capacity int64) {
	switch name {
	case corev1.ResourceCPU:
		return n.Assumed.MilliCPU + s.assumed.MilliCPU, n.Allocatable.MilliCPU
	case corev1.ResourceMemory:
		return n.Assumed.Memory + s.assumed.Memory, n.Allocatable.Memory
	}
	want := s.requests.Get(name)
	if want == 0 && isScalar(name) {
		return 0, 0
	}
	return n.Requested.Get(name) + want, n.Allocatable.Get(name)
}

// isScalar reports whether the resource is neither CPU, memory, storage nor
// pods.
func isScalar(name corev1.ResourceName) bool {
	return strings.Contains(string(name), "/") || strings.HasPrefix(string(name), corev1.ResourceHugePagesPrefix)
}

func leastAllocated(requested, capacity int64) int64 {
	if requested > capacity {
		return 0
	}
	return (capacity - requested) * framework.MaxScore / capacity
}

func mostAllocated(requested, capacity int64) int64 {
	return min(requested, capacity) * framework.MaxScore / capacity
}

// curve is a line through points of utilization in percent and score.
type curve []configv1.UtilizationShapePoint

// maxShapeScore is the highest score of a point in the configuration.
const maxShapeScore = 10

func newCurve(points []configv1.UtilizationShapePoint) (curve, error) {
	if len(points) == 0 {
		return nil, fmt.Errorf(": Required value: at least one point must be specified")
	}
	for i, p := range points {
		switch {
		case p.Utilization < 0 || p.Utilization > 100:
			return nil, fmt.Errorf("[%d].utilization: Invalid value: %d: not in valid range [0, 100]", i, p.Utilization)
		case p.Score < 0 || p.Score > maxShapeScore:
			return nil, fmt.Errorf("[%d].score: Invalid value: %d: not in valid range [0, %d]", i, p.Score, maxShapeScore)
		case i > 0 && p.Utilization <= points[i-1].Utilization:
			return nil, fmt.Errorf("[%d].utilization: Invalid value: %d: utilization values must be sorted in increasing order", i, p.Utilization)
		}
	}
	return curve(points), nil
}

func (c curve) rate(requested, capacity int64) int64 {
	utilization := int64(100)
	if requested <= capacity {
		utilization = requested * 100 / capacity
	}
	scale := func(i int) int64 { return int64(c[i].Score) * framework.MaxScore / maxShapeScore }
	for i := range c {
		x := int64(c[i].Utilization)
		if utilization > x {
			continue
		}
		if i == 0 {
			return scale(0)
		}
		x0 := int64(c[i-1].Utilization)
		return scale(i-1) + (scale(i)-scale(i-1))*(utilization-x0)/(x-x0)
	}
	return scale(len(c) - 1)
}
