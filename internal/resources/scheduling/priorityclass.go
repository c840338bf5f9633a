// Package scheduling defines the resources of the API group scheduling.k8s.io.
package scheduling

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff.dev/skiff/internal/check"
	"skiff.dev/skiff/internal/resource"
)

// MaxUserPriority is the highest value of a class that is not the system's.
const MaxUserPriority = 1_000_000_000

const (
	systemPrefix = "system-"
	// The two classes of the system's own pods.
	clusterCritical = "system-cluster-critical"
	nodeCritical    = "system-node-critical"
)

// PriorityClass is scheduling.k8s.io/v1 PriorityClass. That only one class is
// the global default is the Priority admission plugin's rule, not this one's.
// https://kubernetes.io/docs/concepts/scheduling-eviction/pod-priority-preemption/
var PriorityClass = &resource.Definition[*schedulingv1.PriorityClass]{
	Name: resource.Name{Group: schedulingv1.GroupName, Version: "v1", Kind: "PriorityClass",
		Plural: "priorityclasses", Short: []string{"pc"}},
	Scope: resource.Cluster,
	Default: func(c *schedulingv1.PriorityClass) {
		if c.PreemptionPolicy == nil {
			policy := corev1.PreemptLowerPriority
			c.PreemptionPolicy = &policy
		}
	},
	Validate: validatePriorityClass,
	// The generation of a class is 1 for ever: its value cannot change.
	Spec: func(*schedulingv1.PriorityClass) any { return nil },
	Columns: []resource.Column[*schedulingv1.PriorityClass]{
		{Name: "Value", Type: "integer", Description: schedulingv1.PriorityClass{}.SwaggerDoc()["value"],
			Value: func(c *schedulingv1.PriorityClass) any { return int64(c.Value) }},
		{Name: "Global-Default", Type: "boolean", Description: schedulingv1.PriorityClass{}.SwaggerDoc()["globalDefault"],
			Value: func(c *schedulingv1.PriorityClass) any { return c.GlobalDefault }},
		resource.Age[*schedulingv1.PriorityClass](),
		{Name: "PreemptionPolicy", Description: schedulingv1.PriorityClass{}.SwaggerDoc()["preemptionPolicy"],
			Value: func(c *schedulingv1.PriorityClass) any {
				if c.PreemptionPolicy == nil {
					return string(corev1.PreemptLowerPriority)
				}
				return string(*c.PreemptionPolicy)
			}},
	},
}

// SystemClasses returns the classes that every cluster has from the start.
func SystemClasses() []*schedulingv1.PriorityClass {
	policy := corev1.PreemptLowerPriority
	class := func(name string, value int32, about string) *schedulingv1.PriorityClass {
		return &schedulingv1.PriorityClass{
			ObjectMeta: metav1.ObjectMeta{Name: name}, Value: value, Description: about, PreemptionPolicy: &policy,
		}
	}
	return []*schedulingv1.PriorityClass{
		class(nodeCritical, 2*MaxUserPriority+1000, "Used for system critical pods that must not be moved from their current node."),
		class(clusterCritical, 2*MaxUserPriority, "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary."),
	}
}

func validatePriorityClass(r *check.Report, c, old *schedulingv1.PriorityClass) {
	if strings.HasPrefix(c.Name, systemPrefix) {
		if err := knownSystemClass(c); err != nil {
			r.At("metadata", "name").Forbidden("priority class names with '" + systemPrefix + "' prefix are reserved for system use only. error: " + err.Error())
		}
	} else if c.Value > MaxUserPriority {
		r.At("value").Forbidden(fmt.Sprintf("maximum allowed value of a user defined priority is %v", MaxUserPriority))
	}
	if c.PreemptionPolicy != nil {
		check.RequiredOneOf(r.At("preemptionPolicy"), *c.PreemptionPolicy, corev1.PreemptLowerPriority, corev1.PreemptNever)
	}
	if old == nil {
		return
	}
	if c.Value != old.Value {
		r.At("value").Forbidden("may not be changed in an update.")
	}
	r.At("preemptionPolicy").Immutable(c.PreemptionPolicy, old.PreemptionPolicy)
}

func knownSystemClass(c *schedulingv1.PriorityClass) error {
	for _, known := range SystemClasses() {
		if known.Name != c.Name {
			continue
		}
		if known.Value != c.Value {
			return fmt.Errorf("value of %v PriorityClass must be %v", known.Name, known.Value)
		}
		if known.GlobalDefault != c.GlobalDefault {
			return fmt.Errorf("globalDefault of %v PriorityClass must be %v", known.Name, known.GlobalDefault)
		}
		return nil
	}
	return fmt.Errorf("%v is not a known system priority class", c.Name)
}
