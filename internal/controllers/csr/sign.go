package csr

import (
	"context"
	"crypto/x509"
	"fmt"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"

	"skiff.dev/skiff/internal/client"
	"skiff.dev/skiff/internal/controller"
	"skiff.dev/skiff/internal/meta"
	"skiff.dev/skiff/internal/pki"
)

// shortest is the least validity that a request may ask for.
const shortest = 10 * time.Minute

// Authority signs requests that a signer's policy has let pass; it returns PEM.
type Authority interface {
	SignRequest(csr *x509.CertificateRequest, usages []certificatesv1.KeyUsage, lifetime time.Duration, now time.Time) ([]byte, error)
}

type signer struct {
	client    *client.Client
	authority Authority
	lifetime  time.Duration
	requests  client.Cache[*signingRequest]
}

// NewSigner returns the controller that signs approved requests by authority;
// lifetime is how long a certificate is valid unless the request asks for less.
func NewSigner(c *client.Client, authority Authority, lifetime time.Duration) *controller.Controller {
	s := &signer{client: c, authority: authority, lifetime: lifetime}
	return controller.New(c, "certificatesigningrequest-signing", &s.requests, s.reconcile,
		controller.Writes(group, resource+"/status", "update"),
		controller.Writes(group, "signers", "sign"),
	)
}

func (s *signer) reconcile(ctx context.Context, r *signingRequest) (controller.Result, error) {
	policy := pki.SignerPolicyFor(r.Spec.SignerName)
	if policy == nil || len(r.Status.Certificate) > 0 || condition(r, certificatesv1.CertificateApproved) == nil ||
		condition(r, certificatesv1.CertificateDenied) != nil || condition(r, certificatesv1.CertificateFailed) != nil {
		return controller.Result{}, nil
	}
	parsed, err := pki.ParseSigningRequest(r.Spec.Request)
	if err != nil {
		return controller.Result{}, fmt.Errorf("unable to parse csr %q: %w", r.Name, err)
	}
	r = meta.Copy(r)
	if err := policy(parsed, r.Spec.Usages); err != nil {
		r.Status.Conditions = append(r.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{
			Type: certificatesv1.CertificateFailed, Status: corev1.ConditionTrue, Reason: "SignerValidationFailure", Message: err.Error(),
		})
	} else if r.Status.Certificate, err = s.authority.SignRequest(parsed, r.Spec.Usages, s.validity(r), time.Now()); err != nil {
		return controller.Result{}, err
	}
	if _, err := client.For[*signingRequest](s.client).UpdateStatus(ctx, r); err != nil {
		return controller.Result{}, fmt.Errorf("error updating signature for csr: %w", err)
	}
	return controller.Result{}, nil
}

func (s *signer) validity(r *signingRequest) time.Duration {
	if r.Spec.ExpirationSeconds == nil {
		return s.lifetime
	}
	return min(max(time.Duration(*r.Spec.ExpirationSeconds)*time.Second, shortest), s.lifetime)
}
