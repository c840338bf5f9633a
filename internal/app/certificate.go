package app

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff.dev/skiff/internal/client"
	"skiff.dev/skiff/internal/observe"
	"skiff.dev/skiff/internal/pki"
	"skiff.dev/skiff/internal/watchcache"
)

// certificateOrder is a certificate that a node gets from the cluster.
type certificateOrder struct {
	signer   string
	identity pki.Identity
	names    []string
	ips      []net.IP
}

func (o certificateOrder) usages() []certificatesv1.KeyUsage {
	auth := certificatesv1.UsageClientAuth
	if o.signer == certificatesv1.KubeletServingSignerName {
		auth = certificatesv1.UsageServerAuth
	}
	return []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, auth}
}

// get asks for the certificate with a new key and waits until it is signed.
func (o certificateOrder) get(ctx context.Context, c *client.Client, progress *observe.Progress) (*pki.Pair, error) {
	key, err := pki.NewKey()
	if err != nil {
		return nil, err
	}
	data, err := pki.NewSigningRequest(o.identity, key, o.names, o.ips)
	if err != nil {
		return nil, err
	}
	kind := client.For[*certificatesv1.CertificateSigningRequest](c)
	r, err := kind.Create(ctx, &certificatesv1.CertificateSigningRequest{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "node-csr-"},
		Spec:       certificatesv1.CertificateSigningRequestSpec{Request: data, SignerName: o.signer, Usages: o.usages()},
	})
	if err != nil {
		return nil, fmt.Errorf("asking the cluster for a certificate: %w", err)
	}
	slow := time.AfterFunc(approvalIsSlow, func() {
		progress.Say("the cluster has not signed the node's certificate yet; approve it with: kubectl certificate approve %s", r.Name)
	})
	defer slow.Stop()
	signed, err := awaitCertificate(ctx, kind, r)
	if err != nil {
		return nil, err
	}
	keyPEM, err := pki.EncodeKey(key)
	if err != nil {
		return nil, err
	}
	return &pki.Pair{Cert: signed, Key: key, CertPEM: pki.EncodeCert(signed), KeyPEM: keyPEM}, nil
}

// approvalIsSlow is when a person is told that the cluster lets the node wait.
const approvalIsSlow = 10 * time.Second

// awaitCertificate follows the request until it is signed or refused.
func awaitCertificate(ctx context.Context, kind client.Kind[*certificatesv1.CertificateSigningRequest], r *certificatesv1.CertificateSigningRequest) (*x509.Certificate, error) {
	cache, err := kind.CacheWhere(ctx, watchcache.Scope{Name: r.Name})
	if err != nil {
		return nil, err
	}
	ctx, done := context.WithCancelCause(ctx)
	defer done(nil)
	var cert *x509.Certificate
	err = cache.Follow(ctx, func(ch client.Change[*certificatesv1.CertificateSigningRequest]) {
		if ch.Object().UID != r.UID {
			return
		}
		if ch.Deleted {
			done(fmt.Errorf("the request %s for the node's certificate was deleted", r.Name))
			return
		}
		var outcome error
		if cert, outcome = outcomeOf(ch.New); cert != nil || outcome != nil {
			done(outcome)
		}
	}, nil)
	switch cause := context.Cause(ctx); {
	case cert != nil:
		return cert, nil
	case cause != nil:
		return nil, cause
	}
	return nil, fmt.Errorf("waiting for the node's certificate: %w", errors.Join(err, errors.New("the watch has ended")))
}

// outcomeOf returns what became of a request; neither value while it waits.
func outcomeOf(r *certificatesv1.CertificateSigningRequest) (*x509.Certificate, error) {
	for _, c := range r.Status.Conditions {
		if c.Type == certificatesv1.CertificateDenied || c.Type == certificatesv1.CertificateFailed {
			return nil, fmt.Errorf("the cluster refused the node's certificate (%s %s: %s)", r.Name, c.Reason, c.Message)
		}
	}
	if len(r.Status.Certificate) == 0 {
		return nil, nil
	}
	certs, err := pki.ParseCerts(r.Status.Certificate)
	if err != nil {
		return nil, fmt.Errorf("the certificate that the cluster signed: %w", err)
	}
	return certs[0], nil
}

// certificateFile keeps a certificate and its key in one file, so that both
// are replaced at once.
type certificateFile string

func (f certificateFile) save(p *pki.Pair) error {
	if err := os.MkdirAll(filepath.Dir(string(f)), 0o700); err != nil {
		return err
	}
	return pki.WriteFile(string(f), slices.Concat(p.CertPEM, p.KeyPEM), 0o600)
}

// load returns nil without an error if there is no file.
func (f certificateFile) load() (*pki.Pair, error) {
	p, err := pki.LoadPair(string(f), string(f))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	return p, err
}

// upkeep is how often a certificate's age is looked at: often enough for its
// lifetime, and at least hourly, since clocks jump.
func upkeep(leaf *x509.Certificate) time.Duration {
	return min(max(leaf.NotAfter.Sub(leaf.NotBefore)/40, time.Second), time.Hour)
}

// keepFresh makes the rotator renew in time also where nobody connects anew
// for months, and calls replaced after each renewal.
func keepFresh(ctx context.Context, r *pki.Rotator, what string, replaced func()) {
	var last *tls.Certificate
	for {
		wait := time.Minute
		cert, err := r.Certificate(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			slog.Error("the node's certificate cannot be renewed", "certificate", what, "err", err)
		default:
			if last != nil && cert != last {
				slog.Info("the node's certificate was renewed", "certificate", what, "until", cert.Leaf.NotAfter)
				replaced()
			}
			last, wait = cert, upkeep(cert.Leaf)
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return
		}
	}
}
