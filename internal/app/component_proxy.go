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
	local         string // how traffic from pods is told
	oomScore      *int32 // from the file or the flag
	oomFlag       int32
	cleanup       bool
}

func kubeProxyCommand() *cobra.Command {
	const gone = reasonMode
	p := &kubeProxy{component: newComponent("kube-proxy", 0, without{
		"iptables-sync-period": gone, "iptables-min-sync-period": gone, "ipvs-sync-period": gone, "ipvs-scheduler": gone,
		"ipvs-min-sync-period": gone, "ipvs-strict-arp": gone, "iptables-masquerade-bit": gone,
		"config-sync-period": reasonPush,
		"proxy-port-range":   "no ports are opened", "bind-address-hard-fail": "a port that cannot be had is always the end",
		"conntrack-max-per-core": reasonConntrack, "conntrack-min": reasonConntrack, "conntrack-tcp-be-liberal": reasonConntrack,
		"conntrack-tcp-timeout-established": reasonConntrack, "conntrack-tcp-timeout-close-wait": reasonConntrack,
		"conntrack-udp-timeout": reasonConntrack, "conntrack-udp-timeout-stream": reasonConntrack,
		"iptables-localhost-nodeports": gone, "ipvs-exclude-cidrs": gone, "ipvs-tcp-timeout": gone, "ipvs-tcpfin-timeout": gone, "ipvs-udp-timeout": gone,
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
	f.StringSliceVar(&p.nodePorts, "nodeport-addresses", nil, `networks whose addresses answer on node ports; "primary" for the node's address, "all" for all of the host's (default: primary)`)
	f.BoolVar(&p.masqueradeAll, "masquerade-all", false, "masquerade everything that goes to a cluster IP")
	f.IntVar(&p.masqueradeBit, "nftables-masquerade-bit", p.masqueradeBit, "bit of the packet mark that asks for masquerading")
	f.StringVar(&p.local, "detect-local-mode", "ClusterCIDR", "what comes from pods is told by their addresses, see --cluster-cidr")
	f.Int32Var(&p.oomFlag, "oom-score-adj", 0, "oom_score_adj of the proxy's process (default: the one it is started with)")
	f.BoolVar(&p.cleanup, "cleanup", false, "remove what an earlier run has put into the kernel, and exit")
}

func (p *kubeProxy) run(ctx context.Context, f *pflag.FlagSet) error {
	if err := p.load(f); err != nil {
		return err
	}
	if p.mode == "" {
		p.mode = "nftables"
	}
	if err := errors.Join(oneOf("proxy-mode", p.mode, "nftables"), oneOf("detect-local-mode", p.local, "", "ClusterCIDR")); err != nil {
		return err
	}
	if f.Changed("oom-score-adj") {
		p.oomScore = &p.oomFlag
	}
	if p.masqueradeBit < 0 || p.masqueradeBit > 31 {
		return fmt.Errorf("--nftables-masquerade-bit: %d is not a bit (0-31)", p.masqueradeBit)
	}
	nft := proxy.NFTConfig{Table: node.ProxyTable, MasqueradeBit: uint8(p.masqueradeBit), MasqueradeAll: p.masqueradeAll}
	if p.cleanup {
		return node.CleanupProxy(ctx, nft)
	}
	setOOMScore(p.oomScore)
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
	n.NodePortAddresses, err = addressesIn(p.nodePorts, ip)
	return n, err
}

// addressesIn returns the host's addresses that lie in the networks.
func addressesIn(networks []string, primary netip.Addr) (found []netip.Addr, err error) {
	in, err := nodePortNetworks(networks, primary)
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
