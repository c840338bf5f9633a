package pki

import (
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"
)

// Authority issues certificates.
type Authority struct {
	Pair
}

// NewAuthority makes a self-signed authority.
func NewAuthority(name string, now time.Time) (*Authority, error) {
	key, err := NewKey()
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		Subject:               pkix.Name{CommonName: name},
		DNSNames:              []string{name}, // as kubeadm's, for verifiers that want a name there
		NotBefore:             now.Add(-authorityBackdate),
		NotAfter:              now.Add(AuthorityLifetime),
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment | x509.KeyUsageCertSign,
		IsCA:                  true,
		BasicConstraintsValid: true,
	}
	cert, err := sign(template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("making the authority %s: %w", name, err)
	}
	pair, err := newPair(cert, key)
	if err != nil {
		return nil, err
	}
	return &Authority{Pair: *pair}, nil
}

// sign gives the template a serial number and signs it.
func sign(template, parent *x509.Certificate, subject crypto.PublicKey, key crypto.Signer) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, err
	}
	template.SerialNumber = serial.Add(serial, big.NewInt(1))
	der, err := x509.CreateCertificate(rand.Reader, template, parent, subject, key)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

// Pool returns the authority as the only root.
func (a *Authority) Pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.Cert)
	return pool
}

// Issue makes a certificate, and a key if the request has none.
func (a *Authority) Issue(r Request) (*Pair, error) {
	if r.Usage == 0 {
		return nil, errors.New("issuing a certificate: neither for clients nor for servers")
	}
	if r.Usage&Server != 0 && len(r.DNSNames)+len(r.IPs) == 0 {
		return nil, fmt.Errorf("issuing a serving certificate to %s: no name or address to serve", r.User)
	}
	if r.Now.IsZero() {
		r.Now = time.Now()
	}
	if r.Lifetime == 0 {
		r.Lifetime = DefaultLifetime
	}
	if r.Key == nil {
		key, err := NewKey()
		if err != nil {
			return nil, err
		}
		r.Key = key
	}
	template := &x509.Certificate{
		Subject:               pkix.Name{CommonName: r.User, Organization: r.Groups},
		DNSNames:              r.DNSNames,
		IPAddresses:           r.IPs,
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment,
		BasicConstraintsValid: true,
	}
	if r.Usage&Client != 0 {
		template.ExtKeyUsage = append(template.ExtKeyUsage, x509.ExtKeyUsageClientAuth)
	}
	if r.Usage&Server != 0 {
		template.ExtKeyUsage = append(template.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
	}
	early := min(ownBackdate, max(backdate, r.Lifetime/100)) // a short life is not stretched
	cert, err := a.issue(template, r.Key.Public(), r.Lifetime, early, r.Now)
	if err != nil {
		return nil, fmt.Errorf("issuing a certificate to %s: %w", r.User, err)
	}
	return newPair(cert, r.Key)
}

// issue sets the validity, from so early on and within the authority's own, and signs.
func (a *Authority) issue(template *x509.Certificate, subject crypto.PublicKey, lifetime, early time.Duration, now time.Time) (*x509.Certificate, error) {
	if now.After(a.Cert.NotAfter) {
		return nil, fmt.Errorf("the authority %s expired on %s: make a new one and let every node join again", a.Cert.Subject.CommonName, a.Cert.NotAfter.Format(time.DateOnly))
	}
	template.NotBefore = now.Add(-early)
	if template.NotBefore.Before(a.Cert.NotBefore) {
		template.NotBefore = a.Cert.NotBefore
	}
	template.NotAfter = now.Add(lifetime)
	if template.NotAfter.After(a.Cert.NotAfter) {
		template.NotAfter = a.Cert.NotAfter
	}
	return sign(template, a.Cert, subject, a.Key)
}

// LoadOrCreateAuthority reads <dir>/<file>.crt and .key or makes them.
func LoadOrCreateAuthority(dir, file, name string) (*Authority, error) {
	crt, key := filepath.Join(dir, file+".crt"), filepath.Join(dir, file+".key")
	pair, err := LoadPair(crt, key)
	switch {
	case err == nil:
		if !pair.Cert.IsCA {
			return nil, fmt.Errorf("%s is not an authority's certificate: restore the right one from a backup", crt)
		}
		return &Authority{Pair: *pair}, nil
	case !errors.Is(err, os.ErrNotExist):
		return nil, err
	}
	if _, err := os.Stat(crt); err == nil {
		return nil, fmt.Errorf("%s is missing while %s is there: restore it from a backup, or remove %s to make a new authority, which every node has to join again", key, crt, crt)
	}
	a, err := NewAuthority(name, time.Now())
	if err != nil {
		return nil, err
	}
	// A key without a certificate has issued nothing and may be replaced.
	if err := SavePair(crt, key, &a.Pair); err != nil {
		return nil, err
	}
	return a, nil
}

// Cluster is what a cluster signs with.
type Cluster struct {
	// CA issues what API server, kubelets and users show each other.
	CA *Authority
	// FrontProxyCA issues what the API server shows to aggregated API servers.
	FrontProxyCA *Authority
	// ServiceAccountKey signs service account tokens.
	ServiceAccountKey crypto.Signer
}

// LoadOrCreateCluster reads the cluster's authorities and key from dir, in
// kubeadm's layout (ca, front-proxy-ca, sa), or makes them.
func LoadOrCreateCluster(dir string) (*Cluster, error) {
	if err := makeDir(dir); err != nil {
		return nil, err
	}
	// At the same time, because a new cluster waits for the disk here.
	var c Cluster
	var g errgroup.Group
	g.Go(func() (err error) {
		c.CA, err = LoadOrCreateAuthority(dir, "ca", "kubernetes")
		return err
	})
	g.Go(func() (err error) {
		c.FrontProxyCA, err = LoadOrCreateAuthority(dir, "front-proxy-ca", "front-proxy-ca")
		return err
	})
	g.Go(func() (err error) {
		c.ServiceAccountKey, err = loadOrCreateKey(filepath.Join(dir, "sa.key"), filepath.Join(dir, "sa.pub"))
		return err
	})
	if err := g.Wait(); err != nil {
		return nil, err
	}
	return &c, nil
}

func loadOrCreateKey(name, public string) (crypto.Signer, error) {
	key, err := loadKey(name)
	if err == nil || !errors.Is(err, os.ErrNotExist) {
		return key, err
	}
	if _, err := os.Stat(public); err == nil {
		return nil, fmt.Errorf("%s is missing while %s is there: restore it from a backup, or remove %s to make a new key, which ends all service account tokens", name, public, public)
	}
	if key, err = NewKey(); err != nil {
		return nil, err
	}
	keyPEM, err := EncodeKey(key)
	if err != nil {
		return nil, err
	}
	publicPEM, err := EncodePublicKey(key.Public())
	if err != nil {
		return nil, err
	}
	if err := WriteFile(name, keyPEM, 0o600); err != nil {
		return nil, err
	}
	return key, WriteFile(public, publicPEM, 0o644)
}
