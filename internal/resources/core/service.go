package core

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/util/intstr"

	"skiff.dev/skiff/internal/check"
	"skiff.dev/skiff/internal/resource"
	"skiff.dev/skiff/internal/service"
)

// ServiceConfig is what of the cluster's configuration services depend on.
type ServiceConfig struct {
	// CIDRs are where cluster IPs come from: one range, or one of each family
	// with the cluster's primary family first.
	CIDRs []netip.Prefix
	// FirstNodePort and LastNodePort bound the ports that are opened on nodes.
	FirstNodePort, LastNodePort int32
}

func (c ServiceConfig) families() []corev1.IPFamily {
	families := make([]corev1.IPFamily, len(c.CIDRs))
	for i, p := range c.CIDRs {
		families[i] = corev1.IPv6Protocol
		if p.Addr().Is4() {
			families[i] = corev1.IPv4Protocol
		}
	}
	return families
}

// Services returns v1 Service.
// https://kubernetes.io/docs/concepts/services-networking/service/
func Services(cfg ServiceConfig) *resource.Definition[*corev1.Service] {
	v := serviceValidator{families: cfg.families()}
	alloc := serviceAllocator{cfg: cfg}
	return &resource.Definition[*corev1.Service]{
		Name:     resource.Name{Version: "v1", Kind: "Service", Plural: "services", Short: []string{"svc"}, Categories: []string{"all"}},
		NameRule: check.DNSLabel, // KEP-5311: may begin with a digit
		Upsert:   true,
		Default:  defaultService,
		Prepare: func(_ context.Context, s, old *corev1.Service) {
			if old != nil {
				keepAllocated(s, old)
				dropForType(s, old)
			}
			normalizeClusterIPs(s, old)
			setFamilies(s, old, cfg.families())
		},
		Allocate: alloc.allocate,
		Claims:   alloc.claims,
		Validate: v.validate,
		Status: &resource.View[*corev1.Service]{
			Keep:     func(s, old *corev1.Service) { s.Status = *old.Status.DeepCopy() },
			Reset:    func(s, old *corev1.Service) { s.Spec = *old.Spec.DeepCopy() },
			Validate: validateServiceStatus,
		},
		Connects: []*resource.Connect{proxyConnect("ServiceProxyOptions", func() *corev1.ServiceProxyOptions { return &corev1.ServiceProxyOptions{} })},
		Columns:  serviceColumns,
		Fields: func(s *corev1.Service) fields.Set {
			return fields.Set{"spec.clusterIP": s.Spec.ClusterIP, "spec.type": string(s.Spec.Type)}
		},
	}
}

func defaultService(s *corev1.Service) {
	spec := &s.Spec
	if spec.SessionAffinity == "" {
		spec.SessionAffinity = corev1.ServiceAffinityNone
	}
	switch spec.SessionAffinity {
	case corev1.ServiceAffinityNone:
		spec.SessionAffinityConfig = nil
	case corev1.ServiceAffinityClientIP:
		if spec.SessionAffinityConfig == nil || spec.SessionAffinityConfig.ClientIP == nil || spec.SessionAffinityConfig.ClientIP.TimeoutSeconds == nil {
			seconds := corev1.DefaultClientIPServiceAffinitySeconds
			spec.SessionAffinityConfig = &corev1.SessionAffinityConfig{ClientIP: &corev1.ClientIPConfig{TimeoutSeconds: &seconds}}
		}
	}
	if spec.Type == "" {
		spec.Type = corev1.ServiceTypeClusterIP
	}
	for i := range spec.Ports {
		p := &spec.Ports[i]
		if p.Protocol == "" {
			p.Protocol = corev1.ProtocolTCP
		}
		if p.TargetPort == (intstr.IntOrString{}) || p.TargetPort == intstr.FromString("") {
			p.TargetPort = intstr.FromInt32(p.Port)
		}
	}
	if spec.ExternalTrafficPolicy == "" && service.ExternallyAccessible(s) {
		spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyCluster
	}
	if service.WantsClusterIP(spec.Type) {
		setDefault(&spec.InternalTrafficPolicy, corev1.ServiceInternalTrafficPolicyCluster)
	}
	if spec.Type == corev1.ServiceTypeLoadBalancer {
		setDefault(&spec.AllocateLoadBalancerNodePorts, true)
		for i := range s.Status.LoadBalancer.Ingress {
			if in := &s.Status.LoadBalancer.Ingress[i]; in.IP != "" {
				setDefault(&in.IPMode, corev1.LoadBalancerIPModeVIP)
			}
		}
	}
}

// keepAllocated puts back what was allocated and the client left out, so that
// an update with an object from a file does not lose it.
func keepAllocated(s, old *corev1.Service) {
	if service.WantsClusterIP(old.Spec.Type) && service.WantsClusterIP(s.Spec.Type) {
		if s.Spec.ClusterIP == "" {
			s.Spec.ClusterIP = old.Spec.ClusterIP
		}
		if len(s.Spec.ClusterIPs) == 0 && s.Spec.ClusterIP == old.Spec.ClusterIP {
			s.Spec.ClusterIPs = slices.Clone(old.Spec.ClusterIPs)
		}
	}
	if wantsPorts(old) && wantsPorts(s) {
		keepNodePorts(s.Spec.Ports, old.Spec.Ports)
	}
	if service.NeedsHealthCheck(old) && service.NeedsHealthCheck(s) && s.Spec.HealthCheckNodePort == 0 {
		s.Spec.HealthCheckNodePort = old.Spec.HealthCheckNodePort
	}
}

func wantsPorts(s *corev1.Service) bool {
	return s.Spec.Type == corev1.ServiceTypeNodePort || s.Spec.Type == corev1.ServiceTypeLoadBalancer
}

// keepNodePorts gives a port without a node port the one that the same port had,
// unless another port has been given it.
func keepNodePorts(ports, old []corev1.ServicePort) {
	type portKey struct {
		protocol corev1.Protocol
		port     int32
	}
	had, used := map[portKey]int32{}, map[portKey]bool{}
	for _, p := range old {
		had[portKey{p.Protocol, p.Port}] = p.NodePort
	}
	for _, p := range ports {
		used[portKey{p.Protocol, p.NodePort}] = true
	}
	for i := range ports {
		p := &ports[i]
		if n := had[portKey{p.Protocol, p.Port}]; p.NodePort == 0 && n != 0 && !used[portKey{p.Protocol, n}] {
			p.NodePort = n
		}
	}
}

// dropForType clears what the new type of a service does not have, if the
// client has sent it back as it was.
func dropForType(s, old *corev1.Service) {
	spec, was := &s.Spec, &old.Spec
	if service.WantsClusterIP(was.Type) && !service.WantsClusterIP(spec.Type) {
		if spec.ClusterIP == was.ClusterIP && slices.Equal(spec.ClusterIPs, was.ClusterIPs) {
			spec.ClusterIP, spec.ClusterIPs = "", nil
		}
		if slices.Equal(spec.IPFamilies, was.IPFamilies) {
			spec.IPFamilies = nil
		}
		if equalPtr(spec.IPFamilyPolicy, was.IPFamilyPolicy) {
			spec.IPFamilyPolicy = nil
		}
		if equalPtr(spec.InternalTrafficPolicy, was.InternalTrafficPolicy) {
			spec.InternalTrafficPolicy = nil
		}
	}
	if wantsPorts(old) && !wantsPorts(s) && sameNodePorts(spec.Ports, was.Ports) {
		for i := range spec.Ports {
			spec.Ports[i].NodePort = 0
		}
	}
	if service.NeedsHealthCheck(old) && !service.NeedsHealthCheck(s) && spec.HealthCheckNodePort == was.HealthCheckNodePort {
		spec.HealthCheckNodePort = 0
	}
	if was.Type == corev1.ServiceTypeLoadBalancer && spec.Type != corev1.ServiceTypeLoadBalancer {
		if equalPtr(spec.AllocateLoadBalancerNodePorts, was.AllocateLoadBalancerNodePorts) {
			spec.AllocateLoadBalancerNodePorts = nil
		}
		if equalPtr(spec.LoadBalancerClass, was.LoadBalancerClass) {
			spec.LoadBalancerClass = nil
		}
	}
	if service.ExternallyAccessible(old) && !service.ExternallyAccessible(s) && spec.ExternalTrafficPolicy == was.ExternalTrafficPolicy {
		spec.ExternalTrafficPolicy = ""
	}
}

func equalPtr[V comparable](a, b *V) bool {
	return a == b || a != nil && b != nil && *a == *b
}

// sameNodePorts reports whether a asks for no node port that b does not have.
func sameNodePorts(a, b []corev1.ServicePort) bool {
	had := map[int32]bool{0: true}
	for _, p := range b {
		had[p.NodePort] = true
	}
	return !slices.ContainsFunc(a, func(p corev1.ServicePort) bool { return !had[p.NodePort] })
}

// normalizeClusterIPs keeps clusterIP, which older clients set, and clusterIPs
// in step.
func normalizeClusterIPs(s, old *corev1.Service) {
	spec := &s.Spec
	if old == nil {
		if spec.ClusterIP != "" && len(spec.ClusterIPs) == 0 {
			spec.ClusterIPs = []string{spec.ClusterIP}
		}
		return
	}
	same := slices.Equal(spec.ClusterIPs, old.Spec.ClusterIPs)
	switch {
	case spec.ClusterIP == old.Spec.ClusterIP:
	case spec.ClusterIP == "" && same:
		spec.ClusterIPs = nil
	case spec.ClusterIP != "" && (same || len(spec.ClusterIPs) == 0):
		spec.ClusterIPs = []string{spec.ClusterIP}
	}
}

// setFamilies fills in ipFamilyPolicy and ipFamilies from what the client gave,
// what was stored, and the families of the cluster, primary first (KEP-563).
func setFamilies(s, old *corev1.Service, cluster []corev1.IPFamily) {
	spec := &s.Spec
	if !service.WantsClusterIP(spec.Type) || len(cluster) == 0 {
		return
	}
	if old != nil {
		trimForSingleStack(s, old)
	}
	for i := len(spec.IPFamilies); i < len(spec.ClusterIPs); i++ {
		f, ok := service.Family(spec.ClusterIPs[i])
		if !ok {
			break // "None", or malformed and reported by validation
		}
		spec.IPFamilies = append(spec.IPFamilies, f)
	}
	if len(spec.ClusterIPs) == 1 && spec.ClusterIPs[0] == corev1.ClusterIPNone && len(spec.Selector) == 0 {
		// The endpoints, which are not ours, may be of any family.
		setDefault(&spec.IPFamilyPolicy, corev1.IPFamilyPolicyRequireDualStack)
		if len(spec.IPFamilies) == 0 {
			spec.IPFamilies = []corev1.IPFamily{cluster[0]}
		}
		if len(spec.IPFamilies) == 1 && *spec.IPFamilyPolicy != corev1.IPFamilyPolicySingleStack {
			spec.IPFamilies = append(spec.IPFamilies, otherFamily(spec.IPFamilies[0]))
		}
		return
	}
	setDefault(&spec.IPFamilyPolicy, corev1.IPFamilyPolicySingleStack)
	if len(spec.IPFamilies) == 0 {
		spec.IPFamilies = []corev1.IPFamily{cluster[0]}
	}
	if *spec.IPFamilyPolicy != corev1.IPFamilyPolicySingleStack && len(spec.IPFamilies) == 1 && len(cluster) == 2 {
		spec.IPFamilies = append(spec.IPFamilies, otherFamily(spec.IPFamilies[0]))
	}
}

// trimForSingleStack drops the second family and address of a service that the
// client turns back to a single stack.
func trimForSingleStack(s, old *corev1.Service) {
	spec, was := &s.Spec, &old.Spec
	if spec.IPFamilyPolicy == nil {
		spec.IPFamilyPolicy = was.IPFamilyPolicy
	}
	if len(spec.IPFamilies) == 0 {
		spec.IPFamilies = slices.Clone(was.IPFamilies)
	}
	if spec.IPFamilyPolicy == nil || *spec.IPFamilyPolicy != corev1.IPFamilyPolicySingleStack ||
		was.IPFamilyPolicy == nil || *was.IPFamilyPolicy == corev1.IPFamilyPolicySingleStack {
		return
	}
	if len(was.ClusterIPs) == 2 && slices.Equal(spec.ClusterIPs, was.ClusterIPs) {
		spec.ClusterIPs = spec.ClusterIPs[:1:1]
	}
	if len(was.IPFamilies) == 2 && slices.Equal(spec.IPFamilies, was.IPFamilies) {
		spec.IPFamilies = spec.IPFamilies[:1:1]
	}
}

func otherFamily(f corev1.IPFamily) corev1.IPFamily {
	if f == corev1.IPv4Protocol {
		return corev1.IPv6Protocol
	}
	return corev1.IPv4Protocol
}

var serviceColumns = []resource.Column[*corev1.Service]{
	{Name: "Type", Description: corev1.ServiceSpec{}.SwaggerDoc()["type"], Value: func(s *corev1.Service) any { return string(s.Spec.Type) }},
	{Name: "Cluster-IP", Description: corev1.ServiceSpec{}.SwaggerDoc()["clusterIP"], Value: func(s *corev1.Service) any {
		if len(s.Spec.ClusterIPs) > 0 {
			return s.Spec.ClusterIPs[0]
		}
		return orNone(s.Spec.ClusterIP)
	}},
	{Name: "External-IP", Description: corev1.ServiceSpec{}.SwaggerDoc()["externalIPs"], Value: func(s *corev1.Service) any { return externalIP(s) }},
	{Name: "Port(s)", Description: corev1.ServiceSpec{}.SwaggerDoc()["ports"], Value: func(s *corev1.Service) any { return servicePorts(s.Spec.Ports) }},
	resource.Age[*corev1.Service](),
	{Name: "Selector", Wide: true, Description: corev1.ServiceSpec{}.SwaggerDoc()["selector"], Value: func(s *corev1.Service) any {
		return metav1.FormatLabelSelector(&metav1.LabelSelector{MatchLabels: s.Spec.Selector})
	}},
}

func externalIP(s *corev1.Service) string {
	switch s.Spec.Type {
	case corev1.ServiceTypeExternalName:
		return s.Spec.ExternalName
	case corev1.ServiceTypeLoadBalancer:
		var all []string
		for _, in := range s.Status.LoadBalancer.Ingress {
			if in.IP != "" {
				all = append(all, in.IP)
			} else if in.Hostname != "" {
				all = append(all, in.Hostname)
			}
		}
		if all = append(all, s.Spec.ExternalIPs...); len(all) > 0 {
			return strings.Join(all, ",")
		}
		return "<pending>"
	}
	return orNone(s.Spec.ExternalIPs...)
}

func servicePorts(ports []corev1.ServicePort) string {
	texts := make([]string, len(ports))
	for i, p := range ports {
		texts[i] = fmt.Sprintf("%d/%s", p.Port, p.Protocol)
		if p.NodePort > 0 {
			texts[i] = fmt.Sprintf("%d:%d/%s", p.Port, p.NodePort, p.Protocol)
		}
	}
	return orNone(texts...)
}
