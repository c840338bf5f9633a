package pod

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"skiff.dev/skiff/internal/check"
)

// validateProjected checks the sources of a projected volume and that no two
// write the same file.
func validateProjected(r *check.Report, v *corev1.ProjectedVolumeSource) {
	validateMode(r.At("defaultMode"), v.DefaultMode)
	p := projection{volume: r, paths: map[string]bool{}}
	for i := range v.Sources {
		p.source(r.At("sources").Index(i), &v.Sources[i])
	}
}

// projection is what the sources of one projected volume share.
type projection struct {
	volume *check.Report
	paths  map[string]bool // the files so far
}

// file notes the path of a file, which must be the only one with it; the error
// is the volume's and shows value.
func (p projection) file(path string, value any) {
	if path == "" {
		return
	}
	if p.paths[path] {
		p.volume.Invalid(value, duplicatePath)
	}
	p.paths[path] = true
}

func (p projection) source(r *check.Report, s *corev1.VolumeProjection) {
	n := 0
	next := func(field string) (*check.Report, bool) {
		if n++; n > 1 {
			r.At(field).Forbidden(moreVolumes)
		}
		return r.At(field), n == 1
	}
	if s.Secret != nil {
		if at, ok := next("secret"); ok {
			p.items(at, s.Secret.Name, s.Secret.Items)
		}
	}
	if s.ConfigMap != nil {
		if at, ok := next("configMap"); ok {
			p.items(at, s.ConfigMap.Name, s.ConfigMap.Items)
		}
	}
	if s.DownwardAPI != nil {
		if at, ok := next("downwardAPI"); ok {
			for i := range s.DownwardAPI.Items {
				f := &s.DownwardAPI.Items[i]
				validateDownwardFile(at, f)
				p.file(f.Path, f.Path)
			}
		}
	}
	if s.ServiceAccountToken != nil {
		if at, ok := next("serviceAccountToken"); ok {
			p.token(at, s.ServiceAccountToken)
		}
	}
	if s.ClusterTrustBundle != nil {
		if at, ok := next("clusterTrustBundle"); ok {
			p.trustBundle(at, s.ClusterTrustBundle)
		}
	}
	if s.PodCertificate != nil {
		if at, ok := next("podCertificate"); ok {
			p.certificate(at, s.PodCertificate)
		}
	}
}

func (p projection) items(r *check.Report, name string, items []corev1.KeyToPath) {
	r.At("name").RequiredString(name)
	validateItems(r.At("items"), items)
	for i := range items {
		p.file(items[i].Path, name)
	}
}

const (
	minTokenSeconds = 10 * 60
	maxTokenSeconds = 1 << 32
)

func (p projection) token(r *check.Report, t *corev1.ServiceAccountTokenProjection) {
	at := r.At("expirationSeconds")
	switch {
	case t.ExpirationSeconds == nil:
		at.Required("")
	case *t.ExpirationSeconds < minTokenSeconds:
		at.Invalid(*t.ExpirationSeconds, "may not specify a duration less than 10 minutes")
	case *t.ExpirationSeconds > maxTokenSeconds:
		at.Invalid(*t.ExpirationSeconds, "may not specify a duration larger than 2^32 seconds")
	}
	if r.At("path").RequiredString(t.Path) {
		r.At("path").FileName(t.Path)
		p.file(t.Path, t.Path)
	}
}

func (p projection) trustBundle(r *check.Report, b *corev1.ClusterTrustBundleProjection) {
	byName, bySigner := b.Name != nil, b.SignerName != nil
	switch {
	case byName && bySigner:
		r.Invalid(b, "only one of name and signerName may be used")
	case !byName && !bySigner:
		r.Invalid(b, "either name or signerName must be specified")
	case byName:
		if *b.Name == "" {
			r.At("name").Required("must be a valid object name")
		}
		r.At("name").Each(*b.Name, validation.IsDNS1123Subdomain(strings.ReplaceAll(*b.Name, ":", ".")))
		if b.LabelSelector != nil {
			r.At("labelSelector").Invalid(b.LabelSelector, "labelSelector must be unset if name is specified")
		}
	default:
		validateSignerName(r.At("signerName"), *b.SignerName)
		r.At("labelSelector").LabelSelector(b.LabelSelector)
	}
	if r.At("path").RequiredString(b.Path) {
		r.At("path").FileName(b.Path)
		p.file(b.Path, b.Path)
	}
}

// validateSignerName checks "domain/path" as certificate signers are named.
func validateSignerName(r *check.Report, name string) {
	if !r.RequiredString(name) {
		return
	}
	domain, path, found := strings.Cut(name, "/")
	if !found {
		r.Invalid(name, "must be a fully qualified domain and path of the form 'example.com/signer-name'")
		return
	}
	r.Each(domain, validation.IsDNS1123Subdomain(domain))
	if len(strings.Split(domain, ".")) < 2 {
		r.Invalid(domain, "should be a domain with at least two segments separated by dots")
	}
	for _, part := range strings.Split(path, ".") {
		r.Each(path, validation.IsDNS1123Subdomain(part))
	}
}

const (
	minCertificateSeconds  = 60 * 60
	maxCertificateSeconds  = 91 * 24 * 60 * 60
	maxUserAnnotationBytes = 256 * 1024
)

func (p projection) certificate(r *check.Report, c *corev1.PodCertificateProjection) {
	validateSignerName(r.At("signerName"), c.SignerName)
	check.OneOf(r.At("keyType"), c.KeyType, "RSA3072", "RSA4096", "ECDSAP256", "ECDSAP384", "ECDSAP521", "ED25519")
	at := r.At("maxExpirationSeconds")
	switch s := c.MaxExpirationSeconds; {
	case s == nil:
		at.Required("")
	case *s < minCertificateSeconds || *s > maxCertificateSeconds:
		at.Invalid(*s, validation.InclusiveRangeError(minCertificateSeconds, maxCertificateSeconds))
	}
	written := 0
	for _, f := range []struct{ field, path string }{
		{"credentialBundlePath", c.CredentialBundlePath}, {"keyPath", c.KeyPath}, {"certificateChainPath", c.CertificateChainPath},
	} {
		if f.path == "" {
			continue
		}
		written++
		r.At(f.field).FileName(f.path)
		p.file(f.path, f.path)
	}
	if written == 0 {
		r.Required("specify at least one of credentialBundlePath, keyPath, and certificateChainPath")
	}
	annotations := r.At("userAnnotations")
	annotations.Annotations(c.UserAnnotations)
	size := 0
	for k, v := range c.UserAnnotations {
		size += len(k) + len(v)
		if !strings.Contains(k, "/") {
			annotations.Key(k).Invalid(k, fmt.Sprintf("key %q must be domain-prefixed", k))
		}
	}
	if size > maxUserAnnotationBytes {
		annotations.TooLong(maxUserAnnotationBytes)
	}
}
