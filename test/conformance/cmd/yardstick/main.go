// Command yardstick measures clusters with upstream's own suite and parts. The Makefile's targets are its
// commands; docs/testing.md tells how to use them.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"skiff.dev/skiff/test/conformance/machine"
)

// command is one of the program's.
type command struct {
	name, does string
	run        func(ctx context.Context, args []string) error
}

func commands() []command {
	return []command{
		{"programs", "build upstream's programs, and what a node needs, into the cache", programs},
		{"images", "make the images that the suite names, into the cache", makeImages},
		{"registry", "serve those images to containerd, by HTTP", registry},
		{"stock-up", "start a cluster of upstream's parts, two nodes", stockUp},
		{"stock-down", "remove it and all it left", stockDown},
		{"conformance", "run upstream's suite on a fresh cluster", conformance},
		{"report", "write docs/conformance.md again from the results of a run", tell},
		{"mixed", "run some specs on clusters of skiff's and upstream's components", mixtures},
		{"bench-compare", "measure skiff and upstream's parts side by side", benchCompare},
		{"pids", "print the processes of a running cluster", pids},
	}
}

func main() {
	machine.Hold()
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()
	if err := dispatch(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "yardstick:", err)
		os.Exit(1)
	}
}

func dispatch(ctx context.Context, args []string) error {
	for _, c := range commands() {
		if len(args) > 0 && args[0] == c.name {
			return c.run(ctx, args[1:])
		}
	}
	var b strings.Builder
	for _, c := range commands() {
		fmt.Fprintf(&b, "\n  %-13s %s", c.name, c.does)
	}
	return errors.New("usage: yardstick COMMAND" + b.String())
}

// module is the folder of the conformance module: the current one, or test/conformance below it.
func module() (string, error) {
	cmd := exec.Command("git", "rev-parse", "--show-toplevel")
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("finding the checkout: %w", err)
	}
	return filepath.Join(strings.TrimSpace(string(out)), "test", "conformance"), nil
}
