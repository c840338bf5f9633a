package pki

import (
	"bytes"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/client-go/tools/clientcmd"
)

func TestSignerPolicies(t *testing.T) {
	node := func(change func(*x509.CertificateRequest)) *x509.CertificateRequest {
		csr := &x509.CertificateRequest{Subject: pkix.Name{CommonName: "system:node:n1", Organization: []string{"system:nodes"}}}
		if change != nil {
			change(csr)
		}
		return csr
	}
	served := func(csr *x509.CertificateRequest) { csr.DNSNames = []string{"n1"} }
	var (
		sig, enc, client, server = certificatesv1.UsageDigitalSignature, certificatesv1.UsageKeyEncipherment, certificatesv1.UsageClientAuth, certificatesv1.UsageServerAuth
		clientSigner             = certificatesv1.KubeAPIServerClientSignerName
		kubeletSigner            = certificatesv1.KubeAPIServerClientKubeletSignerName
		servingSigner            = certificatesv1.KubeletServingSignerName
	)
	type usages = []certificatesv1.KeyUsage
	tests := []struct {
		signer string
		csr    *x509.CertificateRequest
		usages usages
		want   string // "" if it may be signed
	}{
		{clientSigner, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "jane"}}, usages{client}, ""},
		{clientSigner, node(served), usages{client, sig, enc}, ""},
		{clientSigner, node(nil), usages{sig}, `must include "client auth"`},
		{clientSigner, node(nil), usages{client, server}, `"server auth" is not allowed`},
		{kubeletSigner, node(nil), usages{client, sig, enc}, ""},
		{kubeletSigner, node(nil), usages{client, sig}, ""},
		{kubeletSigner, node(nil), usages{client}, `must include "digital signature"`},
		{kubeletSigner, node(nil), usages{client, sig, server}, "not allowed"},
		{kubeletSigner, node(served), usages{client, sig}, "DNS subjectAltNames are not allowed"},
		{kubeletSigner, node(func(c *x509.CertificateRequest) { c.IPAddresses = []net.IP{{1, 2, 3, 4}} }), usages{client, sig}, "IP subjectAltNames are not allowed"},
		{kubeletSigner, node(func(c *x509.CertificateRequest) { c.EmailAddresses = []string{"a@b"} }), usages{client, sig}, "Email subjectAltNames are not allowed"},
		{kubeletSigner, node(func(c *x509.CertificateRequest) { c.URIs = []*url.URL{{}} }), usages{client, sig}, "URI subjectAltNames are not allowed"},
		{kubeletSigner, node(func(c *x509.CertificateRequest) { c.Subject.CommonName = "n1" }), usages{client, sig}, "subject common name does not begin with system:node:"},
		{kubeletSigner, node(func(c *x509.CertificateRequest) {
			c.Subject.Organization = append(c.Subject.Organization, "system:masters")
		}), usages{client, sig}, "subject organization is not system:nodes"},
		{servingSigner, node(served), usages{server, sig, enc}, ""},
		{servingSigner, node(func(c *x509.CertificateRequest) { c.IPAddresses = []net.IP{{1, 2, 3, 4}} }), usages{server, sig}, ""},
		{servingSigner, node(nil), usages{server, sig}, "DNS or IP subjectAltName is required"},
		{servingSigner, node(func(c *x509.CertificateRequest) { served(c); c.EmailAddresses = []string{"a@b"} }), usages{server, sig}, "Email"},
		{servingSigner, node(func(c *x509.CertificateRequest) { served(c); c.URIs = []*url.URL{{}} }), usages{server, sig}, "URI"},
		{servingSigner, node(served), usages{server, sig, client}, `"client auth" is not allowed`},
	}
	for i, test := range tests {
		err := SignerPolicyFor(test.signer)(test.csr, test.usages)
		if (err == nil) != (test.want == "") || (err != nil && !strings.Contains(err.Error(), test.want)) {
			t.Errorf("%d %s %v: %v, want %q", i, test.signer, test.usages, err, test.want)
		}
	}
	for _, signer := range []string{certificatesv1.SchemeGroupVersion.String(), "kubernetes.io/legacy-unknown", "example.com/x"} {
		if SignerPolicyFor(signer) != nil {
			t.Errorf("%s is served", signer)
		}
	}
}

func TestSignRequest(t *testing.T) {
	a := authority(t)
	key, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	data, err := NewSigningRequest(Node("n1"), key, []string{"n1"}, []net.IP{net.IPv4(10, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	csr, err := ParseSigningRequest(data)
	if err != nil {
		t.Fatal(err)
	}
	usages := []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageServerAuth}
	if err := SignerPolicyKubeletServing(csr, usages); err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	signed, err := a.SignRequest(csr, usages, time.Hour, now)
	if err != nil {
		t.Fatal(err)
	}
	certs, err := ParseCerts(signed)
	if err != nil {
		t.Fatal(err)
	}
	cert := certs[0]
	if _, err := cert.Verify(x509.VerifyOptions{Roots: a.Pool(), DNSName: "10.0.0.1"}); err != nil {
		t.Error(err)
	}
	if !samePublicKey(cert, key) || cert.IsCA || cert.KeyUsage != x509.KeyUsageDigitalSignature || cert.NotAfter.After(now.Add(time.Hour)) {
		t.Errorf("certificate %+v", cert)
	}
	if _, err := a.SignRequest(csr, []certificatesv1.KeyUsage{"flying"}, time.Hour, now); err == nil || err.Error() != `unrecognized usage value: "flying"` {
		t.Errorf("unknown usage: %v", err)
	}
	// A request whose key is not the signer's is a forgery.
	forged := bytes.Replace(csr.Raw, []byte("system:node:n1"), []byte("system:node:n2"), 1)
	if other, err := x509.ParseCertificateRequest(forged); err != nil || other.CheckSignature() == nil {
		t.Errorf("forgery: %v", err)
	}
}

func TestJoinToken(t *testing.T) {
	a, other := authority(t), authority(t)
	token, err := NewJoinToken(a.Cert)
	if err != nil {
		t.Fatal(err)
	}
	back, err := ParseJoinToken(token.Text() + "\n")
	if err != nil || back != token {
		t.Fatalf("read back %+v, %v", back, err)
	}
	if _, err := token.Trust(append(append([]byte(nil), other.CertPEM...), a.CertPEM...)); err != nil {
		t.Error(err)
	}
	if _, err := token.Trust(other.CertPEM); err == nil {
		t.Error("another cluster's CA was trusted")
	}
	var log bytes.Buffer
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "token", token)
	fmt.Fprintf(&log, "%v %+v %s", token, token, token)
	if strings.Contains(log.String(), token.Secret) {
		t.Errorf("the secret is in the log: %s", &log)
	}
	for _, bad := range []string{"", "abcdef.0123456789abcdef", "abcdef.0123456789abcde@sha256:" + strings.Repeat("0", 64),
		token.Bearer() + "@sha256:" + strings.Repeat("0", 63), token.Bearer() + "@sha256:" + strings.Repeat("0", 66), strings.ToUpper(token.Text())} {
		if got, err := ParseJoinToken(bad); err == nil {
			t.Errorf("%q was read as %v", bad, got)
		} else if strings.Contains(err.Error(), token.Secret) {
			t.Errorf("the secret is in the error: %v", err)
		}
	}
}

func TestKubeconfig(t *testing.T) {
	a := authority(t)
	p, err := a.Issue(Request{Identity: Admin(), Usage: Client})
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(t.TempDir(), "kubeconfig")
	k := Kubeconfig{Server: "https://127.0.0.1:6443", CA: a.CertPEM, Cluster: "skiff", User: "admin", CertPEM: p.CertPEM, KeyPEM: p.KeyPEM}
	var before os.FileInfo
	for range 2 {
		if err := WriteKubeconfig(name, k); err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(name)
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Fatalf("%v, %v", info, err)
		}
		if before != nil && !os.SameFile(before, info) {
			t.Error("an unchanged kubeconfig was written again")
		}
		before = info
	}
	conf, err := clientcmd.BuildConfigFromFlags("", name)
	if err != nil {
		t.Fatal(err)
	}
	if conf.Host != k.Server || !bytes.Equal(conf.CertData, p.CertPEM) || !bytes.Equal(conf.KeyData, p.KeyPEM) || !bytes.Equal(conf.CAData, a.CertPEM) {
		t.Errorf("read back %+v", conf)
	}
}
