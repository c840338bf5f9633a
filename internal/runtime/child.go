package runtime

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"syscall"

	"github.com/containerd/containerd/v2/cmd/containerd/command"

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
)

// childName is the program name and the hidden subcommand by which the binary becomes containerd.
const childName = "containerd"

// childGC keeps containerd's heap small: it is idle most of the time, and its live heap is a few MiB, so
// collecting more often costs less than the memory that the default of 100 leaves lying about.
const childGC = 30

// lockFD is where a child started by Start finds the lock it holds while it lives.
const lockFD = 3

// Reexec runs containerd when args, those of the process, ask for it: as the program's name, or as the
// first argument. It must be the first call of main. When handled, exitCode is that of the process.
func Reexec(args []string) (handled bool, exitCode int) {
	switch {
	case len(args) > 0 && filepath.Base(args[0]) == childName:
		return true, Main(args)
	case len(args) > 1 && args[1] == childName:
		return true, Main(args[1:])
	}
	return false, 0
}

// Main is containerd's main function; args[0] is the program's name.
func Main(args []string) int {
	if os.Getenv(lockEnv) != "" {
		// The lock ends with this process: the shims must not inherit it.
		syscall.CloseOnExec(lockFD)
		_ = os.Unsetenv(lockEnv) // fails only for malformed names
	}
	debug.SetGCPercent(childGC)
	if err := command.App().Run(context.Background(), args); err != nil {
		fmt.Fprintln(os.Stderr, "containerd:", err)
		return 1
	}
	return 0
}
