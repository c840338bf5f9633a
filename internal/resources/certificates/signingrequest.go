// Package certificates defines the resources of the API group
// certificates.k8s.io.
package certificates

import (
	"context"
	"slices"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/util/duration"

	"skiff.dev/skiff/internal/apiserver/request"
	"skiff.dev/skiff/internal/check"
	"skiff.dev/skiff/internal/resource"
)

// A shorter name, as this type is on every line.
type signingRequest = certificatesv1.CertificateSigningRequest

// SigningRequest is certificates.k8s.io/v1 CertificateSigningRequest. Who asks
// is written down by the server; the decision is made through the view
// approval, the certificate and failures come through status.
// https://kubernetes.io/docs/reference/access-authn-authz/certificate-signing-requests/
var SigningRequest = &resource.Definition[*signingRequest]{
	Name: resource.Name{
		Group: certificatesv1.GroupName, Version: "v1", Kind: "CertificateSigningRequest",
		Plural: "certificatesigningrequests", Short: []string{"csr"},
	},
	Scope:    resource.Cluster,
	NameRule: check.PathSegment,
	Prepare:  prepareSigningRequest,
	Validate: validateSigningRequest,
	Status: &resource.View[*signingRequest]{
		Keep:  func(c, old *signingRequest) { c.Status = *old.Status.DeepCopy() },
		Reset: func(c, old *signingRequest) { c.Spec = *old.Spec.DeepCopy() },
		Prepare: func(_ context.Context, c, old *signingRequest) {
			keepDecision(c, old)
			stampConditions(c, old)
		},
		Validate: validateSigningRequestStatus,
	},
	Views: []*resource.View[*signingRequest]{{
		Name: "approval",
		Reset: func(c, old *signingRequest) {
			c.Spec, c.Status.Certificate = *old.Spec.DeepCopy(), slices.Clone(old.Status.Certificate)
		},
		Prepare:  func(_ context.Context, c, old *signingRequest) { stampConditions(c, old) },
		Validate: validateApproval,
	}},
	Fields: func(c *signingRequest) fields.Set { return fields.Set{"spec.signerName": c.Spec.SignerName} },
	Columns: []resource.Column[*signingRequest]{
		resource.Age[*signingRequest](),
		{Name: "SignerName", Description: certificatesv1.CertificateSigningRequestSpec{}.SwaggerDoc()["signerName"],
			Value: func(c *signingRequest) any { return c.Spec.SignerName }},
		{Name: "Requestor", Description: certificatesv1.CertificateSigningRequestSpec{}.SwaggerDoc()["request"],
			Value: func(c *signingRequest) any { return c.Spec.Username }},
		{Name: "RequestedDuration", Description: certificatesv1.CertificateSigningRequestSpec{}.SwaggerDoc()["expirationSeconds"],
			Value: func(c *signingRequest) any {
				if s := c.Spec.ExpirationSeconds; s != nil {
					return duration.HumanDuration(time.Duration(*s) * time.Second)
				}
				return "<none>"
			}},
		{Name: "Condition", Description: certificatesv1.CertificateSigningRequestStatus{}.SwaggerDoc()["conditions"],
			Value: func(c *signingRequest) any { return phase(c) }},
	},
}

// phase is the column Condition.
func phase(c *signingRequest) string {
	var approved, denied, failed bool
	for i := range c.Status.Conditions {
		switch c.Status.Conditions[i].Type {
		case certificatesv1.CertificateApproved:
			approved = true
		case certificatesv1.CertificateDenied:
			denied = true
		case certificatesv1.CertificateFailed:
			failed = true
		}
	}
	text := "Pending"
	switch { // a denial outweighs an approval
	case denied:
		text = "Denied"
	case approved:
		text = "Approved"
	}
	if failed {
		text += ",Failed"
	}
	if len(c.Status.Certificate) > 0 {
		text += ",Issued"
	}
	return text
}

// prepareSigningRequest writes down who asks; nothing of it changes later.
func prepareSigningRequest(ctx context.Context, c, old *signingRequest) {
	if old != nil {
		c.Spec = *old.Spec.DeepCopy()
		return
	}
	c.Spec.Username, c.Spec.UID, c.Spec.Groups, c.Spec.Extra = "", "", nil, nil
	user := request.UserFrom(ctx)
	if user == nil {
		return
	}
	c.Spec.Username, c.Spec.UID, c.Spec.Groups = user.Name, user.UID, slices.Clone(user.Groups)
	for key, values := range user.Extra {
		if c.Spec.Extra == nil {
			c.Spec.Extra = map[string]certificatesv1.ExtraValue{}
		}
		c.Spec.Extra[key] = slices.Clone(values)
	}
}

// keepDecision restores the conditions that only the view approval may set,
// each where it stood.
func keepDecision(c, old *signingRequest) {
	decision := func(t certificatesv1.RequestConditionType) bool {
		return t == certificatesv1.CertificateApproved || t == certificatesv1.CertificateDenied
	}
	of := func(conditions []certificatesv1.CertificateSigningRequestCondition, t certificatesv1.RequestConditionType) (found []certificatesv1.CertificateSigningRequestCondition) {
		for _, cond := range conditions {
			if cond.Type == t {
				found = append(found, cond)
			}
		}
		return found
	}
	for i := range c.Status.Conditions {
		t := c.Status.Conditions[i].Type
		was, now := of(old.Status.Conditions, t), of(c.Status.Conditions, t)
		if decision(t) && len(was) == len(now) { // removal and addition are left for validation to refuse
			c.Status.Conditions[i] = was[len(of(c.Status.Conditions[:i], t))]
		}
	}
}

// stampConditions says when conditions came or changed.
func stampConditions(c, old *signingRequest) {
	now := metav1.Now()
	for i := range c.Status.Conditions {
		cond := &c.Status.Conditions[i]
		was := slices.IndexFunc(old.Status.Conditions, func(o certificatesv1.CertificateSigningRequestCondition) bool { return o.Type == cond.Type })
		if cond.LastUpdateTime.IsZero() {
			cond.LastUpdateTime = now
			if was >= 0 && equality.Semantic.DeepEqual(withoutTimes(*cond), withoutTimes(old.Status.Conditions[was])) {
				cond.LastUpdateTime = old.Status.Conditions[was].LastUpdateTime
			}
		}
		if !cond.LastTransitionTime.IsZero() {
			continue
		}
		cond.LastTransitionTime = now
		if was >= 0 && old.Status.Conditions[was].Status == cond.Status && !old.Status.Conditions[was].LastTransitionTime.IsZero() {
			cond.LastTransitionTime = old.Status.Conditions[was].LastTransitionTime
		}
	}
}

func withoutTimes(c certificatesv1.CertificateSigningRequestCondition) certificatesv1.CertificateSigningRequestCondition {
	c.LastUpdateTime, c.LastTransitionTime = metav1.Time{}, metav1.Time{}
	return c
}
