// Package node defines the resources of the API group node.k8s.io.
package node

import (
	nodev1 "k8s.io/api/node/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	corev1 "k8s.io/api/core/v1"

	"skiff.dev/skiff/internal/check"
	"skiff.dev/skiff/internal/pod"
	"skiff.dev/skiff/internal/resource"
)

// RuntimeClass is node.k8s.io/v1 RuntimeClass.
// https://kubernetes.io/docs/concepts/containers/runtime-class/
var RuntimeClass = &resource.Definition[*nodev1.RuntimeClass]{
	Name:         resource.Name{Group: nodev1.GroupName, Version: "v1", Kind: "RuntimeClass", Plural: "runtimeclasses"},
	Scope:        resource.Cluster,
	NeedsVersion: true,
	Default: func(c *nodev1.RuntimeClass) {
		if c.Overhead != nil {
			pod.RoundUp(c.Overhead.PodFixed)
		}
	},
	Validate: validateRuntimeClass,
	Columns: []resource.Column[*nodev1.RuntimeClass]{
		{Name: "Handler", Description: nodev1.RuntimeClass{}.SwaggerDoc()["handler"],
			Value: func(c *nodev1.RuntimeClass) any { return c.Handler }},
		resource.Age[*nodev1.RuntimeClass](),
	},
}

func validateRuntimeClass(r *check.Report, c, old *nodev1.RuntimeClass) {
	r.At("handler").Each(c.Handler, validation.IsDNS1123Label(c.Handler))
	if c.Overhead != nil {
		pod.ValidateOverhead(r.At("overhead", "podFixed"), c.Overhead.PodFixed)
	}
	if s := c.Scheduling; s != nil {
		at := r.At("scheduling")
		at.At("nodeSelector").Labels(s.NodeSelector)
		seen := map[corev1.Toleration]bool{}
		for i := range s.Tolerations {
			t := s.Tolerations[i]
			pod.ValidateToleration(at.At("tolerations").Index(i), &t)
			t.TolerationSeconds = nil
			if seen[t] {
				at.At("tolerations").Index(i).Duplicate(t)
			}
			seen[t] = true
		}
	}
	if old != nil {
		r.At("handler").Immutable(c.Handler, old.Handler)
	}
}
