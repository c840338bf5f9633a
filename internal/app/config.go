package app

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/pflag"
	"sigs.k8s.io/yaml"

	"skiff.dev/skiff/internal/controllers/nodelifecycle"
)

// Config is everything that `skiff server` and `skiff agent` can be told. The
// names in the configuration file are those of the flags.
type Config struct {
	// DataDir holds everything that is written, but sockets and CNI files,
	// which are listed in it.
	DataDir string `json:"data-dir"`
	// BindAddress and SecurePort are where the API is served.
	BindAddress string `json:"bind-address"`
	SecurePort  int    `json:"secure-port"`
	// AdvertiseAddress is where nodes and pods reach the API server; found by
	// itself if empty.
	AdvertiseAddress string `json:"advertise-address"`
	// TLSSANs are further names and addresses of the serving certificate.
	TLSSANs []string `json:"tls-san"`

	// EtcdServers name an etcd elsewhere; the three files are for its TLS.
	EtcdServers  []string `json:"etcd-servers"`
	EtcdCAFile   string   `json:"etcd-cafile"`
	EtcdCertFile string   `json:"etcd-certfile"`
	EtcdKeyFile  string   `json:"etcd-keyfile"`

	ServiceCIDR   string `json:"service-cidr"`
	ClusterCIDR   string `json:"cluster-cidr"`
	ClusterDNS    string `json:"cluster-dns"`
	ClusterDomain string `json:"cluster-domain"`
	// NodePortRange is first-last.
	NodePortRange string `json:"service-node-port-range"`
	// NodeGrace is how long a node may be silent before it counts as unhealthy.
	NodeGrace time.Duration `json:"node-monitor-grace-period"`

	// DisableAgent runs the control plane without a node.
	DisableAgent bool `json:"disable-agent"`

	NodeName   string   `json:"node-name"`
	NodeIP     string   `json:"node-ip"`
	NodeLabels []string `json:"node-labels"`
	NodeTaints []string `json:"register-with-taints"`
	// KubeletPort serves the kubelet's API.
	KubeletPort int `json:"kubelet-port"`
	MaxPods     int `json:"max-pods"`
	// RuntimeEndpoint is the CRI socket of a runtime that is there already;
	// empty for the one inside skiff.
	RuntimeEndpoint string `json:"container-runtime-endpoint"`
	// PodNetwork says how pods of different nodes reach each other: host-gw or vxlan.
	PodNetwork string `json:"pod-network"`

	// Server and Token are what an agent joins with.
	Server string `json:"server"`
	Token  string `json:"token"`

	// LogLevel is debug, info, warn or error.
	LogLevel string `json:"log-level"`
}

// Default returns the configuration of a server without flags.
func Default() Config {
	return Config{
		DataDir: "/var/lib/skiff", BindAddress: "0.0.0.0", SecurePort: 6443,
		ServiceCIDR: "10.96.0.0/16", ClusterCIDR: "10.244.0.0/16",
		ClusterDomain: "cluster.local", NodePortRange: "30000-32767", NodeGrace: nodelifecycle.Default().Grace,
		KubeletPort: 10250, MaxPods: 110, PodNetwork: "host-gw", LogLevel: "info",
	}
}

// The flags have the present values of the configuration as their defaults.
func (c *Config) commonFlags(f *pflag.FlagSet) {
	f.StringVar(&c.DataDir, "data-dir", c.DataDir, "where everything is kept")
	f.StringVar(&c.LogLevel, "log-level", c.LogLevel, "debug, info, warn or error")
	f.String("config", "", "a YAML file with the same names as the flags; flags win over it")
}

func (c *Config) serverFlags(f *pflag.FlagSet) {
	f.StringVar(&c.BindAddress, "bind-address", c.BindAddress, "address on which the API is served")
	f.IntVar(&c.SecurePort, "secure-port", c.SecurePort, "port on which the API is served")
	f.StringVar(&c.AdvertiseAddress, "advertise-address", c.AdvertiseAddress, "address at which nodes and pods reach the API server")
	f.StringSliceVar(&c.TLSSANs, "tls-san", c.TLSSANs, "further names or addresses in the serving certificate")
	f.StringSliceVar(&c.EtcdServers, "etcd-servers", c.EtcdServers, "URLs of an etcd elsewhere, instead of the one inside")
	f.StringVar(&c.EtcdCAFile, "etcd-cafile", c.EtcdCAFile, "CA of the etcd servers")
	f.StringVar(&c.EtcdCertFile, "etcd-certfile", c.EtcdCertFile, "client certificate for the etcd servers")
	f.StringVar(&c.EtcdKeyFile, "etcd-keyfile", c.EtcdKeyFile, "key of the client certificate for the etcd servers")
	f.StringVar(&c.ServiceCIDR, "service-cidr", c.ServiceCIDR, "addresses of services")
	f.StringVar(&c.ClusterCIDR, "cluster-cidr", c.ClusterCIDR, "addresses of pods; each node gets a /24 of it")
	f.StringVar(&c.NodePortRange, "service-node-port-range", c.NodePortRange, "ports for services of type NodePort")
	f.DurationVar(&c.NodeGrace, "node-monitor-grace-period", c.NodeGrace, "how long a node may be silent before it counts as unhealthy")
	f.BoolVar(&c.DisableAgent, "disable-agent", c.DisableAgent, "run the control plane only, without a node")
}

func (c *Config) nodeFlags(f *pflag.FlagSet) {
	f.StringVar(&c.NodeName, "node-name", c.NodeName, "name of this node (default: the host's name)")
	f.StringVar(&c.NodeIP, "node-ip", c.NodeIP, "address of this node (default: that of the default route)")
	f.StringSliceVar(&c.NodeLabels, "node-labels", c.NodeLabels, "labels to register the node with, key=value")
	f.StringSliceVar(&c.NodeTaints, "register-with-taints", c.NodeTaints, "taints to register the node with, key=value:effect")
	f.IntVar(&c.KubeletPort, "kubelet-port", c.KubeletPort, "port of the kubelet's API")
	f.IntVar(&c.MaxPods, "max-pods", c.MaxPods, "how many pods may run on this node")
	f.StringVar(&c.RuntimeEndpoint, "container-runtime-endpoint", c.RuntimeEndpoint, "CRI socket of a runtime that is there already (default: the one inside skiff)")
	f.StringVar(&c.PodNetwork, "pod-network", c.PodNetwork, "how pods on different nodes reach each other: host-gw or vxlan")
	f.StringVar(&c.ClusterDNS, "cluster-dns", c.ClusterDNS, "address of the cluster's DNS (default: the 10th of --service-cidr)")
	f.StringVar(&c.ClusterDomain, "cluster-domain", c.ClusterDomain, "domain of the cluster's DNS")
}

// load reads the file named by --config for what the flags have not set.
func (c *Config) load(f *pflag.FlagSet) error {
	path, err := f.GetString("config")
	if err != nil || path == "" {
		return err
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("reading configuration: %w", err)
	}
	given := map[string]any{}
	if err := yaml.UnmarshalStrict(data, &given); err != nil {
		return fmt.Errorf("reading configuration %s: %w", path, err)
	}
	for name, value := range given {
		flag := f.Lookup(name)
		if flag == nil || name == "config" {
			return fmt.Errorf("reading configuration %s: %q is not a setting of this command; see --help", path, name)
		}
		if flag.Changed {
			continue
		}
		if err := setFlag(flag, value); err != nil {
			return fmt.Errorf("reading configuration %s: %s: %w", path, name, err)
		}
	}
	return nil
}

func setFlag(flag *pflag.Flag, value any) error {
	list, ok := value.([]any)
	if !ok {
		return flag.Value.Set(fmt.Sprint(value))
	}
	many, ok := flag.Value.(pflag.SliceValue)
	if !ok {
		return errors.New("takes one value, not a list")
	}
	texts := make([]string, len(list))
	for i, v := range list {
		texts[i] = fmt.Sprint(v)
	}
	return many.Replace(texts)
}

// Validate reports every fault of the configuration, each with what to do.
func (c *Config) Validate() error {
	var faults []error
	bad := func(flag, format string, args ...any) {
		faults = append(faults, fmt.Errorf("--%s: %s", flag, fmt.Sprintf(format, args...)))
	}
	if !filepath.IsAbs(c.DataDir) {
		bad("data-dir", "%q is not an absolute path", c.DataDir)
	}
	if net.ParseIP(c.BindAddress) == nil {
		bad("bind-address", "%q is not an IP address", c.BindAddress)
	}
	for flag, port := range map[string]int{"secure-port": c.SecurePort, "kubelet-port": c.KubeletPort} {
		if port < 1 || port > 65535 {
			bad(flag, "%d is not a port (1-65535)", port)
		}
	}
	for flag, ip := range map[string]string{"advertise-address": c.AdvertiseAddress, "node-ip": c.NodeIP, "cluster-dns": c.ClusterDNS} {
		switch parsed := net.ParseIP(ip); {
		case ip != "" && parsed == nil:
			bad(flag, "%q is not an IP address", ip)
		case parsed != nil && (parsed.IsLoopback() || parsed.IsUnspecified()):
			bad(flag, "%s cannot be reached from pods or other nodes; give an address of an interface", ip)
		}
	}
	for flag, cidr := range map[string]string{"service-cidr": c.ServiceCIDR, "cluster-cidr": c.ClusterCIDR} {
		if _, err := netip.ParsePrefix(cidr); err != nil {
			bad(flag, "%q is not a network such as 10.96.0.0/16", cidr)
		}
	}
	if _, _, err := parsePortRange(c.NodePortRange); err != nil {
		bad("service-node-port-range", "%v", err)
	}
	if c.NodeGrace <= 0 {
		bad("node-monitor-grace-period", "%v is not a time to wait for", c.NodeGrace)
	}
	if c.PodNetwork != "host-gw" && c.PodNetwork != "vxlan" {
		bad("pod-network", "%q is neither host-gw nor vxlan", c.PodNetwork)
	}
	if (c.EtcdCertFile == "") != (c.EtcdKeyFile == "") {
		bad("etcd-certfile", "needs --etcd-keyfile, and the other way round")
	}
	for _, l := range c.NodeLabels {
		if k, _, ok := strings.Cut(l, "="); !ok || k == "" {
			bad("node-labels", "%q is not key=value", l)
		}
	}
	return errors.Join(faults...)
}

func parsePortRange(s string) (first, last int, err error) {
	if n, err := fmt.Sscanf(s, "%d-%d", &first, &last); n != 2 || err != nil || first < 1 || last < first || last > 65535 {
		return 0, 0, fmt.Errorf("%q is not a range of ports such as 30000-32767", s)
	}
	return first, last, nil
}
