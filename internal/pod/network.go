package pod

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/utils/net"

	"skiff.dev/skiff/internal/check"
)

// The limits of a resolver configuration (KEP-2595).
const (
	maxNameservers = 3
	maxSearches    = 32
	maxSearchBytes = 2048
	maxHostname    = 64
)

func (v *validator) validateNetwork(r *check.Report) {
	s := v.spec
	check.RequiredOneOf(r.At("dnsPolicy"), s.DNSPolicy,
		corev1.DNSClusterFirstWithHostNet, corev1.DNSClusterFirst, corev1.DNSDefault, corev1.DNSNone)
	validateDNSConfig(r.At("dnsConfig"), s.DNSConfig, s.DNSPolicy)
	if s.HostNetwork {
		v.validateHostNetwork(r.At("containers"))
	}
	if s.Hostname != "" {
		r.At("hostname").Each(s.Hostname, validation.IsDNS1123Label(s.Hostname))
	}
	if s.Subdomain != "" {
		r.At("subdomain").Each(s.Subdomain, validation.IsDNS1123Label(s.Subdomain))
	}
	if name := s.HostnameOverride; name != nil {
		at := r.At("hostnameOverride")
		at.Each(*name, validation.IsDNS1123Subdomain(*name))
		if len(*name) > maxHostname {
			at.TooLong(maxHostname)
		}
		if s.HostNetwork {
			at.Forbidden("hostnameOverride may not be specified when hostNetwork is true")
		}
		if s.SetHostnameAsFQDN != nil && *s.SetHostnameAsFQDN {
			at.Forbidden("hostnameOverride may not be specified when setHostnameAsFQDN is true")
		}
	}
	for i, a := range s.HostAliases {
		at := r.At("hostAliases").Index(i)
		at.At("ip").IP(a.IP)
		for j, name := range a.Hostnames {
			at.At("hostnames").Index(j).Each(name, validation.IsDNS1123Subdomain(name))
		}
	}
}

// validateHostNetwork: on the host's network a container port is a host port. A
// template may leave it out, since the pod made of it gets it by default.
func (v *validator) validateHostNetwork(r *check.Report) {
	for i := range v.spec.Containers {
		for j, p := range v.spec.Containers[i].Ports {
			if p.HostPort != p.ContainerPort && (v.meta != nil || p.HostPort != 0) {
				r.Index(i).At("ports").Index(j).At("hostPort").Invalid(p.HostPort,
					"must match `containerPort` when `hostNetwork` is true")
			}
		}
	}
}

func validateDNSConfig(r *check.Report, c *corev1.PodDNSConfig, policy corev1.DNSPolicy) {
	if policy == corev1.DNSNone {
		if c == nil {
			r.Required("must provide `dnsConfig` when `dnsPolicy` is None")
			return
		}
		if len(c.Nameservers) == 0 {
			r.At("nameservers").Required("must provide at least one DNS nameserver when `dnsPolicy` is None")
		}
	}
	if c == nil {
		return
	}
	if len(c.Nameservers) > maxNameservers {
		r.At("nameservers").Invalid(c.Nameservers, "must not have more than 3 nameservers")
	}
	for i, ns := range c.Nameservers {
		r.At("nameservers").Index(i).IP(ns)
	}
	if len(c.Searches) > maxSearches {
		r.At("searches").Invalid(c.Searches, "must not have more than 32 search paths")
	}
	if len(strings.Join(c.Searches, " ")) > maxSearchBytes {
		r.At("searches").Invalid(c.Searches, "must not have more than 2048 characters (including spaces) in the search list")
	}
	for i, search := range c.Searches {
		if search != "." {
			r.At("searches").Index(i).Each(search, validation.IsDNS1123SubdomainWithUnderscore(strings.TrimSuffix(search, ".")))
		}
	}
	for i, o := range c.Options {
		if o.Name == "" {
			r.At("options").Index(i).Required("must not be empty")
		}
	}
}

// validateIPs checks the addresses in a pod's status: well formed, each once,
// and at most one of each family.
func validateIPs(r *check.Report, s *corev1.PodStatus) {
	ips := make([]string, len(s.PodIPs))
	for i := range s.PodIPs {
		ips[i] = s.PodIPs[i].IP
	}
	validateIPList(r.At("podIPs"), ips, s.PodIPs)
	ips = make([]string, len(s.HostIPs))
	for i := range s.HostIPs {
		ips[i] = s.HostIPs[i].IP
	}
	validateIPList(r.At("hostIPs"), ips, s.HostIPs)
}

func validateIPList(r *check.Report, ips []string, value any) {
	before := len(r.Errors())
	for i, ip := range ips {
		r.Index(i).IP(ip)
	}
	if len(ips) < 2 || len(r.Errors()) > before {
		return
	}
	dual, err := net.IsDualStackIPStrings(ips)
	if err != nil || !dual || len(ips) > 2 {
		r.Invalid(value, "may specify no more than one IP for each IP family")
	}
	for i, ip := range ips {
		if slices.Contains(ips[:i], ip) {
			r.Index(i).Duplicate(value)
		}
	}
}
