package app

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"skiff.dev/skiff/internal/app/node"
	"skiff.dev/skiff/internal/client"
	"skiff.dev/skiff/internal/client/https"
	"skiff.dev/skiff/internal/observe"
	"skiff.dev/skiff/internal/pki"
)

const kubeletHealthPort = 10248

// kubeletOptions is what `skiff kubelet` is told.
type kubeletOptions struct {
	*component
	cfg           Config // DataDir is --root-dir
	file          string
	bootstrap     string
	staticPods    string
	clientCA      string
	clusterDNS    []string
	rotate        bool
	serverTLS     bool
	healthAddress string
	healthPort    int
}

func kubeletCommand() *cobra.Command {
	o := &kubeletOptions{
		component: newComponent("kubelet", 0, without{
			"pod-infra-container-image": "the runtime has its own",
			"cgroup-driver":             "control groups are written directly",
			"cert-dir":                  "certificates are kept in <root-dir>/pki",
			"authorization-mode":        "the API server is always asked", "authentication-token-webhook": "the API server is always asked",
			"node-status-update-frequency": reasonPush, "sync-frequency": reasonPush, "cloud-provider": "there are no cloud providers",
			"fail-swap-on": "swap is no obstacle", "network-plugin": "the runtime has the network plugin",
		}),
		cfg: Default(), healthAddress: "127.0.0.1", healthPort: kubeletHealthPort,
	}
	o.cfg.DataDir = "/var/lib/kubelet"
	return o.command("Run the pods of a node, as upstream's kubelet", o.flags, o.run)
}

func (o *kubeletOptions) flags(f *pflag.FlagSet) {
	c := &o.cfg
	o.clientFlags(f)
	f.StringVar(&o.file, "config", "", "a KubeletConfiguration (kubelet.config.k8s.io/v1beta1); flags win over it")
	f.StringVar(&o.bootstrap, "bootstrap-kubeconfig", "", "kubeconfig by which to ask for a client certificate; --kubeconfig is then written")
	f.StringVar(&c.DataDir, "root-dir", c.DataDir, "where pods, volumes and certificates are kept")
	f.StringVar(&c.RuntimeEndpoint, "container-runtime-endpoint", "", "CRI socket of the container runtime (default: the one inside skiff)")
	f.StringVar(&c.NodeName, "hostname-override", "", "name of the node (default: the host's name)")
	f.StringVar(&c.NodeIP, "node-ip", "", "address of the node (default: that of the default route)")
	f.StringSliceVar(&c.NodeLabels, "node-labels", nil, "labels to register the node with, key=value")
	f.StringSliceVar(&c.NodeTaints, "register-with-taints", nil, "taints to register the node with, key=value:effect")
	f.IntVar(&c.KubeletPort, "port", c.KubeletPort, "port of the kubelet's API")
	f.IntVar(&c.MaxPods, "max-pods", c.MaxPods, "how many pods may run on this node")
	f.StringSliceVar(&o.clusterDNS, "cluster-dns", nil, "address of the cluster's DNS")
	f.StringVar(&c.ClusterDomain, "cluster-domain", c.ClusterDomain, "domain of the cluster's DNS")
	f.StringVar(&o.staticPods, "pod-manifest-path", "", "directory of static pods")
	f.StringVar(&o.clientCA, "client-ca-file", "", "CAs of those who use the kubelet's API (default: the kubeconfig's)")
	f.StringVar(&o.certFile, "tls-cert-file", "", "serving certificate (default: one from the cluster, or one made for this run)")
	f.StringVar(&o.keyFile, "tls-private-key-file", "", "key of --tls-cert-file")
	f.BoolVar(&o.rotate, "rotate-certificates", true, "renew the client certificate through the cluster; on whenever --bootstrap-kubeconfig is used")
	f.BoolVar(&o.serverTLS, "rotate-server-certificates", false, "get the serving certificate from the cluster")
	f.StringVar(&o.healthAddress, "healthz-bind-address", o.healthAddress, "address on which health is served over HTTP")
	f.IntVar(&o.healthPort, "healthz-port", o.healthPort, "port on which health is served; 0 for none")
}

// identity is who a kubelet is, and how it proves it.
type identity struct {
	rest    *rest.Config
	serving func(*tls.ClientHelloInfo) (*tls.Certificate, error)
	cas     *x509.CertPool
	run     func(ctx context.Context) error
	close   func()
}

func (o *kubeletOptions) run(ctx context.Context, f *pflag.FlagSet) error {
	if err := o.load(f); err != nil {
		return err
	}
	if !o.rotate && o.bootstrap != "" {
		return errors.New("--rotate-certificates: a certificate that the cluster has signed is always renewed")
	}
	if len(o.clusterDNS) > 1 {
		return errors.New("--cluster-dns: only one address is supported")
	}
	if len(o.clusterDNS) == 1 {
		o.cfg.ClusterDNS = o.clusterDNS[0]
	}
	if err := o.cfg.Validate(); err != nil {
		return err
	}
	m, err := memberOf(o.cfg)
	if err != nil {
		return err
	}
	unlock, err := lockDataDir(o.cfg.DataDir)
	if err != nil {
		return err
	}
	defer unlock()
	progress := observe.NewProgress(os.Stderr)
	id, err := o.identity(ctx, m, progress)
	if err != nil {
		return err
	}
	defer id.close()
	t, err := https.New(id.rest, "kubelet")
	if err != nil {
		return err
	}
	defer t.Close()
	var dns netip.Addr
	if o.cfg.ClusterDNS != "" {
		dns = netip.MustParseAddr(o.cfg.ClusterDNS) // Validate has read it
	}
	ip, _ := netip.AddrFromSlice(m.ip) // an IP address is one
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return id.run(ctx) })
	g.Go(func() error { return o.serveHTTP(ctx) })
	g.Go(func() error {
		return node.Run(ctx, node.Config{
			DataDir: o.cfg.DataDir, Name: m.name, IP: ip.Unmap(), Client: client.New(t),
			Kubelet:    node.KubeletServer{Port: o.cfg.KubeletPort, GetCertificate: id.serving, ClientCAs: id.cas},
			ClusterDNS: dns, ClusterDomain: o.cfg.ClusterDomain, RuntimeEndpoint: o.cfg.RuntimeEndpoint,
			MaxPods: o.cfg.MaxPods, Labels: labelsOf(o.cfg.NodeLabels), Taints: o.cfg.NodeTaints,
			KubeletOnly: true, KubeletDir: o.cfg.DataDir, StaticPodPath: o.staticPods, Progress: progress, Log: slog.Default(),
			Metrics: o.registry(),
		})
	})
	if err := g.Wait(); !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

func (o *kubeletOptions) serveHTTP(ctx context.Context) error {
	if o.healthPort == 0 {
		return nil
	}
	address := net.JoinHostPort(o.healthAddress, strconv.Itoa(o.healthPort))
	l, err := net.Listen("tcp", address)
	if err != nil {
		return fmt.Errorf("health cannot be served on %s (see --healthz-port): %w", address, err)
	}
	return serveUntil(ctx, l, healthHandler(nil))
}

// identity is that of the kubeconfig, or one that the cluster signs.
func (o *kubeletOptions) identity(ctx context.Context, m member, progress *observe.Progress) (*identity, error) {
	if o.kubeconfig == "" {
		return nil, errors.New("--kubeconfig: say how to reach the API server, or where to keep it with --bootstrap-kubeconfig")
	}
	if o.bootstrap != "" || exists(filepath.Join(m.dataDir, filepath.FromSlash(clientCertFile))) {
		return o.signed(ctx, m, progress)
	}
	cfg, err := o.restConfig()
	if err != nil {
		return nil, err
	}
	if o.serverTLS {
		return nil, errors.New("--rotate-server-certificates needs an identity from --bootstrap-kubeconfig; or give --tls-cert-file")
	}
	serving, err := o.servingFrom(ctx, m)
	if err != nil {
		return nil, err
	}
	if err := rest.LoadTLSFiles(rest.CopyConfig(cfg)); err != nil {
		return nil, fmt.Errorf("--kubeconfig: %w", err)
	}
	cas, err := o.clientCAs(cfg)
	if err != nil {
		return nil, err
	}
	return &identity{
		rest: cfg, serving: serving.GetCertificate, cas: cas, close: serving.Close,
		run: func(ctx context.Context) error { <-ctx.Done(); return nil },
	}, nil
}

// signed asks for certificates through --bootstrap-kubeconfig the first time.
func (o *kubeletOptions) signed(ctx context.Context, m member, progress *observe.Progress) (*identity, error) {
	m.kubeconfig = o.kubeconfig
	j, err := join(ctx, m, progress, func(j *joined) (*pki.Pair, error) {
		cfg, err := clientcmd.BuildConfigFromFlags("", o.bootstrap)
		if err != nil {
			return nil, fmt.Errorf("--bootstrap-kubeconfig: %w", err)
		}
		if err := rest.LoadTLSFiles(cfg); err != nil {
			return nil, fmt.Errorf("--bootstrap-kubeconfig: %w", err)
		}
		cas, err := pki.ParseCerts(cfg.CAData)
		if err != nil {
			return nil, fmt.Errorf("--bootstrap-kubeconfig: its CA: %w", err)
		}
		j.server, j.ca = cfg.Host, cas[0]
		pair, err := j.order(ctx, cfg, j.clientOrder())
		if err != nil {
			return nil, explainJoin(err, j.server)
		}
		return pair, j.save(pair)
	})
	if err != nil {
		return nil, err
	}
	id := &identity{rest: o.counting(j.RESTConfig("kubelet")), serving: j.GetCertificate, cas: j.CAs(), run: j.run, close: j.close}
	if o.clientCA != "" {
		if id.cas, err = o.clientCAs(nil); err != nil {
			return nil, err
		}
	}
	if o.serverTLS {
		return id, nil
	}
	serving, err := o.servingFrom(ctx, m)
	if err != nil {
		return nil, err
	}
	id.serving, id.close = serving.GetCertificate, func() { serving.Close(); j.close() }
	id.run = func(ctx context.Context) error { keepFresh(ctx, j.client, "client", j.dialer.CloseAll); return nil }
	return id, nil
}

// servingFrom serves the certificate of the flags, or one made for this run.
func (o *kubeletOptions) servingFrom(ctx context.Context, m member) (*pki.Rotator, error) {
	if (o.certFile == "") != (o.keyFile == "") {
		return nil, errors.New("--tls-cert-file needs --tls-private-key-file, and the other way round")
	}
	if o.certFile != "" {
		r, err := fileRotator(ctx, o.certFile, o.keyFile)
		if err != nil {
			return nil, fmt.Errorf("--tls-cert-file: %w", err)
		}
		return r, nil
	}
	return pki.NewRotator(ctx, func(context.Context) (*tls.Certificate, error) {
		return selfSigned(m.name, []string{m.name}, []net.IP{m.ip})
	})
}

// clientCAs are who may show a certificate to the kubelet's API.
func (o *kubeletOptions) clientCAs(cfg *rest.Config) (*x509.CertPool, error) {
	if o.clientCA != "" {
		cas, err := readCAs("client-ca-file", o.clientCA)
		return poolOf(cas), err
	}
	loaded := rest.CopyConfig(cfg)
	if err := rest.LoadTLSFiles(loaded); err != nil {
		return nil, fmt.Errorf("--kubeconfig: %w", err)
	}
	cas, err := pki.ParseCerts(loaded.CAData)
	if err != nil {
		return nil, fmt.Errorf("--client-ca-file is not given, and the kubeconfig's CA: %w", err)
	}
	return poolOf(cas), nil
}

// taintText is a taint as --register-with-taints has it.
func taintText(key, value, effect string) string {
	return strings.TrimSuffix(key+"="+value, "=") + ":" + effect
}
