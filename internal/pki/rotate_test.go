package pki

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"testing"
	"testing/synctest"
	"time"
)

func TestRotator(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := authority(t)
		const lifetime = 100 * time.Hour
		r, err := NewAuthorityRotator(t.Context(), a, Request{Identity: Admin(), Usage: Client, Lifetime: lifetime})
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		get := func() *tls.Certificate {
			t.Helper()
			cert, err := r.Certificate(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if now := time.Now(); now.Before(cert.Leaf.NotBefore) || now.After(cert.Leaf.NotAfter) {
				t.Fatalf("at %v got a certificate for %v to %v", now, cert.Leaf.NotBefore, cert.Leaf.NotAfter)
			}
			return cert
		}
		first := get()
		time.Sleep(lifetime * 7 / 10)
		if get() != first {
			t.Error("replaced before its time")
		}
		time.Sleep(lifetime / 8)
		get() // starts the renewal
		synctest.Wait()
		second := get()
		if second == first {
			t.Error("not replaced at 80 % of its lifetime")
		}
		time.Sleep(365 * 24 * time.Hour) // a clock that jumps, or a server asleep
		if get() == second {
			t.Error("expired and not replaced")
		}
	})
}

func TestRotatorFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := authority(t)
		calls, broken := 0, false
		r, err := NewRotator(t.Context(), func(context.Context) (*tls.Certificate, error) {
			calls++
			if broken {
				return nil, errors.New("no signer")
			}
			p, err := a.Issue(Request{Identity: Admin(), Usage: Client, Lifetime: 10 * time.Hour})
			if err != nil {
				return nil, err
			}
			return p.TLS(), nil
		})
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		broken = true
		time.Sleep(9 * time.Hour)
		for range 100 { // handshakes go on with the old certificate and do not storm the signer
			if _, err := r.Certificate(t.Context()); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		if calls != 2 {
			t.Errorf("%d calls of the signer, want 2", calls)
		}
		time.Sleep(2 * time.Hour)
		if _, err := r.Certificate(t.Context()); err == nil {
			t.Error("an expired certificate was handed out")
		}
		broken = false
		if _, err := r.Certificate(t.Context()); err != nil {
			t.Errorf("signer is back: %v", err)
		}
	})
}

func TestRotatorSlowSigner(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := authority(t)
		r, err := NewRotator(t.Context(), func(ctx context.Context) (*tls.Certificate, error) {
			select {
			case <-time.After(time.Minute):
			case <-ctx.Done():
				return nil, ctx.Err()
			}
			p, err := a.Issue(Request{Identity: Admin(), Usage: Client, Lifetime: 10 * time.Hour})
			if err != nil {
				return nil, err
			}
			return p.TLS(), nil
		})
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(9 * time.Hour)
		start := time.Now()
		if _, err := r.Certificate(t.Context()); err != nil || time.Since(start) != 0 {
			t.Errorf("a valid certificate took %v, %v", time.Since(start), err)
		}
		r.Close() // does not wait for the signer's minute
		if time.Since(start) != 0 {
			t.Errorf("close took %v", time.Since(start))
		}
	})
}

// TestRotatorHandshake uses rotated certificates on both sides of TLS.
func TestRotatorHandshake(t *testing.T) {
	a := authority(t)
	server, err := NewAuthorityRotator(t.Context(), a, Request{Identity: APIServer(), Usage: Server, DNSNames: []string{"localhost"}})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	client, err := NewAuthorityRotator(t.Context(), a, Request{Identity: Admin(), Usage: Client})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	near, far := net.Pipe()
	defer near.Close()
	defer far.Close()
	accepted := make(chan error, 1)
	s := tls.Server(far, &tls.Config{GetCertificate: server.GetCertificate, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: a.Pool()})
	go func() { accepted <- s.HandshakeContext(t.Context()) }()
	c := tls.Client(near, &tls.Config{GetClientCertificate: client.GetClientCertificate, RootCAs: a.Pool(), ServerName: "localhost", MaxVersion: tls.VersionTLS12})
	if err := c.HandshakeContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-accepted; err != nil {
		t.Fatal(err)
	}
	if user := s.ConnectionState().PeerCertificates[0].Subject.CommonName; user != "kubernetes-admin" {
		t.Errorf("user %q", user)
	}
}
