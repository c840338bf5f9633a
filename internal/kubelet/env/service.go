package env

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
)

// services works out the variables that describe the Services of the pod's
// namespace and the API server's own Service, which every pod gets.
// https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables
//
// A static pod does not wait for the API, which it may be a part of: it gets
// what is known by now.
func (m *maker) services(ctx context.Context) error {
	m.links = map[string]string{}
	if m.pod.Annotations[sourceAnnotation] == "file" {
		short, cancel := context.WithTimeout(ctx, staticPatience)
		defer cancel()
		if err := m.link(short); err != nil && short.Err() == nil {
			return err
		}
		return nil
	}
	return m.link(ctx)
}

const (
	// sourceAnnotation tells where the kubelet has a pod from.
	sourceAnnotation = "kubernetes.io/config.source"
	staticPatience   = 100 * time.Millisecond
)

func (m *maker) link(ctx context.Context) error {
	apiservers, err := m.Services(ctx, v1.NamespaceDefault)
	if err != nil {
		return err
	}
	for _, s := range apiservers {
		if s.Name == "kubernetes" {
			link(m.links, s)
		}
	}
	if on := m.pod.Spec.EnableServiceLinks; on != nil && !*on {
		return nil
	}
	own, err := m.Services(ctx, m.pod.Namespace)
	if err != nil {
		return err
	}
	for _, s := range own {
		link(m.links, s)
	}
	return nil
}

// link adds the variables of one Service: those of Kubernetes, and those that
// Docker's container links once made.
func link(vars map[string]string, s *v1.Service) {
	ip := s.Spec.ClusterIP
	if ip == "" || ip == v1.ClusterIPNone || len(s.Spec.Ports) == 0 {
		return
	}
	name := shout(s.Name)
	vars[name+"_SERVICE_HOST"] = ip
	vars[name+"_SERVICE_PORT"] = strconv.Itoa(int(s.Spec.Ports[0].Port))
	for i, p := range s.Spec.Ports {
		if p.Name != "" {
			vars[name+"_SERVICE_PORT_"+shout(p.Name)] = strconv.Itoa(int(p.Port))
		}
		proto := p.Protocol
		if proto == "" {
			proto = v1.ProtocolTCP
		}
		url := strings.ToLower(string(proto)) + "://" + net.JoinHostPort(ip, strconv.Itoa(int(p.Port)))
		if i == 0 {
			vars[name+"_PORT"] = url
		}
		prefix := fmt.Sprintf("%s_PORT_%d_%s", name, p.Port, strings.ToUpper(string(proto)))
		vars[prefix] = url
		vars[prefix+"_PROTO"] = strings.ToLower(string(proto))
		vars[prefix+"_PORT"] = strconv.Itoa(int(p.Port))
		vars[prefix+"_ADDR"] = ip
	}
}

func shout(s string) string { return strings.ToUpper(strings.ReplaceAll(s, "-", "_")) }
