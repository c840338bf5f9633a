package controlplane_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff.dev/skiff/internal/apiserver/request"
	"skiff.dev/skiff/internal/app/controlplane"
	"skiff.dev/skiff/internal/client"
	"skiff.dev/skiff/internal/meta"
	"skiff.dev/skiff/internal/pki"
	"skiff.dev/skiff/internal/store"
	"skiff.dev/skiff/internal/store/mem"
)

const trustMap = "extension-apiserver-authentication"

// planeOn is an API server on a store that others may use too.
func planeOn(t *testing.T, s store.Store, trust controlplane.Trust) (*controlplane.ControlPlane, *client.Client) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	cp, err := controlplane.Start(t.Context(), controlplane.Config{
		Store: s, Issuer: "https://kubernetes.default.svc", ServiceAccountKey: key, Trust: trust, VerifyImmutability: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := cp.Bootstrap(t.Context()); err != nil {
		t.Fatal(err)
	}
	return cp, cp.Client(&request.User{Name: "admin", Groups: []string{request.GroupMasters}}, "test")
}

func published(t *testing.T, c *client.Client) map[string]string {
	t.Helper()
	m, err := client.For[*corev1.ConfigMap](c).Get(t.Context(), metav1.NamespaceSystem, trustMap)
	if err != nil {
		t.Fatal(err)
	}
	return m.Data
}

func authority(t *testing.T, name string, at time.Time) (*x509.Certificate, string) {
	t.Helper()
	a, err := pki.NewAuthority(name, at)
	if err != nil {
		t.Fatal(err)
	}
	return a.Cert, string(pki.EncodeCert(a.Cert))
}

// Two servers of one cluster say together whom to believe, and go on to say it.
func TestTrustIsPublished(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		now := time.Now()
		users, usersPEM := authority(t, "users", now)
		proxies, proxiesPEM := authority(t, "proxies", now)
		others, othersPEM := authority(t, "others", now)
		_, oldPEM := authority(t, "old", now.AddDate(-20, 0, 0))
		s := mem.New()
		defer s.Close()
		first, c := planeOn(t, s, controlplane.Trust{
			Clients: []*x509.Certificate{users}, Proxies: controlplane.StandardProxies([]string{"front-proxy-client"}, proxies),
		})
		defer first.Close()
		want := map[string]string{
			"client-ca-file": usersPEM, "requestheader-client-ca-file": proxiesPEM,
			"requestheader-allowed-names":    `["front-proxy-client"]`,
			"requestheader-username-headers": `["X-Remote-User"]`, "requestheader-uid-headers": `["X-Remote-Uid"]`,
			"requestheader-group-headers": `["X-Remote-Group"]`, "requestheader-extra-headers-prefix": `["X-Remote-Extra-"]`,
		}
		if d := cmp.Diff(want, published(t, c)); d != "" {
			t.Error(d)
		}
		second, _ := planeOn(t, s, controlplane.Trust{Clients: []*x509.Certificate{others, users}, Proxies: controlplane.FrontProxies{
			CAs: []*x509.Certificate{proxies}, Names: []string{"gate"}, UserHeaders: []string{"X-User", "X-Remote-User"},
		}})
		defer second.Close()
		want["client-ca-file"] += othersPEM
		want["requestheader-allowed-names"] = `["front-proxy-client","gate"]`
		want["requestheader-username-headers"] = `["X-Remote-User","X-User"]`
		synctest.Wait()
		if d := cmp.Diff(want, published(t, c)); d != "" {
			t.Error(d)
		}

		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 2)
		for _, cp := range []*controlplane.ControlPlane{first, second} {
			go func() { ended <- cp.Keep(ctx) }()
		}
		synctest.Wait()
		maps := client.For[*corev1.ConfigMap](c)
		have, err := maps.Get(t.Context(), metav1.NamespaceSystem, trustMap)
		if err != nil {
			t.Fatal(err)
		}
		have = meta.Copy(have)
		have.Data["client-ca-file"] = oldPEM
		have.Data["requestheader-group-headers"] = "not a list"
		if _, err := maps.Update(t.Context(), have); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		got := published(t, c)
		if text := got["client-ca-file"]; strings.Contains(text, oldPEM) || !strings.Contains(text, usersPEM) || !strings.Contains(text, othersPEM) {
			t.Errorf("the bundle was not mended: %s", text)
		}
		if got["requestheader-group-headers"] != `["X-Remote-Group"]` {
			t.Errorf("the list was not mended: %s", got["requestheader-group-headers"])
		}
		if err := maps.Delete(t.Context(), metav1.NamespaceSystem, trustMap, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if got := published(t, c); got["client-ca-file"] == "" {
			t.Error("the ConfigMap was not made again")
		}
		stop()
		for range 2 {
			if err := <-ended; err != nil && !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		}
	})
}

// Without a CA of proxies nothing is said of their headers.
func TestNoTrustIsPublishedWithoutCAs(t *testing.T) {
	s := mem.New()
	defer s.Close()
	cp, c := planeOn(t, s, controlplane.Trust{Proxies: controlplane.StandardProxies([]string{"front"})})
	defer cp.Close()
	if got := published(t, c); len(got) != 0 {
		t.Errorf("published %v", got)
	}
}
