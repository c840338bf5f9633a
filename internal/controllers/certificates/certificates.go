// Package certificates handles CertificateSigningRequests: the approver
// approves those of kubelets that may ask for one, the signer signs those that
// have been approved, the cleaner deletes those that have served their purpose.
// They read CertificateSigningRequests, ask SubjectAccessReviews, and write
// the approval and status of the former or delete them.
//
// https://kubernetes.io/docs/reference/access-authn-authz/certificate-signing-requests/
package certificates

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff.dev/skiff/internal/client"
	"skiff.dev/skiff/internal/controller"
	"skiff.dev/skiff/internal/meta"
	"skiff.dev/skiff/internal/pki"
)

const (
	group  = "certificates.k8s.io"
	plural = "certificatesigningrequests"
)

type requests struct {
	client   *client.Client
	sign     Sign
	longest  time.Duration
	requests client.Cache[*certificatesv1.CertificateSigningRequest]
}

func condition(r *certificatesv1.CertificateSigningRequest, t certificatesv1.RequestConditionType) *certificatesv1.CertificateSigningRequestCondition {
	for i := range r.Status.Conditions {
		if r.Status.Conditions[i].Type == t {
			return &r.Status.Conditions[i]
		}
	}
	return nil
}

func addCondition(r *certificatesv1.CertificateSigningRequest, t certificatesv1.RequestConditionType, reason, message string) {
	now := metav1.NewTime(time.Now().Truncate(time.Second))
	r.Status.Conditions = append(r.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{
		Type: t, Status: corev1.ConditionTrue, Reason: reason, Message: message, LastUpdateTime: now, LastTransitionTime: now,
	})
}

// NewApprover returns the controller that approves client certificates of
// kubelets for those whom RBAC lets have one.
func NewApprover(c *client.Client) *controller.Controller {
	r := &requests{client: c}
	return controller.New(c, "certificatesigningrequest-approving", &r.requests, r.approve,
		controller.Workers(2),
		controller.Writes(group, plural+"/approval", "update"),
		controller.Writes(group, "signers", "approve"),
		controller.Writes("authorization.k8s.io", "subjectaccessreviews", "create"),
	)
}

func (c *requests) approve(ctx context.Context, r *certificatesv1.CertificateSigningRequest) (controller.Result, error) {
	if r.Spec.SignerName != certificatesv1.KubeAPIServerClientKubeletSignerName || len(r.Status.Certificate) > 0 ||
		condition(r, certificatesv1.CertificateApproved) != nil || condition(r, certificatesv1.CertificateDenied) != nil {
		return controller.Result{}, nil
	}
	asked, err := pki.ParseSigningRequest(r.Spec.Request)
	if err != nil || pki.SignerPolicyKubeletClient(asked, r.Spec.Usages) != nil {
		return controller.Result{}, nil // not ours to approve; a person may look at it
	}
	var allowed bool
	message := "Auto approving self kubelet client certificate after SubjectAccessReview."
	if asked.Subject.CommonName == r.Spec.Username {
		allowed, err = c.may(ctx, r, "selfnodeclient")
	}
	if err == nil && !allowed {
		message = "Auto approving kubelet client certificate after SubjectAccessReview."
		allowed, err = c.may(ctx, r, "nodeclient")
	}
	switch {
	case err != nil:
		return controller.Result{}, err
	case !allowed:
		return controller.Result{}, fmt.Errorf("recognized csr %q as a kubelet's but subject access review was not approved", r.Name)
	}
	r = meta.Copy(r)
	addCondition(r, certificatesv1.CertificateApproved, "AutoApproved", message)
	ref := client.Ref{GroupVersionResource: client.ResourceOf[*certificatesv1.CertificateSigningRequest](), Name: r.Name, Subresource: "approval"}
	_, err = c.client.Update(ctx, ref, r, metav1.UpdateOptions{})
	return controller.Result{}, ignoreGone(err)
}

// may asks whether the user who made the request may have one of that sort.
func (c *requests) may(ctx context.Context, r *certificatesv1.CertificateSigningRequest, sort string) (bool, error) {
	extra := map[string]authorizationv1.ExtraValue{}
	for k, v := range r.Spec.Extra {
		extra[k] = authorizationv1.ExtraValue(v)
	}
	review := &authorizationv1.SubjectAccessReview{
		TypeMeta: metav1.TypeMeta{APIVersion: authorizationv1.SchemeGroupVersion.String(), Kind: "SubjectAccessReview"},
		Spec: authorizationv1.SubjectAccessReviewSpec{
			User: r.Spec.Username, UID: r.Spec.UID, Groups: r.Spec.Groups, Extra: extra,
			ResourceAttributes: &authorizationv1.ResourceAttributes{Group: group, Resource: plural, Verb: "create", Subresource: sort, Version: "*"},
		},
	}
	answer, err := client.For[*authorizationv1.SubjectAccessReview](c.client).Create(ctx, review)
	if err != nil {
		return false, err
	}
	return answer.Status.Allowed, nil
}

// Sign signs a request for a signer; it returns the certificate in PEM.
type Sign func(signer string, asked *x509.CertificateRequest, usages []certificatesv1.KeyUsage, lifetime time.Duration) ([]byte, error)

// Lifetimes of certificates that are signed.
const (
	// DefaultLifetime is the longest, unless configured otherwise.
	DefaultLifetime  = 365 * 24 * time.Hour
	shortestLifetime = 10 * time.Minute
)

// NewSigner returns the controller that signs what has been approved for one of
// Kubernetes' own signers. Certificates live for longest unless less is asked for.
func NewSigner(c *client.Client, sign Sign, longest time.Duration) *controller.Controller {
	r := &requests{client: c, sign: sign, longest: longest}
	return controller.New(c, "certificatesigningrequest-signing", &r.requests, r.signApproved,
		controller.Workers(2),
		controller.Writes(group, plural+"/status", "update"),
		controller.Writes(group, "signers", "sign"),
	)
}

func (c *requests) signApproved(ctx context.Context, r *certificatesv1.CertificateSigningRequest) (controller.Result, error) {
	policy := pki.SignerPolicyFor(r.Spec.SignerName)
	if policy == nil || len(r.Status.Certificate) > 0 || condition(r, certificatesv1.CertificateFailed) != nil ||
		condition(r, certificatesv1.CertificateApproved) == nil || condition(r, certificatesv1.CertificateDenied) != nil {
		return controller.Result{}, nil
	}
	changed := meta.Copy(r)
	asked, err := pki.ParseSigningRequest(r.Spec.Request)
	if err == nil {
		err = policy(asked, r.Spec.Usages)
	}
	if err != nil {
		addCondition(changed, certificatesv1.CertificateFailed, "SignerValidationFailure", err.Error())
	} else {
		changed.Status.Certificate, err = c.sign(r.Spec.SignerName, asked, r.Spec.Usages, c.lifetime(r))
		if err != nil {
			return controller.Result{}, fmt.Errorf("signing %s: %w", r.Name, err)
		}
	}
	_, err = client.For[*certificatesv1.CertificateSigningRequest](c.client).UpdateStatus(ctx, changed)
	return controller.Result{}, ignoreGone(err)
}

func (c *requests) lifetime(r *certificatesv1.CertificateSigningRequest) time.Duration {
	if r.Spec.ExpirationSeconds == nil {
		return c.longest
	}
	return min(c.longest, max(shortestLifetime, time.Duration(*r.Spec.ExpirationSeconds)*time.Second))
}

// How long requests are kept: those nobody has decided on, and those decided.
const (
	keepPending = 24 * time.Hour
	keepDecided = time.Hour
)

// NewCleaner returns the controller that deletes requests some time after they
// have been decided on, or have been waiting for it.
func NewCleaner(c *client.Client) *controller.Controller {
	r := &requests{client: c}
	return controller.New(c, "certificatesigningrequest-cleaner", &r.requests, r.clean,
		controller.Workers(1),
		controller.Writes(group, plural, "delete"),
	)
}

func (c *requests) clean(ctx context.Context, r *certificatesv1.CertificateSigningRequest) (controller.Result, error) {
	if left := time.Until(endOf(r)); left > 0 {
		return controller.Result{After: left}, nil
	}
	err := client.For[*certificatesv1.CertificateSigningRequest](c.client).Delete(ctx, "", r.Name, metav1.DeleteOptions{
		Preconditions: &metav1.Preconditions{UID: &r.UID, ResourceVersion: &r.ResourceVersion},
	})
	return controller.Result{}, ignoreGone(err)
}

// endOf returns when a request may go. Approved ones without a certificate
// still wait for their signer.
func endOf(r *certificatesv1.CertificateSigningRequest) time.Time {
	end := r.CreationTimestamp.Add(keepPending)
	earlier := func(t time.Time) {
		if t.Before(end) {
			end = t
		}
	}
	for _, c := range r.Status.Conditions {
		if c.Type != certificatesv1.CertificateApproved || len(r.Status.Certificate) > 0 {
			earlier(c.LastUpdateTime.Add(keepDecided))
		}
	}
	if block, _ := pem.Decode(r.Status.Certificate); block != nil {
		if cert, err := x509.ParseCertificate(block.Bytes); err == nil {
			earlier(cert.NotAfter)
		}
	}
	return end
}

func ignoreGone(err error) error {
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}
