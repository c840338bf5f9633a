// Package node holds the facts and rules about nodes that the API server and
// its clients share: taints and tolerations, conditions, addresses, roles. It
// is pure.
package node

import (
	"net"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// addressOrder is which of a node's addresses are tried to reach its kubelet.
var addressOrder = []corev1.NodeAddressType{
	corev1.NodeInternalIP, corev1.NodeHostName, corev1.NodeInternalDNS, corev1.NodeExternalDNS, corev1.NodeExternalIP,
}

// Kubelet returns host and port of the node's kubelet; ok is false until the
// node has told them.
func Kubelet(n *corev1.Node) (hostport string, ok bool) {
	port := int(n.Status.DaemonEndpoints.KubeletEndpoint.Port)
	for _, want := range addressOrder {
		for _, a := range n.Status.Addresses {
			if a.Type == want && port > 0 {
				return net.JoinHostPort(a.Address, strconv.Itoa(port)), true
			}
		}
	}
	return "", false
}

// Tolerates reports whether t matches taint: same effect (or any), same key (or
// any), and same value unless the operator is Exists.
func Tolerates(t *corev1.Toleration, taint *corev1.Taint) bool {
	if t.Effect != "" && t.Effect != taint.Effect {
		return false
	}
	if t.Key != "" && t.Key != taint.Key {
		return false
	}
	switch t.Operator {
	case "", corev1.TolerationOpEqual:
		return t.Value == taint.Value
	case corev1.TolerationOpExists:
		return true
	}
	return false
}

// Untolerated returns the first taint with one of the effects (any, if none are
// given) that no toleration matches, or nil.
func Untolerated(taints []corev1.Taint, tolerations []corev1.Toleration, effects ...corev1.TaintEffect) *corev1.Taint {
	for i := range taints {
		t := &taints[i]
		if len(effects) > 0 && !slices.Contains(effects, t.Effect) {
			continue
		}
		if !slices.ContainsFunc(tolerations, func(tol corev1.Toleration) bool { return Tolerates(&tol, t) }) {
			return t
		}
	}
	return nil
}

// HasTaint reports whether n carries a taint with that key and effect.
func HasTaint(n *corev1.Node, key string, effect corev1.TaintEffect) bool {
	return slices.ContainsFunc(n.Spec.Taints, func(t corev1.Taint) bool { return t.Key == key && t.Effect == effect })
}

// WithTaint returns taints with t added, or in the place of the one that has
// its key and effect; changed is false where nothing but the time would change.
func WithTaint(taints []corev1.Taint, t corev1.Taint) (with []corev1.Taint, changed bool) {
	for i := range taints {
		if taints[i].Key != t.Key || taints[i].Effect != t.Effect {
			continue
		}
		if taints[i].Value == t.Value {
			return taints, false
		}
		with = slices.Clone(taints)
		with[i] = t
		return with, true
	}
	return append(slices.Clone(taints), t), true
}

// WithoutTaint returns taints without that of key and effect.
func WithoutTaint(taints []corev1.Taint, key string, effect corev1.TaintEffect) (without []corev1.Taint, changed bool) {
	without = slices.DeleteFunc(slices.Clone(taints), func(t corev1.Taint) bool { return t.Key == key && t.Effect == effect })
	return without, len(without) != len(taints)
}

// Condition returns the condition of type t, or nil.
func Condition(s *corev1.NodeStatus, t corev1.NodeConditionType) *corev1.NodeCondition {
	for i := range s.Conditions {
		if s.Conditions[i].Type == t {
			return &s.Conditions[i]
		}
	}
	return nil
}

// SetCondition adds c or replaces the condition of its type. The transition
// time is kept while the status is.
func SetCondition(s *corev1.NodeStatus, c corev1.NodeCondition) {
	was := Condition(s, c.Type)
	if was == nil {
		s.Conditions = append(s.Conditions, c)
		return
	}
	if was.Status == c.Status {
		c.LastTransitionTime = was.LastTransitionTime
	}
	*was = c
}

// IsReady reports whether the node's Ready condition is true.
func IsReady(n *corev1.Node) bool {
	c := Condition(&n.Status, corev1.NodeReady)
	return c != nil && c.Status == corev1.ConditionTrue
}

// Address returns the first address of type t, or "".
func Address(n *corev1.Node, t corev1.NodeAddressType) string {
	for _, a := range n.Status.Addresses {
		if a.Type == t {
			return a.Address
		}
	}
	return ""
}

// Addresses returns all addresses of type t, at most one of each IP family as
// the kubelet reports them.
func Addresses(n *corev1.Node, t corev1.NodeAddressType) []string {
	var all []string
	for _, a := range n.Status.Addresses {
		if a.Type == t {
			all = append(all, a.Address)
		}
	}
	return all
}

const rolePrefix = "node-role.kubernetes.io/"

// Roles returns the roles that the node's labels give it, sorted.
func Roles(n metav1.Object) []string {
	var roles []string
	for k, v := range n.GetLabels() {
		if role, ok := strings.CutPrefix(k, rolePrefix); ok && role != "" {
			roles = append(roles, role)
		} else if k == "kubernetes.io/role" && v != "" {
			roles = append(roles, v)
		}
	}
	slices.Sort(roles)
	return slices.Compact(roles)
}

// Zone returns the node's topology zone, "" where it has none.
func Zone(n metav1.Object) string { return n.GetLabels()[corev1.LabelTopologyZone] }
