// Package plugins holds the scheduler's rules, one file each, and the list of
// them. They are pure but for DefaultBinder, which writes the binding.
package plugins

import (
	"skiff.dev/skiff/internal/client"
	"skiff.dev/skiff/internal/scheduler/framework"
)

// Factory makes one plugin.
type Factory struct {
	Name string
	// Weight is what the plugin's scores are multiplied by unless configured;
	// 0 if it does not score.
	Weight int32
	// New makes the plugin. It calls args with a pointer to the plugin's
	// configuration to have it filled in, if it has one.
	New func(c *client.Client, args func(into any) error) (*framework.Any, error)
}

// All lists the plugins in the order in which they are called by default,
// which is upstream's: the first filter to reject a node is the one that
// people are told about.
func All() []Factory {
	return []Factory{
		{Name: "SchedulingGates", New: plain(SchedulingGates)},
		{Name: "PrioritySort", New: plain(PrioritySort)},
		{Name: "NodeUnschedulable", New: plain(NodeUnschedulable)},
		{Name: "NodeName", New: plain(NodeName)},
		{Name: "TaintToleration", Weight: 3, New: plain(TaintToleration)},
		{Name: "NodeAffinity", Weight: 2, New: with(NodeAffinity)},
		{Name: "NodePorts", New: plain(NodePorts)},
		{Name: "NodeResourcesFit", Weight: 1, New: with(NodeResourcesFit)},
		{Name: "NodeResourcesBalancedAllocation", Weight: 1, New: with(NodeResourcesBalancedAllocation)},
		{Name: "ImageLocality", Weight: 1, New: plain(ImageLocality)},
		{Name: "DefaultBinder", New: func(c *client.Client, _ func(any) error) (*framework.Any, error) {
			return DefaultBinder(c), nil
		}},
	}
}

// plain is the factory of a plugin without configuration.
func plain(make func() *framework.Any) func(*client.Client, func(any) error) (*framework.Any, error) {
	return func(*client.Client, func(any) error) (*framework.Any, error) { return make(), nil }
}

// with is the factory of a plugin that is configured by an A.
func with[A any](make func(*A) (*framework.Any, error)) func(*client.Client, func(any) error) (*framework.Any, error) {
	return func(_ *client.Client, args func(into any) error) (*framework.Any, error) {
		a := new(A)
		if err := args(a); err != nil {
			return nil, err
		}
		return make(a)
	}
}
