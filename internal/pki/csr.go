package pki

import (
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
)

// NewSigningRequest returns a PEM certificate signing request for the identity.
func NewSigningRequest(id Identity, key crypto.Signer, dnsNames []string, ips []net.IP) ([]byte, error) {
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject:     pkix.Name{CommonName: id.User, Organization: id.Groups},
		DNSNames:    dnsNames,
		IPAddresses: ips,
	}, key)
	if err != nil {
		return nil, fmt.Errorf("making a signing request for %s: %w", id.User, err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}), nil
}

// ParseSigningRequest reads a PEM signing request and checks its signature.
func ParseSigningRequest(data []byte) (*x509.CertificateRequest, error) {
	block, _ := pem.Decode(data)
	if block == nil || block.Type != "CERTIFICATE REQUEST" {
		return nil, errors.New("PEM block type must be CERTIFICATE REQUEST")
	}
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return nil, err
	}
	if err := csr.CheckSignature(); err != nil {
		return nil, err
	}
	return csr, nil
}

// A SignerPolicy says whether a signer may sign the request for the usages. It
// returns nil or what is wrong, in upstream's words.
type SignerPolicy func(csr *x509.CertificateRequest, usages []certificatesv1.KeyUsage) error

// SignerPolicyFor returns the policy of one of Kubernetes' signers. It is nil
// for any other and for kubernetes.io/legacy-unknown, which is not served.
// Source: https://kubernetes.io/docs/reference/access-authn-authz/certificate-signing-requests/#kubernetes-signers
func SignerPolicyFor(signer string) SignerPolicy {
	switch signer {
	case certificatesv1.KubeAPIServerClientSignerName:
		return SignerPolicyAPIServerClient
	case certificatesv1.KubeAPIServerClientKubeletSignerName:
		return SignerPolicyKubeletClient
	case certificatesv1.KubeletServingSignerName:
		return SignerPolicyKubeletServing
	}
	return nil
}

// SignerPolicyAPIServerClient is kubernetes.io/kube-apiserver-client: any
// subject, client authentication only.
func SignerPolicyAPIServerClient(_ *x509.CertificateRequest, usages []certificatesv1.KeyUsage) error {
	return checkUsages(usages, certificatesv1.UsageClientAuth)
}

// SignerPolicyKubeletClient is kubernetes.io/kube-apiserver-client-kubelet: a
// node's user without alternative names.
func SignerPolicyKubeletClient(csr *x509.CertificateRequest, usages []certificatesv1.KeyUsage) error {
	if err := checkNodeSubject(csr); err != nil {
		return err
	}
	switch {
	case len(csr.DNSNames) > 0:
		return errors.New("DNS subjectAltNames are not allowed")
	case len(csr.EmailAddresses) > 0:
		return errors.New("Email subjectAltNames are not allowed")
	case len(csr.IPAddresses) > 0:
		return errors.New("IP subjectAltNames are not allowed")
	case len(csr.URIs) > 0:
		return errors.New("URI subjectAltNames are not allowed")
	}
	return checkExactUsages(usages, certificatesv1.UsageClientAuth)
}

// SignerPolicyKubeletServing is kubernetes.io/kubelet-serving: a node's user
// with names or addresses to serve.
func SignerPolicyKubeletServing(csr *x509.CertificateRequest, usages []certificatesv1.KeyUsage) error {
	if err := checkNodeSubject(csr); err != nil {
		return err
	}
	switch {
	case len(csr.DNSNames) == 0 && len(csr.IPAddresses) == 0:
		return errors.New("DNS or IP subjectAltName is required")
	case len(csr.EmailAddresses) > 0:
		return errors.New("Email subjectAltNames are not allowed")
	case len(csr.URIs) > 0:
		return errors.New("URI subjectAltNames are not allowed")
	}
	return checkExactUsages(usages, certificatesv1.UsageServerAuth)
}

func checkNodeSubject(csr *x509.CertificateRequest) error {
	if !slices.Equal(csr.Subject.Organization, []string{"system:nodes"}) {
		return errors.New("subject organization is not system:nodes")
	}
	if !strings.HasPrefix(csr.Subject.CommonName, "system:node:") {
		return errors.New("subject common name does not begin with system:node: ")
	}
	return nil
}

// checkUsages requires auth and allows besides it what TLS needs.
func checkUsages(usages []certificatesv1.KeyUsage, auth certificatesv1.KeyUsage) error {
	if !slices.Contains(usages, auth) {
		return fmt.Errorf("usages must include %q", auth)
	}
	for _, u := range usages {
		if u != auth && u != certificatesv1.UsageDigitalSignature && u != certificatesv1.UsageKeyEncipherment {
			return fmt.Errorf("usage %q is not allowed", u)
		}
	}
	return nil
}

// checkExactUsages also requires "digital signature"; only "key encipherment" is optional.
func checkExactUsages(usages []certificatesv1.KeyUsage, auth certificatesv1.KeyUsage) error {
	if err := checkUsages(usages, auth); err != nil {
		return err
	}
	if !slices.Contains(usages, certificatesv1.UsageDigitalSignature) {
		return fmt.Errorf("usages must include %q", certificatesv1.UsageDigitalSignature)
	}
	return nil
}

// SignRequest signs a parsed request, which a policy has let pass: subject and
// alternative names are the request's, usages and validity are the caller's,
// and nothing else of the request is taken over. It returns PEM.
func (a *Authority) SignRequest(csr *x509.CertificateRequest, usages []certificatesv1.KeyUsage, lifetime time.Duration, now time.Time) ([]byte, error) {
	keyUsage, extUsage, err := X509Usages(usages)
	if err != nil {
		return nil, err
	}
	cert, err := a.issue(&x509.Certificate{
		Subject:               csr.Subject,
		DNSNames:              csr.DNSNames,
		IPAddresses:           csr.IPAddresses,
		EmailAddresses:        csr.EmailAddresses,
		URIs:                  csr.URIs,
		KeyUsage:              keyUsage,
		ExtKeyUsage:           extUsage,
		BasicConstraintsValid: true,
	}, csr.PublicKey, lifetime, backdate, now)
	if err != nil {
		return nil, fmt.Errorf("signing a request of %s: %w", csr.Subject.CommonName, err)
	}
	return EncodeCert(cert), nil
}

// X509Usages translates the API's key usages.
func X509Usages(usages []certificatesv1.KeyUsage) (x509.KeyUsage, []x509.ExtKeyUsage, error) {
	var key x509.KeyUsage
	var ext []x509.ExtKeyUsage
	for _, u := range usages {
		switch u {
		case certificatesv1.UsageSigning, certificatesv1.UsageDigitalSignature:
			key |= x509.KeyUsageDigitalSignature
		case certificatesv1.UsageContentCommitment:
			key |= x509.KeyUsageContentCommitment
		case certificatesv1.UsageKeyEncipherment:
			key |= x509.KeyUsageKeyEncipherment
		case certificatesv1.UsageKeyAgreement:
			key |= x509.KeyUsageKeyAgreement
		case certificatesv1.UsageDataEncipherment:
			key |= x509.KeyUsageDataEncipherment
		case certificatesv1.UsageCertSign:
			key |= x509.KeyUsageCertSign
		case certificatesv1.UsageCRLSign:
			key |= x509.KeyUsageCRLSign
		case certificatesv1.UsageEncipherOnly:
			key |= x509.KeyUsageEncipherOnly
		case certificatesv1.UsageDecipherOnly:
			key |= x509.KeyUsageDecipherOnly
		case certificatesv1.UsageAny:
			ext = append(ext, x509.ExtKeyUsageAny)
		case certificatesv1.UsageServerAuth:
			ext = append(ext, x509.ExtKeyUsageServerAuth)
		case certificatesv1.UsageClientAuth:
			ext = append(ext, x509.ExtKeyUsageClientAuth)
		case certificatesv1.UsageCodeSigning:
			ext = append(ext, x509.ExtKeyUsageCodeSigning)
		case certificatesv1.UsageEmailProtection, certificatesv1.UsageSMIME:
			ext = append(ext, x509.ExtKeyUsageEmailProtection)
		case certificatesv1.UsageIPsecEndSystem:
			ext = append(ext, x509.ExtKeyUsageIPSECEndSystem)
		case certificatesv1.UsageIPsecTunnel:
			ext = append(ext, x509.ExtKeyUsageIPSECTunnel)
		case certificatesv1.UsageIPsecUser:
			ext = append(ext, x509.ExtKeyUsageIPSECUser)
		case certificatesv1.UsageTimestamping:
			ext = append(ext, x509.ExtKeyUsageTimeStamping)
		case certificatesv1.UsageOCSPSigning:
			ext = append(ext, x509.ExtKeyUsageOCSPSigning)
		case certificatesv1.UsageMicrosoftSGC:
			ext = append(ext, x509.ExtKeyUsageMicrosoftServerGatedCrypto)
		case certificatesv1.UsageNetscapeSGC:
			ext = append(ext, x509.ExtKeyUsageNetscapeServerGatedCrypto)
		default:
			return 0, nil, fmt.Errorf("unrecognized usage value: %q", u)
		}
	}
	slices.Sort(ext)
	return key, slices.Compact(ext), nil
}
