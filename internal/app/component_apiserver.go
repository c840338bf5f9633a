package app

import (
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/sync/errgroup"

	"skiff.dev/skiff/internal/apiserver/admission"
	"skiff.dev/skiff/internal/apiserver/authn"
	"skiff.dev/skiff/internal/app/controlplane"
	"skiff.dev/skiff/internal/observe"
	"skiff.dev/skiff/internal/pki"
	"skiff.dev/skiff/internal/resources/core"
)

// apiServer is what `skiff kube-apiserver` is told, beyond what it shares with
// `skiff server`.
type apiServer struct {
	*component
	cfg Config

	clientCA          string
	accountKeys       []string
	accountSigner     string
	issuer            string
	kubeletCert       string
	kubeletKey        string
	kubeletCA         string
	proxyCA           string
	proxyNames        []string
	proxyUser         []string
	proxyUID          []string
	proxyGroup        []string
	proxyExtra        []string
	tokenFile         string
	authorization     []string
	anonymous         bool
	enabled, disabled []string
	storageBackend    string
}

func kubeAPIServerCommand() *cobra.Command {
	a := &apiServer{cfg: Default()}
	a.component = newComponent("kube-apiserver", a.cfg.SecurePort, without{
		"allow-privileged":                "privileged pods are left to Pod Security admission",
		"enable-bootstrap-token-auth":     "it is always on",
		"proxy-client-cert-file":          "no API servers are aggregated",
		"proxy-client-key-file":           "no API servers are aggregated",
		"kubelet-preferred-address-types": "kubelets are reached by InternalIP, then by host name",
		"endpoint-reconciler-type":        "the endpoint of the service kubernetes is that of the last server to start",
		"etcd-healthcheck-timeout":        "it is 2 s",
		"event-ttl":                       "events live an hour",
	})
	return a.command("Serve the API, as upstream's kube-apiserver", a.flags, a.run)
}

func (a *apiServer) flags(f *pflag.FlagSet) {
	c, headers := &a.cfg, authn.StandardHeaders
	f.StringVar(&c.BindAddress, "bind-address", c.BindAddress, "address on which the API is served")
	f.IntVar(&c.SecurePort, "secure-port", c.SecurePort, "port on which the API is served")
	f.StringVar(&c.AdvertiseAddress, "advertise-address", "", "address at which pods and nodes reach the API server")
	f.StringSliceVar(&c.EtcdServers, "etcd-servers", nil, "URLs of etcd")
	f.StringVar(&c.EtcdCAFile, "etcd-cafile", "", "CA of the etcd servers")
	f.StringVar(&c.EtcdCertFile, "etcd-certfile", "", "client certificate for the etcd servers")
	f.StringVar(&c.EtcdKeyFile, "etcd-keyfile", "", "key of --etcd-certfile")
	f.StringVar(&c.ServiceCIDR, "service-cluster-ip-range", c.ServiceCIDR, "addresses of services")
	f.StringVar(&c.NodePortRange, "service-node-port-range", c.NodePortRange, "ports for services of type NodePort")
	f.StringVar(&a.certFile, "tls-cert-file", "", "certificate to serve")
	f.StringVar(&a.keyFile, "tls-private-key-file", "", "key of --tls-cert-file")
	f.StringVar(&a.clientCA, "client-ca-file", "", "CAs of users' client certificates")
	f.StringSliceVar(&a.accountKeys, "service-account-key-file", nil, "keys that verify service account tokens")
	f.StringVar(&a.accountSigner, "service-account-signing-key-file", "", "key that signs service account tokens")
	f.StringVar(&a.issuer, "service-account-issuer", "", "URL that service account tokens name as their issuer")
	f.StringVar(&a.kubeletCert, "kubelet-client-certificate", "", "client certificate for kubelets")
	f.StringVar(&a.kubeletKey, "kubelet-client-key", "", "key of --kubelet-client-certificate")
	f.StringVar(&a.kubeletCA, "kubelet-certificate-authority", "", "CAs of the kubelets' serving certificates")
	f.StringVar(&a.proxyCA, "requestheader-client-ca-file", "", "CAs of authenticating proxies")
	f.StringSliceVar(&a.proxyNames, "requestheader-allowed-names", nil, "names of authenticating proxies (default: all that --requestheader-client-ca-file signed)")
	f.StringSliceVar(&a.proxyUser, "requestheader-username-headers", headers.UserHeaders, "headers with the user's name, the first that is there counts")
	f.StringSliceVar(&a.proxyUID, "requestheader-uid-headers", headers.UIDHeaders, "headers with the user's UID, the first that is there counts")
	f.StringSliceVar(&a.proxyGroup, "requestheader-group-headers", headers.GroupHeaders, "headers with the user's groups")
	f.StringSliceVar(&a.proxyExtra, "requestheader-extra-headers-prefix", headers.ExtraPrefixes, "prefixes of headers with more about the user")
	f.StringVar(&a.tokenFile, "token-auth-file", "", "static tokens: lines of token,user,uid,\"groups\"")
	f.StringSliceVar(&a.authorization, "authorization-mode", []string{"Node", "RBAC"}, "authorizers: Node and RBAC")
	f.BoolVar(&a.anonymous, "anonymous-auth", true, "let anybody ask for health and version; nothing else is ever open")
	f.StringSliceVar(&a.enabled, "enable-admission-plugins", nil, "admission plugins that have to be on, besides the default ones")
	f.StringSliceVar(&a.disabled, "disable-admission-plugins", nil, "admission plugins that have to be off")
	f.StringVar(&a.storageBackend, "storage-backend", "etcd3", "etcd3")
}

// validate refuses what upstream's server would do and this one does not.
func (a *apiServer) validate() error {
	faults := []error{a.cfg.Validate(), oneOf("storage-backend", a.storageBackend, "etcd3")}
	need := func(ok bool, format string, args ...any) {
		if !ok {
			faults = append(faults, fmt.Errorf(format, args...))
		}
	}
	need(len(a.cfg.EtcdServers) > 0, "--etcd-servers: say where etcd is")
	need(a.accountSigner != "", "--service-account-signing-key-file: the key that signs service account tokens is required")
	need(a.issuer != "", "--service-account-issuer: it is required")
	need((a.certFile == "") == (a.keyFile == ""), "--tls-cert-file needs --tls-private-key-file, and the other way round")
	need((a.kubeletCert == "") == (a.kubeletKey == ""), "--kubelet-client-certificate needs --kubelet-client-key, and the other way round")
	if ip := net.ParseIP(a.cfg.AdvertiseAddress); ip != nil {
		need(!ip.IsLoopback(), "--advertise-address: pods cannot reach the loopback address %s", ip)
	}
	for _, mode := range a.authorization {
		faults = append(faults, oneOf("authorization-mode", mode, "Node", "RBAC"))
	}
	need(containsAll(a.authorization, "Node", "RBAC"), "--authorization-mode: Node and RBAC are always on; leave the flag out or name both")
	need(a.anonymous, "--anonymous-auth: health and version are always open, and nothing else is; leave the flag out")
	faults = append(faults, a.validateHeaders())
	plugins := pluginNames()
	for _, name := range a.enabled {
		need(slices.Contains(plugins, name), "--enable-admission-plugins: there is no plugin %q; there are %s", name, strings.Join(plugins, ", "))
	}
	for _, name := range a.disabled {
		need(!slices.Contains(plugins, name), "--disable-admission-plugins: %s cannot be turned off", name)
	}
	return errors.Join(faults...)
}

// validateHeaders refuses names of headers that could not be told apart, or
// that no request can have.
func (a *apiServer) validateHeaders() error {
	var faults []error
	flags := map[string]string{} // by header, in the form in which requests have it
	for _, given := range []struct {
		flag  string
		names []string
	}{
		{"requestheader-username-headers", a.proxyUser}, {"requestheader-uid-headers", a.proxyUID},
		{"requestheader-group-headers", a.proxyGroup}, {"requestheader-extra-headers-prefix", a.proxyExtra},
	} {
		for _, name := range given.names {
			canonical := http.CanonicalHeaderKey(name)
			if !isHeaderName(name) {
				faults = append(faults, fmt.Errorf("--%s: %q is not the name of a header", given.flag, name))
			} else if other, ok := flags[canonical]; ok && other != given.flag {
				faults = append(faults, fmt.Errorf("--%s: %s is already one of --%s", given.flag, name, other))
			}
			flags[canonical] = given.flag
		}
	}
	if a.proxyCA != "" && len(a.proxyUser) == 0 {
		faults = append(faults, errors.New("--requestheader-username-headers: with --requestheader-client-ca-file, say in which header the user's name is"))
	}
	return errors.Join(faults...)
}

// isHeaderName reports whether s is a token of RFC 9110.
func isHeaderName(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool {
		return r <= ' ' || r >= 0x7f || strings.ContainsRune(`"(),/:;<=>?@[\]{}`, r)
	})
}

// pluginNames are the admission plugins that there are; all are always on.
func pluginNames() (names []string) {
	for _, p := range admission.Default(admission.Deps{}) {
		names = append(names, p.Name)
	}
	slices.Sort(names)
	return names
}

func (a *apiServer) run(ctx context.Context, _ *pflag.FlagSet) error {
	if err := a.validate(); err != nil {
		return err
	}
	s := &server{cfg: a.cfg, progress: observe.NewProgress(os.Stderr)}
	defer s.close()
	config, err := a.controlPlane(ctx, s)
	if err != nil {
		return err
	}
	address := net.JoinHostPort(a.cfg.BindAddress, strconv.Itoa(a.cfg.SecurePort))
	if s.listener, err = net.Listen("tcp", address); err != nil {
		return fmt.Errorf("the API cannot be served on %s (choose another --bind-address or --secure-port): %w", address, err)
	}
	s.onClose(func() { s.listener.Close() })
	if err := s.progress.Step("store is open", func() error { return s.openStore(ctx) }); err != nil {
		return err
	}
	config.Store = s.store
	if s.cp, err = startPlane(ctx, observe.NewRegistry(), config); err != nil {
		return err
	}
	s.onClose(s.cp.Close)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return s.serve(ctx) })
	g.Go(func() error {
		return s.progress.Step("cluster is ready for use", func() error { return s.cp.Bootstrap(ctx) })
	})
	g.Go(func() error { return s.cp.Keep(ctx) })
	if err := g.Wait(); !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// controlPlane reads the files that the flags name; s gets what it serves with.
func (a *apiServer) controlPlane(ctx context.Context, s *server) (c controlplane.Config, err error) {
	first, last, err := parsePortRange(a.cfg.NodePortRange)
	if err != nil {
		return c, err
	}
	c = controlplane.Config{
		Issuer: a.issuer,
		Services: core.ServiceConfig{
			CIDRs: []netip.Prefix{netip.MustParsePrefix(a.cfg.ServiceCIDR)}, FirstNodePort: int32(first), LastNodePort: int32(last),
		},
	}
	if c.ServiceAccountKey, err = readSigner("service-account-signing-key-file", a.accountSigner); err != nil {
		return c, err
	}
	for _, file := range a.accountKeys {
		keys, err := readPublicKeys(file)
		if err != nil {
			return c, err
		}
		c.ServiceAccountKeys = append(c.ServiceAccountKeys, keys...)
	}
	if c.Advertise, err = s.advertise(); err != nil {
		return c, err
	}
	if c.Roles, err = declaredRoles(); err != nil {
		return c, err
	}
	if a.tokenFile != "" {
		data, err := os.ReadFile(a.tokenFile)
		if err != nil {
			return c, fmt.Errorf("--token-auth-file: %w", err)
		}
		if c.Tokens, err = authn.ParseTokenFile(data); err != nil {
			return c, fmt.Errorf("--token-auth-file: %w", err)
		}
	}
	return c, a.trust(ctx, s, &c)
}

// trust reads certificates: whom to believe, and what to show.
func (a *apiServer) trust(ctx context.Context, s *server, c *controlplane.Config) error {
	clients, err := readCAs("client-ca-file", a.clientCA)
	if err != nil {
		return err
	}
	proxies, err := readCAs("requestheader-client-ca-file", a.proxyCA)
	if err != nil {
		return err
	}
	c.Trust = controlplane.Trust{Clients: clients, Proxies: controlplane.FrontProxies{
		CAs: proxies, Names: a.proxyNames, UserHeaders: a.proxyUser, UIDHeaders: a.proxyUID, GroupHeaders: a.proxyGroup, ExtraPrefixes: a.proxyExtra,
	}}
	s.acceptable = pki.PoolOf(slices.Concat(clients, proxies)...)
	if s.serving, err = a.servingRotator(ctx); err != nil {
		return err
	}
	s.onClose(s.serving.Close)
	kubelets, err := readCAs("kubelet-certificate-authority", a.kubeletCA)
	if err != nil {
		return err
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: poolOf(kubelets)}
	if kubelets == nil {
		slog.Warn("kubelets are not verified; see --kubelet-certificate-authority")
		config.InsecureSkipVerify = true
	}
	if a.kubeletCert != "" {
		if s.kubelets, err = fileRotator(ctx, a.kubeletCert, a.kubeletKey); err != nil {
			return fmt.Errorf("--kubelet-client-certificate: %w", err)
		}
		s.onClose(s.kubelets.Close)
		config.GetClientCertificate = s.kubelets.GetClientCertificate
	}
	c.Nodes = &http.Transport{
		TLSClientConfig: config, MaxIdleConnsPerHost: 2, IdleConnTimeout: 90 * time.Second, TLSHandshakeTimeout: 10 * time.Second,
	}
	return nil
}

func (a *apiServer) servingRotator(ctx context.Context) (*pki.Rotator, error) {
	if a.certFile != "" {
		r, err := fileRotator(ctx, a.certFile, a.keyFile)
		if err != nil {
			return nil, fmt.Errorf("--tls-cert-file: %w", err)
		}
		return r, nil
	}
	return pki.NewRotator(ctx, func(context.Context) (*tls.Certificate, error) { return a.certificate() })
}

// fileRotator serves a certificate from files, which are read again when it
// grows old.
func fileRotator(ctx context.Context, crt, key string) (*pki.Rotator, error) {
	return pki.NewRotator(ctx, func(context.Context) (*tls.Certificate, error) {
		cert, err := tls.LoadX509KeyPair(crt, key)
		return &cert, err
	})
}

func readCAs(flag, file string) ([]*x509.Certificate, error) {
	if file == "" {
		return nil, nil
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("--%s: %w", flag, err)
	}
	certs, err := pki.ParseCerts(data)
	if err != nil {
		return nil, fmt.Errorf("--%s: %s: %w", flag, file, err)
	}
	return certs, nil
}

// poolOf returns nil for none.
func poolOf(certs []*x509.Certificate) *x509.CertPool {
	if certs == nil {
		return nil
	}
	return pki.PoolOf(certs...)
}

func readSigner(flag, file string) (crypto.Signer, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("--%s: %w", flag, err)
	}
	key, err := pki.ParseKey(data)
	if err != nil {
		return nil, fmt.Errorf("--%s: %s: %w", flag, file, err)
	}
	return key, nil
}

// readPublicKeys reads the public keys, or those of private ones, of a PEM file.
func readPublicKeys(file string) (keys []crypto.PublicKey, err error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("--service-account-key-file: %w", err)
	}
	for rest := data; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		var key crypto.PublicKey
		switch block.Type {
		case "PUBLIC KEY":
			key, err = x509.ParsePKIXPublicKey(block.Bytes)
		case "RSA PUBLIC KEY":
			key, err = x509.ParsePKCS1PublicKey(block.Bytes)
		case "CERTIFICATE":
			var cert *x509.Certificate
			if cert, err = x509.ParseCertificate(block.Bytes); err == nil {
				key = cert.PublicKey
			}
		default:
			var signer crypto.Signer
			if signer, err = pki.ParseKey(pem.EncodeToMemory(block)); err == nil {
				key = signer.Public()
			}
		}
		if err != nil {
			return nil, fmt.Errorf("--service-account-key-file: %s: %w", file, err)
		}
		keys = append(keys, key)
	}
	if len(keys) == 0 {
		return nil, fmt.Errorf("--service-account-key-file: %s: no key in it", file)
	}
	return keys, nil
}
