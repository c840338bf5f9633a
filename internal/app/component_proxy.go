package app

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/sync/errgroup"
	proxyv1alpha1 "k8s.io/kube-proxy/config/v1alpha1"
	"sigs.k8s.io/yaml"

	"skiff.dev/skiff/internal/app/node"
	"skiff.dev/skiff/internal/observe"
	"skiff.dev/skiff/internal/proxy"
)

const (
	proxyHealthPort  = 10256
	proxyMetricsPort = 10249
	masqueradeBit    = 14
)

// kubeProxy is what `skiff kube-proxy` is told.
type kubeProxy struct {
	*component
	file          string
	mode          string
	clusterCIDR   string
	name          string
	nodeIP        string
	health        string
	numbers       string // where metrics are served
	nodePorts     []string
	masqueradeAll bool
	masqueradeBit int
	cleanup       bool
}

func kubeProxyCommand() *cobra.Command {
	const gone = "it is of a mode that is not served"
	p := &kubeProxy{component: newComponent("kube-proxy", 0, without{
		"iptables-sync-period": gone, "iptables-min-sync-period": gone, "ipvs-sync-period": gone, "ipvs-scheduler": gone,
		"ipvs-min-sync-period": gone, "ipvs-strict-arp": gone, "iptables-masquerade-bit": gone,
		"config-sync-period": reasonPush,
		"oom-score-adj":      "the process keeps the one it was started with", "proxy-port-range": "no ports are opened",
		"conntrack-max-per-core": "the kernel's own limits stay", "conntrack-min": "the kernel's own limits stay",
		"conntrack-tcp-timeout-established": "the kernel's own limits stay", "conntrack-tcp-timeout-close-wait": "the kernel's own limits stay",
	}), mode: "nftables", health: "0.0.0.0:" + strconv.Itoa(proxyHealthPort), masqueradeBit: masqueradeBit,
		numbers: "127.0.0.1:" + strconv.Itoa(proxyMetricsPort)}
	return p.command("Make Services reachable on a node, as upstream's kube-proxy", p.flags, p.run)
}

func (p *kubeProxy) flags(f *pflag.FlagSet) {
	p.clientFlags(f)
	f.StringVar(&p.file, "config", "", "a KubeProxyConfiguration (kubeproxy.config.k8s.io/v1alpha1); flags win over it")
	f.StringVar(&p.mode, "proxy-mode", p.mode, "how it is done: nftables")
	f.StringVar(&p.clusterCIDR, "cluster-cidr", "", "addresses of pods; what comes from elsewhere is masqueraded on its way to a cluster IP")
	f.StringVar(&p.name, "hostname-override", "", "name of the node (default: the host's name)")
	f.StringVar(&p.nodeIP, "bind-address", "", "address of the node (default: that of the default route)")
	f.StringVar(&p.health, "healthz-bind-address", p.health, "where health is served over HTTP; empty for nowhere")
	f.StringVar(&p.numbers, "metrics-bind-address", p.numbers, "where metrics are served over HTTP, to everybody; empty for nowhere")
	f.StringSliceVar(&p.nodePorts, "nodeport-addresses", nil, `networks whose addresses answer on node ports, or "primary" (default: the node's address)`)
	f.BoolVar(&p.masqueradeAll, "masquerade-all", false, "masquerade everything that goes to a cluster IP")
	f.IntVar(&p.masqueradeBit, "nftables-masquerade-bit", p.masqueradeBit, "bit of the packet mark that asks for masquerading")
	f.BoolVar(&p.cleanup, "cleanup", false, "remove what an earlier run has put into the kernel, and exit")
}

func (p *kubeProxy) run(ctx context.Context, f *pflag.FlagSet) error {
	if err := p.load(f); err != nil {
		return err
	}
	if p.mode == "" {
		p.mode = "nftables"
	}
	if err := oneOf("proxy-mode", p.mode, "nftables"); err != nil {
		return err
	}
	if p.masqueradeBit < 0 || p.masqueradeBit > 31 {
		return fmt.Errorf("--nftables-masquerade-bit: %d is not a bit (0-31)", p.masqueradeBit)
	}
	nft := proxy.NFTConfig{Table: node.ProxyTable, MasqueradeBit: uint8(p.masqueradeBit), MasqueradeAll: p.masqueradeAll}
	if p.cleanup {
		return node.CleanupProxy(ctx, nft)
	}
	facts, err := p.node()
	if err != nil {
		return err
	}
	c, _, closer, err := p.open()
	if err != nil {
		return err
	}
	defer closer()
	var synced atomic.Bool
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return p.serveHTTP(ctx, &synced) })
	g.Go(func() error { return p.serveMetrics(ctx) })
	g.Go(func() error {
		return node.RunProxy(ctx, c, facts, nft, proxy.NewMetrics(p.registry()), func() { synced.Store(true) })
	})
	if err := g.Wait(); !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

var errNotSynced = errors.New("the kernel does not serve all Services yet")

func (p *kubeProxy) serveHTTP(ctx context.Context, synced *atomic.Bool) error {
	if p.health == "" {
		return nil
	}
	l, err := net.Listen("tcp", p.health)
	if err != nil {
		return fmt.Errorf("health cannot be served on %s (see --healthz-bind-address): %w", p.health, err)
	}
	return serveUntil(ctx, l, healthHandler(func() error {
		if !synced.Load() {
			return errNotSynced
		}
		return nil
	}))
}

// serveMetrics is for a network that only the node itself is in, as upstream's.
func (p *kubeProxy) serveMetrics(ctx context.Context) error {
	if p.numbers == "" {
		return nil
	}
	l, err := net.Listen("tcp", p.numbers)
	if err != nil {
		return fmt.Errorf("metrics cannot be served on %s (see --metrics-bind-address): %w", p.numbers, err)
	}
	mux := healthHandler(nil)
	mux.Handle("GET /metrics", observe.MetricsPage(p.registry()))
	return serveUntil(ctx, l, mux)
}

// node is what the proxy has to know of its node.
func (p *kubeProxy) node() (n proxy.Node, err error) {
	if n.Name = p.name; n.Name == "" {
		host, err := os.Hostname()
		if err != nil {
			return n, fmt.Errorf("reading the host's name (give one with --hostname-override): %w", err)
		}
		n.Name = strings.ToLower(host)
	}
	if p.clusterCIDR != "" {
		if n.PodCIDRs, err = prefixes("cluster-cidr", strings.Split(p.clusterCIDR, ",")); err != nil {
			return n, err
		}
	}
	primary := p.nodeIP
	if ip := net.ParseIP(primary); primary == "" || ip.IsUnspecified() {
		if primary, err = hostIP(); err != nil {
			return n, err
		}
	}
	ip, err := netip.ParseAddr(primary)
	if err != nil {
		return n, fmt.Errorf("--bind-address: %q is not an IP address", primary)
	}
	if len(p.nodePorts) == 0 || slices.Equal(p.nodePorts, []string{"primary"}) {
		n.NodePortAddresses = []netip.Addr{ip}
		return n, nil
	}
	n.NodePortAddresses, err = addressesIn(p.nodePorts)
	return n, err
}

// addressesIn returns the host's addresses that lie in the networks.
func addressesIn(networks []string) (found []netip.Addr, err error) {
	in, err := prefixes("nodeport-addresses", networks)
	if err != nil {
		return nil, err
	}
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return nil, fmt.Errorf("reading the host's addresses: %w", err)
	}
	for _, a := range addrs {
		prefix, err := netip.ParsePrefix(a.String())
		if err != nil {
			continue // no IP network
		}
		ip := prefix.Addr()
		if slices.ContainsFunc(in, func(n netip.Prefix) bool { return n.Contains(ip) }) && !ip.IsLoopback() {
			found = append(found, ip)
		}
	}
	return found, nil
}

// load takes from the file what no flag says, and refuses what would change
// what the proxy does and is not carried out.
func (p *kubeProxy) load(f *pflag.FlagSet) error {
	if p.file == "" {
		return nil
	}
	data, err := os.ReadFile(p.file)
	if err != nil {
		return fmt.Errorf("--config: %w", err)
	}
	var c proxyv1alpha1.KubeProxyConfiguration
	if err := yaml.UnmarshalStrict(data, &c); err != nil {
		return fmt.Errorf("--config %s: %w", p.file, err)
	}
	if want := proxyv1alpha1.SchemeGroupVersion.String(); c.APIVersion != want || c.Kind != "KubeProxyConfiguration" {
		return fmt.Errorf("--config %s: got %s %s, want %s KubeProxyConfiguration", p.file, c.APIVersion, c.Kind, want)
	}
	set := func(flag string, to *string, value string) {
		if value != "" && !f.Changed(flag) {
			*to = value
		}
	}
	set("kubeconfig", &p.kubeconfig, c.ClientConnection.Kubeconfig)
	set("proxy-mode", &p.mode, string(c.Mode))
	set("cluster-cidr", &p.clusterCIDR, c.ClusterCIDR)
	set("hostname-override", &p.name, c.HostnameOverride)
	set("bind-address", &p.nodeIP, c.BindAddress)
	set("healthz-bind-address", &p.health, c.HealthzBindAddress)
	set("metrics-bind-address", &p.numbers, c.MetricsBindAddress)
	if len(c.NodePortAddresses) > 0 && !f.Changed("nodeport-addresses") {
		p.nodePorts = c.NodePortAddresses
	}
	if !f.Changed("masquerade-all") {
		p.masqueradeAll = c.NFTables.MasqueradeAll
	}
	if bit := c.NFTables.MasqueradeBit; bit != nil && !f.Changed("nftables-masquerade-bit") {
		p.masqueradeBit = int(*bit)
	}
	switch c.DetectLocalMode {
	case "", "ClusterCIDR":
		return nil
	}
	return fmt.Errorf("--config %s: detectLocalMode: %s is not supported; only ClusterCIDR is", p.file, c.DetectLocalMode)
}
