package stock

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"skiff.dev/skiff/test/conformance/cluster"
	"skiff.dev/skiff/test/conformance/machine"
)

const runtimeSocket = "/run/containerd/containerd.sock"

// containerdConfig: the runtime as a stock node has it, but for restrict_oom_score_adj, without which it
// wants CAP_SYS_RESOURCE, and for the registry that stands in for all.
const containerdConfig = `version = 3
root = "/var/lib/containerd"
state = "/run/containerd"
oom_score = 0
[grpc]
  address = "` + runtimeSocket + `"
[plugins."io.containerd.cri.v1.images".registry]
  config_path = %[1]q
[plugins."io.containerd.cri.v1.runtime"]
  restrict_oom_score_adj = true
  disable_apparmor = true
[plugins."io.containerd.cri.v1.runtime".cni]
  bin_dirs = [%[2]q]
  conf_dir = "/run/cni"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
  [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
    BinaryName = %[3]q
    SystemdCgroup = false
`

// startRuntimes starts containerd on each node and loads the images.
func (c *Cluster) startRuntimes(ctx context.Context) error {
	return c.Each(ctx, func(ctx context.Context, m *machine.Machine) error {
		if err := c.startRuntime(m); err != nil {
			return err
		}
		err := c.Eventually(ctx, "containerd", func() error {
			_, err := c.ctr(ctx, m, "version")
			return err
		})
		if err != nil {
			return err
		}
		return c.loadImages(ctx, m)
	})
}

func (c *Cluster) startRuntime(m *machine.Machine) error {
	mirrors := filepath.Join(m.Dir, "registries")
	if err := c.Mirror(mirrors); err != nil {
		return err
	}
	config := filepath.Join(m.Dir, "containerd.toml")
	text := fmt.Sprintf(containerdConfig, mirrors, filepath.Join(c.Programs, "cni"), filepath.Join(c.Programs, "runc"))
	if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
		return err
	}
	return m.Start(machine.Part{
		Name: "containerd", Args: []string{filepath.Join(c.Programs, "containerd"), "--config", config}, Env: c.path(), Restart: true,
	})
}

func (c *Cluster) loadImages(ctx context.Context, m *machine.Machine) error {
	for _, file := range c.Archives {
		if _, err := c.ctr(ctx, m, "-n", "k8s.io", "images", "import", "--local", "--no-unpack=false", file); err != nil {
			return err
		}
	}
	return nil
}

// ctr runs containerd's own client.
func (c *Cluster) ctr(ctx context.Context, m *machine.Machine, args ...string) (string, error) {
	return m.Run(ctx, filepath.Join(c.Programs, "ctr"), append([]string{"--address", runtimeSocket}, args...)...)
}

// kubeletConfig is what any kubelet needs to know, and what it needs on this machine: control groups of version 1,
// room on a disk that others fill, and no oom_score_adj below zero.
const kubeletConfig = `apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: %[1]q}}
authorization: {mode: Webhook}
cgroupDriver: cgroupfs
clusterDNS: [` + cluster.DNSIP + `]
clusterDomain: cluster.local
containerRuntimeEndpoint: unix://` + runtimeSocket + `
tlsCertFile: %[2]q
tlsPrivateKeyFile: %[3]q
evictionHard: {memory.available: 100Mi, nodefs.available: 1%%, imagefs.available: 1%%, nodefs.inodesFree: 1%%}
failCgroupV1: false
failSwapOn: false
imageGCHighThresholdPercent: 99
imageGCLowThresholdPercent: 98
oomScoreAdj: 0
resolvConf: /etc/resolv.conf
`

func (c *Cluster) kubeletFlags(m *machine.Machine) []string {
	return []string{
		"--config=" + filepath.Join(m.Dir, "kubelet.yaml"),
		"--hostname-override=" + m.Name,
		"--kubeconfig=" + c.pki("kubelet-"+m.Name+".kubeconfig"),
		"--node-ip=" + m.IP,
	}
}

// proxyConfig leaves the connection tracking's limits alone: only the machine's first network namespace
// may change them.
const proxyConfig = `apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
clientConnection: {kubeconfig: %[1]q}
clusterCIDR: ` + cluster.PodNetwork + `
conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
hostnameOverride: %[2]q
mode: nftables
oomScoreAdj: 0
`

func (c *Cluster) proxyFlags(m *machine.Machine) []string {
	return []string{"--config=" + filepath.Join(m.Dir, "kube-proxy.yaml")}
}

// startNodes starts a kubelet and a proxy on each node.
func (c *Cluster) startNodes(ctx context.Context) error {
	return c.Each(ctx, func(_ context.Context, m *machine.Machine) error { return c.startNode(m) })
}

func (c *Cluster) startNode(m *machine.Machine) error {
	kubelet := fmt.Sprintf(kubeletConfig, c.pki("ca.crt"), c.pki("kubelet-"+m.Name+".crt"), c.pki("kubelet-"+m.Name+".key"))
	proxy := fmt.Sprintf(proxyConfig, c.pki("kube-proxy.kubeconfig"), m.Name)
	return errors.Join(
		os.WriteFile(filepath.Join(m.Dir, "kubelet.yaml"), []byte(kubelet), 0o644),
		os.WriteFile(filepath.Join(m.Dir, "kube-proxy.yaml"), []byte(proxy), 0o644),
		c.StartComponent(m, "kubelet"),
		c.StartComponent(m, "kube-proxy"),
	)
}

// cniConfig: pods hang on a bridge; other nodes' pods are reached by routes, without address translation.
const cniConfig = `{
  "cniVersion": "1.0.0", "name": "yardstick", "plugins": [
    {"type": "bridge", "bridge": "cni0", "isGateway": true, "hairpinMode": true,
     "ipam": {"type": "host-local", "ranges": [[{"subnet": %q}]], "routes": [{"dst": "0.0.0.0/0"}], "dataDir": "/run/cni-addresses"}},
    {"type": "portmap", "capabilities": {"portMappings": true}, "snat": true}
  ]
}
`

// joinNodes gives each node's pods a network once the cluster has assigned it, and waits until all are ready.
func (c *Cluster) joinNodes(ctx context.Context) error {
	for _, m := range c.Nodes {
		network, err := c.podNetwork(ctx, m)
		if err != nil {
			return err
		}
		if err := configureNetwork(ctx, m, network); err != nil {
			return err
		}
		if err := c.Set.Route(network, m); err != nil {
			return err
		}
	}
	return c.NodesReady(ctx)
}

// podNetwork waits until the cluster has assigned the network of a node's pods.
func (c *Cluster) podNetwork(ctx context.Context, m *machine.Machine) (network string, err error) {
	err = c.Eventually(ctx, "the pod network of "+m.Name, func() (err error) {
		network, err = c.Kubectl(ctx, "", "get", "node", m.Name, "-o", "jsonpath={.spec.podCIDR}")
		if err == nil && network == "" {
			err = errors.New("the node has no pod CIDR yet")
		}
		return err
	})
	return network, err
}

// configureNetwork tells the runtime of a machine what network its pods have.
func configureNetwork(ctx context.Context, m *machine.Machine, network string) error {
	conf := filepath.Join(m.Dir, "10-yardstick.conflist")
	if err := os.WriteFile(conf, fmt.Appendf(nil, cniConfig, network), 0o644); err != nil {
		return err
	}
	_, err := m.Run(ctx, "install", "-D", conf, "/run/cni/10-yardstick.conflist")
	return err
}
