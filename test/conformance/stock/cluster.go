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
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"time"

	"skiff.dev/skiff/test/conformance/cluster"
)

// Cluster is one of upstream's parts, but for those that are ours.
type Cluster struct {
	*cluster.Cluster
	// Ours are the components that are skiff's.
	Ours []string
}

// Up makes a cluster in place of one that is there, and returns when pods can be run.
func Up(ctx context.Context, config cluster.Config, ours ...string) (*Cluster, error) {
	base, err := cluster.Create(config)
	if err != nil {
		return nil, err
	}
	c := &Cluster{base, ours}
	return c, c.Go(ctx,
		cluster.Step{Name: "issuing certificates", Do: c.writePKI},
		cluster.Step{Name: "starting the control plane", Do: c.startControlPlane},
		cluster.Step{Name: "starting the runtimes and loading images", Do: c.startRuntimes},
		cluster.Step{Name: "starting the nodes", Do: c.startNodes},
		cluster.Step{Name: "waiting for the nodes", Do: c.joinNodes},
		cluster.Step{Name: "starting DNS", Do: c.startDNS},
	)
}

func (c *Cluster) pki(file string) string { return filepath.Join(c.Dir, "pki", file) }

func (c *Cluster) isOurs(component string) bool { return slices.Contains(c.Ours, component) }

// component is the command line that begins with a component's program.
func (c *Cluster) component(name string, flags ...string) []string {
	if c.isOurs(name) {
		return append([]string{c.Skiff, name}, flags...)
	}
	return append([]string{filepath.Join(c.Programs, name)}, flags...)
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
		front.issue("front-proxy-client", "front-proxy-client", nil),
		ca.issue("apiserver", "kube-apiserver", nil, n1.IP, "127.0.0.1", cluster.ServiceIP, "n1", "localhost",
			"kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"),
		ca.issue("apiserver-kubelet", "kube-apiserver-kubelet-client", []string{"system:masters"}),
		ca.issue("admin", "admin", []string{"system:masters"}),
		ca.issue("kube-controller-manager", "system:kube-controller-manager", nil),
		ca.issue("kube-scheduler", "system:kube-scheduler", nil),
		ca.issue("kube-proxy", "system:kube-proxy", nil),
		writeTokenKeys(dir),
		writeKubeconfig(c.Kubeconfig(), c.Server(), dir, "admin"),
	)
	for _, m := range c.Nodes {
		err = errors.Join(err, ca.issue("kubelet-"+m.Name, "system:node:"+m.Name, []string{"system:nodes"}, m.IP, m.Name))
	}
	for _, user := range []string{"kube-controller-manager", "kube-scheduler", "kube-proxy", "kubelet-n1", "kubelet-n2"} {
		err = errors.Join(err, writeKubeconfig(c.pki(user+".kubeconfig"), c.Server(), dir, user))
	}
	return err
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
	response, err := client.Get(c.Server() + path)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", path, response.Status)
	}
	return nil
}
