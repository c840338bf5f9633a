package app

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strings"

	"skiff.dev/skiff/internal/apiserver/request"
	"skiff.dev/skiff/internal/app/node"
	"skiff.dev/skiff/internal/cni/overlay"
	"skiff.dev/skiff/internal/pki"
)

// runNode runs the server's own node, on an in-process client with the rights
// of any other node.
func (s *server) runNode(ctx context.Context) error {
	name, ip, err := s.nodeIdentity()
	if err != nil {
		return err
	}
	serving, err := pki.NewAuthorityRotator(ctx, s.cluster.CA, pki.Request{
		Identity: pki.Identity{User: "system:node:" + name, Groups: []string{request.GroupNodes}}, Usage: pki.Server,
		DNSNames: []string{name}, IPs: []net.IP{ip.AsSlice()},
	})
	if err != nil {
		return err
	}
	defer serving.Close()
	select {
	case <-s.cp.Ready():
	case <-ctx.Done():
		return nil
	}
	identity := &request.User{Name: "system:node:" + name, Groups: []string{request.GroupNodes, request.GroupAuthenticated}}
	return node.Run(ctx, node.Config{
		Settings: node.DefaultSettings(),
		DataDir:  s.cfg.DataDir, Name: name, IP: ip, Client: s.cp.Client(identity, "kubelet"),
		Kubelet: node.KubeletServer{
			Port: s.cfg.KubeletPort, GetCertificate: serving.GetCertificate, ClientCAs: s.cluster.CA.Pool(),
		},
		ClusterCIDRs: []netip.Prefix{netip.MustParsePrefix(s.cfg.ClusterCIDR)}, // Validate has read it
		ClusterDNS:   s.clusterDNS(), ClusterDomain: s.cfg.ClusterDomain, PodNetwork: overlay.Mode(s.cfg.PodNetwork),
		RuntimeEndpoint: s.cfg.RuntimeEndpoint, MaxPods: s.cfg.MaxPods, Labels: labelsOf(s.cfg.NodeLabels), Taints: s.cfg.NodeTaints,
		Progress: s.progress, Log: slog.Default(),
	})
}

// nodeIdentity is the name and the address of this node.
func (s *server) nodeIdentity() (name string, ip netip.Addr, err error) {
	if name = s.cfg.NodeName; name == "" {
		host, err := os.Hostname()
		if err != nil {
			return "", ip, fmt.Errorf("reading the host's name (give one with --node-name): %w", err)
		}
		name = strings.ToLower(host)
	}
	text := s.cfg.NodeIP
	if text == "" {
		if text, err = hostIP(); err != nil {
			return "", ip, err
		}
	}
	ip, err = netip.ParseAddr(text)
	return name, ip, err
}

// clusterDNS is the address of the DNS service: the tenth of the service
// network unless another is asked for.
func (s *server) clusterDNS() netip.Addr {
	if s.cfg.ClusterDNS != "" {
		return netip.MustParseAddr(s.cfg.ClusterDNS) // Validate has read it
	}
	ip := netip.MustParsePrefix(s.cfg.ServiceCIDR).Masked().Addr()
	for range 10 {
		ip = ip.Next()
	}
	return ip
}

func labelsOf(list []string) map[string]string {
	labels := map[string]string{}
	for _, l := range list {
		k, v, _ := strings.Cut(l, "=")
		labels[k] = v
	}
	return labels
}
