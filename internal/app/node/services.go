package node

import (
	"context"
	"fmt"
	"net/netip"

	"golang.org/x/sync/errgroup"

	"skiff.dev/skiff/internal/dns"
	"skiff.dev/skiff/internal/nftables"
	"skiff.dev/skiff/internal/proxy"
)

// proxyTable is the name of the service proxy's tables.
const proxyTable = "skiff-proxy"

// runServices runs the service proxy and the cluster's DNS.
func (n *Node) runServices(ctx context.Context, g *errgroup.Group) error {
	svc, err := openServices(ctx, n.Client)
	if err != nil {
		return err
	}
	g.Go(func() error { return n.runDNS(ctx, svc) })
	kernel, err := nftables.Open()
	if err != nil {
		return fmt.Errorf("opening nftables (is the kernel module nf_tables there?): %w", err)
	}
	defer kernel.Close()
	conntrack, err := proxy.OpenConntrack()
	if err != nil {
		return fmt.Errorf("opening connection tracking: %w", err)
	}
	defer conntrack.Close()
	p := proxy.New(proxy.Config{
		Source:    proxySource{svc},
		Backend:   proxy.NFTables(n.proxyConfig(), kernel),
		Node:      proxy.Node{Name: n.Name, PodCIDRs: n.ClusterCIDRs, NodePortAddresses: []netip.Addr{n.IP}},
		Conntrack: conntrack,
		Metrics:   proxy.NewMetrics(n.Metrics),
		Log:       n.Log,
	})
	return p.Run(ctx)
}

func (n *Node) proxyConfig() proxy.NFTConfig {
	return proxy.NFTConfig{Table: proxyTable, MasqueradeBit: 14}
}

const dnsPort = 53

// runDNS answers for the cluster's names on the address of the DNS service,
// which every node has on its loopback.
func (n *Node) runDNS(ctx context.Context, svc services) error {
	upstreams, err := dns.Upstreams(resolvConf)
	if err != nil {
		n.Log.Warn("the host's resolvers are not known; only the cluster's names will be answered", "err", err)
	}
	if err := dns.Bind([]netip.Addr{n.ClusterDNS}); err != nil {
		return fmt.Errorf("putting the DNS service's address %s on the loopback: %w", n.ClusterDNS, err)
	}
	listeners, err := dns.Listen([]netip.AddrPort{netip.AddrPortFrom(n.ClusterDNS, dnsPort)})
	if err != nil {
		return fmt.Errorf("serving DNS on %s: %w", n.ClusterDNS, err)
	}
	server, err := dns.New(dns.Config{Source: svc, Domain: n.ClusterDomain, Upstreams: upstreams, Log: n.Log})
	if err != nil {
		listeners.Close()
		return err
	}
	return server.Run(ctx, listeners)
}

// resolvConf is the host's.
const resolvConf = "/etc/resolv.conf"
