// Package pki makes and keeps the cluster's certificates: its authorities,
// what they issue to servers and clients, the service account signing key,
// kubeconfigs, certificate signing requests and join tokens. It reads and
// writes the directories it is given (0700, keys 0600, each file replaced
// whole and synced) and nothing else. Keys are ECDSA P-256, which are made in
// microseconds; RSA keys of an existing cluster are read too.
package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"time"
)

const (
	// AuthorityLifetime is how long a new authority is valid, as kubeadm's.
	AuthorityLifetime = 10 * 365 * 24 * time.Hour
	// DefaultLifetime is how long an issued certificate is valid.
	DefaultLifetime = 365 * 24 * time.Hour
	// backdate makes a certificate valid for machines whose clock lags.
	backdate = 5 * time.Minute
	// A clock that was ahead when a cluster was made is set back some day. Its authority
	// is good then, too, and so are, for smaller corrections, the certificates that the
	// authority gives to who has its key; they are made anew when it is more.
	authorityBackdate = 2 * 365 * 24 * time.Hour
	ownBackdate       = 24 * time.Hour
)

// Usage says what a certificate is for.
type Usage int

// The uses of a certificate.
const (
	Client Usage = 1 << iota
	Server
)

// Identity is who a client certificate speaks for: a user (CN) in groups (O).
type Identity struct {
	User   string
	Groups []string
}

// The identities of the control plane, by upstream's names.
func Admin() Identity { return Identity{User: "kubernetes-admin", Groups: []string{"system:masters"}} }

// APIServer is the API server to itself, with all rights.
func APIServer() Identity {
	return Identity{User: "system:apiserver", Groups: []string{"system:masters"}}
}

// KubeletClient is the API server to kubelets.
func KubeletClient() Identity {
	return Identity{User: "kube-apiserver-kubelet-client", Groups: []string{"system:masters"}}
}

// ControllerManager is kube-controller-manager.
func ControllerManager() Identity { return Identity{User: "system:kube-controller-manager"} }

// Scheduler is kube-scheduler.
func Scheduler() Identity { return Identity{User: "system:kube-scheduler"} }

// Proxy is kube-proxy.
func Proxy() Identity { return Identity{User: "system:kube-proxy"} }

// Node is the kubelet of the node.
func Node(name string) Identity {
	return Identity{User: "system:node:" + name, Groups: []string{"system:nodes"}}
}

// FrontProxy is the API server to aggregated API servers.
func FrontProxy() Identity { return Identity{User: "front-proxy-client"} }

// Request asks an authority for a certificate.
type Request struct {
	Identity
	Usage    Usage
	DNSNames []string
	IPs      []net.IP
	// Lifetime is DefaultLifetime if 0; the authority's end caps it.
	Lifetime time.Duration
	// Now is when the lifetime begins; the present if zero.
	Now time.Time
	// Key is the subject's; a new one is made if nil.
	Key crypto.Signer
}

// Pair is a certificate with its key.
type Pair struct {
	Cert    *x509.Certificate
	Key     crypto.Signer
	CertPEM []byte
	KeyPEM  []byte
}

// TLS returns the pair as crypto/tls wants it.
func (p *Pair) TLS() *tls.Certificate {
	return &tls.Certificate{Certificate: [][]byte{p.Cert.Raw}, PrivateKey: p.Key, Leaf: p.Cert}
}

// NewKey makes a private key.
func NewKey() (*ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making a key: %w", err)
	}
	return key, nil
}

func newPair(cert *x509.Certificate, key crypto.Signer) (*Pair, error) {
	keyPEM, err := EncodeKey(key)
	if err != nil {
		return nil, err
	}
	return &Pair{Cert: cert, Key: key, CertPEM: EncodeCert(cert), KeyPEM: keyPEM}, nil
}

// EncodeCert returns the certificate in PEM.
func EncodeCert(cert *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})
}

// PoolOf returns a pool of the certificates.
func PoolOf(certs ...*x509.Certificate) *x509.CertPool {
	pool := x509.NewCertPool()
	for _, c := range certs {
		pool.AddCert(c)
	}
	return pool
}

// EncodeKey returns the private key in PEM, EC keys in the form that every tool reads.
func EncodeKey(key crypto.Signer) ([]byte, error) {
	if ec, ok := key.(*ecdsa.PrivateKey); ok {
		der, err := x509.MarshalECPrivateKey(ec)
		if err != nil {
			return nil, fmt.Errorf("encoding a key: %w", err)
		}
		return pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), nil
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encoding a key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// EncodePublicKey returns the public key in PEM.
func EncodePublicKey(key crypto.PublicKey) ([]byte, error) {
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return nil, fmt.Errorf("encoding a public key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), nil
}

// ParseCerts reads all certificates of a PEM file; there must be one.
func ParseCerts(data []byte) ([]*x509.Certificate, error) {
	var certs []*x509.Certificate
	for {
		var block *pem.Block
		if block, data = pem.Decode(data); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("parsing a certificate: %w", err)
		}
		certs = append(certs, cert)
	}
	if len(certs) == 0 {
		return nil, errors.New("no PEM certificate in it")
	}
	return certs, nil
}

// ParseKey reads a private key in any of the three usual PEM forms.
func ParseKey(data []byte) (crypto.Signer, error) {
	for {
		var block *pem.Block
		if block, data = pem.Decode(data); block == nil {
			return nil, errors.New("no PEM private key in it")
		}
		var key any
		var err error
		switch block.Type {
		case "EC PRIVATE KEY":
			key, err = x509.ParseECPrivateKey(block.Bytes)
		case "RSA PRIVATE KEY":
			key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
		case "PRIVATE KEY":
			key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
		default:
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("parsing a private key: %w", err)
		}
		signer, ok := key.(crypto.Signer)
		if !ok {
			return nil, fmt.Errorf("a %T cannot sign", key)
		}
		return signer, nil
	}
}

// samePublicKey says whether the key is the certificate's.
func samePublicKey(cert *x509.Certificate, key crypto.Signer) bool {
	public, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool })
	return ok && public.Equal(cert.PublicKey)
}
