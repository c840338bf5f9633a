// Package discovery defines the resources of the API group discovery.k8s.io.
package discovery

import (
	"net/netip"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"skiff.dev/skiff/internal/check"
	"skiff.dev/skiff/internal/meta"
	"skiff.dev/skiff/internal/resource"
	"skiff.dev/skiff/internal/service"
)

// EndpointSlice is discovery.k8s.io/v1 EndpointSlice.
// https://kubernetes.io/docs/concepts/services-networking/endpoint-slices/
var EndpointSlice = &resource.Definition[*discoveryv1.EndpointSlice]{
	Name:     resource.Name{Group: discoveryv1.GroupName, Version: "v1", Kind: "EndpointSlice", Plural: "endpointslices"},
	Default:  defaultSlice,
	Validate: validateSlice,
	Spec: func(s *discoveryv1.EndpointSlice) any {
		return []any{s.Endpoints, s.Ports, s.AddressType}
	},
	Indexes: []meta.Index{service.SlicesByService, meta.ByOwner},
	Columns: []resource.Column[*discoveryv1.EndpointSlice]{
		{Name: "AddressType", Description: discoveryv1.EndpointSlice{}.SwaggerDoc()["addressType"],
			Value: func(s *discoveryv1.EndpointSlice) any { return string(s.AddressType) }},
		{Name: "Ports", Description: discoveryv1.EndpointSlice{}.SwaggerDoc()["ports"],
			Value: func(s *discoveryv1.EndpointSlice) any { return portsText(s.Ports) }},
		{Name: "Endpoints", Description: discoveryv1.EndpointSlice{}.SwaggerDoc()["endpoints"],
			Value: func(s *discoveryv1.EndpointSlice) any { return endpointsText(s.Endpoints) }},
		resource.Age[*discoveryv1.EndpointSlice](),
	},
}

func defaultSlice(s *discoveryv1.EndpointSlice) {
	for i := range s.Ports {
		p := &s.Ports[i]
		if p.Name == nil {
			p.Name = new(string)
		}
		if p.Protocol == nil {
			tcp := corev1.ProtocolTCP
			p.Protocol = &tcp
		}
	}
}

// The limits of one slice.
const (
	maxEndpoints = 1000
	maxAddresses = 100
	maxPorts     = 20000
	maxHints     = 8
	maxTopology  = 16
)

func validateSlice(r *check.Report, s, old *discoveryv1.EndpointSlice) {
	check.RequiredOneOf(r.At("addressType"), s.AddressType,
		discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6, discoveryv1.AddressTypeFQDN)
	if n := len(s.Endpoints); n > maxEndpoints {
		r.At("endpoints").TooMany(n, maxEndpoints)
		return
	}
	for i := range s.Endpoints {
		validateEndpoint(r.At("endpoints").Index(i), &s.Endpoints[i], s.AddressType)
	}
	validatePorts(r.At("ports"), s.Ports)
	if old != nil {
		r.At("addressType").Immutable(s.AddressType, old.AddressType)
	}
}

func validateEndpoint(r *check.Report, e *discoveryv1.Endpoint, t discoveryv1.AddressType) {
	addresses := r.At("addresses")
	if len(e.Addresses) == 0 {
		addresses.Required("must contain at least 1 address")
	} else if n := len(e.Addresses); n > maxAddresses {
		addresses.TooMany(n, maxAddresses)
	}
	for i, a := range e.Addresses {
		validateAddress(addresses.Index(i), a, t)
	}
	if e.NodeName != nil {
		r.At("nodeName").Rule(*e.NodeName, check.DNSSubdomain)
	}
	topology := r.At("deprecatedTopology")
	if n := len(e.DeprecatedTopology); n > maxTopology {
		topology.TooMany(n, maxTopology)
	}
	topology.Labels(e.DeprecatedTopology)
	if e.Hostname != nil {
		r.At("hostname").Each(*e.Hostname, validation.IsDNS1123Label(*e.Hostname))
	}
	if e.Hints != nil {
		validateHints(r.At("hints"), e.Hints)
	}
}

func validateAddress(r *check.Report, address string, t discoveryv1.AddressType) {
	if t == discoveryv1.AddressTypeFQDN {
		r.Add(validation.IsFullyQualifiedDomainName(r.Path(), address)...)
		return
	}
	r.EndpointIP(address)
	ip, err := netip.ParseAddr(address)
	if err != nil {
		return // reported by EndpointIP
	}
	switch t {
	case discoveryv1.AddressTypeIPv4:
		if !ip.Is4() {
			r.Invalid(address, "must be an IPv4 address")
		}
	case discoveryv1.AddressTypeIPv6:
		if !ip.Is6() {
			r.Invalid(address, "must be an IPv6 address")
		}
	}
}

func validateHints(r *check.Report, h *discoveryv1.EndpointHints) {
	zones := r.At("forZones")
	if n := len(h.ForZones); n > maxHints {
		zones.TooMany(n, maxHints)
		return
	}
	seen := map[string]bool{}
	for i, z := range h.ForZones {
		at := zones.Index(i).At("name")
		if seen[z.Name] {
			at.Duplicate(z.Name)
			continue
		}
		seen[z.Name] = true
		at.Each(z.Name, validation.IsValidLabelValue(z.Name))
	}
	nodes := r.At("forNodes")
	if n := len(h.ForNodes); n > maxHints {
		nodes.TooMany(n, maxHints)
		return
	}
	seen = map[string]bool{}
	for i, n := range h.ForNodes {
		at := nodes.Index(i).At("name")
		if seen[n.Name] {
			at.Duplicate(n.Name)
			continue
		}
		seen[n.Name] = true
		at.Rule(n.Name, check.DNSSubdomain)
	}
}

func validatePorts(r *check.Report, ports []discoveryv1.EndpointPort) {
	if n := len(ports); n > maxPorts {
		r.TooMany(n, maxPorts)
		return
	}
	names := map[string]bool{}
	for i := range ports {
		p, at := &ports[i], r.Index(i)
		if p.Name == nil {
			at.At("name").Required("")
		} else {
			if *p.Name != "" {
				at.At("name").Each(*p.Name, validation.IsDNS1123Label(*p.Name))
			}
			if names[*p.Name] {
				at.At("name").Duplicate(*p.Name)
			}
			names[*p.Name] = true
		}
		if p.Protocol == nil {
			at.At("protocol").Required("")
		} else {
			check.OneOf(at.At("protocol"), *p.Protocol, corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP)
		}
		if p.Port != nil {
			at.At("port").Each(*p.Port, validation.IsValidPortNum(int(*p.Port)))
		}
		if p.AppProtocol != nil {
			at.At("appProtocol").Each(*p.AppProtocol, validation.IsQualifiedName(*p.AppProtocol))
		}
	}
}

// mostShown bounds the ports and addresses in a table cell.
const mostShown = 3

func withMore(shown []string, count int) string {
	text := strings.Join(shown, ",")
	switch {
	case count > mostShown:
		return text + " + " + strconv.Itoa(count-mostShown) + " more..."
	case text == "":
		return "<unset>"
	}
	return text
}

func portsText(ports []discoveryv1.EndpointPort) string {
	var shown []string
	for _, p := range ports[:min(len(ports), mostShown)] {
		text := "*"
		if p.Port != nil {
			text = strconv.Itoa(int(*p.Port))
		} else if p.Name != nil {
			text = *p.Name
		}
		shown = append(shown, text)
	}
	return withMore(shown, len(ports))
}

func endpointsText(endpoints []discoveryv1.Endpoint) string {
	var shown []string
	count := 0
	for i := range endpoints {
		for _, a := range endpoints[i].Addresses {
			if count++; count <= mostShown {
				shown = append(shown, a)
			}
		}
	}
	return withMore(shown, count)
}
