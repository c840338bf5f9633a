// Package app puts skiff together: configuration, commands, and the order in
// which the parts start and stop. It is the only package that sees everything.
package app

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"

	"skiff.dev/skiff/internal/observe"
	"skiff.dev/skiff/internal/resident"
)

// Main runs the command that args name and returns the exit code. The binary
// also answers to the names of upstream's components.
func Main(args []string) int {
	if name := filepath.Base(args[0]); isComponent(name) {
		args = append([]string{args[0], name}, args[1:]...)
	}
	if len(args) > 1 && args[1] == "kubectl" {
		return kubectl(args[2:])
	}
	observe.QuietLibraries()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	root := newRoot()
	root.SetArgs(args[1:])
	err := root.ExecuteContext(ctx)
	switch {
	case err == nil:
		return 0
	case errors.Is(err, context.Canceled) && ctx.Err() != nil:
		return 0
	}
	fmt.Fprintf(os.Stderr, "skiff: %v\n", err)
	return 1
}

// garbage is how much of it may lie about while a process works, in bytes.
const garbage = 32 << 20

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:           "skiff",
		Short:         "Kubernetes in one small binary",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.AddCommand(tokenCommand(), resetCommand(), checkCommand(), imageCommand(), versionCommand())
	for _, lasting := range append(componentCommands(), serverCommand(), agentCommand()) {
		lasting.PreRun = func(cmd *cobra.Command, _ []string) { go resident.Keep(cmd.Context(), garbage) }
		root.AddCommand(lasting)
	}
	return root
}

// components are upstream's names.
var components = []string{"kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy"}

func isComponent(name string) bool {
	for _, c := range components {
		if c == name {
			return true
		}
	}
	return false
}
