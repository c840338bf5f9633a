// Package stock runs a cluster of upstream's parts on two pretended machines: n1 with etcd, the control
// plane and a node, n2 with a node. Any of the five components can be skiff's instead.
//
// It writes below its machines' set's directory: pki/, kubeconfig, and a folder per machine.
package stock

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"skiff.dev/skiff/test/conformance/machine"
)

// Networks of the cluster, as kubeadm's examples have them.
const (
	podNetwork     = "10.244.0.0/16"
	serviceNetwork = "10.96.0.0/16"
	serviceIP      = "10.96.0.1"
	dnsIP          = "10.96.0.10"
)

// Config says what a cluster is made of.
type Config struct {
	// Dir is where it lives.
	Dir string
	// Programs are upstream's and a node's, as build makes them.
	Programs string
	// Skiff is skiff's binary, Ours the components that it is.
	Skiff string
	Ours  []string
	// Images are the archives that each node gets, DNSImage is the name of CoreDNS in them.
	Images   []string
	DNSImage string
	// Registry is the command line of a registry, run on the switch, with :5000 as its address.
	Registry []string
	// Log gets a line per step.
	Log io.Writer
}

// Cluster is one that runs.
type Cluster struct {
	Config
	Set   *machine.Set
	Nodes []*machine.Machine
	start time.Time
}

// Up makes a cluster in place of one that is there, and returns when pods can be run.
func Up(ctx context.Context, config Config) (*Cluster, error) {
	c := &Cluster{Config: config, start: time.Now()}
	c.say("making two machines in %s", c.Dir)
	var err error
	if c.Set, err = machine.Create(c.Dir); err != nil {
		return nil, err
	}
	for i, name := range []string{"n1", "n2"} {
		m, err := c.Set.Add(name, i+1)
		if err != nil {
			return nil, err
		}
		c.Nodes = append(c.Nodes, m)
	}
	for _, step := range []struct {
		name string
		do   func(context.Context) error
	}{
		{"issuing certificates", c.writePKI},
		{"starting the control plane", c.startControlPlane},
		{"starting the runtimes and loading images", c.startRuntimes},
		{"starting the nodes", c.startNodes},
		{"waiting for the nodes", c.joinNodes},
		{"starting DNS", c.startDNS},
	} {
		c.say("%s", step.name)
		if err := step.do(ctx); err != nil {
			return nil, fmt.Errorf("%s: %w", step.name, err)
		}
	}
	c.say("the cluster is up")
	return c, nil
}

// say logs a step.
func (c *Cluster) say(format string, args ...any) {
	fmt.Fprintf(c.Log, "%5.1fs %s\n", time.Since(c.start).Seconds(), fmt.Sprintf(format, args...))
}

// Kubeconfig is the administrator's; it works from this machine as well as from those of the cluster.
func (c *Cluster) Kubeconfig() string { return filepath.Join(c.Dir, "kubeconfig") }

func (c *Cluster) pki(file string) string { return filepath.Join(c.Dir, "pki", file) }

func (c *Cluster) server() string { return "https://" + c.Nodes[0].IP + ":6443" }

// component is the command line that begins with a component's program.
func (c *Cluster) component(name string, flags ...string) []string {
	if slices.Contains(c.Ours, name) {
		return append([]string{c.Skiff, name}, flags...)
	}
	return append([]string{filepath.Join(c.Programs, name)}, flags...)
}

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

func (c *Cluster) writePKI(context.Context) error {
	dir := c.pki("")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	ca, err := newAuthority(dir, "ca")
	if err != nil {
		return err
	}
	front, err := newAuthority(dir, "front-proxy-ca")
	if err != nil {
		return err
	}
	n1 := c.Nodes[0]
	err = errors.Join(
		front.issue("front-proxy", "front-proxy", nil),
		ca.issue("apiserver", "kube-apiserver", nil, n1.IP, "127.0.0.1", serviceIP, "n1", "localhost",
			"kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"),
		ca.issue("apiserver-kubelet", "kube-apiserver-kubelet-client", []string{"system:masters"}),
		ca.issue("admin", "admin", []string{"system:masters"}),
		ca.issue("kube-controller-manager", "system:kube-controller-manager", nil),
		ca.issue("kube-scheduler", "system:kube-scheduler", nil),
		ca.issue("kube-proxy", "system:kube-proxy", nil),
		writeTokenKeys(dir),
		writeKubeconfig(c.Kubeconfig(), c.server(), dir, "admin"),
	)
	for _, m := range c.Nodes {
		err = errors.Join(err, ca.issue("kubelet-"+m.Name, "system:node:"+m.Name, []string{"system:nodes"}, m.IP, m.Name))
	}
	for _, user := range []string{"kube-controller-manager", "kube-scheduler", "kube-proxy", "kubelet-n1", "kubelet-n2"} {
		err = errors.Join(err, writeKubeconfig(c.pki(user+".kubeconfig"), c.server(), dir, user))
	}
	return err
}

// eventually repeats check until it returns nil, a part has ended, or patience does.
func (c *Cluster) eventually(ctx context.Context, what string, patience time.Duration, check func() error) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
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
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// probe asks the API server something and wants 200.
func (c *Cluster) probe(path string) error {
	ca, err := os.ReadFile(c.pki("ca.crt"))
	if err != nil {
		return err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	cert, err := tls.LoadX509KeyPair(c.pki("admin.crt"), c.pki("admin.key"))
	if err != nil {
		return err
	}
	client := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{cert}}, DisableKeepAlives: true,
	}}
	response, err := client.Get(c.server() + path)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", path, response.Status)
	}
	return nil
}

// each does something on both nodes at a time.
func (c *Cluster) each(ctx context.Context, do func(context.Context, *machine.Machine) error) error {
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

// Down removes the cluster in dir.
func Down(dir string) error { return machine.Remove(dir) }

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
