package ours

import (
	"context"

	"skiff.dev/skiff/test/conformance/cluster"
)

// Prepared is a server on one machine that has not been started.
type Prepared struct{ own skiff }

// Prepare makes the machine, in place of a cluster that is there.
func Prepare(config cluster.Config) (*Prepared, error) {
	config.Machines = 1
	base, err := cluster.Create(config)
	if err != nil {
		return nil, err
	}
	return &Prepared{skiff{base}}, nil
}

// Cluster is the cluster as such.
func (p *Prepared) Cluster() *cluster.Cluster { return p.own.Cluster }

// Begin starts the server, with or without a node, and returns as soon as it has written its kubeconfig.
func (p *Prepared) Begin(ctx context.Context, node bool) error {
	var flags []string
	if !node {
		flags = []string{"--disable-agent"}
	}
	if err := p.own.start(p.own.Nodes[0], "server", flags...); err != nil {
		return err
	}
	return p.own.Promptly(ctx, "the server", p.own.copyKubeconfig)
}

// Furnish loads images onto the node, which is ready. DNS is there already.
func (p *Prepared) Furnish(ctx context.Context) error { return p.own.loadImages(ctx) }

// ControlPlane is the program that is the control plane, and more.
func (p *Prepared) ControlPlane() []string { return []string{"skiff"} }

// Server is the same.
func (p *Prepared) Server() []string { return p.ControlPlane() }
