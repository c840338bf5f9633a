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
	"time"

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

const (
	kubeletHealthPort = 10248
	reasonDead        = "the last container that ended is kept, for its logs"
)

// kubeletOptions is what `skiff kubelet` is told.
type kubeletOptions struct {
	*component
	cfg           Config // DataDir is --root-dir
	file          string
	bootstrap     string
	dropIns       string
	fields        map[string]*fieldValue // flags for fields of the configuration
	settings      node.Settings
	staticPods    string
	clientCA      string
	fixed         bool // the client certificate is not to be renewed
	serverTLS     bool
	oomScore      *int32
	healthAddress string
	healthPort    int
}

func kubeletCommand() *cobra.Command {
	o := &kubeletOptions{
		component: newComponent("kubelet", 0, without{
			"pod-infra-container-image": "the runtime has its own",
			"cert-dir":                  "certificates are kept in <root-dir>/pki",
			"cloud-provider":            "there are no cloud providers", "network-plugin": "the runtime has the network plugin",
			"runtime-cgroups": "the runtime's own use is not told apart", "housekeeping-interval": reasonPush,
			"maximum-dead-containers": reasonDead, "maximum-dead-containers-per-container": reasonDead, "minimum-container-ttl-duration": reasonDead,
		}),
		cfg: Default(), settings: node.DefaultSettings(), healthAddress: "127.0.0.1", healthPort: kubeletHealthPort,
	}
	o.cfg.DataDir = "/var/lib/kubelet"
	return o.command("Run the pods of a node, as upstream's kubelet", o.flags, o.run)
}

func (o *kubeletOptions) flags(f *pflag.FlagSet) {
	c := &o.cfg
	o.clientFlags(f)
	f.StringVar(&o.file, "config", "", "a KubeletConfiguration (kubelet.config.k8s.io/v1beta1); flags win over it")
	f.StringVar(&o.dropIns, "config-dir", "", "directory of files that end in .conf and win over --config")
	f.StringVar(&o.bootstrap, "bootstrap-kubeconfig", "", "kubeconfig by which to ask for a client certificate; --kubeconfig is then written")
	f.StringVar(&c.DataDir, "root-dir", c.DataDir, "where pods, volumes and certificates are kept")
	f.StringVar(&c.NodeName, "hostname-override", "", "name of the node (default: the host's name)")
	f.StringVar(&c.NodeIP, "node-ip", "", "address of the node (default: that of the default route)")
	f.StringSliceVar(&c.NodeLabels, "node-labels", nil, "labels to register the node with, key=value")
	f.StringSliceVar(&c.NodeTaints, "register-with-taints", nil, "taints to register the node with, key=value:effect")
	o.fields = fieldFlags(f)
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
	if err := o.configure(f); err != nil {
		return err
	}
	if o.fixed && o.bootstrap != "" {
		return errors.New("--rotate-certificates: a certificate that the cluster has signed is always renewed")
	}
	if err := o.cfg.Validate(); err != nil {
		return err
	}
	m, err := memberOf(o.cfg)
	if err != nil {
		return err
	}
	setOOMScore(o.oomScore)
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
			Settings: o.settings,
			DataDir:  o.cfg.DataDir, Name: m.name, IP: ip.Unmap(), Client: client.New(t),
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
	own := exists(filepath.Join(m.dataDir, filepath.FromSlash(clientCertFile)))
	if own || o.bootstrap != "" && !o.canUseKubeconfig() {
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

// canUseKubeconfig reports whether the kubeconfig is there with an identity that
// holds: then nothing has to be asked for, and who has made the node may have
// removed --bootstrap-kubeconfig.
func (o *kubeletOptions) canUseKubeconfig() bool {
	cfg, err := clientcmd.BuildConfigFromFlags("", o.kubeconfig)
	if err != nil || rest.LoadTLSFiles(cfg) != nil {
		return false
	}
	if len(cfg.CertData) == 0 {
		return cfg.BearerToken != "" || cfg.BearerTokenFile != "" || cfg.ExecProvider != nil
	}
	certs, err := pki.ParseCerts(cfg.CertData)
	if err != nil || time.Now().After(certs[0].NotAfter) {
		return false
	}
	slog.Warn("the client certificate is that of --kubeconfig, and is not renewed by the kubelet", "kubeconfig", o.kubeconfig, "ends", certs[0].NotAfter)
	return true
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
