package node

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"

	"skiff.dev/skiff/internal/client"
	"skiff.dev/skiff/internal/cni/overlay"
)

// runOverlay connects this node's pods to those of the others.
func (n *Node) runOverlay(ctx context.Context) error {
	nodes, err := client.For[*corev1.Node](n.Client).Cache(ctx)
	if err != nil {
		return err
	}
	kernel, err := overlay.Open()
	if err != nil {
		return fmt.Errorf("opening the node's network: %w", err)
	}
	defer kernel.Close()
	return overlay.Run(ctx, n.overlayConfig(), n.Name, nodeSource{nodes}, kernel, nil, n.Log)
}

func (n *Node) overlayConfig() overlay.Config {
	c := overlay.Default()
	c.Mode, c.ClusterCIDRs = n.PodNetwork, n.ClusterCIDRs
	return c
}

// nodeSource is the nodes as the overlay reads them.
type nodeSource struct{ nodes client.Cache[*corev1.Node] }

// Nodes implements overlay.Source.
func (s nodeSource) Nodes() (all []*corev1.Node) {
	for node := range s.nodes.All("") {
		all = append(all, node)
	}
	return all
}

// Follow implements overlay.Source.
func (s nodeSource) Follow(ctx context.Context, changed func()) error {
	return s.nodes.Follow(ctx, func(client.Change[*corev1.Node]) {}, changed)
}
