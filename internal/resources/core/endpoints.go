package core

import (
	"net"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"skiff.dev/skiff/internal/check"
	"skiff.dev/skiff/internal/resource"
)

// Endpoints is v1 Endpoints, which EndpointSlice has replaced.
// https://kubernetes.io/docs/reference/kubernetes-api/service-resources/endpoints-v1/
var Endpoints = &resource.Definition[*corev1.Endpoints]{
	Name:   resource.Name{Version: "v1", Kind: "Endpoints", Plural: "endpoints", Short: []string{"ep"}},
	Upsert: true,
	Default: func(e *corev1.Endpoints) {
		for i := range e.Subsets {
			for j := range e.Subsets[i].Ports {
				if p := &e.Subsets[i].Ports[j]; p.Protocol == "" {
					p.Protocol = corev1.ProtocolTCP
				}
			}
		}
	},
	Validate: func(r *check.Report, e, old *corev1.Endpoints) {
		r.Warn("v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice")
		for i := range e.Subsets {
			validateSubset(r.At("subsets").Index(i), &e.Subsets[i])
		}
	},
	Columns: []resource.Column[*corev1.Endpoints]{
		{Name: "Endpoints", Description: corev1.Endpoints{}.SwaggerDoc()["subsets"],
			Value: func(e *corev1.Endpoints) any { return endpointsText(e) }},
		resource.Age[*corev1.Endpoints](),
	},
}

func validateSubset(r *check.Report, s *corev1.EndpointSubset) {
	if len(s.Addresses) == 0 && len(s.NotReadyAddresses) == 0 {
		r.Required("must specify `addresses` or `notReadyAddresses`")
	}
	for i := range s.Addresses {
		validateEndpointAddress(r.At("addresses").Index(i), &s.Addresses[i])
	}
	for i := range s.NotReadyAddresses {
		validateEndpointAddress(r.At("notReadyAddresses").Index(i), &s.NotReadyAddresses[i])
	}
	for i := range s.Ports {
		p, at := &s.Ports[i], r.At("ports").Index(i)
		if len(s.Ports) > 1 && p.Name == "" {
			at.At("name").Required("")
		} else if p.Name != "" {
			at.At("name").Each(p.Name, validation.IsDNS1123Label(p.Name))
		}
		at.At("port").Each(p.Port, validation.IsValidPortNum(int(p.Port)))
		check.RequiredOneOf(at.At("protocol"), p.Protocol, corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP)
		if p.AppProtocol != nil {
			at.At("appProtocol").Each(p.AppProtocol, validation.IsQualifiedName(*p.AppProtocol))
		}
	}
}

func validateEndpointAddress(r *check.Report, a *corev1.EndpointAddress) {
	r.At("ip").EndpointIP(a.IP)
	if a.Hostname != "" {
		r.At("hostname").Each(a.Hostname, validation.IsDNS1123Label(a.Hostname))
	}
	if a.NodeName != nil {
		r.At("nodeName").Rule(*a.NodeName, check.DNSSubdomain)
	}
}

// endpointsText lists the first endpoints, and how many more there are.
func endpointsText(e *corev1.Endpoints) string {
	const most = 3
	var shown []string
	n := 0
	add := func(s string) {
		if n++; n <= most {
			shown = append(shown, s)
		}
	}
	for i := range e.Subsets {
		s := &e.Subsets[i]
		if len(s.Ports) == 0 {
			for _, a := range s.Addresses {
				add(a.IP)
			}
			continue
		}
		for _, p := range s.Ports {
			for _, a := range s.Addresses {
				add(net.JoinHostPort(a.IP, strconv.Itoa(int(p.Port))))
			}
		}
	}
	text := orNone(shown...)
	if n > most {
		text += " + " + strconv.Itoa(n-most) + " more..."
	}
	return text
}
