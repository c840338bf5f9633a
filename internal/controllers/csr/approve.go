package csr

import (
	"context"
	"crypto/x509"
	"fmt"
	"net"
	"slices"
	"strings"

	authorizationv1 "k8s.io/api/authorization/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"

	"skiff.dev/skiff/internal/client"
	"skiff.dev/skiff/internal/controller"
	"skiff.dev/skiff/internal/meta"
	"skiff.dev/skiff/internal/pki"
)

const (
	nodeUser  = "system:node:"
	nodeGroup = "system:nodes"
)

type approver struct {
	client   *client.Client
	requests client.Cache[*signingRequest]
	nodes    client.Cache[*corev1.Node]
}

// NewApprover returns the controller that approves what nodes ask for.
func NewApprover(c *client.Client) *controller.Controller {
	a := &approver{client: c}
	return controller.New(c, "certificatesigningrequest-approving", &a.requests, a.reconcile,
		controller.Maps(&a.nodes, a.waiting),
		controller.Writes("authorization.k8s.io", "subjectaccessreviews", "create"),
		controller.Writes(group, resource+"/approval", "update"),
		controller.Writes(group, "signers", "approve"),
	)
}

// waiting returns the undecided serving requests of a node whose addresses
// have changed.
func (a *approver) waiting(ch client.Change[*corev1.Node]) (keys []meta.Key) {
	if ch.Deleted || !ch.Created && equality.Semantic.DeepEqual(ch.Old.Status.Addresses, ch.New.Status.Addresses) {
		return nil
	}
	for r := range a.requests.All("") {
		if r.Spec.Username == nodeUser+ch.New.Name && r.Spec.SignerName == certificatesv1.KubeletServingSignerName && !decided(r) {
			keys = append(keys, meta.KeyOf(r))
		}
	}
	return keys
}

func (a *approver) reconcile(ctx context.Context, r *signingRequest) (controller.Result, error) {
	if len(r.Status.Certificate) > 0 || decided(r) {
		return controller.Result{}, nil
	}
	parsed, err := pki.ParseSigningRequest(r.Spec.Request)
	if err != nil {
		return controller.Result{}, fmt.Errorf("unable to parse csr %q: %w", r.Name, err)
	}
	message, err := a.judge(ctx, r, parsed)
	if err != nil || message == "" {
		return controller.Result{}, err
	}
	r = meta.Copy(r)
	r.Status.Conditions = append(r.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{
		Type: certificatesv1.CertificateApproved, Status: corev1.ConditionTrue, Reason: "AutoApproved", Message: message,
	})
	if err := approve(ctx, a.client, r); err != nil {
		return controller.Result{}, fmt.Errorf("error updating approval for csr: %w", err)
	}
	return controller.Result{}, nil
}

// judge returns why a request is approved, "" if it is not this controller's
// to approve.
func (a *approver) judge(ctx context.Context, r *signingRequest, parsed *x509.CertificateRequest) (string, error) {
	switch r.Spec.SignerName {
	case certificatesv1.KubeAPIServerClientKubeletSignerName:
		if pki.SignerPolicyKubeletClient(parsed, r.Spec.Usages) == nil {
			return a.judgeClient(ctx, r, parsed)
		}
	case certificatesv1.KubeletServingSignerName:
		if pki.SignerPolicyKubeletServing(parsed, r.Spec.Usages) == nil && a.ownAddresses(r, parsed) {
			return "Auto approving kubelet serving certificate whose names and addresses are those of its Node.", nil
		}
	}
	return "", nil
}

// judgeClient asks whether the requester may have a node's client certificate:
// its own again, or that of any node.
func (a *approver) judgeClient(ctx context.Context, r *signingRequest, parsed *x509.CertificateRequest) (string, error) {
	if r.Spec.Username == parsed.Subject.CommonName {
		if ok, err := a.may(ctx, r, "selfnodeclient"); ok || err != nil {
			return "Auto approving self kubelet client certificate after SubjectAccessReview.", err
		}
	}
	if ok, err := a.may(ctx, r, "nodeclient"); ok || err != nil {
		return "Auto approving kubelet client certificate after SubjectAccessReview.", err
	}
	return "", nil
}

func (a *approver) may(ctx context.Context, r *signingRequest, subresource string) (bool, error) {
	extra := map[string]authorizationv1.ExtraValue{}
	for k, v := range r.Spec.Extra {
		extra[k] = authorizationv1.ExtraValue(v)
	}
	got, err := client.For[*authorizationv1.SubjectAccessReview](a.client).Create(ctx, &authorizationv1.SubjectAccessReview{
		Spec: authorizationv1.SubjectAccessReviewSpec{
			User: r.Spec.Username, UID: r.Spec.UID, Groups: r.Spec.Groups, Extra: extra,
			ResourceAttributes: &authorizationv1.ResourceAttributes{
				Group: group, Resource: resource, Verb: "create", Subresource: subresource, Version: "*",
			},
		},
	})
	if err != nil {
		return false, fmt.Errorf("asking whether %s may have the certificate: %w", r.Spec.Username, err)
	}
	return got.Status.Allowed, nil
}

// ownAddresses reports whether a node asks for itself and for nothing that its
// Node does not have.
func (a *approver) ownAddresses(r *signingRequest, parsed *x509.CertificateRequest) bool {
	name, isNode := strings.CutPrefix(r.Spec.Username, nodeUser)
	if !isNode || !slices.Contains(r.Spec.Groups, nodeGroup) || parsed.Subject.CommonName != r.Spec.Username {
		return false
	}
	node, ok := a.nodes.Get("", name)
	if !ok {
		return false // woken when it comes
	}
	var names []string
	var ips []net.IP
	for _, addr := range node.Status.Addresses {
		switch addr.Type {
		case corev1.NodeHostName, corev1.NodeInternalDNS, corev1.NodeExternalDNS:
			names = append(names, addr.Address)
		case corev1.NodeInternalIP, corev1.NodeExternalIP:
			ips = append(ips, net.ParseIP(addr.Address))
		}
	}
	for _, n := range parsed.DNSNames {
		if !slices.Contains(names, n) {
			return false
		}
	}
	for _, ip := range parsed.IPAddresses {
		if !slices.ContainsFunc(ips, ip.Equal) {
			return false
		}
	}
	return true
}
