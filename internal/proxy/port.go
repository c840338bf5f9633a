package proxy

import (
	"fmt"
	"net/netip"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"

	"skiff.dev/skiff/internal/nftables"
)

// Node is what the proxy knows about the node it runs on.
type Node struct {
	Name string
	Zone string // label topology.kubernetes.io/zone; "" if unknown
	// PodCIDRs are the addresses of pods, at most one per family, of the
	// cluster or of this node. Traffic from elsewhere to a cluster IP is
	// masqueraded; of a family without one, none is.
	PodCIDRs []netip.Prefix
	// NodePortAddresses are the node's addresses that answer on node ports.
	NodePortAddresses []netip.Addr
}

// PortName names one port of a Service, in one address family.
type PortName struct {
	types.NamespacedName
	Port  string
	Proto nftables.Proto
}

// String renders the name as it stands in chain names.
func (n PortName) String() string {
	return fmt.Sprintf("%s/%s/%s/%s", n.Namespace, n.Name, n.Proto, n.Port)
}

// Port is one port of a Service as one node has to serve it: where
// connections come in and which endpoints they may go to. It is made of
// objects by Ports and says nothing about how any mode carries it out.
type Port struct {
	PortName
	Family  nftables.Family
	Created time.Time // of the Service; the oldest wins where two claim the same address

	ClusterIP       netip.Addr
	Port            uint16
	NodePort        uint16 // 0 for none
	ExternalIPs     []netip.Addr
	LoadBalancerIPs []netip.Addr
	SourceRanges    []netip.Prefix // who may use LoadBalancerIPs; empty for all
	Affinity        time.Duration  // of ClientIP session affinity; 0 for none
	InternalLocal   bool           // internalTrafficPolicy: Local
	ExternalLocal   bool           // externalTrafficPolicy: Local

	// Cluster are the endpoints for traffic that may go anywhere, Local those
	// for traffic that has to stay on the node.
	Cluster, Local []netip.AddrPort
}

// proxyNameLabel on a Service hands it to another proxy.
const proxyNameLabel = "service.kubernetes.io/service-proxy-name"

// ignored reports whether a Service has nothing for a proxy to do.
func ignored(svc *corev1.Service) bool {
	_, other := svc.Labels[proxyNameLabel]
	return other || svc.Spec.Type == corev1.ServiceTypeExternalName ||
		svc.Spec.ClusterIP == "" || svc.Spec.ClusterIP == corev1.ClusterIPNone
}

// Ports returns the ports of a Service in both families, in the order of the
// spec. The slices are all those of the Service. A nil Service has none.
func Ports(svc *corev1.Service, slices []*discoveryv1.EndpointSlice, node Node) []Port {
	if svc == nil || ignored(svc) {
		return nil
	}
	var ports []Port
	for _, ip := range clusterIPs(svc) {
		family := familyOf(ip)
		base := Port{
			PortName:        PortName{NamespacedName: types.NamespacedName{Namespace: svc.Namespace, Name: svc.Name}},
			Family:          family,
			Created:         svc.CreationTimestamp.Time,
			ClusterIP:       ip,
			ExternalIPs:     addresses(family, svc.Spec.ExternalIPs),
			LoadBalancerIPs: loadBalancerIPs(family, svc),
			SourceRanges:    sourceRanges(family, svc),
			Affinity:        affinity(svc),
			InternalLocal:   svc.Spec.InternalTrafficPolicy != nil && *svc.Spec.InternalTrafficPolicy == corev1.ServiceInternalTrafficPolicyLocal,
			ExternalLocal:   svc.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal,
		}
		for i := range svc.Spec.Ports {
			sp := &svc.Spec.Ports[i]
			p := base
			p.PortName.Port, p.Proto = sp.Name, protoOf(sp.Protocol)
			p.Port, p.NodePort = uint16(sp.Port), uint16(sp.NodePort)
			all := endpointsOf(&p, sp.Protocol, slices)
			p.Cluster = clusterEndpoints(all, node)
			p.Local = localEndpoints(all, node)
			ports = append(ports, p)
		}
	}
	return ports
}

func clusterIPs(svc *corev1.Service) []netip.Addr {
	list := svc.Spec.ClusterIPs
	if len(list) == 0 {
		list = []string{svc.Spec.ClusterIP}
	}
	return append(addresses(nftables.IPv4, list), addresses(nftables.IPv6, list)...)
}

func familyOf(a netip.Addr) nftables.Family {
	if a.Is4() {
		return nftables.IPv4
	}
	return nftables.IPv6
}

// addresses parses those of the family. What does not parse was refused by
// the API and is left out here.
func addresses(f nftables.Family, list []string) []netip.Addr {
	var out []netip.Addr
	for _, s := range list {
		if a, err := netip.ParseAddr(s); err == nil && familyOf(a) == f {
			out = append(out, a)
		}
	}
	return out
}

// loadBalancerIPs leaves out those that the load balancer itself terminates
// (KEP-1860, ipMode Proxy): such traffic arrives at node ports.
func loadBalancerIPs(f nftables.Family, svc *corev1.Service) []netip.Addr {
	if svc.Spec.Type != corev1.ServiceTypeLoadBalancer {
		return nil
	}
	var list []string
	for _, in := range svc.Status.LoadBalancer.Ingress {
		if in.IPMode == nil || *in.IPMode == corev1.LoadBalancerIPModeVIP {
			list = append(list, in.IP)
		}
	}
	return addresses(f, list)
}

func sourceRanges(f nftables.Family, svc *corev1.Service) []netip.Prefix {
	var out []netip.Prefix
	for _, s := range svc.Spec.LoadBalancerSourceRanges {
		p, err := netip.ParsePrefix(strings.TrimSpace(s))
		if err == nil && familyOf(p.Addr()) == f {
			out = append(out, p.Masked())
		}
	}
	return out
}

// defaultAffinity is the API's default for sessionAffinityConfig.
const defaultAffinity = 3 * time.Hour

func affinity(svc *corev1.Service) time.Duration {
	if svc.Spec.SessionAffinity != corev1.ServiceAffinityClientIP {
		return 0
	}
	if c := svc.Spec.SessionAffinityConfig; c != nil && c.ClientIP != nil && c.ClientIP.TimeoutSeconds != nil {
		return time.Duration(*c.ClientIP.TimeoutSeconds) * time.Second
	}
	return defaultAffinity
}

func protoOf(p corev1.Protocol) nftables.Proto {
	switch p {
	case corev1.ProtocolUDP:
		return nftables.UDP
	case corev1.ProtocolSCTP:
		return nftables.SCTP
	}
	return nftables.TCP
}
