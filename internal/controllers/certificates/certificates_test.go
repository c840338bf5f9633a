package certificates

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff.dev/skiff/internal/apiserver/authz"
	"skiff.dev/skiff/internal/client"
	"skiff.dev/skiff/internal/pki"
	"skiff.dev/skiff/internal/resource"
	resources "skiff.dev/skiff/internal/resources/certificates"
	"skiff.dev/skiff/internal/testing/controltest"
)

func signingRequest(t *testing.T, user string) *certificatesv1.CertificateSigningRequest {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	data, err := pki.NewSigningRequest(pki.Identity{User: user, Groups: []string{"system:nodes"}}, key, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	hour := int32(3600)
	return &certificatesv1.CertificateSigningRequest{
		ObjectMeta: metav1.ObjectMeta{Name: "r"},
		Spec: certificatesv1.CertificateSigningRequestSpec{
			Request: data, SignerName: certificatesv1.KubeAPIServerClientKubeletSignerName, ExpirationSeconds: &hour,
			Usages: []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageClientAuth},
		},
	}
}

// world runs all three controllers.
func world(t *testing.T) *controltest.World {
	ca, err := pki.NewAuthority("ca", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	w := controltest.New(t, resource.Of(resources.SigningRequest))
	sign := func(_ string, asked *x509.CertificateRequest, usages []certificatesv1.KeyUsage, lifetime time.Duration) ([]byte, error) {
		return ca.SignRequest(asked, usages, lifetime, time.Now())
	}
	w.Run(NewApprover(w.Client), NewSigner(w.Client, sign, DefaultLifetime), NewCleaner(w.Client))
	return w
}

// ask makes the request as user.
func ask(t *testing.T, w *controltest.World, user string, r *certificatesv1.CertificateSigningRequest) {
	t.Helper()
	if _, err := client.For[*certificatesv1.CertificateSigningRequest](w.As(user, authz.AlwaysAllow{})).Create(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	w.Settle()
}

func TestKubeletGetsItsCertificate(t *testing.T) {
	for _, tt := range []struct{ user, message string }{
		{"system:bootstrap:abc", "Auto approving kubelet client certificate after SubjectAccessReview."},
		{"system:node:n1", "Auto approving self kubelet client certificate after SubjectAccessReview."},
	} {
		t.Run(tt.user, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := world(t)
				defer w.Close()
				ask(t, w, tt.user, signingRequest(t, "system:node:n1"))
				r := controltest.Get[*certificatesv1.CertificateSigningRequest](w, "", "r")
				if c := condition(r, certificatesv1.CertificateApproved); c == nil || c.Message != tt.message || c.Reason != "AutoApproved" {
					t.Errorf("condition %+v", c)
				}
				block, _ := pem.Decode(r.Status.Certificate)
				if block == nil {
					t.Fatal("no certificate")
				}
				cert, err := x509.ParseCertificate(block.Bytes)
				if err != nil || cert.Subject.CommonName != "system:node:n1" {
					t.Errorf("certificate of %v, %v", cert.Subject, err)
				}
				if left := time.Until(cert.NotAfter); left > time.Hour || left < 59*time.Minute {
					t.Errorf("it lives for %s", left)
				}
				time.Sleep(2 * time.Hour)
				w.Settle()
				if _, err := client.For[*certificatesv1.CertificateSigningRequest](w.Client).Get(t.Context(), "", "r"); !apierrors.IsNotFound(err) {
					t.Errorf("it has not been cleaned up: %v", err)
				}
			})
		})
	}
}

func TestNotEveryoneDoes(t *testing.T) {
	tests := []struct {
		name, user string
		change     func(*certificatesv1.CertificateSigningRequest)
	}{
		{"without the right", controltest.Nobody, func(*certificatesv1.CertificateSigningRequest) {}},
		{"for another signer", "admin", func(r *certificatesv1.CertificateSigningRequest) {
			r.Spec.SignerName = certificatesv1.KubeAPIServerClientSignerName
		}},
		{"for other uses", "admin", func(r *certificatesv1.CertificateSigningRequest) {
			r.Spec.Usages = append(slices.Clone(r.Spec.Usages), certificatesv1.UsageServerAuth)
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := world(t)
				defer w.Close()
				r := signingRequest(t, "system:node:n1")
				tt.change(r)
				ask(t, w, tt.user, r)
				time.Sleep(time.Hour)
				w.Settle()
				if got := controltest.Get[*certificatesv1.CertificateSigningRequest](w, "", "r").Status; len(got.Conditions) > 0 || len(got.Certificate) > 0 {
					t.Errorf("status %+v", got)
				}
				time.Sleep(24 * time.Hour)
				w.Settle()
				if left := controltest.List[*certificatesv1.CertificateSigningRequest](w, ""); len(left) > 0 {
					t.Error("it has not been cleaned up")
				}
			})
		})
	}
}

func TestApprovedButAgainstTheRules(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := world(t)
		defer w.Close()
		r := signingRequest(t, "root")
		ask(t, w, "admin", r)
		r = controltest.Get[*certificatesv1.CertificateSigningRequest](w, "", "r").DeepCopy()
		addCondition(r, certificatesv1.CertificateApproved, "ByMistake", "")
		ref := client.Ref{GroupVersionResource: client.ResourceOf[*certificatesv1.CertificateSigningRequest](), Name: "r", Subresource: "approval"}
		if _, err := w.Client.Update(t.Context(), ref, r, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		w.Settle()
		got := controltest.Get[*certificatesv1.CertificateSigningRequest](w, "", "r")
		if c := condition(got, certificatesv1.CertificateFailed); c == nil || c.Reason != "SignerValidationFailure" || len(got.Status.Certificate) > 0 {
			t.Errorf("status %+v", got.Status)
		}
	})
}
