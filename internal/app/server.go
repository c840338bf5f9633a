package app

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"skiff.dev/skiff/internal/apiserver"
	"skiff.dev/skiff/internal/app/controlplane"
	"skiff.dev/skiff/internal/observe"
	"skiff.dev/skiff/internal/pki"
	"skiff.dev/skiff/internal/resources/core"
	"skiff.dev/skiff/internal/store"
	"skiff.dev/skiff/internal/store/etcd"
)

func serverCommand() *cobra.Command {
	cfg := Default()
	cmd := &cobra.Command{
		Use:   "server",
		Short: "Run a whole cluster: control plane and node",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := cfg.load(cmd.Flags()); err != nil {
				return err
			}
			return runServer(cmd.Context(), cfg)
		},
	}
	f := cmd.Flags()
	cfg.commonFlags(f)
	cfg.serverFlags(f)
	cfg.nodeFlags(f)
	return cmd
}

// server is a running `skiff server`. What start adds to closers is closed in
// reverse order when it stops.
type server struct {
	cfg      Config
	progress *observe.Progress
	cluster  *pki.Cluster
	// acceptable are the CAs that clients are told of.
	acceptable *x509.CertPool
	listener   net.Listener
	store      store.Store
	serving    *pki.Rotator
	kubelets   *pki.Rotator
	cp         *controlplane.ControlPlane
	metrics    *prometheus.Registry
	http       *http.Server
	closers    []func()
}

// shutdownGrace is how long requests under way may take to finish.
const shutdownGrace = 5 * time.Second

func runServer(ctx context.Context, cfg Config) error {
	if err := cfg.Validate(); err != nil {
		return err
	}
	logger, err := observe.Logger(os.Stderr, cfg.LogLevel)
	if err != nil {
		return err
	}
	slog.SetDefault(logger)
	s := &server{cfg: cfg, progress: observe.NewProgress(os.Stderr)}
	defer s.close()
	if err := s.startAPI(ctx); err != nil {
		return err
	}
	// The parts end when ctx does, or all together when one of them fails.
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return s.serve(ctx) })
	g.Go(func() error { return s.watchStore(ctx) })
	g.Go(func() error { return s.bootstrap(ctx) })
	g.Go(func() error { return s.cp.Keep(ctx) })
	s.startControllers(ctx, g)
	if !cfg.DisableAgent {
		g.Go(func() error { return s.runNode(ctx) })
	}
	err = g.Wait()
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

func (s *server) close() {
	for _, c := range slices.Backward(s.closers) {
		c()
	}
}

func (s *server) onClose(f func()) { s.closers = append(s.closers, f) }

// startAPI brings up everything that /readyz needs.
func (s *server) startAPI(ctx context.Context) error {
	if err := s.prepareDataDir(); err != nil {
		return err
	}
	var err error
	address := net.JoinHostPort(s.cfg.BindAddress, strconv.Itoa(s.cfg.SecurePort))
	if s.listener, err = net.Listen("tcp", address); err != nil {
		return fmt.Errorf("the API cannot be served on %s (choose another --bind-address or --secure-port): %w", address, err)
	}
	s.onClose(func() { s.listener.Close() })
	steps := errgroup.Group{}
	steps.Go(func() error { return s.progress.Step("store is open", func() error { return s.openStore(ctx) }) })
	steps.Go(func() error {
		return s.progress.Step("certificates are ready", func() error { return s.certificates(ctx) })
	})
	if err := steps.Wait(); err != nil {
		return err
	}
	return s.progress.Step("API server is up", func() error { return s.startControlPlane(ctx) })
}

// prepareDataDir makes the data directory and keeps other processes out of it.
func (s *server) prepareDataDir() error {
	unlock, err := lockDataDir(s.cfg.DataDir)
	if err != nil {
		return err
	}
	s.onClose(unlock)
	return nil
}

func (s *server) openStore(ctx context.Context) (err error) {
	if len(s.cfg.EtcdServers) > 0 {
		s.store, err = etcd.Dial(ctx, etcd.ClusterConfig{
			Endpoints: s.cfg.EtcdServers,
			TLS:       etcd.Files{CA: s.cfg.EtcdCAFile, Cert: s.cfg.EtcdCertFile, Key: s.cfg.EtcdKeyFile},
		})
	} else {
		s.store, err = etcd.Open(ctx, etcd.Config{Dir: filepath.Join(s.cfg.DataDir, "etcd")})
	}
	if err == nil {
		s.onClose(func() {
			if err := s.store.Close(); err != nil {
				slog.Error("closing the store", "err", err)
			}
		})
	}
	return err
}

// watchStore ends the server when the store inside it has given up.
func (s *server) watchStore(ctx context.Context) error {
	inside, ok := s.store.(interface{ Failed() <-chan struct{} })
	if !ok {
		return nil
	}
	select {
	case <-inside.Failed():
		return errors.New("the store has failed; its messages above say why")
	case <-ctx.Done():
		return nil
	}
}

func (s *server) certificates(ctx context.Context) (err error) {
	if s.cluster, err = pki.LoadOrCreateCluster(filepath.Join(s.cfg.DataDir, "pki")); err != nil {
		return err
	}
	s.acceptable = pki.PoolOf(s.cluster.CA.Cert, s.cluster.FrontProxyCA.Cert)
	names, ips, err := s.servingNames()
	if err != nil {
		return err
	}
	s.serving, err = pki.NewAuthorityRotator(ctx, s.cluster.CA, pki.Request{
		Identity: pki.Identity{User: "kube-apiserver"}, Usage: pki.Server, DNSNames: names, IPs: ips,
	})
	if err != nil {
		return err
	}
	s.onClose(s.serving.Close)
	s.kubelets, err = pki.NewAuthorityRotator(ctx, s.cluster.CA, pki.Request{Identity: pki.KubeletClient(), Usage: pki.Client})
	if err != nil {
		return err
	}
	s.onClose(s.kubelets.Close)
	return nil
}

// servingNames are all names and addresses by which the API server is reached.
func (s *server) servingNames() (names []string, ips []net.IP, err error) {
	names = []string{"localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc." + s.cfg.ClusterDomain}
	if host, err := os.Hostname(); err == nil {
		names = append(names, host)
	}
	ips = []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback, net.IP(s.firstServiceIP().AsSlice())}
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return nil, nil, fmt.Errorf("reading the host's addresses: %w", err)
	}
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok && !n.IP.IsLoopback() && !n.IP.IsLinkLocalUnicast() {
			ips = append(ips, n.IP)
		}
	}
	for _, san := range append(slices.Clone(s.cfg.TLSSANs), s.cfg.AdvertiseAddress) {
		switch ip := net.ParseIP(san); {
		case ip != nil:
			ips = append(ips, ip)
		case san != "":
			names = append(names, san)
		}
	}
	return names, ips, nil
}

func (s *server) firstServiceIP() netip.Addr {
	return netip.MustParsePrefix(s.cfg.ServiceCIDR).Masked().Addr().Next() // Validate has read it
}

func (s *server) startControlPlane(ctx context.Context) (err error) {
	first, last, err := parsePortRange(s.cfg.NodePortRange)
	if err != nil {
		return err
	}
	advertise, err := s.advertise()
	if err != nil {
		return err
	}
	roles, err := declaredRoles()
	if err != nil {
		return err
	}
	s.metrics = observe.NewRegistry()
	s.cp, err = startPlane(ctx, s.metrics, controlplane.Config{
		Store: s.store, Issuer: "https://kubernetes.default.svc." + s.cfg.ClusterDomain,
		ServiceAccountKey: s.cluster.ServiceAccountKey,
		Trust: controlplane.Trust{
			Clients: []*x509.Certificate{s.cluster.CA.Cert},
			Proxies: controlplane.StandardProxies([]string{pki.FrontProxy().User}, s.cluster.FrontProxyCA.Cert),
		},
		Services: core.ServiceConfig{
			CIDRs:         []netip.Prefix{netip.MustParsePrefix(s.cfg.ServiceCIDR)},
			FirstNodePort: int32(first), LastNodePort: int32(last),
		},
		Advertise: advertise, ClusterDNS: s.clusterDNS(), Roles: roles,
		Nodes: s.kubeletTransport(),
	})
	if err == nil {
		s.onClose(s.cp.Close)
	}
	return err
}

// startPlane starts a control plane that shows what the registry holds, and
// tells of itself, at /metrics.
func startPlane(ctx context.Context, registry *prometheus.Registry, cfg controlplane.Config) (*controlplane.ControlPlane, error) {
	cfg.Metrics = apiserver.NewMetrics(registry)
	cfg.Pages = map[string]http.Handler{"/metrics": observe.MetricsPage(registry)}
	cp, err := controlplane.Start(ctx, cfg)
	if err == nil {
		registry.MustRegister(cp.Server.Collector())
	}
	return cp, err
}

// advertise is the address at which the API server is reached from elsewhere.
func (s *server) advertise() (netip.AddrPort, error) {
	text := s.cfg.AdvertiseAddress
	if text == "" {
		text = s.cfg.NodeIP
	}
	if bind := net.ParseIP(s.cfg.BindAddress); text == "" && !bind.IsUnspecified() && !bind.IsLoopback() {
		text = s.cfg.BindAddress
	}
	if text == "" {
		ip, err := hostIP()
		if err != nil {
			return netip.AddrPort{}, err
		}
		text = ip
	}
	addr, err := netip.ParseAddr(text)
	if err != nil {
		return netip.AddrPort{}, err
	}
	return netip.AddrPortFrom(addr, uint16(s.cfg.SecurePort)), nil
}

// kubeletTransport reaches kubelets under the API server's own identity and
// verifies who they are.
func (s *server) kubeletTransport() http.RoundTripper {
	return &http.Transport{
		TLSClientConfig: &tls.Config{
			MinVersion: tls.VersionTLS12, RootCAs: s.cluster.CA.Pool(), GetClientCertificate: s.kubelets.GetClientCertificate,
		},
		MaxIdleConnsPerHost: 2,
		IdleConnTimeout:     90 * time.Second,
		TLSHandshakeTimeout: 10 * time.Second,
	}
}

// serve answers requests until ctx ends, then lets those under way finish.
func (s *server) serve(ctx context.Context) error {
	s.http = s.cp.Server.HTTP()
	s.http.TLSConfig = &tls.Config{
		MinVersion: tls.VersionTLS12, GetCertificate: s.serving.GetCertificate,
		// Verified by authentication, so that a bad certificate gets a 401.
		ClientAuth: tls.RequestClientCert, ClientCAs: s.acceptable,
		NextProtos: []string{"h2", "http/1.1"},
	}
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		s.cp.Server.Drain()
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownGrace)
		defer cancel()
		if s.http.Shutdown(grace) != nil {
			s.http.Close()
		}
	})
	err := s.http.ServeTLS(s.listener, "", "")
	if !stop() {
		<-stopped
	}
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// bootstrap makes what every cluster has and the administrator's kubeconfig.
func (s *server) bootstrap(ctx context.Context) error {
	if err := s.writeAdminKubeconfig(); err != nil {
		return err
	}
	return s.progress.Step("cluster is ready for use", func() error { return s.cp.Bootstrap(ctx) })
}
