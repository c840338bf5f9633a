package etcd

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"
)

// Files names PEM files for TLS. Changed files are used from the next
// handshake on, so certificates rotate without a restart.
type Files struct {
	// CA verifies the other side; required.
	CA string
	// Cert and Key are one's own; a client may do without.
	Cert, Key string
}

// Client returns a client's TLS configuration.
func (f Files) Client() (*tls.Config, error) {
	r := &fileReader{files: f}
	if _, _, err := r.current(); err != nil {
		return nil, err
	}
	conf := &tls.Config{
		MinVersion: tls.VersionTLS12,
		// The check is VerifyConnection's, against the CA as it is on disk now.
		InsecureSkipVerify: true,
		VerifyConnection: func(cs tls.ConnectionState) error {
			_, pool, err := r.current()
			if err != nil {
				return err
			}
			return verify(cs, x509.VerifyOptions{Roots: pool, DNSName: cs.ServerName, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
		},
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			cert, _, err := r.current()
			if err != nil {
				return nil, err
			}
			return cert, nil
		},
	}
	return conf, nil
}

// Server returns a server's TLS configuration, which requires client certificates.
func (f Files) Server() (*tls.Config, error) {
	if f.Cert == "" || f.Key == "" {
		return nil, errors.New("a server needs a certificate and a key")
	}
	r := &fileReader{files: f}
	if _, _, err := r.current(); err != nil {
		return nil, err
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		ClientAuth: tls.RequireAndVerifyClientCert,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			cert, pool, err := r.current()
			if err != nil {
				return nil, err
			}
			return &tls.Config{
				MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{*cert}, NextProtos: []string{"h2"},
				ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool,
			}, nil
		},
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			cert, _, err := r.current()
			return cert, err
		},
	}, nil
}

// verify checks the chain that the other side showed.
func verify(cs tls.ConnectionState, opts x509.VerifyOptions) error {
	if len(cs.PeerCertificates) == 0 {
		return errors.New("the other side showed no certificate")
	}
	opts.Intermediates = x509.NewCertPool()
	for _, cert := range cs.PeerCertificates[1:] {
		opts.Intermediates.AddCert(cert)
	}
	_, err := cs.PeerCertificates[0].Verify(opts)
	return err
}

// fileReader reads the files again when their times of change move.
type fileReader struct {
	files Files

	mu    sync.Mutex
	stamp [3]time.Time
	cert  *tls.Certificate
	pool  *x509.CertPool
}

// current returns the certificate (empty if there is none) and the CA pool. If
// changed files are not readable, those read before stay in use.
func (r *fileReader) current() (*tls.Certificate, *x509.CertPool, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var stamp [3]time.Time
	for i, name := range []string{r.files.CA, r.files.Cert, r.files.Key} {
		if info, err := os.Stat(name); err == nil {
			stamp[i] = info.ModTime()
		}
	}
	if r.pool != nil && stamp == r.stamp {
		return r.cert, r.pool, nil
	}
	cert, pool, err := r.files.read()
	if err != nil {
		if r.pool != nil {
			return r.cert, r.pool, nil
		}
		return nil, nil, err
	}
	r.stamp, r.cert, r.pool = stamp, cert, pool
	return cert, pool, nil
}

func (f Files) read() (*tls.Certificate, *x509.CertPool, error) {
	pem, err := os.ReadFile(f.CA)
	if err != nil {
		return nil, nil, fmt.Errorf("reading the CA: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, nil, fmt.Errorf("reading the CA: %s holds no PEM certificate", f.CA)
	}
	if f.Cert == "" && f.Key == "" {
		return &tls.Certificate{}, pool, nil
	}
	cert, err := tls.LoadX509KeyPair(f.Cert, f.Key)
	if err != nil {
		return nil, nil, fmt.Errorf("reading certificate %s and key %s: %w", f.Cert, f.Key, err)
	}
	return &cert, pool, nil
}
