// Command shim is skiff's containerd shim for runc: containerd's own task service and bootstrap
// protocol, with one difference that decides the memory of a node: one process serves many pods.
//
// containerd's stock shim starts one process per pod, about 12 MiB each. Here the pods are spread over
// SKIFF_SHIM_GROUPS processes (default 1) by a hash of the sandbox's identifier. It also outlives its
// last container by a minute, so that the next pod need not wait for a process to start.
//
// It reads the bundle's config.json and containerd's bootstrap parameters, and writes the shim socket
// below the directory that containerd names. It is built by carried/build.sh and carried, compressed,
// inside the skiff binary; docs/design/0003-runtime-embedding.md has the measurements.
package main

import (
	"context"
	"os"
	"runtime"
	"time"

	"github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2/manager"
	"github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2/task"
	"github.com/containerd/containerd/v2/pkg/shim"
	"github.com/containerd/containerd/v2/pkg/shutdown"
	"github.com/containerd/containerd/v2/plugins"
	gorunc "github.com/containerd/go-runc"
	"github.com/containerd/plugin"
	"github.com/containerd/plugin/registry"

	"skiff.dev/skiff/internal/resident"
)

// runtimeName is the runtime type under which containerd knows the shim's options.
const runtimeName = "io.containerd.runc.v2"

// lingerFor is how long a shim without containers waits for the next pod.
const lingerFor = time.Minute

// pauseEnv names the checksum of the pause with which this program makes sandboxes without runc.
const pauseEnv = "SKIFF_PAUSE"

func main() {
	// The main thread cannot end; threads that go into a sandbox's namespaces must, see run.
	runtime.LockOSThread()
	registry.Register(&plugin.Registration{
		Type:     plugins.TTRPCPlugin,
		ID:       "task",
		Requires: []plugin.Type{plugins.EventPlugin, plugins.InternalPlugin},
		InitFn:   newTaskService,
	})
	shim.RunShim(context.Background(), &grouped{Shim: manager.NewShimManager(runtimeName)})
}

// newTaskService returns containerd's task service, whose shutdown lingers.
func newTaskService(ic *plugin.InitContext) (any, error) {
	publisher, err := ic.GetByID(plugins.EventPlugin, "publisher")
	if err != nil {
		return nil, err
	}
	stop, err := ic.GetByID(plugins.InternalPlugin, "shutdown")
	if err != nil {
		return nil, err
	}
	l := &linger{Service: stop.(shutdown.Service), wait: lingerFor}
	service, err := task.NewTaskService(ic.Context, publisher.(shim.Publisher), l)
	if err != nil {
		return nil, err
	}
	t := &tasks{TTRPCTaskService: service, bundles: map[string]string{}}
	l.ask(t)
	go resident.Keep(context.Background(), 8<<20) // after containerd's own setting
	gorunc.Monitor = newMonitor(gorunc.Monitor, os.Getenv(pauseEnv), newMaker(gorunc.Monitor))
	return t, nil
}
