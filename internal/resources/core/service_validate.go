package core

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"

	"skiff.dev/skiff/internal/check"
	"skiff.dev/skiff/internal/service"
)

// kubeletPort may not be opened to the outside by a load balancer.
const kubeletPort = 10250

const (
	onlyLoadBalancer = "may only be used when `type` is 'LoadBalancer'"
	notExternalName  = "may not be set for ExternalName services"
	onceSet          = "may not change once set"
	maxAffinity      = 86400 // seconds: a day
)

type serviceValidator struct {
	families []corev1.IPFamily // of the cluster
}

func (v serviceValidator) validate(r *check.Report, s, old *corev1.Service) {
	spec := r.At("spec")
	validateType(spec, s)
	validateServicePorts(spec.At("ports"), s)
	spec.At("selector").Labels(s.Spec.Selector)
	validateAffinity(spec, &s.Spec)
	for i, ip := range s.Spec.ExternalIPs {
		spec.At("externalIPs").Index(i).EndpointIP(ip)
	}
	validateLoadBalancer(spec, &s.Spec)
	validatePolicies(spec, s)
	validateClusterIPs(spec, &s.Spec)
	v.validateFamilies(spec, &s.Spec, old)
	if old != nil {
		validateServiceUpdate(spec, &s.Spec, &old.Spec)
	}
	if s.Spec.LoadBalancerIP != "" {
		if _, err := netip.ParseAddr(s.Spec.LoadBalancerIP); err != nil {
			r.Warn("spec.loadBalancerIP: should be a valid IP address")
		}
	}
	if len(s.Spec.ExternalIPs) > 0 && s.Spec.Type == corev1.ServiceTypeExternalName {
		r.Warn(`spec.externalIPs is ignored when spec.type is "ExternalName"`)
	}
}

func validateType(r *check.Report, s *corev1.Service) {
	check.RequiredOneOf(r.At("type"), s.Spec.Type, corev1.ServiceTypeClusterIP, corev1.ServiceTypeNodePort,
		corev1.ServiceTypeLoadBalancer, corev1.ServiceTypeExternalName)
	headless := service.IsHeadless(s)
	switch s.Spec.Type {
	case corev1.ServiceTypeLoadBalancer:
		for i, p := range s.Spec.Ports {
			if p.Port == kubeletPort {
				r.At("ports").Index(i).Invalid(p.Port, fmt.Sprintf("may not expose port %v externally since it is used by kubelet", kubeletPort))
			}
		}
		if headless {
			r.At("clusterIPs").Index(0).Invalid(s.Spec.ClusterIP, "may not be set to 'None' for LoadBalancer services")
		}
	case corev1.ServiceTypeNodePort:
		if headless {
			r.At("clusterIPs").Index(0).Invalid(s.Spec.ClusterIP, "may not be set to 'None' for NodePort services")
		}
	case corev1.ServiceTypeExternalName:
		if name := strings.TrimSuffix(s.Spec.ExternalName, "."); name != "" {
			r.At("externalName").Each(name, validation.IsDNS1123Subdomain(name))
		} else {
			r.At("externalName").Required("")
		}
	}
	if len(s.Spec.Ports) == 0 && !headless && s.Spec.Type != corev1.ServiceTypeExternalName {
		r.At("ports").Required("")
	}
}

func validateServicePorts(r *check.Report, s *corev1.Service) {
	names := map[string]bool{}
	nodePorts := map[corev1.ServicePort]bool{}
	ports := map[corev1.ServicePort]bool{}
	for i := range s.Spec.Ports {
		p, at := &s.Spec.Ports[i], r.Index(i)
		if p.Name != "" {
			at.At("name").Each(p.Name, validation.IsDNS1123Label(p.Name))
			if names[p.Name] {
				at.At("name").Duplicate(p.Name)
			}
			names[p.Name] = true
		} else if len(s.Spec.Ports) > 1 {
			at.At("name").Required("")
		}
		at.At("port").Each(p.Port, validation.IsValidPortNum(int(p.Port)))
		check.RequiredOneOf(at.At("protocol"), p.Protocol, corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP)
		if p.TargetPort.Type == intstr.String {
			at.At("targetPort").Each(p.TargetPort.StrVal, validation.IsValidPortName(p.TargetPort.StrVal))
		} else {
			at.At("targetPort").Each(p.TargetPort.IntVal, validation.IsValidPortNum(int(p.TargetPort.IntVal)))
		}
		if p.AppProtocol != nil {
			at.At("appProtocol").Each(*p.AppProtocol, validation.IsQualifiedName(*p.AppProtocol))
		}
		if p.NodePort != 0 {
			if !wantsPorts(s) {
				at.At("nodePort").Forbidden(fmt.Sprintf("may not be used when `type` is '%s'", s.Spec.Type))
			}
			key := corev1.ServicePort{Protocol: p.Protocol, NodePort: p.NodePort}
			if nodePorts[key] || p.NodePort == s.Spec.HealthCheckNodePort && p.Protocol == corev1.ProtocolTCP {
				at.At("nodePort").Duplicate(p.NodePort)
			}
			nodePorts[key] = true
		}
		key := corev1.ServicePort{Protocol: p.Protocol, Port: p.Port}
		if ports[key] {
			at.Duplicate(key)
		}
		ports[key] = true
	}
}

func validateAffinity(r *check.Report, s *corev1.ServiceSpec) {
	check.RequiredOneOf(r.At("sessionAffinity"), s.SessionAffinity, corev1.ServiceAffinityClientIP, corev1.ServiceAffinityNone)
	at := r.At("sessionAffinityConfig")
	switch s.SessionAffinity {
	case corev1.ServiceAffinityClientIP:
		switch c := s.SessionAffinityConfig; {
		case c == nil:
			at.Required(fmt.Sprintf("when session affinity type is %s", s.SessionAffinity))
		case c.ClientIP == nil:
			at.At("clientIP").Required(fmt.Sprintf("when session affinity type is %s", s.SessionAffinity))
		case c.ClientIP.TimeoutSeconds == nil:
			at.At("clientIP").Required(fmt.Sprintf("when session affinity type is %s", s.SessionAffinity))
		case *c.ClientIP.TimeoutSeconds <= 0 || *c.ClientIP.TimeoutSeconds > maxAffinity:
			at.At("clientIP", "timeoutSeconds").Invalid(*c.ClientIP.TimeoutSeconds, fmt.Sprintf("must be greater than 0 and less than %d", maxAffinity))
		}
	case corev1.ServiceAffinityNone:
		if s.SessionAffinityConfig != nil {
			at.Forbidden(fmt.Sprintf("must not be set when session affinity is %s", corev1.ServiceAffinityNone))
		}
	}
}

func validateLoadBalancer(r *check.Report, s *corev1.ServiceSpec) {
	balanced := s.Type == corev1.ServiceTypeLoadBalancer
	if ranges := r.At("loadBalancerSourceRanges"); len(s.LoadBalancerSourceRanges) > 0 {
		if !balanced {
			ranges.Forbidden(onlyLoadBalancer)
		}
		for i, c := range s.LoadBalancerSourceRanges {
			ranges.Index(i).CIDR(strings.TrimSpace(c))
		}
	}
	if at := r.At("allocateLoadBalancerNodePorts"); balanced && s.AllocateLoadBalancerNodePorts == nil {
		at.Required("")
	} else if !balanced && s.AllocateLoadBalancerNodePorts != nil {
		at.Forbidden(onlyLoadBalancer)
	}
	if s.LoadBalancerClass != nil {
		if !balanced {
			r.At("loadBalancerClass").Forbidden(onlyLoadBalancer)
		}
		r.At("loadBalancerClass").Each(*s.LoadBalancerClass, validation.IsQualifiedName(*s.LoadBalancerClass))
	}
}

func validatePolicies(r *check.Report, s *corev1.Service) {
	external := r.At("externalTrafficPolicy")
	switch p := s.Spec.ExternalTrafficPolicy; {
	case service.ExternallyAccessible(s):
		check.RequiredOneOf(external, p, corev1.ServiceExternalTrafficPolicyCluster, corev1.ServiceExternalTrafficPolicyLocal)
	case p != "":
		external.Invalid(p, "may only be set for externally-accessible services")
	}
	health := r.At("healthCheckNodePort")
	switch n := s.Spec.HealthCheckNodePort; {
	case service.NeedsHealthCheck(s):
		health.Each(n, validation.IsValidPortNum(int(n)))
	case n != 0:
		health.Invalid(n, "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'")
	}
	internal := r.At("internalTrafficPolicy")
	switch p := s.Spec.InternalTrafficPolicy; {
	case p != nil:
		check.OneOf(internal, *p, corev1.ServiceInternalTrafficPolicyCluster, corev1.ServiceInternalTrafficPolicyLocal)
	case service.WantsClusterIP(s.Spec.Type):
		internal.Required("")
	}
	if d := s.Spec.TrafficDistribution; d != nil {
		check.OneOf(r.At("trafficDistribution"), *d, corev1.ServiceTrafficDistributionPreferClose,
			corev1.ServiceTrafficDistributionPreferSameZone, corev1.ServiceTrafficDistributionPreferSameNode)
	}
}

func validateClusterIPs(r *check.Report, s *corev1.ServiceSpec) {
	at := r.At("clusterIPs")
	if s.Type == corev1.ServiceTypeExternalName {
		if len(s.ClusterIPs) > 0 || s.ClusterIP != "" {
			at.Forbidden(notExternalName)
		}
		return
	}
	if len(s.ClusterIPs) == 0 {
		if s.ClusterIP != "" {
			at.Required("")
		}
		return
	}
	if len(s.ClusterIPs) > 2 {
		at.Invalid(s.ClusterIPs, "may only hold up to 2 values")
	}
	if s.ClusterIPs[0] != s.ClusterIP {
		at.Invalid(s.ClusterIPs, "first value must match `clusterIP`")
	}
	if slices.Contains(s.ClusterIPs, corev1.ClusterIPNone) {
		if len(s.ClusterIPs) > 1 {
			at.Invalid(s.ClusterIPs, "'None' must be the first and only value")
		}
		return
	}
	seen := map[corev1.IPFamily]bool{}
	for i, ip := range s.ClusterIPs {
		if ip == "" {
			at.Index(i).Invalid(ip, "must be empty or a valid IP address")
			continue
		}
		at.Index(i).IP(ip)
		f, ok := service.Family(ip)
		if !ok {
			continue
		}
		if i < len(s.IPFamilies) && s.IPFamilies[i] != f {
			at.Index(i).Invalid(ip, fmt.Sprintf("expected an %v value as indicated by `ipFamilies[%v]`", s.IPFamilies[i], i))
		}
		if seen[f] {
			at.Invalid(s.ClusterIPs, "may specify no more than one IP for each IP family")
		}
		seen[f] = true
	}
}

func (v serviceValidator) validateFamilies(r *check.Report, s *corev1.ServiceSpec, old *corev1.Service) {
	families, policy := r.At("ipFamilies"), r.At("ipFamilyPolicy")
	if s.Type == corev1.ServiceTypeExternalName {
		if len(s.IPFamilies) > 0 {
			families.Forbidden(notExternalName)
		}
		if s.IPFamilyPolicy != nil {
			policy.Forbidden(notExternalName)
		}
		return
	}
	if p := s.IPFamilyPolicy; p != nil {
		check.OneOf(policy, *p, corev1.IPFamilyPolicySingleStack, corev1.IPFamilyPolicyPreferDualStack, corev1.IPFamilyPolicyRequireDualStack)
		if *p == corev1.IPFamilyPolicySingleStack {
			if len(s.ClusterIPs) == 2 {
				policy.Invalid(*p, "must be RequireDualStack or PreferDualStack when multiple clusterIPs are specified")
			}
			if len(s.IPFamilies) == 2 {
				policy.Invalid(*p, "must be RequireDualStack or PreferDualStack when multiple ipFamilies are specified")
			}
		}
	}
	if len(s.IPFamilies) > 2 {
		families.Invalid(s.IPFamilies, "may only hold up to 2 values")
	}
	if old != nil && slices.Equal(s.IPFamilies, old.Spec.IPFamilies) && equalPtr(s.IPFamilyPolicy, old.Spec.IPFamilyPolicy) {
		return // accepted before; the cluster's own families may have changed since
	}
	anyFamily := s.ClusterIP == corev1.ClusterIPNone && len(s.Selector) == 0
	if !anyFamily && s.IPFamilyPolicy != nil && *s.IPFamilyPolicy == corev1.IPFamilyPolicyRequireDualStack && len(v.families) < 2 {
		policy.Invalid(*s.IPFamilyPolicy, "this cluster is not configured for dual-stack services")
	}
	for i, f := range s.IPFamilies {
		check.OneOf(families.Index(i), f, corev1.IPv4Protocol, corev1.IPv6Protocol)
		if slices.Contains(s.IPFamilies[:i], f) {
			families.Index(i).Duplicate(f)
		} else if !anyFamily && !slices.Contains(v.families, f) {
			families.Index(i).Invalid(f, "not configured on this cluster")
		}
	}
}

// validateServiceUpdate: a service keeps its first address and family as long
// as it has any, and its load balancer class.
func validateServiceUpdate(r *check.Report, s, old *corev1.ServiceSpec) {
	if service.WantsClusterIP(s.Type) && service.WantsClusterIP(old.Type) {
		ips, families := r.At("clusterIPs"), r.At("ipFamilies")
		if len(old.ClusterIPs) > 0 {
			switch {
			case len(s.ClusterIPs) == 0:
				ips.Index(0).Invalid(s.ClusterIPs, "primary clusterIP can not be unset")
			case s.ClusterIPs[0] != old.ClusterIPs[0]:
				ips.Index(0).Invalid(s.ClusterIPs, onceSet)
			}
		}
		if len(old.ClusterIPs) == 2 {
			single := s.IPFamilyPolicy != nil && *s.IPFamilyPolicy == corev1.IPFamilyPolicySingleStack
			switch {
			case len(s.ClusterIPs) == 1 && !single:
				ips.Index(1).Invalid(s.ClusterIPs, "secondary clusterIP can not be unset when ipFamilyPolicy is set to PreferDualStack or RequireDualStack")
			case len(s.ClusterIPs) == 2 && s.ClusterIPs[1] != old.ClusterIPs[1]:
				ips.Index(1).Invalid(s.ClusterIPs, onceSet)
			}
		}
		if len(old.IPFamilies) > 0 && old.ClusterIP != corev1.ClusterIPNone {
			switch {
			case len(s.IPFamilies) == 0:
				families.Index(0).Invalid(s.IPFamilies, "primary ipFamily can not be unset")
			case s.IPFamilies[0] != old.IPFamilies[0]:
				families.Index(0).Invalid(s.IPFamilies, "primary ipFamily may not change once set")
			}
		}
	}
	if s.Type == corev1.ServiceTypeLoadBalancer && old.Type == corev1.ServiceTypeLoadBalancer && !equalPtr(s.LoadBalancerClass, old.LoadBalancerClass) {
		r.At("loadBalancerClass").Invalid(s.LoadBalancerClass, onceSet)
	}
}

func validateServiceStatus(r *check.Report, s, _ *corev1.Service) {
	at := r.At("status", "loadBalancer", "ingress")
	if len(s.Status.LoadBalancer.Ingress) > 0 && s.Spec.Type != corev1.ServiceTypeLoadBalancer {
		at.Forbidden("may only be used when `spec.type` is \"LoadBalancer\"")
		return
	}
	for i, in := range s.Status.LoadBalancer.Ingress {
		at := at.Index(i)
		if in.IP != "" {
			at.At("ip").IP(in.IP)
		}
		switch {
		case in.IP == "" && in.IPMode != nil:
			at.At("ipMode").Forbidden("may not be specified when `ip` is not set")
		case in.IP != "" && in.IPMode == nil:
			at.At("ipMode").Required("must be specified when `ip` is set")
		case in.IPMode != nil:
			check.OneOf(at.At("ipMode"), *in.IPMode, corev1.LoadBalancerIPModeVIP, corev1.LoadBalancerIPModeProxy)
		}
		if in.Hostname != "" {
			at.At("hostname").Each(in.Hostname, validation.IsDNS1123Subdomain(in.Hostname))
			if _, ok := service.Family(in.Hostname); ok {
				at.At("hostname").Invalid(in.Hostname, "must be a DNS name, not an IP address")
			}
		}
	}
}
