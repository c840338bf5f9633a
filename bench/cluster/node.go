package cluster

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"skiff.dev/skiff/bench/load"
)

// ErrNoNode says that no node became ready in time.
var ErrNoNode = errors.New("no node became ready")

// WaitNode waits until a node is Ready.
func WaitNode(ctx context.Context, c *load.Client, patience time.Duration) error {
	ctx, cancel := context.WithTimeoutCause(ctx, patience, ErrNoNode)
	defer cancel()
	seen := errors.New("seen")
	err := c.Watch(ctx, "/api/v1/nodes?watch=1", load.JSON, func() {}, func(event []byte) error {
		var node corev1.Node
		if err := load.Object(event, &node); err != nil {
			return err
		}
		for _, cond := range node.Status.Conditions {
			if cond.Type == corev1.NodeReady && cond.Status == corev1.ConditionTrue {
				return seen
			}
		}
		return nil
	})
	switch {
	case errors.Is(err, seen):
		return nil
	case ctx.Err() != nil:
		return context.Cause(ctx)
	}
	return err
}

// PauseImage is the image that is on each of skiff's nodes.
const PauseImage = "registry.k8s.io/pause:3.10.1"

// WithRuntime returns, as a list for --pids, the server and all processes of
// its container runtime: containerd and the shims, but not what runs in pods.
// Shims are no children of the server, so they are known by their names; in a
// process namespace of one's own there are no others.
func WithRuntime(server int) (string, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return "", err
	}
	list := strconv.Itoa(server)
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == server {
			continue
		}
		// One that has just ended, or belongs to the kernel, has no program.
		exe, _ := os.Readlink(filepath.Join("/proc", e.Name(), "exe"))
		if strings.HasPrefix(filepath.Base(exe), "containerd") {
			list += "," + e.Name()
		}
	}
	return list, nil
}
