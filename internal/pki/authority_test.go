package pki

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func authority(t testing.TB) *Authority {
	t.Helper()
	a, err := NewAuthority("kubernetes", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestIssue(t *testing.T) {
	a := authority(t)
	now := time.Now().Truncate(time.Second)
	p, err := a.Issue(Request{Identity: Node("n1"), Usage: Client | Server, DNSNames: []string{"n1"}, IPs: []net.IP{net.IPv4(10, 0, 0, 1)}, Now: now})
	if err != nil {
		t.Fatal(err)
	}
	for _, usage := range []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth} {
		if _, err := p.Cert.Verify(x509.VerifyOptions{Roots: a.Pool(), KeyUsages: []x509.ExtKeyUsage{usage}, DNSName: "10.0.0.1"}); err != nil {
			t.Errorf("verify: %v", err)
		}
	}
	if d := cmp.Diff([]string{"system:nodes"}, p.Cert.Subject.Organization); d != "" {
		t.Error(d)
	}
	if p.Cert.Subject.CommonName != "system:node:n1" || p.Cert.IsCA {
		t.Errorf("certificate of %v, CA %v", p.Cert.Subject, p.Cert.IsCA)
	}
	if !p.Cert.NotAfter.Equal(now.Add(DefaultLifetime)) || p.Cert.NotBefore.Before(a.Cert.NotBefore) {
		t.Errorf("valid from %v to %v", p.Cert.NotBefore, p.Cert.NotAfter)
	}

	late := a.Cert.NotAfter.Add(-time.Hour)
	capped, err := a.Issue(Request{Identity: Admin(), Usage: Client, Now: late})
	if err != nil || !capped.Cert.NotAfter.Equal(a.Cert.NotAfter) {
		t.Errorf("an hour before the authority's end: %v, %v", capped.Cert.NotAfter, err)
	}
	if _, err := a.Issue(Request{Identity: Admin(), Usage: Client, Now: late.Add(2 * time.Hour)}); err == nil || !strings.Contains(err.Error(), "expired") {
		t.Errorf("after the authority's end: %v", err)
	}
	if _, err := a.Issue(Request{Identity: Admin(), Usage: Server}); err == nil {
		t.Error("a server without a name got a certificate")
	}
	if _, err := a.Issue(Request{Identity: Admin()}); err == nil {
		t.Error("a certificate for nothing was issued")
	}
}

func TestLoadOrCreateCluster(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "pki")
	first, err := LoadOrCreateCluster(dir)
	if err != nil {
		t.Fatal(err)
	}
	second, err := LoadOrCreateCluster(dir)
	if err != nil {
		t.Fatal(err)
	}
	for name, pair := range map[string][2]*Authority{"ca": {first.CA, second.CA}, "front-proxy-ca": {first.FrontProxyCA, second.FrontProxyCA}} {
		if !pair[0].Cert.Equal(pair[1].Cert) || !samePublicKey(pair[0].Cert, pair[1].Key) {
			t.Errorf("%s changed", name)
		}
	}
	if !second.ServiceAccountKey.Public().(interface{ Equal(crypto.PublicKey) bool }).Equal(first.ServiceAccountKey.Public()) {
		t.Error("the service account key changed")
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	modes := map[string]os.FileMode{}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		modes[e.Name()] = info.Mode().Perm()
	}
	want := map[string]os.FileMode{
		"ca.crt": 0o644, "ca.key": 0o600, "front-proxy-ca.crt": 0o644, "front-proxy-ca.key": 0o600, "sa.key": 0o600, "sa.pub": 0o644,
	}
	if d := cmp.Diff(want, modes); d != "" {
		t.Error(d)
	}
	if info, _ := os.Stat(dir); info.Mode().Perm() != 0o700 {
		t.Errorf("directory has mode %v", info.Mode())
	}
	expiries, err := Expiries(dir)
	if err != nil || len(expiries) != 2 || !expiries[0].NotAfter.Equal(first.CA.Cert.NotAfter) {
		t.Errorf("expiries %+v, %v", expiries, err)
	}
}

func TestLoadErrorsSayWhatToDo(t *testing.T) {
	tests := map[string]struct {
		spoil func(t *testing.T, dir string)
		want  string
	}{
		"key lost":          {func(t *testing.T, dir string) { remove(t, dir, "ca.key") }, "ca.key is missing while"},
		"certificate spoil": {func(t *testing.T, dir string) { spoil(t, dir, "ca.crt") }, "ca.crt is damaged"},
		"key spoilt":        {func(t *testing.T, dir string) { spoil(t, dir, "front-proxy-ca.key") }, "front-proxy-ca.key is damaged"},
		"another's key": {func(t *testing.T, dir string) {
			data, err := os.ReadFile(filepath.Join(dir, "front-proxy-ca.key"))
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, "ca.key"), data, 0o600); err != nil {
				t.Fatal(err)
			}
		}, "ca.key is not the key of"},
		"token key lost": {func(t *testing.T, dir string) { remove(t, dir, "sa.key") }, "sa.key is missing while"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "pki")
			if _, err := LoadOrCreateCluster(dir); err != nil {
				t.Fatal(err)
			}
			test.spoil(t, dir)
			_, err := LoadOrCreateCluster(dir)
			if err == nil || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), dir) || !strings.Contains(err.Error(), "restore") {
				t.Errorf("error %v, want %q", err, test.want)
			}
		})
	}
}

// A crash between key and certificate leaves a key that has issued nothing.
func TestCreateAfterCrash(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "pki")
	if _, err := LoadOrCreateCluster(dir); err != nil {
		t.Fatal(err)
	}
	remove(t, dir, "ca.crt")
	c, err := LoadOrCreateCluster(dir)
	if err != nil || !samePublicKey(c.CA.Cert, c.CA.Key) {
		t.Fatalf("after a crash: %v", err)
	}
}

func remove(t *testing.T, dir, name string) {
	if err := os.Remove(filepath.Join(dir, name)); err != nil {
		t.Fatal(err)
	}
}

func spoil(t *testing.T, dir, name string) {
	if err := os.WriteFile(filepath.Join(dir, name), []byte("-----BEGIN NOTHING-----\n"), 0o600); err != nil {
		t.Fatal(err)
	}
}

// Keys of clusters that others set up are RSA, in either form, and open keys get closed.
func TestForeignKeys(t *testing.T) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := EncodeKey(key)
	if err != nil {
		t.Fatal(err)
	}
	pkcs1 := pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)})
	for _, data := range [][]byte{pkcs8, pkcs1, append([]byte("-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n"), pkcs1...)} {
		name := filepath.Join(t.TempDir(), "sa.key")
		if err := os.WriteFile(name, data, 0o644); err != nil {
			t.Fatal(err)
		}
		got, err := loadKey(name)
		if err != nil || !key.Equal(got) {
			t.Errorf("key %v, %v", got, err)
		}
		if info, _ := os.Stat(name); info.Mode().Perm() != 0o600 {
			t.Errorf("mode %v", info.Mode())
		}
	}
}

func TestWriteFileReplacesWhole(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "f")
	for _, content := range []string{"a longer first content", "second"} {
		if err := WriteFile(name, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, _ := os.ReadFile(name); string(got) != content {
			t.Errorf("content %q", got)
		}
	}
	if err := WriteFile(filepath.Join(dir, "none", "f"), nil, 0o600); err == nil {
		t.Error("no error for an absent directory")
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 1 {
		t.Errorf("left behind: %v", entries)
	}
}

func FuzzParse(f *testing.F) {
	a := authority(f)
	f.Add(a.CertPEM)
	f.Add(a.KeyPEM)
	f.Add(bytes.Repeat([]byte("-----BEGIN CERTIFICATE-----\n"), 3))
	f.Fuzz(func(t *testing.T, data []byte) {
		if certs, err := ParseCerts(data); err == nil && len(certs) == 0 {
			t.Error("no certificate and no error")
		}
		if key, err := ParseKey(data); err == nil && key == nil {
			t.Error("no key and no error")
		}
		ParseSigningRequest(data) // must not panic
	})
}

func BenchmarkNewCluster(b *testing.B) {
	for b.Loop() {
		if _, err := LoadOrCreateCluster(b.TempDir()); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkIssue(b *testing.B) {
	a := authority(b)
	for b.Loop() {
		if _, err := a.Issue(Request{Identity: Admin(), Usage: Client}); err != nil {
			b.Fatal(err)
		}
	}
}

// TestClockSetBack has a cluster made while the clock was ahead, by hours and by
// a year. What was issued holds over the one; over the other the authority does,
// and what it issues then.
func TestClockSetBack(t *testing.T) {
	a := authority(t)
	now := time.Now()
	before, err := a.Issue(Request{Identity: Admin(), Usage: Client})
	if err != nil {
		t.Fatal(err)
	}
	verify := func(c *x509.Certificate, at time.Time) error {
		_, err := c.Verify(x509.VerifyOptions{Roots: a.Pool(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, CurrentTime: at})
		return err
	}
	if err := verify(before.Cert, now.Add(-2*time.Hour)); err != nil {
		t.Error("two hours back:", err)
	}
	year := now.Add(-365 * 24 * time.Hour)
	after, err := a.Issue(Request{Identity: Admin(), Usage: Client, Now: year})
	if err != nil {
		t.Fatal(err)
	}
	if err := verify(after.Cert, year); err != nil {
		t.Error("a year back:", err)
	}
}
