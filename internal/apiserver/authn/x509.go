package authn

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"skiff.dev/skiff/internal/apiserver/request"
)

// uidAttribute is the part of a certificate's subject that holds the user's
// uid (KEP-4946).
var uidAttribute = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57683, 2}

const credentialID = "authentication.kubernetes.io/credential-id"

// Certificates authenticates by the client certificate of the connection: the
// common name is the user, organizations are groups. Make one with
// NewCertificates.
type Certificates struct {
	roots *x509.CertPool
	seen  *cache[[sha256.Size]byte, *request.User]
}

// NewCertificates trusts client certificates that roots have signed.
func NewCertificates(roots *x509.CertPool) *Certificates {
	return &Certificates{roots: roots, seen: newCache[[sha256.Size]byte, *request.User](1024)}
}

// Authenticate verifies the chain. A certificate that was good is not verified
// again within a minute: connections make many requests.
func (c *Certificates) Authenticate(r *http.Request) (*request.User, bool, error) {
	if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
		return nil, false, nil
	}
	now := time.Now()
	id := sha256.Sum256(r.TLS.PeerCertificates[0].Raw)
	if user, ok := c.seen.get(id, now); ok {
		return user, true, nil
	}
	chain, err := verifyChain(r, c.roots, now)
	if err != nil {
		return nil, false, fmt.Errorf("verifying certificate %s failed: %w", describe(r.TLS.PeerCertificates[0]), err)
	}
	user, err := userOf(chain[0], id)
	if err != nil || user == nil {
		return nil, false, err
	}
	until := now.Add(time.Minute)
	for _, cert := range chain {
		if cert.NotAfter.Before(until) {
			until = cert.NotAfter
		}
	}
	c.seen.put(id, user, until)
	return user, true, nil
}

func verifyChain(r *http.Request, roots *x509.CertPool, now time.Time) ([]*x509.Certificate, error) {
	intermediates := x509.NewCertPool()
	for _, cert := range r.TLS.PeerCertificates[1:] {
		intermediates.AddCert(cert)
	}
	chains, err := r.TLS.PeerCertificates[0].Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: intermediates, CurrentTime: now,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	if err != nil {
		return nil, err
	}
	return chains[0], nil
}

func describe(cert *x509.Certificate) string {
	return fmt.Sprintf("SN=%s, SKID=%s, AKID=%s", cert.SerialNumber, hex.EncodeToString(cert.SubjectKeyId), hex.EncodeToString(cert.AuthorityKeyId))
}

// userOf returns the user a certificate stands for, nil if it names none.
func userOf(cert *x509.Certificate, id [sha256.Size]byte) (*request.User, error) {
	if cert.Subject.CommonName == "" {
		return nil, nil
	}
	user := &request.User{
		Name:   cert.Subject.CommonName,
		Groups: slices.Clone(cert.Subject.Organization),
		Extra:  map[string][]string{credentialID: {"X509SHA256=" + hex.EncodeToString(id[:])}},
	}
	for _, name := range cert.Subject.Names {
		if !name.Type.Equal(uidAttribute) {
			continue
		}
		uid, ok := name.Value.(string)
		switch {
		case !ok:
			return nil, fmt.Errorf("unable to parse UID into a string")
		case user.UID != "":
			return nil, errors.New("expected 1 UID, but found multiple")
		case uid == "":
			return nil, errors.New("UID cannot be an empty string")
		}
		user.UID = uid
	}
	return user, nil
}
