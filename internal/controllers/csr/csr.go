// Package csr decides on, signs and cleans up certificate signing requests.
//
// The approver lets nodes in: it approves client certificates of nodes for
// those who may ask for them (by a SubjectAccessReview on the virtual
// subresources nodeclient and selfnodeclient), and serving certificates whose
// names and addresses are those of the Node that asks. Everything else waits
// for a person. The signer signs what has been approved for Kubernetes' own
// signers. The cleaner deletes requests that nobody will come back for.
//
// All three read CertificateSigningRequests, the approver Nodes too. They
// write approval, status and deletion.
// https://kubernetes.io/docs/reference/access-authn-authz/certificate-signing-requests/
package csr

import (
	"context"

	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff.dev/skiff/internal/client"
)

type signingRequest = certificatesv1.CertificateSigningRequest

const (
	group    = certificatesv1.GroupName
	resource = "certificatesigningrequests"
)

// condition returns the condition of a type, nil if there is none.
func condition(r *signingRequest, t certificatesv1.RequestConditionType) *certificatesv1.CertificateSigningRequestCondition {
	for i := range r.Status.Conditions {
		if r.Status.Conditions[i].Type == t {
			return &r.Status.Conditions[i]
		}
	}
	return nil
}

func decided(r *signingRequest) bool {
	return condition(r, certificatesv1.CertificateApproved) != nil || condition(r, certificatesv1.CertificateDenied) != nil
}

// approve writes through the view approval. The resourceVersion guards against
// a decision that came in between.
func approve(ctx context.Context, c *client.Client, r *signingRequest) error {
	_, err := c.Transport.Update(ctx, client.Ref{
		GroupVersionResource: client.ResourceOf[*signingRequest](), Name: r.Name, Subresource: "approval",
	}, r, metav1.UpdateOptions{})
	return err
}
