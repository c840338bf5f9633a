package csr

import (
	"context"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff.dev/skiff/internal/client"
	"skiff.dev/skiff/internal/controller"
	"skiff.dev/skiff/internal/pki"
)

// How long requests are kept, by the state they are in.
const (
	keepDecided = time.Hour
	keepPending = 24 * time.Hour
)

type cleaner struct {
	client   *client.Client
	requests client.Cache[*signingRequest]
}

// NewCleaner returns the controller that deletes old requests.
func NewCleaner(c *client.Client) *controller.Controller {
	cl := &cleaner{client: c}
	return controller.New(c, "certificatesigningrequest-cleaner", &cl.requests, cl.reconcile,
		controller.Workers(1),
		controller.Writes(group, resource, "delete"),
	)
}

func (cl *cleaner) reconcile(ctx context.Context, r *signingRequest) (controller.Result, error) {
	end := expiry(r)
	if end.IsZero() {
		return controller.Result{}, nil
	}
	if left := time.Until(end); left > 0 {
		return controller.Result{After: left}, nil
	}
	err := client.For[*signingRequest](cl.client).Delete(ctx, "", r.Name, metav1.DeleteOptions{
		Preconditions: &metav1.Preconditions{UID: &r.UID, ResourceVersion: &r.ResourceVersion},
	})
	if apierrors.IsNotFound(err) {
		err = nil
	}
	return controller.Result{}, err
}

// expiry is when a request goes; zero while it waits for its signer.
func expiry(r *signingRequest) time.Time {
	approved := condition(r, certificatesv1.CertificateApproved)
	denied := condition(r, certificatesv1.CertificateDenied)
	failed := condition(r, certificatesv1.CertificateFailed)
	var ends []time.Time
	for _, c := range []*certificatesv1.CertificateSigningRequestCondition{denied, failed} {
		if c != nil {
			ends = append(ends, c.LastUpdateTime.Add(keepDecided))
		}
	}
	if issued := len(r.Status.Certificate) > 0; issued && approved != nil {
		ends = append(ends, approved.LastUpdateTime.Add(keepDecided))
		if certs, err := pki.ParseCerts(r.Status.Certificate); err == nil { // another's signer may write what we cannot read
			ends = append(ends, certs[0].NotAfter)
		}
	}
	if approved == nil && denied == nil && failed == nil {
		ends = append(ends, r.CreationTimestamp.Add(keepPending))
	}
	var first time.Time
	for _, end := range ends {
		if first.IsZero() || end.Before(first) {
			first = end
		}
	}
	return first
}
