package node

import (
	"context"
	"fmt"
	"log/slog"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"skiff.dev/skiff/internal/client"
	"skiff.dev/skiff/internal/nftables"
	"skiff.dev/skiff/internal/proxy"
)

// RunProxy runs the service proxy alone, as upstream's kube-proxy, in the
// calling thread's network namespace until ctx ends. synced is called once the
// kernel serves what there was. It reads Services and EndpointSlices only.
func RunProxy(ctx context.Context, c *client.Client, node proxy.Node, nft proxy.NFTConfig, metrics *proxy.Metrics, synced func()) error {
	var s services
	var err error
	if s.services, err = client.For[*corev1.Service](c).Cache(ctx, servicesByAddress); err != nil {
		return err
	}
	if s.slices, err = client.For[*discoveryv1.EndpointSlice](c).Cache(ctx, slicesByService, slicesByAddress); err != nil {
		return err
	}
	kernel, err := nftables.Open()
	if err != nil {
		return fmt.Errorf("opening nftables (is the kernel module nf_tables there?): %w", err)
	}
	defer kernel.Close()
	conntrack, err := proxy.OpenConntrack()
	if err != nil {
		return fmt.Errorf("opening connection tracking: %w", err)
	}
	defer conntrack.Close()
	p := proxy.New(proxy.Config{Source: proxySource{s}, Backend: proxy.NFTables(nft, kernel), Node: node, Conntrack: conntrack, Metrics: metrics, Log: slog.Default()})
	told := make(chan struct{})
	ctx, stop := context.WithCancel(ctx)
	go func() {
		defer close(told)
		select {
		case <-p.Synced():
			synced()
		case <-ctx.Done():
		}
	}()
	err = p.Run(ctx)
	stop()
	<-told
	return err
}

// CleanupProxy removes what RunProxy has put into the kernel.
func CleanupProxy(ctx context.Context, nft proxy.NFTConfig) error {
	kernel, err := nftables.Open()
	if err != nil {
		return fmt.Errorf("opening nftables: %w", err)
	}
	defer kernel.Close()
	return proxy.NFTables(nft, kernel).Cleanup(ctx)
}

// ProxyTable is the name of the service proxy's tables.
const ProxyTable = proxyTable
