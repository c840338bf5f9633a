// Package cluster is what clusters on pretended machines have in common, whatever they are made of:
// machines, n1 and n2 or n1 alone, the archives of images, a registry that stands in for all, and kubectl.
package cluster

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"skiff.dev/skiff/test/conformance/machine"
)

// Networks of a cluster, as kubeadm's examples and skiff's defaults have them.
const (
	PodNetwork     = "10.244.0.0/16"
	ServiceNetwork = "10.96.0.0/16"
	ServiceIP      = "10.96.0.1"
	DNSIP          = "10.96.0.10"
)

// Config says what a cluster is made of and where.
type Config struct {
	// Dir is where it lives.
	Dir string
	// Programs are upstream's and a node's, as build makes them; Skiff is skiff's binary.
	Programs, Skiff string
	// Archives are the files of images that each node gets; DNSImage is CoreDNS's name in them.
	Archives []string
	DNSImage string
	// Registry is the command line of a registry that listens on port 5000; it runs on the switch.
	Registry []string
	// Log gets a line per step.
	Log io.Writer

	// Patience is how long a step may take; 0 stands for ten minutes, for machines that others use as well.
	Patience time.Duration
	// Machines is how many there are, each a node; 0 stands for two.
	Machines int
	// Durable has a stock etcd wait for the disk, as outside of tests.
	Durable bool
	// DNSReplicas is how many CoreDNS a stock cluster runs; 0 stands for two.
	DNSReplicas int
	// Flags are further ones, by the names of parts, such as "etcd" or "skiff-server".
	Flags map[string][]string
}

// Cluster is one that runs, or is about to.
type Cluster struct {
	Config
	Set   *machine.Set
	Nodes []*machine.Machine
	start time.Time
}

// Step is a part of what makes a cluster.
type Step struct {
	Name string
	Do   func(context.Context) error
}

// Create makes the machines, in place of a cluster that is there.
func Create(config Config) (*Cluster, error) {
	c := &Cluster{Config: config, start: time.Now()}
	c.Say("making %d machines in %s", c.count(), c.Dir)
	var err error
	if c.Set, err = machine.Create(c.Dir); err != nil {
		return nil, err
	}
	for i := range c.count() {
		m, err := c.Set.Add(nodeName(i), i+1)
		if err != nil {
			return nil, errors.Join(err, machine.Remove(c.Dir))
		}
		c.Nodes = append(c.Nodes, m)
	}
	if len(c.Registry) == 0 {
		return c, nil
	}
	return c, c.Set.Switch.Start(machine.Part{Name: "registry", Args: c.Registry})
}

// Open finds the cluster that runs in the configuration's directory.
func Open(config Config) (*Cluster, error) {
	c := &Cluster{Config: config, start: time.Now()}
	var err error
	if c.Set, err = machine.Open(c.Dir); err != nil {
		return nil, err
	}
	for i := range c.count() {
		m, err := c.Set.Machine(nodeName(i))
		if err == nil {
			err = m.Check()
		}
		if err != nil {
			return nil, err
		}
		c.Nodes = append(c.Nodes, m)
	}
	_, err = os.Stat(c.Kubeconfig())
	return c, err
}

func (c *Cluster) count() int { return cmp.Or(c.Machines, 2) }

func nodeName(i int) string { return fmt.Sprintf("n%d", i+1) }

// Remove removes the cluster in dir, whatever state it is in.
func Remove(dir string) error { return machine.Remove(dir) }

// Go takes the steps one by one.
func (c *Cluster) Go(ctx context.Context, steps ...Step) error {
	for _, s := range steps {
		c.Say("%s", s.Name)
		if err := s.Do(ctx); err != nil {
			return fmt.Errorf("%s: %w", s.Name, err)
		}
	}
	c.Say("the cluster is up")
	return nil
}

// Say logs a step.
func (c *Cluster) Say(format string, args ...any) {
	fmt.Fprintf(c.Log, "%5.1fs %s\n", time.Since(c.start).Seconds(), fmt.Sprintf(format, args...))
}

// Kubeconfig is the administrator's; it works from this machine as well as from those of the cluster.
func (c *Cluster) Kubeconfig() string { return filepath.Join(c.Dir, "kubeconfig") }

// Server is the URL of the API.
func (c *Cluster) Server() string { return "https://" + c.Nodes[0].IP + ":6443" }

// Kubectl runs kubectl as the administrator.
func (c *Cluster) Kubectl(ctx context.Context, input string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, filepath.Join(c.Programs, "kubectl"), append([]string{"--kubeconfig", c.Kubeconfig()}, args...)...)
	cmd.Stdin = strings.NewReader(input)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return strings.TrimSpace(string(out)), nil
}

// Eventually repeats check until it returns nil, a part has ended, or patience has.
func (c *Cluster) Eventually(ctx context.Context, what string, check func() error) error {
	return c.await(ctx, what, 200*time.Millisecond, check)
}

// Promptly is Eventually for checks that cost little, where it matters how soon it returns.
func (c *Cluster) Promptly(ctx context.Context, what string, check func() error) error {
	return c.await(ctx, what, 25*time.Millisecond, check)
}

func (c *Cluster) await(ctx context.Context, what string, every time.Duration, check func() error) error {
	ctx, cancel := context.WithTimeout(ctx, cmp.Or(c.Patience, 10*time.Minute))
	defer cancel()
	for {
		err := check()
		if err == nil {
			return nil
		}
		for _, m := range c.Nodes {
			if dead := m.Check(); dead != nil {
				return dead
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for %s: %w; last: %w", what, ctx.Err(), err)
		case <-time.After(every):
		}
	}
}

// Each does something on both nodes at a time.
func (c *Cluster) Each(ctx context.Context, do func(context.Context, *machine.Machine) error) error {
	group, ctx := errgroup.WithContext(ctx)
	for _, m := range c.Nodes {
		group.Go(func() error {
			if err := do(ctx, m); err != nil {
				return fmt.Errorf("%s: %w", m.Name, err)
			}
			return nil
		})
	}
	return group.Wait()
}

// NodesReady waits until all nodes are.
func (c *Cluster) NodesReady(ctx context.Context) error {
	return c.Eventually(ctx, "the nodes", func() error {
		out, err := c.Kubectl(ctx, "", "get", "nodes", "-o", `jsonpath={.items[*].status.conditions[?(@.type=="Ready")].status}`)
		if err == nil && strings.Count(out, "True") < len(c.Nodes) {
			err = fmt.Errorf("they are ready: %q", out)
		}
		return err
	})
}

// Mirror writes into dir, which containerd has as its registries' configuration, that every registry is
// the one on the switch.
func (c *Cluster) Mirror(dir string) error {
	dir = filepath.Join(dir, "_default")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	text := fmt.Sprintf("[host.\"http://%s:5000\"]\n  capabilities = [\"pull\", \"resolve\"]\n", c.Set.Switch.IP)
	return os.WriteFile(filepath.Join(dir, "hosts.toml"), []byte(text), 0o644)
}

// PIDs are the processes of the cluster, as "n1/etcd", for who wants to charge them.
func (c *Cluster) PIDs() (map[string]int, error) {
	pids := map[string]int{}
	for _, m := range c.Nodes {
		parts, err := m.Parts()
		if err != nil {
			return nil, err
		}
		for _, p := range parts {
			if pids[m.Name+"/"+p.Name], err = m.PID(p.Name); err != nil {
				return nil, err
			}
		}
	}
	return pids, nil
}

// KeepLogs copies what the parts of the nodes have written into a directory each.
func (c *Cluster) KeepLogs(out string) error {
	for _, m := range c.Nodes {
		if err := os.CopyFS(filepath.Join(out, m.Name), os.DirFS(filepath.Join(m.Dir, "log"))); err != nil {
			return err
		}
	}
	return nil
}
