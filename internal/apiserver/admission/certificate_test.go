package admission

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"testing"

	certificatesv1 "k8s.io/api/certificates/v1"

	"skiff.dev/skiff/internal/apiserver/authz"
	"skiff.dev/skiff/internal/apiserver/request"
)

func signingRequest(t *testing.T, signer string, organizations ...string) *certificatesv1.CertificateSigningRequest {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "x", Organization: organizations}}, key)
	if err != nil {
		t.Fatal(err)
	}
	return &certificatesv1.CertificateSigningRequest{ObjectMeta: named("r"), Spec: certificatesv1.CertificateSigningRequestSpec{
		SignerName: signer, Request: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})}}
}

func TestCertificateSubjectRestriction(t *testing.T) {
	const client, kubelet = certificatesv1.KubeAPIServerClientSignerName, certificatesv1.KubeAPIServerClientKubeletSignerName
	bad := signingRequest(t, client)
	bad.Spec.Request = []byte("x")
	for _, c := range []struct {
		name string
		r    *certificatesv1.CertificateSigningRequest
		want string
	}{
		{"plain", signingRequest(t, client, "staff"), ""},
		{"masters", signingRequest(t, client, "staff", request.GroupMasters), `certificatesigningrequests.certificates.k8s.io "r" is forbidden: use of kubernetes.io/kube-apiserver-client signer with system:masters group is not allowed`},
		{"masters of another signer", signingRequest(t, kubelet, request.GroupMasters), ""},
		{"unreadable", bad, "could not parse CSR"},
	} {
		wants(t, c.name, admit(CertificateSubjectRestriction(), write(Create, signingRequests, "", c.r, nil)), c.want)
	}
}

func TestCertificateApprovalAndSigning(t *testing.T) {
	a := authz.Func(func(_ context.Context, u *request.User, i *request.Info) (authz.Decision, string, error) {
		if i.Resource == "signers" && u.Name == i.Verb+" "+i.Name {
			return authz.Allow, "", nil
		}
		return authz.NoOpinion, "", nil
	})
	r := signingRequest(t, "example.com/a")
	signed := r.DeepCopy()
	signed.Status.Certificate = []byte("cert")
	for _, c := range []struct {
		user     string
		plugin   *Plugin
		sub      string
		new, old *certificatesv1.CertificateSigningRequest
		want     string
	}{
		{"approve example.com/a", CertificateApproval(a), "approval", r, r, ""},
		{"approve example.com/*", CertificateApproval(a), "approval", r, r, ""},
		{"approve example.com/b", CertificateApproval(a), "approval", r, r, `user not permitted to approve requests with signerName "example.com/a"`},
		{"sign example.com/a", CertificateSigning(a), "status", signed, r, ""},
		{"approve example.com/a", CertificateSigning(a), "status", signed, r, `user not permitted to sign requests with signerName "example.com/a"`},
		{"nobody", CertificateSigning(a), "status", signed, signed, ""},
	} {
		at := write(Update, signingRequests, c.sub, c.new, c.old)
		at.User = &request.User{Name: c.user}
		wants(t, c.user, admit(c.plugin, at), c.want)
	}
}
