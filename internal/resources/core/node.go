package core

import (
	"net/netip"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"skiff.dev/skiff/internal/check"
	"skiff.dev/skiff/internal/node"
	"skiff.dev/skiff/internal/pod"
	"skiff.dev/skiff/internal/resource"
)

// Node is v1 Node. Its key in etcd is that of the minions it once was.
// https://kubernetes.io/docs/reference/kubernetes-api/cluster-resources/node-v1/
var Node = &resource.Definition[*corev1.Node]{
	Name:     resource.Name{Version: "v1", Kind: "Node", Plural: "nodes", Short: []string{"no"}},
	Scope:    resource.Cluster,
	StoreKey: "minions",
	Default:  defaultNode,
	Validate: func(r *check.Report, n, old *corev1.Node) {
		validateNode(r, n)
		if old != nil {
			validateNodeUpdate(r, n, old)
		}
	},
	Status: &resource.View[*corev1.Node]{
		// A kubelet registers its node with the status it already knows.
		Keep: func(n, old *corev1.Node) {
			if stored(old) {
				n.Status = *old.Status.DeepCopy()
			}
		},
		Reset:    func(n, old *corev1.Node) { n.Spec = *old.Spec.DeepCopy() },
		Validate: func(r *check.Report, n, old *corev1.Node) { validateNode(r, n); validateNodeUpdate(r, n, old) },
	},
	Connects: []*resource.Connect{proxyConnect("NodeProxyOptions", func() *corev1.NodeProxyOptions { return &corev1.NodeProxyOptions{} })},
	Columns:  nodeColumns,
	Fields: func(n *corev1.Node) fields.Set {
		unschedulable := "false"
		if n.Spec.Unschedulable {
			unschedulable = "true"
		}
		return fields.Set{"spec.unschedulable": unschedulable}
	},
}

var nodeColumns = []resource.Column[*corev1.Node]{
	{Name: "Status", Description: "The status of the node", Value: func(n *corev1.Node) any {
		status := "Unknown"
		if c := node.Condition(&n.Status, corev1.NodeReady); c != nil {
			status = "NotReady"
			if c.Status == corev1.ConditionTrue {
				status = "Ready"
			}
		}
		if n.Spec.Unschedulable {
			status += ",SchedulingDisabled"
		}
		return status
	}},
	{Name: "Roles", Description: "The roles of the node", Value: func(n *corev1.Node) any { return orNone(node.Roles(n)...) }},
	resource.Age[*corev1.Node](),
	{Name: "Version", Description: corev1.NodeSystemInfo{}.SwaggerDoc()["kubeletVersion"],
		Value: func(n *corev1.Node) any { return n.Status.NodeInfo.KubeletVersion }},
	{Name: "Internal-IP", Wide: true, Description: corev1.NodeStatus{}.SwaggerDoc()["addresses"],
		Value: func(n *corev1.Node) any { return orNone(node.Address(n, corev1.NodeInternalIP)) }},
	{Name: "External-IP", Wide: true, Description: corev1.NodeStatus{}.SwaggerDoc()["addresses"],
		Value: func(n *corev1.Node) any { return orNone(node.Address(n, corev1.NodeExternalIP)) }},
	{Name: "OS-Image", Wide: true, Description: corev1.NodeSystemInfo{}.SwaggerDoc()["osImage"],
		Value: func(n *corev1.Node) any { return orUnknown(n.Status.NodeInfo.OSImage) }},
	{Name: "Kernel-Version", Wide: true, Description: corev1.NodeSystemInfo{}.SwaggerDoc()["kernelVersion"],
		Value: func(n *corev1.Node) any { return orUnknown(n.Status.NodeInfo.KernelVersion) }},
	{Name: "Container-Runtime", Wide: true, Description: corev1.NodeSystemInfo{}.SwaggerDoc()["containerRuntimeVersion"],
		Value: func(n *corev1.Node) any { return orUnknown(n.Status.NodeInfo.ContainerRuntimeVersion) }},
}

func orUnknown(s string) string {
	if s == "" {
		return "<unknown>"
	}
	return s
}

func defaultNode(n *corev1.Node) {
	if n.Status.Allocatable == nil && n.Status.Capacity != nil {
		n.Status.Allocatable = n.Status.Capacity.DeepCopy()
	}
	if n.Spec.PodCIDR != "" && len(n.Spec.PodCIDRs) == 0 {
		n.Spec.PodCIDRs = []string{n.Spec.PodCIDR}
	}
	if n.Spec.PodCIDR == "" && len(n.Spec.PodCIDRs) > 0 {
		n.Spec.PodCIDR = n.Spec.PodCIDRs[0]
	}
}

func validateNode(r *check.Report, n *corev1.Node) {
	spec, status := r.At("spec"), r.At("status")
	validateTaints(spec.At("taints"), n.Spec.Taints)
	validatePodCIDRs(spec, &n.Spec)
	for _, list := range []struct {
		field     string
		resources corev1.ResourceList
	}{{"capacity", n.Status.Capacity}, {"allocatable", n.Status.Allocatable}} {
		for name, q := range list.resources {
			at := status.At(list.field).Key(string(name))
			pod.ValidateResourceName(at, name)
			pod.ValidateQuantity(at, name, q)
		}
	}
	seen := map[corev1.NodeAddress]bool{}
	for i, a := range n.Status.Addresses {
		if seen[a] {
			status.At("addresses").Index(i).Duplicate(a)
		}
		seen[a] = true
	}
	if n.Spec.ConfigSource != nil {
		spec.At("configSource").Forbidden("configSource may not be set")
	}
	if n.Spec.PodPreemptionPolicy != nil {
		spec.At("podPreemptionPolicy").Forbidden("")
	}
}

func validatePodCIDRs(r *check.Report, s *corev1.NodeSpec) {
	at := r.At("podCIDRs")
	if s.PodCIDR != "" && len(s.PodCIDRs) > 0 && s.PodCIDR != s.PodCIDRs[0] {
		at.Index(0).Invalid(s.PodCIDRs[0], "must be equal to podCIDR ("+s.PodCIDR+")")
	}
	families := map[bool]bool{}
	for i, c := range s.PodCIDRs {
		at.Index(i).CIDR(c)
		if prefix, err := netip.ParsePrefix(c); err == nil {
			families[prefix.Addr().Is4()] = true
		}
	}
	if n := len(s.PodCIDRs); n > 2 || n == 2 && len(families) != 2 {
		at.Invalid(s.PodCIDRs, "may specify no more than one CIDR for each IP family")
	}
}

func validateTaints(r *check.Report, taints []corev1.Taint) {
	type pair struct {
		key    string
		effect corev1.TaintEffect
	}
	seen := map[pair]bool{}
	for i := range taints {
		t, at := &taints[i], r.Index(i)
		at.At("key").LabelName(t.Key)
		if faults := validation.IsValidLabelValue(t.Value); len(faults) > 0 {
			at.At("value").Invalid(t.Value, strings.Join(faults, ";"))
		}
		if at.At("effect").RequiredString(string(t.Effect)) {
			pod.ValidateEffect(at.At("effect"), t.Effect)
		}
		key := pair{t.Key, t.Effect}
		if seen[key] {
			fault := field.Duplicate(at.Path(), t)
			fault.Detail = "taints must be unique by key and effect pair"
			at.Add(fault)
		}
		seen[key] = true
	}
}

func validateNodeUpdate(r *check.Report, n, old *corev1.Node) {
	spec := r.At("spec")
	if len(old.Spec.PodCIDRs) > 0 {
		same := len(n.Spec.PodCIDRs) == len(old.Spec.PodCIDRs)
		for i := 0; same && i < len(n.Spec.PodCIDRs); i++ {
			same = n.Spec.PodCIDRs[i] == old.Spec.PodCIDRs[i]
		}
		if !same {
			spec.At("podCIDRs").Forbidden(`node updates may not change podCIDR except from "" to valid`)
		}
	}
	if old.Spec.ProviderID != "" && old.Spec.ProviderID != n.Spec.ProviderID {
		spec.At("providerID").Forbidden(`node updates may not change providerID except from "" to valid`)
	}
	if old.Spec.DoNotUseExternalID != n.Spec.DoNotUseExternalID {
		r.At("").Forbidden("node updates may only change labels, taints, or capacity (or configSource, if the DynamicKubeletConfig feature gate is enabled)")
	}
}
