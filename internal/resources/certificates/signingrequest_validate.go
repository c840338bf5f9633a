package certificates

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"slices"
	"strings"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"skiff.dev/skiff/internal/check"
	"skiff.dev/skiff/internal/pki"
)

const (
	minLifetime   = 600                    // seconds
	longestSigner = 253 + 1 + 253 + 1 + 63 // domain/namespace.name
	legacySigner  = "kubernetes.io/legacy-unknown"
	noRemoval     = "updates may not remove a condition of type %q"
	noAddition    = "updates may not add a condition of type %q"
	noCertificate = "updates may not set certificate content"
	noReplacement = "updates may not modify existing certificate content"
	omitted       = "<certificate data>"
)

// keyUsages are the usages that may be asked for, in alphabetical order.
var keyUsages = []string{
	"any", "cert sign", "client auth", "code signing", "content commitment", "crl sign", "data encipherment",
	"decipher only", "digital signature", "email protection", "encipher only", "ipsec end system", "ipsec tunnel",
	"ipsec user", "key agreement", "key encipherment", "microsoft sgc", "netscape sgc", "ocsp signing", "s/mime",
	"server auth", "signing", "timestamping",
}

func validateSigningRequest(r *check.Report, c, old *signingRequest) {
	if old == nil {
		validateSpec(r.At("spec"), &c.Spec)
	}
	conditions := r.At("status", "conditions")
	validateConditions(conditions, c, old)
	validateCertificate(r.At("status", "certificate"), c, old)
	if old == nil {
		return
	}
	validateChanges(conditions, c, old, false, false)
	if !bytes.Equal(c.Status.Certificate, old.Status.Certificate) {
		r.At("status", "certificate").Forbidden(noCertificate)
	}
}

func validateSigningRequestStatus(r *check.Report, c, old *signingRequest) {
	conditions, certificate := r.At("status", "conditions"), r.At("status", "certificate")
	validateConditions(conditions, c, old)
	validateCertificate(certificate, c, old)
	validateChanges(conditions, c, old, false, true)
	if len(old.Status.Certificate) > 0 && !bytes.Equal(c.Status.Certificate, old.Status.Certificate) {
		certificate.Forbidden(noReplacement)
	}
}

func validateApproval(r *check.Report, c, old *signingRequest) {
	conditions := r.At("status", "conditions")
	validateConditions(conditions, c, old)
	validateChanges(conditions, c, old, true, true)
}

func validateSpec(r *check.Report, spec *certificatesv1.CertificateSigningRequestSpec) {
	if _, err := pki.ParseSigningRequest(spec.Request); err != nil {
		r.At("request").Invalid(spec.Request, fmt.Sprint(err))
	}
	usages := r.At("usages")
	if len(spec.Usages) == 0 {
		usages.Required("usages is required")
	}
	for i, u := range spec.Usages {
		if !slices.Contains(keyUsages, string(u)) {
			usages.Index(i).NotSupported(string(u), keyUsages)
		}
		if slices.Contains(spec.Usages[:i], u) {
			usages.Index(i).Duplicate(u)
		}
	}
	if spec.SignerName == legacySigner {
		r.At("signerName").Invalid(spec.SignerName, "the legacy signerName is not allowed via this API version")
	} else {
		validateSignerName(r.At("signerName"), spec.SignerName)
	}
	if s := spec.ExpirationSeconds; s != nil && *s < minLifetime {
		r.At("expirationSeconds").Invalid(*s, "may not specify a duration less than 600 seconds (10 minutes)")
	}
}

// validateSignerName checks <domain>/<path>: a domain of two labels or more,
// and a path of subdomains between dots.
func validateSignerName(r *check.Report, name string) {
	if name == "" {
		r.Required("")
		return
	}
	parts := strings.Split(name, "/")
	if len(parts) != 2 {
		r.Invalid(name, "must be a fully qualified domain and path of the form 'example.com/signer-name'")
		return
	}
	domain, path := parts[0], parts[1]
	if len(domain) > validation.DNS1123SubdomainMaxLength {
		r.TooLong(validation.DNS1123SubdomainMaxLength)
	}
	labels := strings.Split(domain, ".")
	if len(labels) < 2 {
		r.Invalid(domain, "should be a domain with at least two segments separated by dots")
	}
	for _, label := range labels {
		for _, msg := range validation.IsDNS1123Label(label) {
			r.Invalid(domain, fmt.Sprintf("validating label %q: %s", label, msg))
		}
	}
	if len(name) > longestSigner {
		r.TooLong(longestSigner)
	}
	for _, label := range strings.Split(path, ".") {
		for _, msg := range validation.IsDNS1123Subdomain(label) {
			r.Invalid(path, fmt.Sprintf("validating label %q: %s", label, msg))
		}
	}
}

// validateConditions checks the conditions' form. What older versions let in
// and is stored already stays allowed.
func validateConditions(r *check.Report, c, old *signingRequest) {
	seen := map[certificatesv1.RequestConditionType]bool{}
	for i := range c.Status.Conditions {
		cond, at := &c.Status.Conditions[i], r.Index(i)
		if cond.Type == "" && !has(old, "") {
			at.At("type").Required("")
		}
		validateConditionStatus(at.At("status"), cond)
		opposite := map[certificatesv1.RequestConditionType]certificatesv1.RequestConditionType{
			certificatesv1.CertificateApproved: certificatesv1.CertificateDenied,
			certificatesv1.CertificateDenied:   certificatesv1.CertificateApproved,
		}[cond.Type]
		stored := has(old, certificatesv1.CertificateApproved) && has(old, certificatesv1.CertificateDenied)
		if opposite != "" && seen[opposite] && !stored {
			at.At("type").Invalid(cond.Type, "Approved and Denied conditions are mutually exclusive")
		}
		if seen[cond.Type] && !hasTwice(old) {
			at.At("type").Duplicate(cond.Type)
		}
		seen[cond.Type] = true
	}
}

func validateConditionStatus(r *check.Report, cond *certificatesv1.CertificateSigningRequestCondition) {
	if cond.Status == "" {
		r.Required("")
		return
	}
	switch cond.Type {
	case certificatesv1.CertificateApproved, certificatesv1.CertificateDenied, certificatesv1.CertificateFailed:
		check.OneOf(r, cond.Status, corev1.ConditionTrue)
	default:
		check.OneOf(r, cond.Status, corev1.ConditionTrue, corev1.ConditionFalse, corev1.ConditionUnknown)
	}
}

// validateChanges checks that a decision or failure is never taken back, and
// is made only through the view that it belongs to.
func validateChanges(r *check.Report, c, old *signingRequest, maySetDecision, maySetFailure bool) {
	for _, t := range []certificatesv1.RequestConditionType{certificatesv1.CertificateApproved, certificatesv1.CertificateDenied, certificatesv1.CertificateFailed} {
		was, is := count(old, t), count(c, t)
		may := maySetDecision
		if t == certificatesv1.CertificateFailed {
			may = maySetFailure
		}
		switch {
		case is < was:
			r.Forbidden(fmt.Sprintf(noRemoval, t))
		case is > was && !may:
			r.Forbidden(fmt.Sprintf(noAddition, t))
		}
	}
}

func count(c *signingRequest, t certificatesv1.RequestConditionType) (n int) {
	if c == nil {
		return 0
	}
	for i := range c.Status.Conditions {
		if c.Status.Conditions[i].Type == t {
			n++
		}
	}
	return n
}

func has(c *signingRequest, t certificatesv1.RequestConditionType) bool { return count(c, t) > 0 }

func hasTwice(c *signingRequest) bool {
	return c != nil && slices.ContainsFunc(c.Status.Conditions, func(cond certificatesv1.CertificateSigningRequestCondition) bool {
		return count(c, cond.Type) > 1
	})
}

// validateCertificate checks what is issued: certificates in PEM, nothing else.
func validateCertificate(r *check.Report, c, old *signingRequest) {
	data := c.Status.Certificate
	if len(data) == 0 || old != nil && bytes.Equal(data, old.Status.Certificate) {
		return
	}
	if err := checkCertificates(data); err != nil {
		r.Invalid(omitted, err.Error())
	}
}

func checkCertificates(data []byte) error {
	found := false
	for {
		var block *pem.Block
		if block, data = pem.Decode(data); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			return fmt.Errorf("only CERTIFICATE PEM blocks are allowed, found %q", block.Type)
		}
		if len(block.Headers) != 0 {
			return fmt.Errorf("no PEM block headers are permitted")
		}
		certs, err := x509.ParseCertificates(block.Bytes)
		if err != nil {
			return err
		}
		if len(certs) == 0 {
			return fmt.Errorf("found CERTIFICATE PEM block containing 0 certificates")
		}
		found = true
	}
	if !found {
		return fmt.Errorf("must contain at least one CERTIFICATE PEM block")
	}
	return nil
}
