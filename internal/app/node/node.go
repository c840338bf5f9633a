// Package node puts a node together: container runtime, pod network, kubelet,
// service proxy and DNS, over a client of the API that may be in this process
// or elsewhere. Everything it leaves on the host lies in the data directory or
// is listed there, so that a reset finds it.
package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"skiff.dev/skiff/internal/client"
	"skiff.dev/skiff/internal/cni/overlay"
	"skiff.dev/skiff/internal/kubelet/cri"
	"skiff.dev/skiff/internal/observe"
	"skiff.dev/skiff/internal/runtime"
)

// Config is what a node is made of.
type Config struct {
	DataDir string
	Name    string
	IP      netip.Addr
	// Client talks to the API as system:node:<name>.
	Client *client.Client
	// Kubelet is how the kubelet's own API is served.
	Kubelet KubeletServer

	ClusterCIDRs  []netip.Prefix
	ClusterDNS    netip.Addr
	ClusterDomain string
	PodNetwork    overlay.Mode
	// RuntimeEndpoint is a CRI socket that is there already; "" for the runtime
	// inside skiff.
	RuntimeEndpoint string
	MaxPods         int
	Labels          map[string]string
	Taints          []string // key=value:effect
	// Settings are DefaultSettings but for what somebody has said.
	Settings Settings
	// KubeletOnly leaves services, DNS and the network between nodes to others.
	KubeletOnly bool
	// KubeletDir and StaticPodPath are <DataDir>/kubelet and /manifests if empty.
	KubeletDir, StaticPodPath string

	Progress *observe.Progress
	Log      *slog.Logger
	// Metrics are shown at the kubelet's /metrics; nil for a registry of the
	// node's own.
	Metrics *prometheus.Registry
}

// Node is a running node.
type Node struct {
	Config
	runtime *runtime.Runtime // nil for a runtime elsewhere
	cri     *cri.Client
	events  *client.Recorder
}

// stopTime is how long containerd may take to end; containers go on.
const stopTime = 10 * time.Second

// Run runs the node until ctx ends. Containers, routes and service rules stay:
// the next Run takes them over.
func Run(ctx context.Context, cfg Config) (err error) {
	if cfg.KubeletDir == "" {
		cfg.KubeletDir = filepath.Join(cfg.DataDir, "kubelet")
	}
	if cfg.StaticPodPath == "" {
		cfg.StaticPodPath = filepath.Join(cfg.DataDir, "manifests")
	}
	if cfg.Metrics == nil {
		cfg.Metrics = observe.NewRegistry()
	}
	n := &Node{Config: cfg, events: client.NewRecorder(cfg.Client, "kubelet", cfg.Name)}
	if err := n.record(); err != nil {
		return err
	}
	if err := n.startRuntime(ctx); err != nil {
		return err
	}
	defer func() {
		late, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTime)
		defer cancel()
		err = errors.Join(err, n.cri.Close(), n.stopRuntime(late))
	}()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return n.events.Run(ctx) })
	g.Go(func() error { return n.runKubelet(ctx, g) })
	if n.runtime != nil {
		g.Go(func() error { n.servePlugin(ctx); return nil })
	}
	if !n.KubeletOnly {
		g.Go(func() error { return n.runServices(ctx, g) })
		g.Go(func() error { return n.runOverlay(ctx) })
	}
	err = g.Wait()
	if errors.Is(err, context.Canceled) {
		err = nil
	}
	return err
}

func (n *Node) startRuntime(ctx context.Context) (err error) {
	endpoint := n.RuntimeEndpoint
	if endpoint == "" {
		err := n.Progress.Step("container runtime is up", func() error {
			n.runtime, err = runtime.Start(ctx, runtime.Config{DataDir: n.DataDir, Log: n.Log})
			return err
		})
		if err != nil {
			return err
		}
		endpoint = n.runtime.Endpoint()
	}
	n.cri, err = cri.New(endpoint)
	if err != nil {
		return fmt.Errorf("connecting to the container runtime at %s: %w", endpoint, err)
	}
	return nil
}

func (n *Node) stopRuntime(ctx context.Context) error {
	if n.runtime == nil {
		return nil
	}
	return n.runtime.Stop(ctx)
}

// dir returns a directory of the node's below the data directory.
func (n *Node) dir(parts ...string) string {
	return filepath.Join(append([]string{n.DataDir}, parts...)...)
}
