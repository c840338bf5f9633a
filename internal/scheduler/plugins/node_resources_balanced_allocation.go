package plugins

import (
	"fmt"
	"math"

	configv1 "k8s.io/kube-scheduler/config/v1"

	"skiff.dev/skiff/internal/scheduler/framework"
)

// NodeResourcesBalancedAllocation prefers nodes whose resources the pod would
// bring closer to being used in equal proportion, so that none is left over
// because another has run out.
func NodeResourcesBalancedAllocation(args *configv1.NodeResourcesBalancedAllocationArgs) (*framework.Any, error) {
	resources, err := weightedResources(args.Resources)
	if err != nil {
		return nil, fmt.Errorf("resources%w", err)
	}
	return framework.Of(&framework.Plugin[balance]{
		Name: "NodeResourcesBalancedAllocation",
		Sign: func(s *framework.Signer, pod *framework.Pod) { s.Resources(&pod.Requests) },
		Prepare: func(pod *framework.Pod, _ *framework.Snapshot) framework.Preparation[balance] {
			b := balance{requests: &pod.Requests, resources: resources}
			return framework.Preparation[balance]{State: b, Skip: b.nothingRequested()}
		},
		Score: balance.rate,
	}), nil
}

// balance is what one class of pods requests of the resources looked at.
type balance struct {
	requests  *framework.Resources
	resources []weighted
}

func (b balance) nothingRequested() bool {
	for _, r := range b.resources {
		if b.requests.Get(r.name) > 0 {
			return false
		}
	}
	return true
}

// rate is 75 if the pod leaves the node's balance as it is, up to 100 if it
// mends it, down to 50 if it spoils it.
func (b balance) rate(n *framework.Node) int64 {
	before, after := make([]float64, 0, 4), make([]float64, 0, 4)
	for _, r := range b.resources {
		want, capacity := b.requests.Get(r.name), n.Allocatable.Get(r.name)
		if capacity == 0 || want == 0 && isScalar(r.name) {
			continue
		}
		requested := n.Requested.Get(r.name)
		before = append(before, fraction(requested, capacity))
		after = append(after, fraction(requested+want, capacity))
	}
	return int64(75 + (deviation(before)-deviation(after))*framework.MaxScore/2)
}

func fraction(requested, capacity int64) float64 {
	return min(1, float64(requested)/float64(capacity))
}

// deviation is the standard deviation of the fractions, 0 to 0.5.
func deviation(fractions []float64) float64 {
	switch len(fractions) {
	case 0, 1:
		return 0
	case 2:
		return math.Abs(fractions[0]-fractions[1]) / 2
	}
	var sum, squares float64
	for _, f := range fractions {
		sum += f
	}
	mean := sum / float64(len(fractions))
	for _, f := range fractions {
		squares += (f - mean) * (f - mean)
	}
	return math.Sqrt(squares / float64(len(fractions)))
}
