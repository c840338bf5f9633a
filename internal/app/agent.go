package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"skiff.dev/skiff/internal/app/node"
	"skiff.dev/skiff/internal/client"
	"skiff.dev/skiff/internal/client/https"
	"skiff.dev/skiff/internal/cni/overlay"
	"skiff.dev/skiff/internal/observe"
)

func agentCommand() *cobra.Command {
	cfg := Default()
	cmd := &cobra.Command{
		Use:   "agent --server URL --token TOKEN",
		Short: "Run a node that joins a cluster elsewhere",
		Long: `Run a node that joins a cluster elsewhere. On the server,
"skiff token create --print-join-command" prints the command to run. The token is
needed once: a restart goes on with the node's own certificate.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := cfg.load(cmd.Flags()); err != nil {
				return err
			}
			return runAgent(cmd.Context(), cfg)
		},
	}
	f := cmd.Flags()
	cfg.commonFlags(f)
	cfg.nodeFlags(f)
	f.StringVar(&cfg.Server, "server", cfg.Server, "URL of the cluster's API server, such as https://10.0.0.1:6443")
	f.StringVar(&cfg.Token, "token", cfg.Token, `the join token that "skiff token create" printed`)
	f.StringVar(&cfg.ClusterCIDR, "cluster-cidr", cfg.ClusterCIDR, "addresses of pods, as the server was told")
	return cmd
}

func runAgent(ctx context.Context, cfg Config) error {
	if err := cfg.Validate(); err != nil {
		return err
	}
	logger, err := observe.Logger(os.Stderr, cfg.LogLevel)
	if err != nil {
		return err
	}
	slog.SetDefault(logger)
	m, err := memberOf(cfg)
	if err != nil {
		return err
	}
	unlock, err := lockDataDir(cfg.DataDir)
	if err != nil {
		return err
	}
	defer unlock()
	progress := observe.NewProgress(os.Stderr)
	j, err := joinNode(ctx, m, cfg.Token, progress)
	if err != nil {
		return err
	}
	defer j.close()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return j.run(ctx) })
	g.Go(func() error { return j.runNode(ctx, cfg) })
	if err := g.Wait(); !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// memberOf says who joins, and where.
func memberOf(cfg Config) (m member, err error) {
	m.dataDir = cfg.DataDir
	if m.name = cfg.NodeName; m.name == "" {
		host, err := os.Hostname()
		if err != nil {
			return m, fmt.Errorf("reading the host's name (give one with --node-name): %w", err)
		}
		m.name = strings.ToLower(host)
	}
	if faults := validation.IsDNS1123Subdomain(m.name); len(faults) > 0 {
		return m, fmt.Errorf("--node-name: %q: %s", m.name, faults[0])
	}
	ip := cfg.NodeIP
	if ip == "" {
		if ip, err = hostIP(); err != nil {
			return m, err
		}
	}
	m.ip = net.ParseIP(ip) // Validate has read it
	if cfg.Server != "" {
		m.server, err = serverURL(cfg.Server)
	}
	return m, err
}

// lockDataDir makes the data directory and keeps other processes out of it
// until unlock.
func lockDataDir(dir string) (unlock func(), err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("making the data directory (see --data-dir): %w", err)
	}
	lock, err := os.OpenFile(filepath.Join(dir, lockFile), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening the data directory (see --data-dir): %w", err)
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		lock.Close()
		return nil, fmt.Errorf("%s is in use by another skiff; stop it or choose another --data-dir", dir)
	}
	return func() { lock.Close() }, nil
}

// lockFile lies in the data directory; who runs on it holds a lock on it.
const lockFile = "lock"

// runNode runs the node over HTTPS until ctx ends.
func (j *joined) runNode(ctx context.Context, cfg Config) error {
	t, err := https.New(j.RESTConfig("kubelet"), "kubelet")
	if err != nil {
		return err
	}
	defer t.Close()
	c := client.New(t)
	dns, err := j.clusterDNS(ctx, c, cfg.ClusterDNS)
	if err != nil {
		return err
	}
	ip, _ := netip.AddrFromSlice(j.ip) // an IP address is one
	return node.Run(ctx, node.Config{
		Settings: node.DefaultSettings(),
		DataDir:  cfg.DataDir, Name: j.name, IP: ip.Unmap(), Client: c,
		Kubelet: node.KubeletServer{
			Port: cfg.KubeletPort, GetCertificate: j.GetCertificate, ClientCAs: j.CAs(),
		},
		ClusterCIDRs: []netip.Prefix{netip.MustParsePrefix(cfg.ClusterCIDR)}, // Validate has read it
		ClusterDNS:   dns, ClusterDomain: cfg.ClusterDomain, PodNetwork: overlay.Mode(cfg.PodNetwork),
		RuntimeEndpoint: cfg.RuntimeEndpoint, MaxPods: cfg.MaxPods, Labels: labelsOf(cfg.NodeLabels), Taints: cfg.NodeTaints,
		Progress: j.progress, Log: slog.Default(),
	})
}

// dnsFile keeps the cluster's DNS address, for starts while the server is away.
const dnsFile = "cluster-dns"

// clusterDNS is the address of the service kube-dns unless it is given.
func (j *joined) clusterDNS(ctx context.Context, c *client.Client, given string) (netip.Addr, error) {
	if given != "" {
		return netip.ParseAddr(given)
	}
	svc, err := client.For[*corev1.Service](c).Get(ctx, metav1.NamespaceSystem, "kube-dns")
	if err != nil {
		if kept, readErr := os.ReadFile(j.path(dnsFile)); readErr == nil {
			return netip.ParseAddr(strings.TrimSpace(string(kept)))
		}
		return netip.Addr{}, fmt.Errorf("asking for the address of the cluster's DNS (give it with --cluster-dns): %w", err)
	}
	addr, err := netip.ParseAddr(svc.Spec.ClusterIP)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("the cluster's DNS has no address (give it with --cluster-dns): %w", err)
	}
	return addr, os.WriteFile(j.path(dnsFile), []byte(addr.String()+"\n"), 0o600)
}
