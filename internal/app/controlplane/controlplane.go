// Package controlplane puts the API server together from its rooms: caches
// over a store, who may do what, what every cluster has from the start. It
// opens no socket and touches no file, so that a whole control plane can run
// inside a test in virtual time.
package controlplane

import (
	"context"
	"crypto"
	"fmt"
	"net/http"
	"net/netip"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"skiff.dev/skiff/internal/apiserver"
	"skiff.dev/skiff/internal/apiserver/admission"
	"skiff.dev/skiff/internal/apiserver/authn"
	"skiff.dev/skiff/internal/apiserver/authz"
	"skiff.dev/skiff/internal/apiserver/authz/node"
	"skiff.dev/skiff/internal/apiserver/authz/rbac"
	"skiff.dev/skiff/internal/apiserver/request"
	"skiff.dev/skiff/internal/apiserver/usage"
	"skiff.dev/skiff/internal/apiserver/verbs"
	"skiff.dev/skiff/internal/client"
	"skiff.dev/skiff/internal/client/inprocess"
	"skiff.dev/skiff/internal/meta"
	"skiff.dev/skiff/internal/pki"
	"skiff.dev/skiff/internal/resources"
	"skiff.dev/skiff/internal/resources/core"
	"skiff.dev/skiff/internal/store"
)

// Config is what a control plane is made of.
type Config struct {
	Store store.Store
	// Issuer is the URL that service account tokens name as their issuer.
	Issuer string
	// ServiceAccountKey signs them; ServiceAccountKeys are further public keys
	// that verify them.
	ServiceAccountKey  crypto.Signer
	ServiceAccountKeys []crypto.PublicKey
	// Trust says whose certificates are believed.
	Trust  Trust
	Tokens authn.TokenFile
	// Services says where service addresses and node ports are taken from.
	Services core.ServiceConfig
	// Advertise is where nodes and pods reach the API server; it becomes the
	// endpoint of the service "kubernetes". Invalid for none.
	Advertise netip.AddrPort
	// ClusterDNS is the address of the service "kube-dns"; invalid for none.
	ClusterDNS netip.Addr
	// Roles are the rights of skiff's own controllers.
	Roles []Role
	// Nodes connects to kubelets.
	Nodes http.RoundTripper
	// Metrics is told of every request, may be nil.
	Metrics apiserver.Observer
	// Pages are further paths to serve.
	Pages map[string]http.Handler
	// VerifyImmutability makes the caches check that nobody changes an object.
	VerifyImmutability bool
}

// ControlPlane is a running API server without its sockets.
type ControlPlane struct {
	cfg        Config
	Engine     *verbs.Engine
	Authorizer authz.Authorizer
	Server     *apiserver.Server
	rbac       *rbac.Authorizer
	feeds      *feeds
	ready      chan struct{} // closed once the bootstrap objects are there
}

// Start loads the caches and serves; bootstrap objects are made in Bootstrap.
func Start(ctx context.Context, cfg Config) (*ControlPlane, error) {
	issuer, err := authn.NewIssuer(authn.ServiceAccountConfig{
		Issuers: []string{cfg.Issuer}, Signer: cfg.ServiceAccountKey, Keys: cfg.ServiceAccountKeys, ExtendExpiration: true,
	})
	if err != nil {
		return nil, err
	}
	cp := &ControlPlane{cfg: cfg, rbac: rbac.New(), ready: make(chan struct{})}
	objects := &reader{}
	tokens := authn.Tokens{
		authn.NewServiceAccounts(issuer, objects),
		authn.Agnostic{TokenAuthenticator: authn.BootstrapTokens{Objects: objects}, Audiences: issuer.Audiences()},
		authn.Agnostic{TokenAuthenticator: cfg.Tokens, Audiences: issuer.Audiences()},
	}
	nodes := node.New(func(ctx context.Context) error { return cp.feeds.caughtUp(ctx) })
	cp.Authorizer = authz.Union{authz.Superuser{}, nodes, cp.rbac}
	all := resources.All(resources.Needs{
		Tokens: tokens, Issuer: issuer, Authorizer: cp.Authorizer, Rules: cp.rbac, Services: cfg.Services, Bind: cp.bind,
		Usage: usage.New(cfg.Nodes),
	})
	cp.Engine, err = verbs.Open(ctx, verbs.Config{
		Store: cfg.Store, Resources: all, VerifyImmutability: cfg.VerifyImmutability,
		Admission: func(e *verbs.Engine) admission.Chain {
			objects.engine = e
			return admission.Default(admission.Deps{Objects: objects, Authorizer: cp.Authorizer, Rules: cp.rbac, Await: objects.await})
		},
	})
	if err != nil {
		return nil, err
	}
	cp.feeds = follow(cp.Engine, map[schema.GroupResource]changed{
		rbac.Roles: cp.rbac.Changed, rbac.RoleBindings: cp.rbac.Changed,
		rbac.ClusterRoles: cp.rbac.Changed, rbac.ClusterRoleBindings: cp.rbac.Changed,
		node.Pods: nodes.Changed,
	})
	cp.Server = apiserver.New(apiserver.Config{
		Engine: cp.Engine, Authenticator: cp.authenticator(tokens), Authorizer: cp.Authorizer,
		Nodes: cfg.Nodes, Metrics: cfg.Metrics, Pages: pages(cfg.Pages, issuer, cfg.Issuer),
		Ready: []apiserver.Check{{Name: "etcd", Do: cp.storeAnswers}, {Name: "poststarthook/bootstrap", Do: cp.bootstrapped}},
		Live:  []apiserver.Check{{Name: "etcd", Do: cp.storeAnswers}},
	})
	return cp, nil
}

func (cp *ControlPlane) authenticator(tokens authn.TokenAuthenticator) authn.Authenticator {
	var chain authn.Chain
	headers := []*authn.FrontProxy{authn.StandardHeaders}
	if proxy := cp.cfg.Trust.frontProxy(); proxy != nil {
		chain, headers = append(chain, proxy), append(headers, proxy)
	}
	if clients := cp.cfg.Trust.Clients; len(clients) > 0 {
		chain = append(chain, authn.NewCertificates(pki.PoolOf(clients...)))
	}
	chain = append(chain, authn.Bearer{Tokens: tokens})
	return authn.WithAnonymous{Authenticator: authn.WithoutHeaders{Authenticator: chain, Proxies: headers}, Paths: authn.AnonymousPaths}
}

// pages adds the documents by which others verify service account tokens.
func pages(more map[string]http.Handler, issuer *authn.Issuer, url string) map[string]http.Handler {
	all := map[string]http.Handler{}
	for path, h := range more {
		all[path] = h
	}
	all[authn.ConfigurationPath] = document("application/json", func() ([]byte, error) { return issuer.OpenIDConfiguration(url + authn.KeySetPath) })
	all[authn.KeySetPath] = document("application/jwk-set+json", issuer.KeySet)
	return all
}

func document(mediaType string, content func() ([]byte, error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		data, err := content()
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", mediaType)
		w.Header().Set("Cache-Control", "public, max-age=3600")
		_, _ = w.Write(data) // the client may have gone
	})
}

// storeCheck bounds the health check of the store.
const storeCheck = 2 * time.Second

func (cp *ControlPlane) storeAnswers(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, storeCheck)
	defer cancel()
	_, err := cp.cfg.Store.Revision(ctx)
	return err
}

func (cp *ControlPlane) bootstrapped(context.Context) error {
	select {
	case <-cp.ready:
		return nil
	default:
		return fmt.Errorf("not finished")
	}
}

// Ready is closed once the cluster has what every cluster has from the start.
func (cp *ControlPlane) Ready() <-chan struct{} { return cp.ready }

// Client returns an in-process client for user; agent is its field manager.
func (cp *ControlPlane) Client(user *request.User, agent string) *client.Client {
	return client.New(inprocess.New(cp.Engine, cp.Authorizer, user, agent))
}

// Controller is the client of a controller, under the controller's own service
// account (system:serviceaccount:kube-system:<name>-controller).
func (cp *ControlPlane) Controller(name string) *client.Client {
	return cp.Client(&request.User{
		Name:   authn.Username("kube-system", AccountOf(name)),
		Groups: []string{request.GroupServiceAccounts, request.GroupServiceAccounts + ":kube-system", request.GroupAuthenticated},
	}, "kube-controller-manager")
}

// plain are the controllers whose accounts, by upstream's names, lack the
// suffix that the others have.
var plain = map[string]bool{
	"generic-garbage-collector": true, "pod-garbage-collector": true, "root-ca-cert-publisher": true,
	"horizontal-pod-autoscaler": true, "token-cleaner": true, "bootstrap-signer": true, "persistent-volume-binder": true,
}

// AccountOf returns the service account of kube-system that a controller has by
// upstream's names.
func AccountOf(controller string) string {
	if plain[controller] {
		return controller
	}
	return controller + "-controller"
}

// self is the identity of the server's own writes.
func (cp *ControlPlane) self() *client.Client {
	return cp.Client(&request.User{Name: "system:apiserver", Groups: []string{request.GroupMasters, request.GroupAuthenticated}}, "kube-apiserver")
}

// bind serves the older, top-level Binding by the pod's own subresource.
func (cp *ControlPlane) bind(ctx context.Context, b *corev1.Binding) error {
	res, _ := cp.Engine.Resource(corev1.SchemeGroupVersion.WithResource("pods"))
	for _, a := range res.Info().Actions {
		if a.Name == "binding" {
			_, err := res.Act(ctx, meta.KeyOf(b), a, b, verbs.WriteOptions{})
			return err
		}
	}
	return fmt.Errorf("pods have no binding")
}

// Close ends all watches and feeds; the store stays open.
func (cp *ControlPlane) Close() {
	cp.Server.Drain()
	cp.Engine.Close()
	cp.feeds.wait()
}
