package app

import (
	"bytes"
	"crypto/tls"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	kubeletv1beta1 "k8s.io/kubelet/config/v1beta1"

	"skiff.dev/skiff/internal/app/node"
	"skiff.dev/skiff/internal/cgroup"
	"skiff.dev/skiff/internal/kubelet/nodestatus"
	"skiff.dev/skiff/internal/pki"
)

const kubeletHead = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n"

// Every field is carried out, without effect and warned about, or refused.
func TestEveryFieldOfTheKubeletIsKnown(t *testing.T) {
	known := map[string]bool{"apiVersion": true, "kind": true}
	typ := reflect.TypeFor[kubeletv1beta1.KubeletConfiguration]()
	for i := range typ.NumField() {
		if name, _, _ := strings.Cut(typ.Field(i).Tag.Get("json"), ","); name != "" {
			known[name] = true
			if _, ok := kubeletFields[name]; !ok {
				t.Errorf("nothing is said about %s", name)
			}
		}
	}
	for name, field := range kubeletFields {
		if !known[name] {
			t.Errorf("there is no field %s", name)
		}
		if field.without != "" && field.refused != "" {
			t.Errorf("%s is refused and without effect", name)
		}
	}
	for name, flag := range kubeletFlags {
		if fieldType(typ, flag.field) == nil {
			t.Errorf("--%s is for %s, which there is not", name, flag.field)
		}
	}
}

// configured is what a file and flags make of the kubelet, its error and what
// it warned about.
func configured(t *testing.T, text string, args ...string) (*kubeletOptions, error, string) {
	t.Helper()
	var log bytes.Buffer
	old := slog.Default()
	slog.SetDefault(slog.New(slog.NewTextHandler(&log, nil)))
	defer slog.SetDefault(old)
	o := &kubeletOptions{component: newComponent("kubelet", 0, nil), cfg: Default(), settings: node.DefaultSettings(), healthPort: kubeletHealthPort}
	f := pflag.NewFlagSet("", pflag.ContinueOnError)
	o.flags(f)
	if text != "" {
		file := filepath.Join(t.TempDir(), "kubelet.yaml")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		args = append(args, "--config="+file)
	}
	if err := f.Parse(args); err != nil {
		return o, err, log.String()
	}
	err := o.configure(f)
	return o, err, log.String()
}

func TestKubeletConfigIsRefused(t *testing.T) {
	for name, test := range map[string]struct {
		text string
		want string
	}{
		"soft eviction": {"evictionSoft: {memory.available: 1Gi}\n", "evictionSoft: pods are not evicted when the node is short of something; leave it out"},
		"signal":        {"evictionHard: {memory: 1Gi}\n", `evictionHard: "memory" is not one of`},
		"threshold":     {"evictionHard: {memory.available: much}\n", `evictionHard: memory.available: "much" is neither an amount`},
		"kernel":        {"protectKernelDefaults: true\n", "protectKernelDefaults: the kernel's parameters are neither changed nor checked"},
		"anonymous":     {"authentication: {anonymous: {enabled: true}}\n", "authentication.anonymous.enabled: the kubelet's API is never open to everybody"},
		"always":        {"authorization: {mode: AlwaysAllow}\n", "authorization.mode: only Webhook is supported"},
		"read only":     {"readOnlyPort: 10255\n", "readOnlyPort: nothing is served to who has not said who they are"},
		"shutdown":      {"shutdownGracePeriod: 30s\n", "shutdownGracePeriod: graceful node shutdown is not served yet"},
		"CPU manager":   {"cpuManagerPolicy: static\n", "cpuManagerPolicy: the CPU, memory and topology managers are not served yet"},
		"pulls":         {"serializeImagePulls: true\nmaxParallelImagePulls: 3\n", "maxParallelImagePulls: 3 while serializeImagePulls is true"},
		"GC":            {"imageGCHighThresholdPercent: 50\n", "imageGCLowThresholdPercent: 80 must be less than imageGCHighThresholdPercent, 50"},
		"reserved":      {"systemReserved: {disk: 1Gi}\n", `systemReserved: "disk" is not one of`},
		"reserved PIDs": {"kubeReserved: {pid: \"100\"}\n", "kubeReserved: processes are not reserved"},
		"enforcement":   {"enforceNodeAllocatable: [pods, system-reserved]\n", "enforceNodeAllocatable: pods, and nothing else"},
		"sysctl":        {"allowedUnsafeSysctls: [vm.swappiness]\n", `allowedUnsafeSysctls: "vm.swappiness" is not of a pod's own namespaces`},
		"TLS":           {"tlsMinVersion: VersionTLS10\n", `tlsMinVersion: "VersionTLS10" is not one of`},
		"suite":         {"tlsCipherSuites: [ROT13]\n", `tlsCipherSuites: there is no cipher suite "ROT13"`},
		"images":        {"imageServiceEndpoint: unix:///a\ncontainerRuntimeEndpoint: unix:///b\n", "imageServiceEndpoint: images are asked of the container runtime"},
		"another's":     {"apiVersion: v1\nkind: Pod\n", "got v1 Pod, want kubelet.config.k8s.io/v1beta1 KubeletConfiguration"},
		"unknown":       {"noSuchField: 1\n", `unknown field "noSuchField"`},
	} {
		t.Run(name, func(t *testing.T) {
			text := kubeletHead + test.text
			if strings.HasPrefix(test.text, "apiVersion") {
				text = test.text
			}
			if _, err, _ := configured(t, text); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v, want %q", err, test.want)
			}
		})
	}
	if _, err, _ := configured(t, "", "--eviction-soft=memory.available<1Gi"); err == nil || !strings.HasPrefix(err.Error(), "--eviction-soft: ") {
		t.Errorf("error %v", err)
	}
	for _, args := range []string{"--max-pods=many", "--eviction-hard=memory.available", "--sync-frequency=often", "--seccomp-default=perhaps"} {
		if _, err, _ := configured(t, "", args); err == nil {
			t.Errorf("%s is taken", args)
		}
	}
}

// What a configuration says about the host holds for this one or is refused.
func TestKubeletConfigFitsTheHost(t *testing.T) {
	version, err := cgroup.Detect()
	groups, v2, swap := err == nil, err == nil && version != cgroup.V1, hasSwap()
	for text, fits := range map[string]bool{
		"failCgroupV1: true\n": v2, "failCgroupV1: false\n": groups, "singleProcessOOMKill: false\n": v2, "singleProcessOOMKill: true\n": groups,
		"failSwapOn: true\n": !swap, "failSwapOn: false\n": true, "memorySwap: {swapBehavior: NoSwap}\n": !swap, "memorySwap: {swapBehavior: Some}\n": false,
	} {
		if _, err, _ := configured(t, kubeletHead+text); (err == nil) != fits {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func TestKubeletConfigIsCarriedOut(t *testing.T) {
	o, err, _ := configured(t, kubeletHead+`
address: 127.0.0.2
port: 10260
tlsMinVersion: VersionTLS13
tlsCipherSuites: [TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256]
tlsCurvePreferences: [29]
authentication: {webhook: {cacheTTL: 7s}, x509: {clientCAFile: /ca}}
authorization: {webhook: {cacheAuthorizedTTL: 8s, cacheUnauthorizedTTL: 9s}}
staticPodPath: /etc/kubernetes/manifests
podLogsDir: /var/log/pods
clusterDNS: [10.96.0.10, "fd00::a"]
clusterDomain: example.org
resolvConf: /run/systemd/resolve/resolv.conf
nodeLeaseDurationSeconds: 20
imageMinimumGCAge: 1m
imageMaximumGCAge: 24h
imageGCHighThresholdPercent: 70
imageGCLowThresholdPercent: 60
maxParallelImagePulls: 4
serializeImagePulls: false
podPidsLimit: 512
nodeStatusMaxImages: -1
containerLogMaxSize: 1Mi
containerLogMaxFiles: 3
containerLogMonitorInterval: 5s
systemReserved: {cpu: 100m}
kubeReserved: {memory: 1Gi}
evictionHard: {memory.available: 5%, nodefs.available: 1Gi, imagefs.available: 0%}
allowedUnsafeSysctls: ["net.core.*"]
providerID: cloud://one
enableSystemLogHandler: true
seccompDefault: false
oomScoreAdj: -5
registerWithTaints: [{key: a, value: b, effect: NoSchedule}]
`, "--cluster-domain=example.com", "--max-pods=7", "--system-reserved=cpu=200m", "--resolv-conf=")
	if err != nil {
		t.Fatal(err)
	}
	want := node.DefaultSettings()
	want.ResolvConf, want.DNSServers, want.PodLogs = "", []string{"10.96.0.10", "fd00::a"}, "/var/log/pods"
	want.Pulls.Parallel, want.Pulls.HighPercent, want.Pulls.LowPercent, want.Pulls.MinAge, want.Pulls.MaxAge = 4, 70, 60, time.Minute, 24*time.Hour
	want.Logs.MaxBytes, want.Logs.MaxFiles, want.Logs.Every = 1<<20, 3, 5*time.Second
	want.Reserve = nodestatus.Reserve{
		System: corev1.ResourceList{"cpu": resource.MustParse("200m")}, Kube: corev1.ResourceList{"memory": resource.MustParse("1Gi")},
		Memory: nodestatus.Threshold{Percent: 5}, Storage: nodestatus.Threshold{Amount: resource.MustParse("1Gi")},
	}
	want.PIDLimit, want.LeaseSeconds, want.MaxImages, want.ProviderID, want.UnsafeSysctls = 512, 20, -1, "cloud://one", []string{"net.core.*"}
	want.SeccompUnconfined, want.SystemLogs, want.Address = true, "/var/log", "127.0.0.2"
	want.TLS.MinVersion, want.TLS.CipherSuites, want.TLS.Curves = tls.VersionTLS13, []uint16{tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256}, []tls.CurveID{tls.X25519}
	want.ReviewsLast.Token, want.ReviewsLast.Allowed, want.ReviewsLast.Denied = 7*time.Second, 8*time.Second, 9*time.Second
	if d := cmp.Diff(want, o.settings); d != "" {
		t.Error(d)
	}
	got := []any{o.cfg.KubeletPort, o.clientCA, o.staticPods, o.cfg.ClusterDNS, o.cfg.ClusterDomain, o.cfg.MaxPods, o.cfg.NodeTaints, *o.oomScore}
	if d := cmp.Diff([]any{10260, "/ca", "/etc/kubernetes/manifests", "10.96.0.10", "example.com", 7, []string{"a=b:NoSchedule"}, int32(-5)}, got); d != "" {
		t.Error(d)
	}
}

// Files of --config-dir win over --config, in the order of their names.
func TestKubeletConfigDir(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"10-first.conf": "maxPods: 20\nsystemReserved: {memory: 2Gi}\nclusterDNS: [10.0.0.1]\n", "20-last.conf": "maxPods: 30\nproviderID: null\n", "30.yaml": "maxPods: 40\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(kubeletHead+text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	o, err, _ := configured(t, kubeletHead+"maxPods: 10\nsystemReserved: {cpu: 1}\nclusterDNS: [10.0.0.2]\nproviderID: x\n", "--config-dir="+dir)
	if err != nil {
		t.Fatal(err)
	}
	if o.cfg.MaxPods != 30 || len(o.settings.Reserve.System) != 2 || o.cfg.ClusterDNS != "10.0.0.1" || o.settings.ProviderID != "" {
		t.Errorf("%d pods, DNS %s, provider %q, reserved %v", o.cfg.MaxPods, o.cfg.ClusterDNS, o.settings.ProviderID, o.settings.Reserve.System)
	}
	if err := os.WriteFile(filepath.Join(dir, "40.conf"), []byte("maxPods: 50\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err, _ := configured(t, "", "--config-dir="+dir); err == nil || !strings.Contains(err.Error(), "40.conf") {
		t.Errorf("error %v", err)
	}
}

// A kubeconfig with an identity that holds is used, whatever has become of the
// one to get it by.
func TestKubeconfigIsUsedWhereItHolds(t *testing.T) {
	p := &parts{t: t, dir: t.TempDir(), url: "https://127.0.0.1:1"}
	var err error
	if p.ca, err = pki.LoadOrCreateCluster(p.file("pki")); err != nil {
		t.Fatal(err)
	}
	write := func(name string, lifetime time.Duration) string {
		pair, err := p.ca.CA.Issue(pki.Request{Identity: pki.Identity{User: "system:node:n1"}, Usage: pki.Client, Lifetime: lifetime})
		if err != nil {
			t.Fatal(err)
		}
		file := p.file(name)
		err = pki.WriteKubeconfig(file, pki.Kubeconfig{Server: p.url, CA: p.ca.CA.CertPEM, Cluster: "c", User: "u", CertPEM: pair.CertPEM, KeyPEM: pair.KeyPEM})
		if err != nil {
			t.Fatal(err)
		}
		return file
	}
	for name, test := range map[string]struct {
		file string
		want bool
	}{
		"good": {write("good", time.Hour), true}, "over": {write("over", -time.Hour), false}, "missing": {p.file("missing"), false},
	} {
		o := &kubeletOptions{component: newComponent("kubelet", 0, nil)}
		o.kubeconfig = test.file
		if got := o.canUseKubeconfig(); got != test.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
