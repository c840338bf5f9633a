package stock

import (
	"context"
	"errors"
	"fmt"
	"os"

	"skiff.dev/skiff/test/conformance/cluster"
)

// Prepared is a cluster on one machine of which nothing has been started.
type Prepared struct{ cluster Cluster }

// firstNetwork is what the controller manager gives to the first node.
const firstNetwork = "10.244.0.0/24"

// Prepare makes the machine, in place of a cluster that is there, and everything that needs no running part.
func Prepare(ctx context.Context, config cluster.Config) (*Prepared, error) {
	config.Machines = 1
	base, err := cluster.Create(config)
	if err != nil {
		return nil, err
	}
	p := &Prepared{Cluster{Cluster: base}}
	return p, errors.Join(p.cluster.writePKI(ctx), configureNetwork(ctx, base.Nodes[0], firstNetwork))
}

// Cluster is the cluster as such.
func (p *Prepared) Cluster() *cluster.Cluster { return p.cluster.Cluster }

// Begin starts the control plane, with or without a node, each part as soon as what it needs is there.
func (p *Prepared) Begin(ctx context.Context, node bool) error {
	c := &p.cluster
	n1 := c.Nodes[0]
	err := errors.Join(c.startEtcd(n1), c.StartComponent(n1, "kube-apiserver"))
	if node {
		err = errors.Join(err, c.startRuntime(n1))
	}
	if err != nil {
		return err
	}
	if err := c.Promptly(ctx, "the API server", func() error { return c.probe("/readyz") }); err != nil {
		return err
	}
	if err := errors.Join(c.StartComponent(n1, "kube-controller-manager"), c.StartComponent(n1, "kube-scheduler")); err != nil || !node {
		return err
	}
	// A kubelet ends when there is no runtime.
	runtime, err := n1.PID("containerd")
	if err != nil {
		return err
	}
	err = c.Promptly(ctx, "containerd", func() error {
		_, err := os.Stat(fmt.Sprintf("/proc/%d/root%s", runtime, runtimeSocket))
		return err
	})
	if err != nil {
		return err
	}
	return c.startNode(n1)
}

// Furnish loads images onto the node, which is ready, and starts DNS.
func (p *Prepared) Furnish(ctx context.Context) error {
	c := &p.cluster
	network, err := c.podNetwork(ctx, c.Nodes[0])
	if err == nil && network != firstNetwork {
		err = fmt.Errorf("the pods of n1 have %s, where %s was expected", network, firstNetwork)
	}
	if err != nil {
		return err
	}
	return errors.Join(c.Set.Route(network, c.Nodes[0]), c.loadImages(ctx, c.Nodes[0]), c.startDNS(ctx))
}

// Server are the programs that answer requests.
func (p *Prepared) Server() []string { return []string{"etcd", "kube-apiserver"} }

// ControlPlane are those that make up the control plane.
func (p *Prepared) ControlPlane() []string {
	return append(p.Server(), "kube-controller-manager", "kube-scheduler")
}
