package app

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"reflect"
	"slices"

	"github.com/spf13/pflag"
	kubeletv1beta1 "k8s.io/kubelet/config/v1beta1"
	"sigs.k8s.io/yaml"
)

// The fields of a KubeletConfiguration that are carried out, and those that
// change nothing here, with the reason. Any other that is set is an error: the
// node would not do what its file says.
var (
	kubeletHonoured = []string{
		"apiVersion", "kind", "staticPodPath", "port", "tlsCertFile", "tlsPrivateKeyFile", "rotateCertificates", "serverTLSBootstrap",
		"authentication", "authorization", "healthzPort", "healthzBindAddress", "clusterDomain", "clusterDNS", "maxPods",
		"registerWithTaints", "containerRuntimeEndpoint", "cgroupDriver",
	}
	kubeletWithout = without{
		"syncFrequency": reasonPush, "fileCheckFrequency": reasonPush, "httpCheckFrequency": reasonPush, "nodeStatusUpdateFrequency": reasonPush,
		"nodeStatusReportFrequency": reasonPush, "cpuManagerReconcilePeriod": reasonPush, "containerLogMonitorInterval": reasonPush,
		"kubeAPIQPS": reasonClient, "kubeAPIBurst": reasonClient, "contentType": reasonClient, "eventRecordQPS": reasonClient, "eventBurst": reasonClient,
		"logging": reasonLogging, "failSwapOn": "swap is no obstacle", "makeIPTablesUtilChains": "no iptables rules are made",
		"iptablesMasqueradeBit": "no iptables rules are made", "iptablesDropBit": "no iptables rules are made",
		"hairpinMode":                               "pods are routed, not bridged",
		"runtimeRequestTimeout":                     "each call to the runtime has a limit of its own",
		"configMapAndSecretChangeDetectionStrategy": "changes are watched",
		"maxOpenFiles":                              "the process keeps the limits it was started with",
		"oomScoreAdj":                               "the process keeps the one it was started with",
		"volumeStatsAggPeriod":                      reasonPush,
		"enableContentionProfiling":                 "there is no profiling endpoint",
		"enableProfilingHandler":                    "there is no profiling endpoint",
	}
)

// load takes from the file what no flag says.
func (o *kubeletOptions) load(f *pflag.FlagSet) error {
	if o.file == "" {
		return nil
	}
	data, err := os.ReadFile(o.file)
	if err != nil {
		return fmt.Errorf("--config: %w", err)
	}
	c, err := parseKubeletConfig(data)
	if err != nil {
		return fmt.Errorf("--config %s: %w", o.file, err)
	}
	o.use(f, c)
	return nil
}

func parseKubeletConfig(data []byte) (*kubeletv1beta1.KubeletConfiguration, error) {
	var c kubeletv1beta1.KubeletConfiguration
	if err := yaml.UnmarshalStrict(data, &c); err != nil {
		return nil, err
	}
	if want := kubeletv1beta1.SchemeGroupVersion.String(); c.APIVersion != want || c.Kind != "KubeletConfiguration" {
		return nil, fmt.Errorf("got %s %s, want %s KubeletConfiguration", c.APIVersion, c.Kind, want)
	}
	given := map[string]any{}
	if err := yaml.Unmarshal(data, &given); err != nil {
		return nil, err
	}
	var faults []error
	names := make([]string, 0, len(given))
	for name := range given {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		if unset(given[name]) || slices.Contains(kubeletHonoured, name) {
			continue
		}
		if reason, ok := kubeletWithout[name]; ok {
			slog.Warn("kubelet configuration has no effect", "field", name, "reason", reason)
			continue
		}
		faults = append(faults, fmt.Errorf("%s: not supported; leave it out", name))
	}
	return &c, errors.Join(append(faults, kubeletLimits(&c)...)...)
}

// kubeletLimits refuses values of honoured fields that are not carried out.
func kubeletLimits(c *kubeletv1beta1.KubeletConfiguration) (faults []error) {
	bad := func(is bool, text string) {
		if is {
			faults = append(faults, errors.New(text))
		}
	}
	is := func(p *bool, v bool) bool { return p != nil && *p == v }
	bad(c.CgroupDriver != "" && c.CgroupDriver != "cgroupfs", "cgroupDriver: only cgroupfs is supported")
	bad(is(c.Authentication.Anonymous.Enabled, true), "authentication.anonymous.enabled: the kubelet's API is never open to everybody")
	bad(is(c.Authentication.Webhook.Enabled, false), "authentication.webhook.enabled: tokens are always reviewed")
	bad(c.Authorization.Mode != "" && c.Authorization.Mode != kubeletv1beta1.KubeletAuthorizationModeWebhook, "authorization.mode: only Webhook is supported")
	bad(len(c.ClusterDNS) > 1, "clusterDNS: only one address is supported")
	return faults
}

// unset reports whether a value is the zero that tools write for "not set".
func unset(v any) bool {
	switch v := v.(type) {
	case nil:
		return true
	case string:
		return v == "" || v == "0s"
	case map[string]any:
		for _, inner := range v {
			if !unset(inner) {
				return false
			}
		}
		return true
	case []any:
		return len(v) == 0
	case bool:
		return false // switched off is a decision
	}
	return reflect.ValueOf(v).IsZero()
}

func (o *kubeletOptions) use(f *pflag.FlagSet, c *kubeletv1beta1.KubeletConfiguration) {
	text := func(flag string, to *string, value string) {
		if value != "" && !f.Changed(flag) {
			*to = value
		}
	}
	text("pod-manifest-path", &o.staticPods, c.StaticPodPath)
	text("tls-cert-file", &o.certFile, c.TLSCertFile)
	text("tls-private-key-file", &o.keyFile, c.TLSPrivateKeyFile)
	text("client-ca-file", &o.clientCA, c.Authentication.X509.ClientCAFile)
	text("healthz-bind-address", &o.healthAddress, c.HealthzBindAddress)
	text("cluster-domain", &o.cfg.ClusterDomain, c.ClusterDomain)
	text("container-runtime-endpoint", &o.cfg.RuntimeEndpoint, c.ContainerRuntimeEndpoint)
	if len(c.ClusterDNS) > 0 && !f.Changed("cluster-dns") {
		o.clusterDNS = c.ClusterDNS
	}
	if c.Port != 0 && !f.Changed("port") {
		o.cfg.KubeletPort = int(c.Port)
	}
	if c.MaxPods != 0 && !f.Changed("max-pods") {
		o.cfg.MaxPods = int(c.MaxPods)
	}
	if c.HealthzPort != nil && !f.Changed("healthz-port") {
		o.healthPort = int(*c.HealthzPort)
	}
	if c.ServerTLSBootstrap && !f.Changed("rotate-server-certificates") {
		o.serverTLS = true
	}
	if len(c.RegisterWithTaints) > 0 && !f.Changed("register-with-taints") {
		o.cfg.NodeTaints = nil
		for _, t := range c.RegisterWithTaints {
			o.cfg.NodeTaints = append(o.cfg.NodeTaints, taintText(t.Key, t.Value, string(t.Effect)))
		}
	}
}
