package app

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"skiff.dev/skiff/internal/client"
	"skiff.dev/skiff/internal/client/https"
	"skiff.dev/skiff/internal/leaderelection"
	"skiff.dev/skiff/internal/observe"
	"skiff.dev/skiff/internal/pki"
	"skiff.dev/skiff/internal/version"
)

// without lists upstream's flags that are accepted and have no effect, each
// with the reason. All other flags that are not known are errors.
type without map[string]string

// The reasons that several flags share.
const (
	reasonWorkers = "controllers choose their own number of workers"
	reasonGates   = "there are no feature gates to set"
	reasonLogging = "logs go to standard error; see --log-level"
	reasonPush    = "changes are followed as they happen; nothing is done by the clock"
	reasonProxies = "requests by way of the API server are not taken"
	reasonClient  = "the client limits nothing and speaks protobuf"
)

var withoutEverywhere = without{
	"feature-gates": reasonGates, "logging-format": reasonLogging, "log-flush-frequency": reasonLogging,
	"logtostderr": reasonLogging, "alsologtostderr": reasonLogging, "log-dir": reasonLogging, "vmodule": reasonLogging,
	"profiling": "there is no profiling endpoint on this port", "contention-profiling": "there is no profiling endpoint on this port",
	"show-hidden-metrics-for-version": "no metrics are hidden",
	"kube-api-qps":                    reasonClient, "kube-api-burst": reasonClient, "kube-api-content-type": reasonClient,
}

// withoutProxies is for the ports of components that nobody reaches by way of
// the API server.
var withoutProxies = without{
	"requestheader-client-ca-file": reasonProxies, "requestheader-allowed-names": reasonProxies, "requestheader-username-headers": reasonProxies,
	"requestheader-uid-headers": reasonProxies, "requestheader-group-headers": reasonProxies, "requestheader-extra-headers-prefix": reasonProxies,
	"authentication-skip-lookup": "nothing is looked up",
}

// add adds those of another list.
func (w without) add(more without) { maps.Copy(w, more) }

func (w without) flags(f *pflag.FlagSet) {
	for name := range w {
		f.String(name, "", "accepted without effect")
		f.Lookup(name).NoOptDefVal = "true" // switches come without a value
		f.Lookup(name).Hidden = true
	}
}

// warn logs those that were given, once.
func (w without) warn(f *pflag.FlagSet) {
	f.Visit(func(flag *pflag.Flag) {
		if reason, ok := w[flag.Name]; ok {
			slog.Warn("flag has no effect", "flag", "--"+flag.Name, "reason", reason)
		}
	})
}

// component is what upstream's components have in common.
type component struct {
	name       string
	kubeconfig string
	master     string
	logLevel   string
	verbosity  int
	port
	measured
	lead    leaderelection.Config
	ignored without
}

func newComponent(name string, number int, ignored without) *component {
	c := &component{name: name, port: port{number: number, bind: "0.0.0.0"}, logLevel: "info", ignored: without{}}
	for _, w := range []without{withoutEverywhere, ignored} {
		for flag, reason := range w {
			c.ignored[flag] = reason
		}
	}
	return c
}

// command returns the component's command. Arguments are errors.
func (c *component) command(short string, flags func(*pflag.FlagSet), run func(ctx context.Context, f *pflag.FlagSet) error) *cobra.Command {
	cmd := &cobra.Command{
		Use: c.name, Short: short, Args: cobra.NoArgs, Version: version.Kubernetes,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if c.verbosity >= 4 && !cmd.Flags().Changed("log-level") {
				c.logLevel = "debug"
			}
			logger, err := observe.Logger(os.Stderr, c.logLevel)
			if err != nil {
				return err
			}
			slog.SetDefault(logger)
			c.ignored.warn(cmd.Flags())
			return run(cmd.Context(), cmd.Flags())
		},
	}
	cmd.SetVersionTemplate("Kubernetes {{.Version}}\n")
	f := cmd.Flags()
	f.StringVar(&c.logLevel, "log-level", c.logLevel, "debug, info, warn or error")
	f.IntVarP(&c.verbosity, "v", "v", 0, "upstream's number for the log level: 4 and more is debug")
	flags(f)
	c.ignored.flags(f)
	return cmd
}

func (c *component) clientFlags(f *pflag.FlagSet) {
	f.StringVar(&c.kubeconfig, "kubeconfig", "", "kubeconfig with the API server's address and the component's own identity")
	f.StringVar(&c.master, "master", "", "URL of the API server, instead of the kubeconfig's")
}

func (c *component) leaderFlags(f *pflag.FlagSet) {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown" // the random part tells processes apart
	}
	c.lead = leaderelection.Default(c.name, host+"_"+string(uuid.NewUUID()))
	l := &c.lead
	f.BoolVar(&l.LeaderElect, "leader-elect", l.LeaderElect, "work only while holding a Lease, so that several processes may stand by")
	f.DurationVar(&l.LeaseDuration, "leader-elect-lease-duration", l.LeaseDuration, "how long others wait for a sign of life of the leader")
	f.DurationVar(&l.RenewDeadline, "leader-elect-renew-deadline", l.RenewDeadline, "how long a leader that cannot give one goes on")
	f.DurationVar(&l.RetryPeriod, "leader-elect-retry-period", l.RetryPeriod, "time between tries")
	f.StringVar(&l.ResourceLock, "leader-elect-resource-lock", l.ResourceLock, "kind of object that is held")
	f.StringVar(&l.ResourceNamespace, "leader-elect-resource-namespace", l.ResourceNamespace, "namespace of the Lease")
	f.StringVar(&l.ResourceName, "leader-elect-resource-name", l.ResourceName, "name of the Lease")
}

// restConfig reaches the API server under the component's own identity.
func (c *component) restConfig() (*rest.Config, error) {
	if c.kubeconfig == "" && c.master == "" {
		return nil, errors.New("--kubeconfig: say how to reach the API server")
	}
	cfg, err := clientcmd.BuildConfigFromFlags(c.master, c.kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("--kubeconfig: %w", err)
	}
	cfg.QPS = -1
	return c.counting(cfg), nil
}

// open returns a client; closing it ends its caches.
func (c *component) open() (*client.Client, *rest.Config, func(), error) {
	cfg, err := c.restConfig()
	if err != nil {
		return nil, nil, nil, err
	}
	t, err := https.New(cfg, c.name)
	if err != nil {
		return nil, nil, nil, err
	}
	return client.New(t), cfg, t.Close, nil
}

// runLeading runs health and, while leading, lead, whose writes go through the fence.
func (c *component) runLeading(ctx context.Context, cl *client.Client, lead func(context.Context, fence) error) error {
	g, ctx := errgroup.WithContext(ctx)
	var elector *leaderelection.Elector
	if c.lead.LeaderElect {
		events := client.NewRecorder(cl, c.name, "")
		var err error
		if elector, err = leaderelection.New(cl, events, c.lead); err != nil {
			return err
		}
		g.Go(func() error { return events.Run(ctx) })
	}
	g.Go(func() error { return c.servePort(ctx, cl) })
	g.Go(func() error {
		if elector == nil {
			return lead(ctx, func(t client.Transport) client.Transport { return t })
		}
		return elector.Run(ctx, func(ctx context.Context) error { return lead(ctx, elector.Fence) })
	})
	err := g.Wait()
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// healthHandler answers /healthz, /livez and /readyz; healthy is nil for a
// process that is healthy while it runs.
func healthHandler(healthy func() error) *http.ServeMux {
	mux := http.NewServeMux()
	for _, path := range []string{"/healthz", "/livez", "/readyz"} {
		mux.HandleFunc("GET "+path, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/plain; charset=utf-8")
			w.Header().Set("X-Content-Type-Options", "nosniff")
			if healthy != nil {
				if err := healthy(); err != nil {
					http.Error(w, err.Error(), http.StatusServiceUnavailable)
					return
				}
			}
			_, _ = w.Write([]byte("ok")) // the client may have gone
		})
	}
	return mux
}

// serveUntil serves on l until ctx ends, and closes it.
func serveUntil(ctx context.Context, l net.Listener, h http.Handler) error {
	s := &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 64 << 10,
		ErrorLog: slog.NewLogLogger(slog.Default().Handler(), slog.LevelDebug)}
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		s.Close()
	})
	err := s.Serve(l)
	if !stop() {
		<-stopped
	}
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// certificate is that of the flags, or one for this run alone.
func (c *component) certificate() (*tls.Certificate, error) {
	if (c.certFile == "") != (c.keyFile == "") {
		return nil, errors.New("--tls-cert-file needs --tls-private-key-file, and the other way round")
	}
	if c.certFile != "" {
		p, err := pki.LoadPair(c.certFile, c.keyFile)
		if err != nil {
			return nil, err
		}
		return p.TLS(), nil
	}
	host, err := os.Hostname()
	if err != nil {
		host = c.name
	}
	return selfSigned(c.name, []string{host, "localhost"}, []net.IP{net.IPv4(127, 0, 0, 1)})
}

// selfSigned makes a certificate that nobody can verify, for who has no other.
func selfSigned(name string, hosts []string, ips []net.IP) (*tls.Certificate, error) {
	ca, err := pki.NewAuthority(name+"-self-signed", time.Now())
	if err != nil {
		return nil, err
	}
	p, err := ca.Issue(pki.Request{Identity: pki.Identity{User: name}, Usage: pki.Server, DNSNames: hosts, IPs: ips})
	if err != nil {
		return nil, err
	}
	return p.TLS(), nil
}

// componentCommands are upstream's components, in this binary.
func componentCommands() []*cobra.Command {
	return []*cobra.Command{
		kubeAPIServerCommand(), kubeControllerManagerCommand(), kubeSchedulerCommand(), kubeProxyCommand(), kubeletCommand(),
	}
}

// changed reports whether one of the flags was given.
func changed(f *pflag.FlagSet, names ...string) bool {
	return slices.ContainsFunc(names, func(name string) bool { return f.Changed(name) })
}

// oneOf reports a flag whose value is none of the allowed ones.
func oneOf(flag, value string, allowed ...string) error {
	if slices.Contains(allowed, value) {
		return nil
	}
	return fmt.Errorf("--%s: %q is not supported; one of: %s", flag, value, strings.Join(allowed, ", "))
}
