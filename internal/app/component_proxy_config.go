package app

import (
	"errors"
	"fmt"
	"net/netip"
	"os"

	"github.com/spf13/pflag"
	proxyv1alpha1 "k8s.io/kube-proxy/config/v1alpha1"
	"sigs.k8s.io/yaml"
)

const (
	reasonMode      = "it is of a mode that is not served"
	reasonWindows   = "it is for Windows"
	reasonConntrack = "the kernel's own limits stay"
)

// proxyFields are all fields of kubeproxy.config.k8s.io/v1alpha1
// KubeProxyConfiguration. Its switches are written also where nobody has set
// them: off says nothing.
var proxyFields = map[string]configField{
	"apiVersion": {}, "kind": {}, "hostnameOverride": {}, "bindAddress": {}, "healthzBindAddress": {}, "metricsBindAddress": {},
	"mode": {}, "clusterCIDR": {}, "nodePortAddresses": {}, "oomScoreAdj": {},
	"clientConnection.kubeconfig": {}, "clientConnection.acceptContentTypes": inVain(reasonClient), "clientConnection.contentType": inVain(reasonClient),
	"clientConnection.qps": inVain(reasonClient), "clientConnection.burst": inVain(reasonClient),
	"nftables.masqueradeAll": {}, "nftables.masqueradeBit": {}, "nftables.syncPeriod": inVain(reasonPush), "nftables.minSyncPeriod": inVain(reasonPush),
	"configSyncPeriod": inVain(reasonPush), "featureGates": inVain(reasonGates), "logging": inVain(reasonLogging),
	"bindAddressHardFail": inVain("a port that cannot be had is always the end", "true", "false"),
	"enableProfiling":     inVain(reasonProfiling, "false"), "showHiddenMetricsForVersion": inVain("no metrics are hidden"),
	"iptables.localhostNodePorts": inVain(reasonMode, "false"), "iptables.masqueradeAll": inVain(reasonMode, "false"), "iptables.masqueradeBit": inVain(reasonMode),
	"iptables.syncPeriod": inVain(reasonMode), "iptables.minSyncPeriod": inVain(reasonMode),
	"ipvs.syncPeriod": inVain(reasonMode), "ipvs.minSyncPeriod": inVain(reasonMode), "ipvs.scheduler": inVain(reasonMode), "ipvs.excludeCIDRs": inVain(reasonMode),
	"ipvs.strictARP": inVain(reasonMode, "false"), "ipvs.tcpTimeout": inVain(reasonMode), "ipvs.tcpFinTimeout": inVain(reasonMode), "ipvs.udpTimeout": inVain(reasonMode),
	"winkernel.networkName": inVain(reasonWindows), "winkernel.sourceVip": inVain(reasonWindows), "winkernel.enableDSR": inVain(reasonWindows, "false"),
	"winkernel.rootHnsEndpointName": inVain(reasonWindows), "winkernel.forwardHealthCheckVip": inVain(reasonWindows, "false"), "windowsRunAsService": inVain(reasonWindows, "false"),
	"conntrack.maxPerCore": inVain(reasonConntrack), "conntrack.min": inVain(reasonConntrack), "conntrack.tcpEstablishedTimeout": inVain(reasonConntrack),
	"conntrack.tcpCloseWaitTimeout": inVain(reasonConntrack), "conntrack.tcpBeLiberal": inVain(reasonConntrack, "false"),
	"conntrack.udpTimeout": inVain(reasonConntrack), "conntrack.udpStreamTimeout": inVain(reasonConntrack),
	"portRange":                       inVain("no ports are opened"),
	"detectLocalMode":                 refused("what comes from pods is told by their addresses: only ClusterCIDR is served", "ClusterCIDR"),
	"detectLocal.bridgeInterface":     refused("what comes from pods is told by their addresses; leave it out"),
	"detectLocal.interfaceNamePrefix": refused("what comes from pods is told by their addresses; leave it out"),
}

// load takes from the file what no flag says, and refuses what would change
// what the proxy does and is not carried out.
func (p *kubeProxy) load(f *pflag.FlagSet) error {
	if p.file == "" {
		return nil
	}
	data, err := os.ReadFile(p.file)
	if err != nil {
		return fmt.Errorf("--config: %w", err)
	}
	var c proxyv1alpha1.KubeProxyConfiguration
	if err := yaml.UnmarshalStrict(data, &c); err != nil {
		return fmt.Errorf("--config %s: %w", p.file, err)
	}
	if want := proxyv1alpha1.SchemeGroupVersion.String(); c.APIVersion != want || c.Kind != "KubeProxyConfiguration" {
		return fmt.Errorf("--config %s: got %s %s, want %s KubeProxyConfiguration", p.file, c.APIVersion, c.Kind, want)
	}
	given := map[string]any{}
	if err := yaml.Unmarshal(data, &given); err != nil {
		return fmt.Errorf("--config %s: %w", p.file, err)
	}
	if err := errors.Join(checkFields(proxyFields, given, nil)...); err != nil {
		return fmt.Errorf("--config %s: %w", p.file, err)
	}
	set := func(flag string, to *string, value string) {
		if value != "" && !f.Changed(flag) {
			*to = value
		}
	}
	set("kubeconfig", &p.kubeconfig, c.ClientConnection.Kubeconfig)
	set("proxy-mode", &p.mode, string(c.Mode))
	set("cluster-cidr", &p.clusterCIDR, c.ClusterCIDR)
	set("hostname-override", &p.name, c.HostnameOverride)
	set("bind-address", &p.nodeIP, c.BindAddress)
	set("healthz-bind-address", &p.health, c.HealthzBindAddress)
	set("metrics-bind-address", &p.numbers, c.MetricsBindAddress)
	if len(c.NodePortAddresses) > 0 && !f.Changed("nodeport-addresses") {
		p.nodePorts = c.NodePortAddresses
	}
	if !f.Changed("masquerade-all") {
		p.masqueradeAll = c.NFTables.MasqueradeAll
	}
	if bit := c.NFTables.MasqueradeBit; bit != nil && !f.Changed("nftables-masquerade-bit") {
		p.masqueradeBit = int(*bit)
	}
	if c.OOMScoreAdj != nil && !f.Changed("oom-score-adj") {
		p.oomScore = c.OOMScoreAdj
	}
	return nil
}

// nodePortNetworks reads --nodeport-addresses, whose words stand for networks.
func nodePortNetworks(texts []string, primary netip.Addr) (networks []netip.Prefix, err error) {
	for _, text := range texts {
		switch text {
		case "primary":
			networks = append(networks, netip.PrefixFrom(primary, primary.BitLen()))
		case "all":
			networks = append(networks, netip.PrefixFrom(netip.IPv4Unspecified(), 0), netip.PrefixFrom(netip.IPv6Unspecified(), 0))
		case "localhost":
			return nil, errors.New("--nodeport-addresses: node ports are not served on localhost")
		default:
			more, err := prefixes("nodeport-addresses", []string{text})
			if err != nil {
				return nil, err
			}
			networks = append(networks, more...)
		}
	}
	return networks, nil
}
