// Package controllers is the list of all controllers, and of what each may do.
package controllers

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"skiff.dev/skiff/internal/client"
	"skiff.dev/skiff/internal/controller"
	"skiff.dev/skiff/internal/controllers/bootstraptoken"
	"skiff.dev/skiff/internal/controllers/clusterrole"
	"skiff.dev/skiff/internal/controllers/csr"
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
	"skiff.dev/skiff/internal/pki"
)

// Deps is what the controllers are made of.
type Deps struct {
	// Client returns the client of a service account of kube-system, named
	// without its ending "-controller".
	Client func(account string) *client.Client
	// Events records what controllers report.
	Events client.Events
	// Resources lists what the API serves.
	Resources controller.Resources
	// RootCA is the certificate, in PEM, by which pods verify the API server.
	RootCA []byte
	// Aggregate makes the rules of aggregated roles.
	Aggregate clusterrole.Aggregate
	// Signer signs certificates that live for SigningDuration at most. Without
	// it nothing is signed.
	Signer          csr.Authority
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
		SigningDuration: pki.DefaultLifetime, NodeLifecycle: nodelifecycle.Default(),
		NodeIPAM:     nodeipam.Config{Bits4: nodeipam.DefaultBits4, Bits6: nodeipam.DefaultBits6},
		MaxEndpoints: endpointslice.DefaultMax, TerminatedPods: podgc.DefaultThreshold,
	}
}

// Controller is a controller and the service account it runs as, named as in
// Deps.Client.
type Controller struct {
	*controller.Controller
	Account string
}

// All returns every controller, in the order of their names.
func All(d Deps) ([]Controller, error) {
	of := d.Client
	as := func(component string) client.Events { return client.As(d.Events, component) }
	all := []Controller{
		{csr.NewApprover(of("certificate")), "certificate"},
		{csr.NewCleaner(of("certificate")), "certificate"},
		{clusterrole.New(of("clusterrole-aggregation"), d.Aggregate), "clusterrole-aggregation"},
		{deployment.New(of("deployment"), as("deployment-controller")), "deployment"},
		{endpoints.New(of("endpoint"), as("endpoint-controller")), "endpoint"},
		{endpointslice.New(of("endpointslice"), as("endpoint-slice-controller"), d.MaxEndpoints), "endpointslice"},
		{garbagecollector.New(of("generic-garbage-collector"), as("garbage-collector-controller"), d.Resources), "generic-garbage-collector"},
		{namespace.New(of("namespace"), d.Resources), "namespace"},
		{nodelifecycle.New(of("node"), as("node-controller"), d.NodeLifecycle), "node"},
		{podgc.New(of("pod-garbage-collector"), d.TerminatedPods), "pod-garbage-collector"},
		{replicaset.New(of("replicaset"), as("replicaset-controller")), "replicaset"},
		{rootca.New(of("root-ca-cert-publisher"), d.RootCA), "root-ca-cert-publisher"},
		{serviceaccount.New(of("service-account")), "service-account"},
		{tainteviction.New(of("node"), as("taint-eviction-controller")), "node"},
		{bootstraptoken.New(of("token-cleaner")), "token-cleaner"},
		{bootstraptoken.NewSigner(of("bootstrap-signer")), "bootstrap-signer"},
	}
	if d.Signer != nil {
		all = append(all, Controller{csr.NewSigner(of("certificate"), d.Signer, d.SigningDuration), "certificate"})
	}
	if len(d.NodeIPAM.Cluster) > 0 {
		ipam, err := nodeipam.New(of("node"), as("cidrAllocator"), d.NodeIPAM)
		if err != nil {
			return nil, fmt.Errorf("node IPAM: %w", err)
		}
		all = append(all, Controller{ipam, "node"})
	}
	slices.SortFunc(all, func(a, b Controller) int { return cmp.Compare(a.Name(), b.Name()) })
	return all, nil
}

// Names returns the names of the controllers, as --controllers takes them.
func Names(all []Controller) (names []string) {
	for _, c := range all {
		names = append(names, c.Name())
	}
	return names
}
