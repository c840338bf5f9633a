// Command containerd is the container runtime daemon that skiff carries and runs: containerd's own
// command, with an explicit list of the parts it is made of and a small heap. It is built by
// carried/build.sh and carried, compressed, inside the skiff binary; started by internal/runtime.
//
// It reads the configuration file it is given, and writes containerd's root and state directories.
package main

import (
	"context"
	"fmt"
	"os"
	"syscall"

	"github.com/containerd/containerd/v2/cmd/containerd/command"
	"github.com/containernetworking/cni/libcni"

	// The parts of containerd that skiff runs, an explicit list. Left out against containerd's own:
	// the snapshotters btrfs, devmapper, zfs, blockfile and erofs, the debug and metrics listeners, NRI,
	// image verifiers, the restart monitor, tracing, and the opt service.
	_ "github.com/containerd/containerd/api/types/runc/options"
	_ "github.com/containerd/containerd/v2/core/metrics/cgroups"
	_ "github.com/containerd/containerd/v2/core/metrics/cgroups/v2"
	_ "github.com/containerd/containerd/v2/core/runtime/v2"
	_ "github.com/containerd/containerd/v2/plugins/content/local/plugin"
	_ "github.com/containerd/containerd/v2/plugins/cri"
	_ "github.com/containerd/containerd/v2/plugins/cri/images"
	_ "github.com/containerd/containerd/v2/plugins/cri/runtime"
	_ "github.com/containerd/containerd/v2/plugins/diff/walking/plugin"
	_ "github.com/containerd/containerd/v2/plugins/events"
	_ "github.com/containerd/containerd/v2/plugins/gc"
	_ "github.com/containerd/containerd/v2/plugins/leases"
	_ "github.com/containerd/containerd/v2/plugins/metadata"
	_ "github.com/containerd/containerd/v2/plugins/mount"
	_ "github.com/containerd/containerd/v2/plugins/sandbox"
	_ "github.com/containerd/containerd/v2/plugins/server/grpc"
	_ "github.com/containerd/containerd/v2/plugins/server/ttrpc"
	_ "github.com/containerd/containerd/v2/plugins/services/containers"
	_ "github.com/containerd/containerd/v2/plugins/services/content"
	_ "github.com/containerd/containerd/v2/plugins/services/diff"
	_ "github.com/containerd/containerd/v2/plugins/services/events"
	_ "github.com/containerd/containerd/v2/plugins/services/healthcheck"
	_ "github.com/containerd/containerd/v2/plugins/services/images"
	_ "github.com/containerd/containerd/v2/plugins/services/introspection"
	_ "github.com/containerd/containerd/v2/plugins/services/leases"
	_ "github.com/containerd/containerd/v2/plugins/services/mounts"
	_ "github.com/containerd/containerd/v2/plugins/services/namespaces"
	_ "github.com/containerd/containerd/v2/plugins/services/sandbox"
	_ "github.com/containerd/containerd/v2/plugins/services/snapshots"
	_ "github.com/containerd/containerd/v2/plugins/services/streaming"
	_ "github.com/containerd/containerd/v2/plugins/services/tasks"
	_ "github.com/containerd/containerd/v2/plugins/services/transfer"
	_ "github.com/containerd/containerd/v2/plugins/services/version"
	_ "github.com/containerd/containerd/v2/plugins/services/warning"
	_ "github.com/containerd/containerd/v2/plugins/snapshots/native/plugin"
	_ "github.com/containerd/containerd/v2/plugins/snapshots/overlay/plugin"
	_ "github.com/containerd/containerd/v2/plugins/streaming"
	_ "github.com/containerd/containerd/v2/plugins/transfer"

	"skiff.dev/skiff/internal/resident"
)

// The supervisor hands over, as descriptor 3, the lock that this process holds while it lives, and says
// so in the environment.
const (
	lockFD  = 3
	lockEnv = "SKIFF_RUNTIME_LOCK"
	// resultsEnv names the directory for the network plugin's results.
	resultsEnv = "SKIFF_CNI_RESULTS"
)

func main() {
	if os.Getenv(lockEnv) != "" {
		// The lock ends with this process: the shims must not inherit it.
		syscall.CloseOnExec(lockFD)
		_ = os.Unsetenv(lockEnv) // fails only for malformed names
	}
	// Below /var/lib/cni, where they would be, the results of pods that were killed are never removed.
	if dir := os.Getenv(resultsEnv); dir != "" {
		libcni.CacheDir = dir
	}
	go resident.Keep(context.Background(), 8<<20)
	if err := command.App().Run(context.Background(), os.Args); err != nil {
		fmt.Fprintln(os.Stderr, "containerd:", err)
		os.Exit(1)
	}
}
