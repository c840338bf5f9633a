// Package service holds the facts about services that the API server and its
// clients share: which need a cluster IP or node ports, their IP families, the
// endpoints that belong to them. It is pure.
package service

import (
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"skiff.dev/skiff/internal/meta"
)

// SlicesByService finds EndpointSlices by the service they belong to, as
// "namespace/name".
var SlicesByService = meta.Index{Name: "service", Keys: func(o meta.Object) []string {
	name := o.GetLabels()[discoveryv1.LabelServiceName]
	if name == "" {
		return nil
	}
	return []string{o.GetNamespace() + "/" + name}
}}

// IsHeadless reports whether the service has endpoints but no address of its own.
func IsHeadless(s *corev1.Service) bool {
	return s.Spec.Type != corev1.ServiceTypeExternalName && s.Spec.ClusterIP == corev1.ClusterIPNone
}

// WantsClusterIP reports whether services of that type have a cluster IP (or
// are headless).
func WantsClusterIP(t corev1.ServiceType) bool {
	return t == corev1.ServiceTypeClusterIP || t == corev1.ServiceTypeNodePort || t == corev1.ServiceTypeLoadBalancer
}

// HasClusterIP reports whether the service has an address of its own.
func HasClusterIP(s *corev1.Service) bool {
	return WantsClusterIP(s.Spec.Type) && s.Spec.ClusterIP != "" && s.Spec.ClusterIP != corev1.ClusterIPNone
}

// ClusterIPs returns the addresses of the service, none where it is headless.
func ClusterIPs(s *corev1.Service) []string {
	if !HasClusterIP(s) {
		return nil
	}
	if len(s.Spec.ClusterIPs) == 0 {
		return []string{s.Spec.ClusterIP}
	}
	return s.Spec.ClusterIPs
}

// WantsNodePorts reports whether the ports of the service are open on nodes.
func WantsNodePorts(s *corev1.Service) bool {
	return s.Spec.Type == corev1.ServiceTypeNodePort ||
		s.Spec.Type == corev1.ServiceTypeLoadBalancer &&
			(s.Spec.AllocateLoadBalancerNodePorts == nil || *s.Spec.AllocateLoadBalancerNodePorts)
}

// ExternallyAccessible reports whether traffic from outside can reach it.
func ExternallyAccessible(s *corev1.Service) bool {
	return s.Spec.Type == corev1.ServiceTypeLoadBalancer || s.Spec.Type == corev1.ServiceTypeNodePort ||
		s.Spec.Type == corev1.ServiceTypeClusterIP && len(s.Spec.ExternalIPs) > 0
}

// NeedsHealthCheck reports whether load balancers ask nodes for its local endpoints.
func NeedsHealthCheck(s *corev1.Service) bool {
	return s.Spec.Type == corev1.ServiceTypeLoadBalancer &&
		s.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal
}

// Family returns the IP family of an address; ok is false where it is none.
func Family(ip string) (f corev1.IPFamily, ok bool) {
	a, err := netip.ParseAddr(ip)
	switch {
	case err != nil:
		return "", false
	case a.Is4():
		return corev1.IPv4Protocol, true
	default:
		return corev1.IPv6Protocol, true
	}
}

// IsReady reports whether an endpoint takes traffic; not given means yes.
func IsReady(c *discoveryv1.EndpointConditions) bool { return c.Ready == nil || *c.Ready }

// IsServing reports whether an endpoint can take traffic, be it terminating or
// not (KEP-1672); where the condition is not given it is that of Ready.
func IsServing(c *discoveryv1.EndpointConditions) bool {
	if c.Serving == nil {
		return IsReady(c)
	}
	return *c.Serving
}

// IsTerminating reports whether an endpoint is going.
func IsTerminating(c *discoveryv1.EndpointConditions) bool {
	return c.Terminating != nil && *c.Terminating
}
