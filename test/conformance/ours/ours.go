// Package ours runs skiff as its users do: a server on n1, and an agent on n2 that joins it by a token.
package ours

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"

	"skiff.dev/skiff/test/conformance/cluster"
	"skiff.dev/skiff/test/conformance/machine"
)

// dataDir is skiff's default; every machine has its own.
const dataDir = "/var/lib/skiff"

// Up makes a cluster in place of one that is there, and returns when pods can be run.
func Up(ctx context.Context, config cluster.Config) (*cluster.Cluster, error) {
	base, err := cluster.Create(config)
	if err != nil {
		return nil, err
	}
	c := &skiff{base}
	return base, c.Go(ctx,
		cluster.Step{Name: "starting the server", Do: c.startServer},
		cluster.Step{Name: "starting the agent", Do: c.startAgent},
		cluster.Step{Name: "waiting for the nodes", Do: c.NodesReady},
		cluster.Step{Name: "loading images", Do: c.loadImages},
	)
}

type skiff struct{ *cluster.Cluster }

// start starts skiff on a machine.
func (c *skiff) start(m *machine.Machine, command string, flags ...string) error {
	if err := c.Mirror(filepath.Join(m.Dir, "var-lib", "skiff", "runtime", "certs.d")); err != nil {
		return err
	}
	if err := os.Chmod(filepath.Join(m.Dir, "var-lib", "skiff"), 0o700); err != nil {
		return err
	}
	args := append([]string{c.Skiff, command, "--data-dir", dataDir, "--node-name", m.Name, "--node-ip", m.IP}, flags...)
	name := "skiff-" + command
	return m.Start(machine.Part{Name: name, Args: append(args, c.Flags[name]...), Restart: true})
}

func (c *skiff) startServer(ctx context.Context) error {
	n1 := c.Nodes[0]
	if err := c.start(n1, "server"); err != nil {
		return err
	}
	return c.Eventually(ctx, "the server", func() error {
		if err := c.copyKubeconfig(); err != nil {
			return err
		}
		_, err := c.Kubectl(ctx, "", "get", "--raw", "/readyz")
		return err
	})
}

// copyKubeconfig takes the server's, which names the server as it is seen from n1 itself. It appears whole.
func (c *skiff) copyKubeconfig() error {
	text, err := os.ReadFile(filepath.Join(c.Nodes[0].Dir, "var-lib", "skiff", "kubeconfig"))
	if err != nil {
		return err
	}
	seen := strings.ReplaceAll(string(text), "https://127.0.0.1:6443", c.Server())
	if err := os.WriteFile(c.Kubeconfig()+".new", []byte(seen), 0o600); err != nil {
		return err
	}
	return os.Rename(c.Kubeconfig()+".new", c.Kubeconfig())
}

func (c *skiff) startAgent(ctx context.Context) error {
	token, err := c.Nodes[0].Run(ctx, c.Skiff, "token", "create", "--kubeconfig", filepath.Join(dataDir, "kubeconfig"))
	if err != nil {
		return err
	}
	if token = strings.TrimSpace(token); token == "" {
		return errors.New("skiff token create has printed nothing")
	}
	return c.start(c.Nodes[1], "agent", "--server", c.Server(), "--token", token)
}

func (c *skiff) loadImages(ctx context.Context) error {
	return c.Each(ctx, func(ctx context.Context, m *machine.Machine) error {
		for _, file := range c.Archives {
			if _, err := m.Run(ctx, c.Skiff, "image", "import", "--data-dir", dataDir, file); err != nil {
				return err
			}
		}
		return nil
	})
}
