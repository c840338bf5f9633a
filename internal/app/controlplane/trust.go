package controlplane

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff.dev/skiff/internal/apiserver/authn"
	"skiff.dev/skiff/internal/apiserver/authz/rbac"
	"skiff.dev/skiff/internal/client"
	"skiff.dev/skiff/internal/controller"
	"skiff.dev/skiff/internal/meta"
	"skiff.dev/skiff/internal/pki"
)

// Trust is whose certificates the API server believes.
type Trust struct {
	// Clients sign the certificates of users; none for no such users.
	Clients []*x509.Certificate
	Proxies FrontProxies
}

// FrontProxies are servers that authenticate users before they pass requests
// on, and say in headers who it was.
type FrontProxies struct {
	CAs []*x509.Certificate // none for no such proxies
	// Names are the common names that proxies' certificates may have; empty
	// allows all that CAs signed.
	Names                                                []string
	UserHeaders, UIDHeaders, GroupHeaders, ExtraPrefixes []string
}

// StandardProxies are those of the CAs that use the headers that every proxy
// of a cluster does: X-Remote-User, -Uid, -Group, -Extra-*.
func StandardProxies(names []string, cas ...*x509.Certificate) FrontProxies {
	h := authn.StandardHeaders
	return FrontProxies{
		CAs: cas, Names: names, UserHeaders: h.UserHeaders, UIDHeaders: h.UIDHeaders,
		GroupHeaders: h.GroupHeaders, ExtraPrefixes: h.ExtraPrefixes,
	}
}

func (t Trust) frontProxy() *authn.FrontProxy {
	p := t.Proxies
	if len(p.CAs) == 0 {
		return nil
	}
	return &authn.FrontProxy{
		Roots: pki.PoolOf(p.CAs...), AllowedNames: p.Names, UserHeaders: p.UserHeaders, UIDHeaders: p.UIDHeaders,
		GroupHeaders: p.GroupHeaders, ExtraPrefixes: p.ExtraPrefixes,
	}
}

// The ConfigMap by which other servers of the cluster, such as aggregated API
// servers and the ports of controller managers and schedulers, learn whom they
// may believe, and its keys.
// https://kubernetes.io/docs/tasks/extend-kubernetes/configure-aggregation-layer/
const (
	trustName       = "extension-apiserver-authentication"
	trustClientCA   = "client-ca-file"
	trustProxyCA    = "requestheader-client-ca-file"
	trustNames      = "requestheader-allowed-names"
	trustUsers      = "requestheader-username-headers"
	trustUIDs       = "requestheader-uid-headers"
	trustGroups     = "requestheader-group-headers"
	trustExtra      = "requestheader-extra-headers-prefix"
	trustController = "cluster-authentication-trust"
)

// publish adds to what the ConfigMap says what this server believes; changed is
// false if it says all that already. What other servers of the cluster have
// put there stays, but for certificates that have expired.
func (t Trust) publish(have map[string]string, now time.Time) (data map[string]string, changed bool) {
	data = maps.Clone(have)
	if data == nil {
		data = map[string]string{}
	}
	bundle := func(key string, own []*x509.Certificate) {
		if len(own) > 0 {
			data[key] = joinBundles(data[key], own, now)
		}
	}
	list := func(key string, own []string) {
		if len(own) > 0 || key == trustNames {
			data[key] = joinLists(data[key], own)
		}
	}
	bundle(trustClientCA, t.Clients)
	if p := t.Proxies; len(p.CAs) > 0 {
		bundle(trustProxyCA, p.CAs)
		list(trustNames, p.Names)
		list(trustUsers, p.UserHeaders)
		list(trustUIDs, p.UIDHeaders)
		list(trustGroups, p.GroupHeaders)
		list(trustExtra, p.ExtraPrefixes)
	}
	return data, !maps.Equal(data, have)
}

// joinBundles returns the certificates of both that have not expired, in PEM.
func joinBundles(have string, own []*x509.Certificate, now time.Time) string {
	all, err := pki.ParseCerts([]byte(have))
	if err != nil && have != "" {
		slog.Warn("replacing a bundle of certificates that cannot be read", "configmap", trustName, "err", err)
		all = nil
	}
	var out bytes.Buffer
	var seen []*x509.Certificate
	for _, c := range append(all, own...) {
		if now.After(c.NotAfter) || slices.ContainsFunc(seen, c.Equal) {
			continue
		}
		seen = append(seen, c)
		out.Write(pki.EncodeCert(c))
	}
	return out.String()
}

// joinLists returns the strings of both as a JSON array; have is one.
func joinLists(have string, own []string) string {
	all := []string{}
	if err := json.Unmarshal([]byte(have), &all); err != nil && have != "" {
		slog.Warn("replacing a list that cannot be read", "configmap", trustName, "err", err)
		all = []string{}
	}
	for _, s := range own {
		if !slices.Contains(all, s) {
			all = append(all, s)
		}
	}
	text, err := json.Marshal(all)
	if err != nil {
		return have // strings always have a JSON form
	}
	return string(text)
}

// publishTrust makes the ConfigMap say what this server believes.
func (cp *ControlPlane) publishTrust(ctx context.Context, c *client.Client) error {
	fresh := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespaceSystem, Name: trustName}}
	fresh.Data, _ = cp.cfg.Trust.publish(nil, time.Now())
	return ensure(ctx, c, fresh, func(have *corev1.ConfigMap) (*corev1.ConfigMap, rbac.Step) {
		data, changed := cp.cfg.Trust.publish(have.Data, time.Now())
		if !changed {
			return have, rbac.Keep
		}
		have = meta.Copy(have)
		have.Data = data
		return have, rbac.Update
	})
}

// Keep goes on, until ctx ends, to keep right what Bootstrap has made and
// others may break: the ConfigMap by which other servers learn whom to believe.
func (cp *ControlPlane) Keep(ctx context.Context) error {
	select {
	case <-cp.ready:
	case <-ctx.Done():
		return nil
	}
	c := cp.self()
	var seen client.Cache[*corev1.ConfigMap]
	keeper := controller.Keyed(c, trustController, func(ctx context.Context, _ meta.Key) (controller.Result, error) {
		if err := cp.publishTrust(ctx, c); err != nil {
			return controller.Result{}, fmt.Errorf("publishing whom to believe: %w", err)
		}
		return controller.Result{}, nil
	}, controller.MapsWithin(&seen, metav1.NamespaceSystem, func(ch client.Change[*corev1.ConfigMap]) []meta.Key {
		if o := ch.Object(); o.Name == trustName {
			return []meta.Key{meta.KeyOf(o)}
		}
		return nil
	}), controller.Workers(1))
	return keeper.Run(ctx)
}
