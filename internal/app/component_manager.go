package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/sync/errgroup"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/rest"

	"skiff.dev/skiff/internal/apiserver/authz/rbac"
	"skiff.dev/skiff/internal/app/controlplane"
	"skiff.dev/skiff/internal/client"
	"skiff.dev/skiff/internal/client/https"
	"skiff.dev/skiff/internal/controller"
	"skiff.dev/skiff/internal/controllers"
	"skiff.dev/skiff/internal/controllers/nodeipam"
	"skiff.dev/skiff/internal/controllers/nodelifecycle"
	"skiff.dev/skiff/internal/controllers/podgc"
	"skiff.dev/skiff/internal/pki"
	"skiff.dev/skiff/internal/watchcache"
)

const managerPort = 10257

// manager is what `skiff kube-controller-manager` is told.
type manager struct {
	*component
	enabled        []string
	clusterCIDRs   []string
	serviceCIDRs   []string
	allocate       bool
	mask, mask4    int
	mask6          int
	rootCAFile     string
	signingCert    string
	signingKey     string
	signFor        time.Duration
	ownCredentials bool
	threshold      int
	lifecycle      nodelifecycle.Config
}

func kubeControllerManagerCommand() *cobra.Command {
	m := &manager{
		component: newComponent("kube-controller-manager", managerPort, managerWithout()),
		enabled:   []string{"*"}, mask: 0, mask4: nodeipam.DefaultBits4, mask6: nodeipam.DefaultBits6,
		signFor: pki.DefaultLifetime, threshold: podgc.DefaultThreshold, lifecycle: nodelifecycle.Default(),
	}
	return m.command("Keep the cluster as it should be, as upstream's kube-controller-manager", m.flags, m.run)
}

func managerWithout() without {
	w := without{
		"authentication-tolerate-lookup-failure": "nothing is looked up",
		"service-account-private-key-file":       "tokens are made by the API server when they are asked for",
		"node-monitor-period":                    reasonPush, "resource-quota-sync-period": reasonPush, "namespace-sync-period": reasonPush,
		"min-resync-period": reasonPush, "pvclaimbinder-sync-period": reasonPush, "controller-start-interval": reasonPush,
		"configure-cloud-routes": "there are no cloud providers", "allow-untagged-cloud": "there are no cloud providers",
		"cloud-config": "there are no cloud providers", "cluster-name": "it names cloud resources, of which there are none",
		"flex-volume-plugin-dir": "there are no flex volumes", "enable-garbage-collector": "it is always on",
	}
	w.add(withoutProxies)
	for _, what := range []string{"deployment", "endpoint", "gc", "namespace", "replicaset", "service", "serviceaccount-token", "service-endpoint",
		"statefulset", "daemonset", "job", "cron-job", "resource-quota", "ttl-after-finished", "rc", "horizontal-pod-autoscaler"} {
		w["concurrent-"+what+"-syncs"] = reasonWorkers
	}
	return w
}

func (m *manager) flags(f *pflag.FlagSet) {
	m.clientFlags(f)
	m.serveFlags(f)
	m.leaderFlags(f)
	f.StringSliceVar(&m.enabled, "controllers", m.enabled, "controllers to run: * for all but those that are off by default (bootstrap-signer, token-cleaner), name for one, -name for all but one")
	f.StringSliceVar(&m.clusterCIDRs, "cluster-cidr", nil, "addresses of pods, of which each node gets a part")
	f.StringSliceVar(&m.serviceCIDRs, "service-cluster-ip-range", nil, "addresses of services")
	f.BoolVar(&m.allocate, "allocate-node-cidrs", false, "give each node a part of --cluster-cidr")
	f.IntVar(&m.mask, "node-cidr-mask-size", 0, "mask size of a node's part, for a --cluster-cidr of one family")
	f.IntVar(&m.mask4, "node-cidr-mask-size-ipv4", m.mask4, "mask size of a node's IPv4 part")
	f.IntVar(&m.mask6, "node-cidr-mask-size-ipv6", m.mask6, "mask size of a node's IPv6 part")
	f.StringVar(&m.rootCAFile, "root-ca-file", "", "CA that is published to every namespace (default: the kubeconfig's)")
	f.StringVar(&m.signingCert, "cluster-signing-cert-file", "", "CA certificate with which signing requests are signed")
	f.StringVar(&m.signingKey, "cluster-signing-key-file", "", "key of --cluster-signing-cert-file")
	f.DurationVar(&m.signFor, "cluster-signing-duration", m.signFor, "how long signed certificates are valid at most")
	f.BoolVar(&m.ownCredentials, "use-service-account-credentials", false, "run each controller under a service account of its own")
	f.IntVar(&m.threshold, "terminated-pod-gc-threshold", m.threshold, "how many terminated pods may stay; 0 or less for any number")
	f.DurationVar(&m.lifecycle.Grace, "node-monitor-grace-period", m.lifecycle.Grace, "how long a node may be silent before it counts as unhealthy")
	f.DurationVar(&m.lifecycle.StartupGrace, "node-startup-grace-period", m.lifecycle.StartupGrace, "how long a node may be silent while it starts")
	f.Float64Var(&m.lifecycle.EvictionRate, "node-eviction-rate", m.lifecycle.EvictionRate, "nodes of a zone per second whose pods are evicted")
	f.Float64Var(&m.lifecycle.SecondaryRate, "secondary-node-eviction-rate", m.lifecycle.SecondaryRate, "the same for a large zone that is unhealthy")
	f.IntVar(&m.lifecycle.LargeZone, "large-cluster-size-threshold", m.lifecycle.LargeZone, "how many nodes a large zone has")
	f.Float64Var(&m.lifecycle.Unhealthy, "unhealthy-zone-threshold", m.lifecycle.Unhealthy, "the part of a zone's nodes that are not ready when it counts as unhealthy")
}

func (m *manager) run(ctx context.Context, f *pflag.FlagSet) error {
	every, err := everyController()
	if err != nil {
		return err
	}
	if err := checkControllers(m.enabled, controllers.Names(every)); err != nil {
		return err
	}
	cfg, err := m.restConfig()
	if err != nil {
		return err
	}
	parts, err := m.parts(cfg, f)
	if err != nil {
		return err
	}
	t, err := https.New(cfg, m.name)
	if err != nil {
		return err
	}
	defer t.Close()
	own := client.New(t)
	return m.runLeading(ctx, own, func(ctx context.Context, fenced fence) error {
		of := newAccounts(own, cfg, m.ownCredentials, fenced)
		defer of.close()
		return m.runAll(ctx, parts, of, client.NewRecorder(client.New(fenced(own.Transport)), "controller-manager", ""))
	})
}

// parts reads what the flags name.
func (m *manager) parts(cfg *rest.Config, f *pflag.FlagSet) (p controllers.Deps, err error) {
	p = controllers.Default()
	p.NodeLifecycle, p.SigningDuration, p.TerminatedPods, p.Aggregate = m.lifecycle, m.signFor, m.threshold, rbac.Aggregate
	if p.NodeIPAM, err = m.ipam(f); err != nil {
		return p, err
	}
	if p.RootCA = cfg.CAData; m.rootCAFile != "" || len(p.RootCA) == 0 {
		file := m.rootCAFile
		if file == "" {
			file = cfg.CAFile
		}
		if p.RootCA, err = os.ReadFile(file); err != nil {
			return p, fmt.Errorf("--root-ca-file: %w", err)
		}
	}
	if (m.signingCert == "") != (m.signingKey == "") {
		return p, errors.New("--cluster-signing-cert-file needs --cluster-signing-key-file, and the other way round")
	}
	if m.signingCert != "" {
		pair, err := pki.LoadPair(m.signingCert, m.signingKey)
		if err != nil {
			return p, fmt.Errorf("--cluster-signing-cert-file: %w", err)
		}
		p.Signer = &pki.Authority{Pair: *pair}
	}
	disc, err := discovery.NewDiscoveryClientForConfig(cfg)
	if err != nil {
		return p, fmt.Errorf("setting up discovery: %w", err)
	}
	p.Resources = func(context.Context) ([]controller.Resource, error) { return servedBy(disc) }
	return p, nil
}

func (m *manager) ipam(f *pflag.FlagSet) (c nodeipam.Config, err error) {
	c.Bits4, c.Bits6 = m.mask4, m.mask6
	if !m.allocate {
		return c, nil
	}
	if len(m.clusterCIDRs) == 0 {
		return c, errors.New("--allocate-node-cidrs needs --cluster-cidr")
	}
	if c.Cluster, err = prefixes("cluster-cidr", m.clusterCIDRs); err != nil {
		return c, err
	}
	if c.Services, err = prefixes("service-cluster-ip-range", m.serviceCIDRs); err != nil {
		return c, err
	}
	if !f.Changed("node-cidr-mask-size") {
		return c, nil
	}
	if len(c.Cluster) > 1 || changed(f, "node-cidr-mask-size-ipv4", "node-cidr-mask-size-ipv6") {
		return c, errors.New("--node-cidr-mask-size is for a --cluster-cidr of one family; use --node-cidr-mask-size-ipv4 and -ipv6")
	}
	if c.Cluster[0].Addr().Is4() {
		c.Bits4 = m.mask
	} else {
		c.Bits6 = m.mask
	}
	return c, nil
}

func prefixes(flag string, texts []string) (all []netip.Prefix, err error) {
	for _, text := range texts {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, fmt.Errorf("--%s: %q is not a network such as 10.244.0.0/16", flag, text)
		}
		all = append(all, p.Masked())
	}
	return all, nil
}

// servedBy asks a server's discovery for what can be listed and deleted.
func servedBy(d *discovery.DiscoveryClient) (found []controller.Resource, err error) {
	lists, err := d.ServerPreferredResources()
	if discovery.IsGroupDiscoveryFailedError(err) { // such as of an API server beside this one, which may be down
		slog.Warn("some groups of the API are left alone", "err", err)
		err = nil
	}
	for _, list := range lists {
		gv, parseErr := schema.ParseGroupVersion(list.GroupVersion)
		if parseErr != nil {
			return found, parseErr
		}
		for _, r := range list.APIResources {
			if containsAll(r.Verbs, "list", "watch", "delete") {
				found = append(found, controller.Resource{GroupVersionResource: gv.WithResource(r.Name), Kind: r.Kind, Namespaced: r.Namespaced})
			}
		}
	}
	return found, err
}

func containsAll(have []string, want ...string) bool {
	return !slices.ContainsFunc(want, func(w string) bool { return !slices.Contains(have, w) })
}

// runAll runs the controllers that are asked for and can run.
func (m *manager) runAll(ctx context.Context, p controllers.Deps, of *accounts, events *client.Recorder) error {
	p.Client, p.Events = of.client, events
	all, err := controllers.All(p)
	if err != nil {
		return err
	}
	if p.Signer == nil {
		slog.Warn("no certificates will be signed; see --cluster-signing-cert-file")
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return events.Run(ctx) })
	measure := controller.NewMetrics(m.registry())
	for _, c := range all {
		if wantsController(m.enabled, c.Name()) {
			c.Measure(measure)
			g.Go(func() error { return c.Run(ctx) })
		}
	}
	return g.Wait()
}

// accounts are the identities of controllers: the process's own, or a service
// account for each.
type accounts struct {
	own    *client.Client
	cfg    *rest.Config
	each   bool
	fenced fence
	open   map[string]*https.Transport
}

func newAccounts(own *client.Client, cfg *rest.Config, each bool, fenced fence) *accounts {
	return &accounts{own: own, cfg: cfg, each: each, fenced: fenced, open: map[string]*https.Transport{}}
}

func (a *accounts) client(name string) *client.Client {
	if !a.each {
		return client.New(a.fenced(a.own.Transport))
	}
	if t := a.open[name]; t != nil {
		return client.New(a.fenced(&account{t, a.own}))
	}
	cfg := rest.AnonymousClientConfig(a.cfg)
	cfg.QPS = -1
	source := &tokenSource{own: a.own, account: controlplane.AccountOf(name)}
	cfg.Wrap(func(rt http.RoundTripper) http.RoundTripper { return &bearer{source, rt} })
	t, err := https.New(cfg, "kube-controller-manager")
	if err != nil { // the same configuration has made the process's own client
		slog.Error("a controller runs under the process's own identity", "controller", name, "err", err)
		return client.New(a.fenced(a.own.Transport))
	}
	a.open[name] = t
	return client.New(a.fenced(&account{t, a.own}))
}

// account is a service account's transport. What is followed and listed is read
// under the process's own identity, as by upstream's: all controllers share one
// copy, and the accounts have no right to read all that is read for them.
type account struct {
	client.Transport
	own client.Transport
}

// Table implements client.Transport.
func (a *account) Table(ctx context.Context, gvr schema.GroupVersionResource, scope watchcache.Scope) (*watchcache.Table, error) {
	return a.own.Table(ctx, gvr, scope)
}

// List implements client.Transport.
func (a *account) List(ctx context.Context, ref client.Ref, opts metav1.ListOptions) (*client.List, error) {
	return a.own.List(ctx, ref, opts)
}

func (a *accounts) close() {
	for _, t := range a.open {
		t.Close()
	}
}

// tokenSource gets tokens of a service account, which it makes if need be.
type tokenSource struct {
	own     *client.Client
	account string

	mu    sync.Mutex
	token string
	renew time.Time
}

const tokenLifetime = time.Hour

func (s *tokenSource) get(ctx context.Context) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.token != "" && time.Now().Before(s.renew) {
		return s.token, nil
	}
	kind := client.For[*corev1.ServiceAccount](s.own)
	_, err := kind.Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespaceSystem, Name: s.account}})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return "", fmt.Errorf("making service account %s: %w", s.account, err)
	}
	seconds := int64(tokenLifetime / time.Second)
	got, err := kind.Do(ctx, metav1.NamespaceSystem, s.account, "token", &authenticationv1.TokenRequest{
		Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: &seconds},
	})
	if err != nil {
		return "", fmt.Errorf("getting a token of service account %s: %w", s.account, err)
	}
	request, ok := got.(*authenticationv1.TokenRequest)
	if !ok {
		return "", fmt.Errorf("getting a token of service account %s: the API server answered with a %T", s.account, got)
	}
	left := time.Until(request.Status.ExpirationTimestamp.Time)
	s.token, s.renew = request.Status.Token, time.Now().Add(left*4/5)
	return s.token, nil
}

// forget drops a token that the server has refused.
func (s *tokenSource) forget(token string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.token == token {
		s.token = ""
	}
}

// bearer sends the account's token with every request.
type bearer struct {
	source *tokenSource
	next   http.RoundTripper
}

// RoundTrip implements http.RoundTripper.
func (b *bearer) RoundTrip(r *http.Request) (*http.Response, error) {
	token, err := b.source.get(r.Context())
	if err != nil {
		return nil, err
	}
	r = r.Clone(r.Context())
	r.Header.Set("Authorization", "Bearer "+token)
	resp, err := b.next.RoundTrip(r)
	if err == nil && resp.StatusCode == http.StatusUnauthorized {
		b.source.forget(token)
	}
	return resp, err
}
