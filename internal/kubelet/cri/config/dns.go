package config

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// What resolvers read of a resolv.conf.
const (
	maxServers     = 3
	maxSearches    = 32
	maxSearchChars = 2048
)

// dns returns the resolv.conf of the pod.
// https://kubernetes.io/docs/concepts/services-networking/dns-pod-service/#pod-s-dns-policy
func (b *Builder) dns(pod *v1.Pod) (*runtimeapi.DNSConfig, error) {
	host, err := b.hostDNS()
	if err != nil {
		return nil, err
	}
	out := &runtimeapi.DNSConfig{}
	switch policy := pod.Spec.DNSPolicy; {
	case policy == v1.DNSNone:
	case policy == v1.DNSDefault,
		(policy == v1.DNSClusterFirst || policy == "") && pod.Spec.HostNetwork:
		out = host
	case len(b.Node.ClusterDNS) == 0:
		b.Events.Warning(pod, "MissingClusterDNS", "pod: %q. kubelet does not have ClusterDNS IP configured and cannot create Pod using %q policy. Falling back to %q policy.",
			pod.Namespace+"/"+pod.Name, policy, v1.DNSDefault)
		out = host
	default:
		out.Servers = slices.Clone(b.Node.ClusterDNS)
		out.Options = []string{"ndots:5"}
		if d := b.Node.ClusterDomain; d != "" {
			out.Searches = []string{pod.Namespace + ".svc." + d, "svc." + d, d}
		}
		out.Searches = union(out.Searches, host.Searches)
	}
	if c := pod.Spec.DNSConfig; c != nil {
		out.Servers = union(out.Servers, c.Nameservers)
		out.Searches = union(out.Searches, c.Searches)
		out.Options = mergeOptions(out.Options, c.Options)
	}
	b.fit(pod, out)
	return out, nil
}

// fit cuts off what no resolver would read, and says so.
func (b *Builder) fit(pod *v1.Pod, d *runtimeapi.DNSConfig) {
	if len(d.Servers) > maxServers {
		d.Servers = d.Servers[:maxServers]
		b.Events.Warning(pod, "DNSConfigForming", "Nameserver limits were exceeded, some nameservers have been omitted, the applied nameserver line is: %s",
			strings.Join(d.Servers, " "))
	}
	full := len(d.Searches)
	d.Searches = d.Searches[:min(full, maxSearches)]
	for len(strings.Join(d.Searches, " ")) > maxSearchChars {
		d.Searches = d.Searches[:len(d.Searches)-1]
	}
	if len(d.Searches) < full {
		b.Events.Warning(pod, "DNSConfigForming", "Search Line limits were exceeded, some search paths have been omitted, the applied search line is: %s",
			strings.Join(d.Searches, " "))
	}
}

func union(a, b []string) []string {
	out := slices.Clone(a)
	for _, s := range b {
		if !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}

// mergeOptions adds the pod's options, which replace those of the same name.
func mergeOptions(base []string, more []v1.PodDNSConfigOption) []string {
	var out []string
	given := map[string]bool{}
	for _, o := range more {
		given[o.Name] = true
	}
	for _, o := range base {
		if name, _, _ := strings.Cut(o, ":"); !given[name] {
			out = append(out, o)
		}
	}
	for _, o := range more {
		if o.Value != nil && *o.Value != "" {
			out = append(out, o.Name+":"+*o.Value)
		} else {
			out = append(out, o.Name)
		}
	}
	return out
}

// hostDNS reads the host's resolv.conf.
func (b *Builder) hostDNS() (*runtimeapi.DNSConfig, error) {
	if b.Node.ResolvConf == "" {
		return &runtimeapi.DNSConfig{}, nil
	}
	data, err := os.ReadFile(b.Node.ResolvConf)
	if errors.Is(err, os.ErrNotExist) {
		return &runtimeapi.DNSConfig{}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the host's resolver configuration: %w", err)
	}
	return ParseResolvConf(string(data)), nil
}

// ParseResolvConf reads resolv.conf(5); of several search lines the last counts.
func ParseResolvConf(text string) *runtimeapi.DNSConfig {
	out := &runtimeapi.DNSConfig{}
	for line := range strings.Lines(text) {
		if i := strings.IndexAny(line, "#;"); i >= 0 {
			line = line[:i]
		}
		words := strings.Fields(line)
		if len(words) < 2 {
			continue
		}
		switch words[0] {
		case "nameserver":
			out.Servers = append(out.Servers, words[1])
		case "search", "domain":
			out.Searches = nil
			for _, s := range words[1:] {
				if s != "." {
					s = strings.TrimSuffix(s, ".")
				}
				out.Searches = append(out.Searches, s)
			}
		case "options":
			out.Options = union(out.Options, words[1:])
		}
	}
	return out
}
