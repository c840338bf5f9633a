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
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/util/connrotation"

	"skiff.dev/skiff/internal/client"
	"skiff.dev/skiff/internal/client/https"
	"skiff.dev/skiff/internal/observe"
	"skiff.dev/skiff/internal/pki"
)

// What a node keeps of its membership below its data directory.
const (
	agentKubeconfig = "kubelet.kubeconfig"
	agentCA         = "pki/ca.crt"
	clientCertFile  = "pki/kubelet-client-current.pem"
	servingCertFile = "pki/kubelet-server-current.pem"
)

// member is who joins, and where.
type member struct {
	dataDir string
	server  string // URL
	name    string
	ip      net.IP
	// kubeconfig is where to keep one for the node; "" for the usual place.
	kubeconfig string
}

// joined is a node's membership in a cluster elsewhere: where the API is, and
// certificates that renew themselves while run runs.
type joined struct {
	member
	ca       *x509.Certificate
	client   *pki.Rotator
	serving  atomic.Pointer[pki.Rotator] // nil until the cluster has signed
	dialer   *connrotation.Dialer
	progress *observe.Progress
}

// joinNode makes this machine the node m of the cluster. Who has joined before
// needs no token and no server that answers.
func joinNode(ctx context.Context, m member, token string, progress *observe.Progress) (*joined, error) {
	if _, err := os.Stat(filepath.Join(m.dataDir, "pki", "ca.key")); err == nil {
		return nil, fmt.Errorf("%s is the data directory of a server; give the agent one of its own with --data-dir", m.dataDir)
	}
	return join(ctx, m, progress, func(j *joined) (*pki.Pair, error) { return j.bootstrap(ctx, token) })
}

// join makes m a member by its stored certificate, or else by bootstrap.
func join(ctx context.Context, m member, progress *observe.Progress, bootstrap func(*joined) (*pki.Pair, error)) (*joined, error) {
	j := &joined{member: m, progress: progress}
	j.dialer = connrotation.NewDialer((&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}).DialContext)
	stored, err := j.stored()
	if err != nil {
		return nil, err
	}
	if stored == nil {
		if stored, err = bootstrap(j); err != nil {
			return nil, err
		}
	}
	first := stored.TLS()
	j.client, err = pki.NewRotator(ctx, func(ctx context.Context) (*tls.Certificate, error) {
		if cert := first; cert != nil {
			first = nil
			return cert, nil
		}
		return j.renew(ctx)
	})
	if err != nil {
		return nil, err
	}
	return j, nil
}

func (j *joined) path(name string) string { return filepath.Join(j.dataDir, filepath.FromSlash(name)) }

func (j *joined) kubeconfigPath() string {
	if j.kubeconfig != "" {
		return j.kubeconfig
	}
	return j.path(agentKubeconfig)
}

// stored returns the certificate of an earlier join, nil if there is none that
// is still good, and completes j by what else was kept.
func (j *joined) stored() (*pki.Pair, error) {
	pair, err := certificateFile(j.path(clientCertFile)).load()
	if err != nil || pair == nil {
		return nil, err
	}
	if have := strings.TrimPrefix(pair.Cert.Subject.CommonName, "system:node:"); have != j.name {
		return nil, fmt.Errorf("this machine joined as node %q, not %q: give --node-name %s, or skiff reset and join again", have, j.name, have)
	}
	caPEM, err := os.ReadFile(j.path(agentCA))
	if err != nil {
		return nil, fmt.Errorf("reading the cluster's CA (skiff reset and join again): %w", err)
	}
	cas, err := pki.ParseCerts(caPEM)
	if err != nil {
		return nil, fmt.Errorf("%s is damaged (skiff reset and join again): %w", j.path(agentCA), err)
	}
	if time.Now().After(pair.Cert.NotAfter) {
		slog.Warn("the node's certificate has expired; joining anew", "expired", pair.Cert.NotAfter)
		return nil, nil
	}
	j.ca = cas[0]
	if j.server == "" {
		config, err := clientcmd.BuildConfigFromFlags("", j.kubeconfigPath())
		if err != nil {
			return nil, fmt.Errorf("reading where the cluster is (give --server): %w", err)
		}
		j.server = config.Host
	}
	return pair, j.save(nil)
}

// bootstrap gets the node's first certificate by a token.
func (j *joined) bootstrap(ctx context.Context, text string) (*pki.Pair, error) {
	if text == "" {
		return nil, errors.New("--token: this machine has not joined yet; make a token on the server with skiff token create --print-join-command")
	}
	token, err := pki.ParseJoinToken(text)
	if err != nil {
		return nil, fmt.Errorf("--token: %w", err)
	}
	if j.server == "" {
		_, err := serverURL("")
		return nil, err
	}
	err = j.progress.Step("found the cluster", func() (err error) {
		j.ca, err = discoverCA(ctx, j.server, token)
		return err
	})
	if err != nil {
		return nil, err
	}
	var pair *pki.Pair
	err = j.progress.Step("joined the cluster", func() (err error) {
		cfg := j.config("skiff-agent", nil)
		cfg.BearerToken = token.Bearer()
		pair, err = j.order(ctx, cfg, j.clientOrder())
		return explainJoin(err, j.server)
	})
	if err != nil {
		return nil, err
	}
	return pair, j.save(pair)
}

// save keeps what a restart needs; the certificate last, since it is what says
// that the node has joined.
func (j *joined) save(pair *pki.Pair) error {
	if err := os.MkdirAll(j.path("pki"), 0o700); err != nil {
		return err
	}
	caPEM := pki.EncodeCert(j.ca)
	if pair != nil {
		if err := pki.WriteFile(j.path(agentCA), caPEM, 0o644); err != nil {
			return err
		}
	}
	err := pki.WriteKubeconfig(j.kubeconfigPath(), pki.Kubeconfig{
		Server: j.server, CA: caPEM, Cluster: "skiff", User: pki.Node(j.name).User,
		CertFile: j.path(clientCertFile), KeyFile: j.path(clientCertFile),
	})
	if err != nil || pair == nil {
		return err
	}
	return certificateFile(j.path(clientCertFile)).save(pair)
}

func (j *joined) clientOrder() certificateOrder {
	return certificateOrder{signer: certificatesv1.KubeAPIServerClientKubeletSignerName, identity: pki.Node(j.name)}
}

func (j *joined) servingOrder() certificateOrder {
	return certificateOrder{
		signer: certificatesv1.KubeletServingSignerName, identity: pki.Node(j.name), names: []string{j.name}, ips: []net.IP{j.ip},
	}
}

// order gets a certificate over a transport of its own, which ends its watch.
func (j *joined) order(ctx context.Context, cfg *rest.Config, o certificateOrder) (*pki.Pair, error) {
	t, err := https.New(cfg, "skiff-agent")
	if err != nil {
		return nil, err
	}
	defer t.Close()
	return o.get(ctx, client.New(t), j.progress)
}

// renew replaces the client certificate under the node's own identity.
func (j *joined) renew(ctx context.Context) (*tls.Certificate, error) {
	old, err := certificateFile(j.path(clientCertFile)).load()
	if err != nil {
		return nil, err
	}
	if old == nil || time.Now().After(old.Cert.NotAfter) {
		return nil, errors.New("the node's certificate has expired: stop the agent and start it with a new --token")
	}
	pair, err := j.order(ctx, j.config("skiff-agent", old.TLS()), j.clientOrder())
	if err != nil {
		return nil, err
	}
	return pair.TLS(), j.save(pair)
}

// serve gets the certificate of the kubelet's own API.
func (j *joined) serve(ctx context.Context) (*tls.Certificate, error) {
	file := certificateFile(j.path(servingCertFile))
	if j.serving.Load() == nil { // the first time: that of an earlier run does
		if pair, err := file.load(); err == nil && pair != nil && j.serves(pair.Cert) {
			return pair.TLS(), nil
		}
	}
	pair, err := j.order(ctx, j.RESTConfig("skiff-agent"), j.servingOrder())
	if err != nil {
		return nil, err
	}
	return pair.TLS(), file.save(pair)
}

// serves reports whether a certificate is good for this node as it is now.
func (j *joined) serves(cert *x509.Certificate) bool {
	roots := x509.NewCertPool()
	roots.AddCert(j.ca)
	for _, name := range []string{j.name, j.ip.String()} {
		if _, err := cert.Verify(x509.VerifyOptions{Roots: roots, DNSName: name}); err != nil {
			return false
		}
	}
	return true
}

// retryServing is the pause after the cluster could not be asked.
const retryServing = 10 * time.Second

// run keeps the certificates fresh until ctx ends.
func (j *joined) run(ctx context.Context) error {
	done := make(chan struct{})
	go func() {
		defer close(done)
		j.runServing(ctx)
	}()
	// Connections live longer than certificates; new ones use the new one.
	keepFresh(ctx, j.client, "client", j.dialer.CloseAll)
	<-done
	return nil
}

func (j *joined) runServing(ctx context.Context) {
	for {
		r, err := pki.NewRotator(ctx, j.serve)
		if err == nil {
			j.serving.Store(r)
			defer r.Close()
			keepFresh(ctx, r, "serving", func() {})
			return
		}
		if ctx.Err() != nil {
			return
		}
		slog.Warn("the node has no serving certificate yet", "err", err)
		select {
		case <-time.After(retryServing):
		case <-ctx.Done():
			return
		}
	}
}

// close ends renewals under way; run must have returned.
func (j *joined) close() {
	j.client.Close()
	j.dialer.CloseAll()
}

// GetCertificate serves the kubelet's own API.
func (j *joined) GetCertificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	if r := j.serving.Load(); r != nil {
		return r.GetCertificate(hello)
	}
	return nil, errors.New("no serving certificate available for the kubelet")
}

// CAs is what verifies the API server, and who asks the kubelet.
func (j *joined) CAs() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(j.ca)
	return pool
}

// RESTConfig reaches the API server as the node.
func (j *joined) RESTConfig(agent string) *rest.Config {
	cfg := j.config(agent, nil)
	cfg.Transport.(*http.Transport).TLSClientConfig.GetClientCertificate = j.client.GetClientCertificate
	return cfg
}

// config reaches the API server, with a certificate if one is given.
func (j *joined) config(agent string, cert *tls.Certificate) *rest.Config {
	t := &http.Transport{
		TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: j.CAs()}, DialContext: j.dialer.DialContext,
		ForceAttemptHTTP2: true, TLSHandshakeTimeout: 10 * time.Second, IdleConnTimeout: 90 * time.Second,
		// A server that is gone without a word is noticed within 45 s.
		HTTP2: &http.HTTP2Config{SendPingTimeout: 30 * time.Second, PingTimeout: 15 * time.Second},
	}
	if cert != nil {
		t.TLSClientConfig.Certificates = []tls.Certificate{*cert}
	}
	return &rest.Config{Host: j.server, Transport: t, UserAgent: agent, QPS: -1}
}
