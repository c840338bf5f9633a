package admission

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"slices"
	"strings"

	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"skiff.dev/skiff/internal/apiserver/authz"
	"skiff.dev/skiff/internal/apiserver/request"
)

var signingRequests = schema.GroupResource{Group: certificatesv1.GroupName, Resource: "certificatesigningrequests"}

func updatesSigningRequest(subresource string) func(*Attributes) bool {
	return func(a *Attributes) bool {
		return a.Resource.GroupResource() == signingRequests && a.Subresource == subresource && a.Operation == Update
	}
}

// CertificateApproval lets only those approve or deny a request who have the
// verb approve on its signer.
// https://kubernetes.io/docs/reference/access-authn-authz/certificate-signing-requests/#authorization
func CertificateApproval(authorizer authz.Authorizer) *Plugin {
	return &Plugin{
		Name:    "CertificateApproval",
		Handles: updatesSigningRequest("approval"),
		Validate: func(ctx context.Context, a *Attributes) error {
			r, ok := a.Old.(*certificatesv1.CertificateSigningRequest)
			if !ok {
				return errNotSigningRequest
			}
			if !maySign(ctx, authorizer, a.User, "approve", r.Spec.SignerName) {
				return forbid(a, "user not permitted to approve requests with signerName %q", r.Spec.SignerName)
			}
			return nil
		},
	}
}

// CertificateSigning lets only those put a certificate into a request who have
// the verb sign on its signer.
func CertificateSigning(authorizer authz.Authorizer) *Plugin {
	return &Plugin{
		Name:    "CertificateSigning",
		Handles: updatesSigningRequest("status"),
		Validate: func(ctx context.Context, a *Attributes) error {
			r, ok := a.Object.(*certificatesv1.CertificateSigningRequest)
			old, ok2 := a.Old.(*certificatesv1.CertificateSigningRequest)
			if !ok || !ok2 {
				return errNotSigningRequest
			}
			if slices.Equal(r.Status.Certificate, old.Status.Certificate) &&
				equality.Semantic.DeepEqual(r.Status.Conditions, old.Status.Conditions) {
				return nil
			}
			if !maySign(ctx, authorizer, a.User, "sign", old.Spec.SignerName) {
				return forbid(a, "user not permitted to sign requests with signerName %q", old.Spec.SignerName)
			}
			return nil
		},
	}
}

// CertificateSubjectRestriction refuses requests for a client certificate of
// system:masters: who has one cannot be kept out by any policy.
func CertificateSubjectRestriction() *Plugin {
	return &Plugin{
		Name: "CertificateSubjectRestriction",
		Handles: func(a *Attributes) bool {
			return a.Resource.GroupResource() == signingRequests && a.Subresource == "" && a.Operation == Create
		},
		Validate: func(_ context.Context, a *Attributes) error {
			r, ok := a.Object.(*certificatesv1.CertificateSigningRequest)
			if !ok {
				return errNotSigningRequest
			}
			if r.Spec.SignerName != certificatesv1.KubeAPIServerClientSignerName {
				return nil
			}
			subject, err := parseRequest(r.Spec.Request)
			if err != nil {
				return forbid(a, "could not parse CSR: %w", err)
			}
			if slices.Contains(subject.Subject.Organization, request.GroupMasters) {
				return forbid(a, "use of %s signer with %s group is not allowed", r.Spec.SignerName, request.GroupMasters)
			}
			return nil
		},
	}
}

var errNotSigningRequest = apierrors.NewBadRequest("not a CertificateSigningRequest")

func parseRequest(data []byte) (*x509.CertificateRequest, error) {
	block, _ := pem.Decode(data)
	if block == nil || block.Type != "CERTIFICATE REQUEST" {
		return nil, errors.New("PEM block type must be CERTIFICATE REQUEST")
	}
	return x509.ParseCertificateRequest(block.Bytes)
}

// maySign reports whether the user has the verb on a signer, by its name or as
// one of its domain ("example.com/*").
func maySign(ctx context.Context, a authz.Authorizer, user *request.User, verb, signer string) bool {
	domain, _, _ := strings.Cut(signer, "/")
	for _, name := range []string{signer, domain + "/*"} {
		// An error counts as no: the 403 says what was asked for.
		d, _, _ := a.Authorize(ctx, user, &request.Info{
			IsResource: true, Verb: verb, Group: certificatesv1.GroupName, Version: "*", Resource: "signers", Name: name,
		})
		if d == authz.Allow {
			return true
		}
	}
	return false
}
