// Package controllers is the list of all controllers, and of what each may do.
package controllers

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff.dev/skiff/internal/client"
	"skiff.dev/skiff/internal/controller"
	"skiff.dev/skiff/internal/controllers/bootstraptoken"
	"skiff.dev/skiff/internal/controllers/certificates"
	"skiff.dev/skiff/internal/controllers/clusterrole"
	"skiff.dev/skiff/internal/controllers/deployment"
	"skiff.dev/skiff/internal/controllers/endpoints"
	"skiff.dev/skiff/internal/controllers/endpointslice"
	"skiff.dev/skiff/internal/controllers/garbagecollector"
	"skiff.dev/skiff/internal/controllers/namespace"
	"skiff.dev/skiff/internal/controllers/nodeipam"
	"skiff.dev/skiff/internal/controllers/nodelifecycle"
	"skiff.dev/skiff/internal/controllers/podgc"
	"skiff.dev/skiff/internal/controllers/replicaset"
	"skiff.dev/skiff/internal/controllers/rootca"
	"skiff.dev/skiff/internal/controllers/serviceaccount"
	"skiff.dev/skiff/internal/controllers/tainteviction"
)

// Deps is what the controllers are made of.
type Deps struct {
	// Client returns the client of a service account of kube-system, such as
	// "deployment-controller"; Events records what the controller of that name
	// reports, as upstream's component names are, with the same client.
	Client func(account string) *client.Client
	Events func(c *client.Client, component string) client.Events
	// Resources lists what the API serves.
	Resources controller.Resources
	// RootCA is the certificate, in PEM, by which pods verify the API server.
	RootCA []byte
	// Aggregate makes the rules of aggregated roles.
	Aggregate clusterrole.Aggregate
	// Sign signs certificates that live for SigningDuration at most. Without it
	// nothing is signed.
	Sign            certificates.Sign
	SigningDuration time.Duration
	NodeLifecycle   nodelifecycle.Config
	// NodeIPAM says which addresses nodes get for their pods; without a cluster
	// range they get none.
	NodeIPAM nodeipam.Config
	// MaxEndpoints is the size of an EndpointSlice, TerminatedPods how many
	// ended pods are kept.
	MaxEndpoints, TerminatedPods int
}

// Default returns the settings that upstream's controllers have by default;
// what connects them is left out.
func Default() Deps {
	return Deps{
		SigningDuration: certificates.DefaultLifetime, NodeLifecycle: nodelifecycle.Default(),
		NodeIPAM:     nodeipam.Config{Bits4: nodeipam.DefaultBits4, Bits6: nodeipam.DefaultBits6},
		MaxEndpoints: endpointslice.DefaultMax, TerminatedPods: podgc.DefaultThreshold,
	}
}

// Controller is a controller and the service account it runs as.
type Controller struct {
	*controller.Controller
	Account string
}

// All returns every controller, in the order of their names.
func All(d Deps) ([]Controller, error) {
	var all []Controller
	add := func(account string, make func(*client.Client) *controller.Controller) {
		all = append(all, Controller{make(d.Client(account)), account})
	}
	with := func(account, component string, make func(*client.Client, client.Events) *controller.Controller) {
		add(account, func(c *client.Client) *controller.Controller { return make(c, d.Events(c, component)) })
	}
	add("token-cleaner", bootstraptoken.New)
	add("certificate-controller", certificates.NewApprover)
	add("certificate-controller", certificates.NewCleaner)
	if d.Sign != nil {
		add("certificate-controller", func(c *client.Client) *controller.Controller {
			return certificates.NewSigner(c, d.Sign, d.SigningDuration)
		})
	}
	add("clusterrole-aggregation-controller", func(c *client.Client) *controller.Controller { return clusterrole.New(c, d.Aggregate) })
	with("deployment-controller", "deployment-controller", deployment.New)
	with("endpoint-controller", "endpoint-controller", endpoints.New)
	with("endpointslice-controller", "endpoint-slice-controller", func(c *client.Client, e client.Events) *controller.Controller {
		return endpointslice.New(c, e, d.MaxEndpoints)
	})
	with("generic-garbage-collector", "garbage-collector-controller", func(c *client.Client, e client.Events) *controller.Controller {
		return garbagecollector.New(c, e, d.Resources)
	})
	add("namespace-controller", func(c *client.Client) *controller.Controller { return namespace.New(c, d.Resources) })
	if len(d.NodeIPAM.Cluster) > 0 {
		c := d.Client("node-controller")
		ipam, err := nodeipam.New(c, d.Events(c, "cidrAllocator"), d.NodeIPAM)
		if err != nil {
			return nil, fmt.Errorf("node IPAM: %w", err)
		}
		all = append(all, Controller{ipam, "node-controller"})
	}
	with("node-controller", "node-controller", func(c *client.Client, e client.Events) *controller.Controller {
		return nodelifecycle.New(c, e, d.NodeLifecycle)
	})
	add("pod-garbage-collector", func(c *client.Client) *controller.Controller { return podgc.New(c, d.TerminatedPods) })
	with("replicaset-controller", "replicaset-controller", replicaset.New)
	add("root-ca-cert-publisher", func(c *client.Client) *controller.Controller { return rootca.New(c, d.RootCA) })
	add("service-account-controller", serviceaccount.New)
	with("node-controller", "taint-eviction-controller", tainteviction.New)
	slices.SortFunc(all, func(a, b Controller) int { return cmp.Compare(a.Name(), b.Name()) })
	return all, nil
}

// Names returns the names of the controllers, as --controllers takes them
// without the ending "-controller".
func Names(all []Controller) (names []string) {
	for _, c := range all {
		names = append(names, c.Name())
	}
	return names
}

// Roles returns, for each service account, a ClusterRole of what the
// controllers that run as it have declared, and its binding.
func Roles(all []Controller) (roles []*rbacv1.ClusterRole, bindings []*rbacv1.ClusterRoleBinding) {
	rules := map[string][]rbacv1.PolicyRule{}
	var accounts []string
	for _, c := range all {
		if rules[c.Account] == nil {
			accounts = append(accounts, c.Account)
		}
		rules[c.Account] = append(rules[c.Account], c.Rules()...)
	}
	slices.Sort(accounts)
	for _, account := range accounts {
		meta := metav1.ObjectMeta{Name: "skiff:controller:" + account}
		roles = append(roles, &rbacv1.ClusterRole{ObjectMeta: meta, Rules: compact(rules[account])})
		bindings = append(bindings, &rbacv1.ClusterRoleBinding{
			ObjectMeta: meta,
			RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: meta.Name},
			Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: metav1.NamespaceSystem, Name: account}},
		})
	}
	return roles, bindings
}

// compact joins the verbs on each resource into one rule.
func compact(rules []rbacv1.PolicyRule) (out []rbacv1.PolicyRule) {
	verbs := map[string]map[string]bool{}
	for _, r := range rules {
		key := r.APIGroups[0] + "\n" + r.Resources[0]
		if verbs[key] == nil {
			verbs[key] = map[string]bool{}
			out = append(out, rbacv1.PolicyRule{APIGroups: r.APIGroups, Resources: r.Resources})
		}
		for _, v := range r.Verbs {
			verbs[key][v] = true
		}
	}
	slices.SortFunc(out, func(a, b rbacv1.PolicyRule) int {
		return cmp.Or(strings.Compare(a.APIGroups[0], b.APIGroups[0]), strings.Compare(a.Resources[0], b.Resources[0]))
	})
	for i := range out {
		for v := range verbs[out[i].APIGroups[0]+"\n"+out[i].Resources[0]] {
			out[i].Verbs = append(out[i].Verbs, v)
		}
		slices.Sort(out[i].Verbs)
	}
	return out
}
