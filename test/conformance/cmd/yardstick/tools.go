package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// installTools installs Debian's programs that builds and nodes need, where they are missing.
func installTools(ctx context.Context, source string) error {
	cmd := exec.CommandContext(ctx, "sh", filepath.Join(source, "deps.sh"))
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("installing Debian's programs: %w", err)
	}
	return nil
}
