// Package kubelet runs the pods of one node. It reads the pods bound to the
// node from the API and from manifest files, and what the container runtime
// has; it makes the runtime match, by one worker per pod, and writes the pods'
// status, their events and the mirror pods of static pods. What to do is
// decided in package podsync, and done in podsync/steps.
//
// Everything that must outlive the kubelet is in the runtime's marks and the
// pods' directories, so that a new kubelet takes over running containers.
package kubelet

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"skiff.dev/skiff/internal/client"
	"skiff.dev/skiff/internal/kubelet/cri"
	"skiff.dev/skiff/internal/kubelet/cri/config"
	"skiff.dev/skiff/internal/kubelet/hook"
	"skiff.dev/skiff/internal/kubelet/image"
	"skiff.dev/skiff/internal/kubelet/layout"
	"skiff.dev/skiff/internal/kubelet/logs"
	"skiff.dev/skiff/internal/kubelet/podsync/steps"
	"skiff.dev/skiff/internal/kubelet/probe"
	"skiff.dev/skiff/internal/kubelet/status"
)

// Config is everything a kubelet depends on. All interfaces are required.
type Config struct {
	Client  *client.Client
	Events  client.Events
	Runtime cri.Runtime
	Images  cri.Images
	Volumes steps.Volumes
	Cgroups steps.Cgroups

	Node    config.Node
	HostIPs func() []string // the node's addresses, its main one first
	Layout  layout.Layout
	// StaticPodPath is a directory of manifests that run without the API; "" for none.
	StaticPodPath string
	MaxPods       int
	// UnsafeSysctls are parameters of the kernel that pods may set besides the
	// safe ones; names, or beginnings of names that end in *.
	UnsafeSysctls []string

	Pulls image.PullConfig
	Logs  logs.Config
	Log   *slog.Logger
	// Registry takes the metrics; nil for none.
	Registry prometheus.Registerer
}

// Kubelet runs the pods of one node.
type Kubelet struct {
	Config
	runtimeName string
	steps       *steps.Steps
	writer      *status.Writer
	prober      *probe.Manager
	images      *image.Store // of the runtime
	sources     *objects
	metrics     *metrics

	mu      sync.Mutex
	workers map[types.UID]*worker
	waiting map[string]*v1.Pod // static pods that wait for one of their name to end
	mirrors map[string]*v1.Pod // mirror pods by namespace/name
	running sync.WaitGroup
	ctx     context.Context // of Run, for workers
}

// New returns a kubelet; it does nothing before Run.
func New(c Config) *Kubelet {
	k := &Kubelet{
		Config: c, workers: map[types.UID]*worker{},
		waiting: map[string]*v1.Pod{}, mirrors: map[string]*v1.Pod{},
	}
	k.metrics = newMetrics(k)
	if c.Registry != nil {
		c.Registry.MustRegister(k.metrics)
	}
	k.sources = newObjects(c.Client, c.Layout, c.Node.Name)
	k.images = image.NewStore(image.Config{
		Images: c.Images, Secrets: k.sources, Users: c.Runtime, Events: c.Events, Pulls: c.Pulls, Log: c.Log,
	})
	hooks := hook.NewRunner(c.Runtime)
	k.prober = probe.NewManager(c.Runtime, c.Events, c.Log)
	k.writer = status.NewWriter(client.For[*v1.Pod](c.Client), k.apiPod, c.Log)
	k.steps = &steps.Steps{
		Runtime: c.Runtime, Volumes: c.Volumes, Cgroups: c.Cgroups, Images: k.images, Hooks: hooks,
		Turns: steps.NewTurns(2 * runtime.GOMAXPROCS(0)), Events: c.Events, Layout: c.Layout, Log: c.Log,
		Configs: &config.Builder{
			Node: c.Node, Layout: c.Layout, Sources: k.sources, Volumes: c.Volumes, Images: c.Images,
			Handlers: k.sources, Events: podEvents{c.Events},
		},
	}
	return k
}

// podEvents narrows events to those about pods.
type podEvents struct{ client.Events }

func (e podEvents) Warning(pod *v1.Pod, reason, note string, args ...any) {
	e.Events.Warning(pod, reason, note, args...)
}

// Run runs the node's pods until ctx ends. Then it lets go of them: containers
// go on, and the next Run takes them over.
func (k *Kubelet) Run(ctx context.Context) error {
	version, err := k.waitForRuntime(ctx)
	if err != nil {
		return err
	}
	if err := k.checkDriver(ctx); err != nil {
		return err
	}
	k.runtimeName = version
	k.ctx = ctx
	if err := k.sources.open(ctx); err != nil {
		return err
	}
	found, err := k.findPods(ctx)
	if err != nil {
		return err
	}
	var parts sync.WaitGroup
	run := func(f func(context.Context)) { parts.Go(func() { f(ctx) }) }
	run(k.writer.Run)
	run(k.prober.Run)
	run(k.images.Run)
	run(k.followRuntime)
	run(func(ctx context.Context) { logs.New(k.Logs, k.Runtime, k.Layout, k.Log).Run(ctx) })
	statics, err := k.readStatics()
	if err != nil {
		k.Log.Error("reading static pods", "dir", k.StaticPodPath, "err", err)
	}
	run(func(ctx context.Context) { k.followStatics(ctx, statics) })
	run(func(ctx context.Context) { k.followPods(ctx, found) })
	parts.Wait()
	k.running.Wait()
	return nil
}

const runtimeRetry = 200 * time.Millisecond

// waitForRuntime returns the runtime's name once it answers.
func (k *Kubelet) waitForRuntime(ctx context.Context) (string, error) {
	for said := false; ; said = true {
		v, err := k.Runtime.Version(ctx)
		if err == nil {
			return v.RuntimeName, nil
		}
		if !said {
			k.Log.Info("waiting for the container runtime", "err", err)
		}
		select {
		case <-ctx.Done():
			return "", fmt.Errorf("waiting for the container runtime: %w", errors.Join(ctx.Err(), err))
		case <-time.After(runtimeRetry):
		}
	}
}
