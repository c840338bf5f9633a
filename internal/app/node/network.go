package node

import (
	"context"
	"fmt"
	"net/netip"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"skiff.dev/skiff/internal/cni"
	"skiff.dev/skiff/internal/cni/overlay"
	"skiff.dev/skiff/internal/runtime"
)

// cniConfig says how this node's pods are connected.
func (n *Node) cniConfig(podCIDRs []netip.Prefix, mtu int) cni.Config {
	conf, bin := runtime.CNIDirsOf(n.DataDir)
	return cni.Config{
		ConfDir: conf, BinDir: bin, StateDir: n.dir("cni", "state"), Plugin: runtime.CNIPluginOf(n.DataDir),
		HostPortTable: cni.DefaultHostPortTable, MTU: mtu, PodCIDRs: podCIDRs,
	}
}

// connect makes the runtime able to connect pods, once the node has been given
// its pod CIDRs: it frees what a crash left behind, then says how.
func (n *Node) connect(ctx context.Context, podCIDRs []netip.Prefix) error {
	kernel, err := overlay.Open()
	if err != nil {
		return fmt.Errorf("opening the node's network: %w", err)
	}
	defer kernel.Close()
	underlay, err := kernel.UnderlayMTU(n.IP)
	if err != nil {
		return fmt.Errorf("finding the interface of the node's address %s (see --node-ip): %w", n.IP, err)
	}
	c := n.cniConfig(podCIDRs, n.overlayConfig().MTU(underlay, n.IP))
	sandboxes, err := n.cri.ListSandboxes(ctx, &runtimeapi.PodSandboxFilter{})
	if err != nil {
		return fmt.Errorf("listing sandboxes: %w", err)
	}
	live := make([]string, len(sandboxes))
	for i, s := range sandboxes {
		live[i] = s.Id
	}
	if err := cni.Collect(c, live); err != nil {
		n.Log.Warn("freeing addresses of pods that are gone", "err", err)
	}
	return cni.Install(c)
}

// servePlugin answers the runtime's calls of the network plugin in this process
// until ctx ends. Where that fails the runtime is left with the plugin's own
// program, which does the same at a higher cost.
func (n *Node) servePlugin(ctx context.Context) {
	s, err := cni.Listen(runtime.CNISocketOf(n.DataDir), n.Log)
	if err == nil {
		err = s.Run(ctx)
	}
	if err != nil {
		n.Log.Warn("calls of the network plugin are left to its program", "err", err)
	}
}
