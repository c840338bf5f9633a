package app

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	proxyv1alpha1 "k8s.io/kube-proxy/config/v1alpha1"
)

// The command lines that kubeadm gives the parts of a cluster, as its
// documentation has them (implementation details, and what
// "kubeadm config print init-defaults" leads to).
var kubeadmLines = map[string]struct {
	cmd  func() *cobra.Command
	args string
}{
	"kube-apiserver": {kubeAPIServerCommand, `--advertise-address=192.0.2.10 --allow-privileged=true --authorization-mode=Node,RBAC
		--client-ca-file=PKI/ca.crt --enable-admission-plugins=NodeRestriction --enable-bootstrap-token-auth=true
		--etcd-cafile=PKI/etcd/ca.crt --etcd-certfile=PKI/apiserver-etcd-client.crt --etcd-keyfile=PKI/apiserver-etcd-client.key
		--etcd-servers=https://127.0.0.1:2379 --kubelet-client-certificate=PKI/apiserver-kubelet-client.crt
		--kubelet-client-key=PKI/apiserver-kubelet-client.key --kubelet-preferred-address-types=InternalIP,ExternalIP,Hostname
		--proxy-client-cert-file=PKI/front-proxy-client.crt --proxy-client-key-file=PKI/front-proxy-client.key
		--requestheader-allowed-names=front-proxy-client --requestheader-client-ca-file=PKI/front-proxy-ca.crt
		--requestheader-extra-headers-prefix=X-Remote-Extra- --requestheader-group-headers=X-Remote-Group
		--requestheader-uid-headers=X-Remote-Uid --requestheader-username-headers=X-Remote-User --secure-port=6443
		--service-account-issuer=https://kubernetes.default.svc.cluster.local --service-account-key-file=PKI/sa.pub
		--service-account-signing-key-file=PKI/sa.key --service-cluster-ip-range=10.96.0.0/12
		--tls-cert-file=PKI/apiserver.crt --tls-private-key-file=PKI/apiserver.key`},
	"kube-controller-manager": {kubeControllerManagerCommand, `--allocate-node-cidrs=true --authentication-kubeconfig=PKI/controller-manager.conf
		--authorization-kubeconfig=PKI/controller-manager.conf --bind-address=127.0.0.1 --client-ca-file=PKI/ca.crt
		--cluster-cidr=10.244.0.0/16 --cluster-name=kubernetes --cluster-signing-cert-file=PKI/ca.crt
		--cluster-signing-key-file=PKI/ca.key --controllers=*,bootstrap-signer-controller,token-cleaner-controller
		--kubeconfig=PKI/controller-manager.conf --leader-elect=true --requestheader-client-ca-file=PKI/front-proxy-ca.crt
		--root-ca-file=PKI/ca.crt --service-account-private-key-file=PKI/sa.key --service-cluster-ip-range=10.96.0.0/12
		--use-service-account-credentials=true`},
	"kube-controller-manager of older ones": {kubeControllerManagerCommand, `--controllers=*,bootstrapsigner,tokencleaner --kubeconfig=PKI/controller-manager.conf`},
	"kube-scheduler": {kubeSchedulerCommand, `--authentication-kubeconfig=PKI/scheduler.conf --authorization-kubeconfig=PKI/scheduler.conf
		--bind-address=127.0.0.1 --kubeconfig=PKI/scheduler.conf --leader-elect=true`},
	"kube-proxy": {kubeProxyCommand, `--config=PKI/config.conf --hostname-override=n1`},
	"kubelet": {kubeletCommand, `--bootstrap-kubeconfig=PKI/bootstrap-kubelet.conf --kubeconfig=PKI/kubelet.conf --config=PKI/config.yaml
		--container-runtime-endpoint=unix:///run/containerd/containerd.sock --node-ip=192.0.2.10 --hostname-override=n1
		--pod-infra-container-image=registry.k8s.io/pause:3.10 --node-labels=a=b --register-with-taints=c=d:NoSchedule
		--cgroup-driver=systemd --volume-plugin-dir=/opt/libexec --root-dir=PKI/root`},
}

// Every line is taken as far as the first file that it names and that is not
// there: all its flags are known, and their values good.
func TestKubeadmsCommandLines(t *testing.T) {
	old := slog.Default()
	t.Cleanup(func() { slog.SetDefault(old) })
	for name, line := range kubeadmLines {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			cmd := line.cmd()
			cmd.SetArgs(append(strings.Fields(strings.ReplaceAll(line.args, "PKI", dir)), "--log-level=error"))
			cmd.SilenceUsage, cmd.SilenceErrors = true, true
			err := cmd.ExecuteContext(t.Context())
			if err == nil || !strings.Contains(err.Error(), dir) || !strings.Contains(err.Error(), "no such file") {
				t.Errorf("error %v", err)
			}
		})
	}
}

// kubeadmKubelet is what kubeadm writes to /var/lib/kubelet/config.yaml.
const kubeadmKubelet = kubeletHead + `authentication:
  anonymous: {enabled: false}
  webhook: {cacheTTL: 0s, enabled: true}
  x509: {clientCAFile: /etc/kubernetes/pki/ca.crt}
authorization:
  mode: Webhook
  webhook: {cacheAuthorizedTTL: 0s, cacheUnauthorizedTTL: 0s}
cgroupDriver: systemd
clusterDNS: [10.96.0.10]
clusterDomain: cluster.local
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
cpuManagerReconcilePeriod: 0s
crashLoopBackOff: {}
evictionPressureTransitionPeriod: 0s
fileCheckFrequency: 0s
healthzBindAddress: 127.0.0.1
healthzPort: 10248
httpCheckFrequency: 0s
imageMaximumGCAge: 0s
imageMinimumGCAge: 0s
logging:
  flushFrequency: 0
  options: {json: {infoBufferSize: "0"}, text: {infoBufferSize: "0"}}
  verbosity: 0
memorySwap: {}
nodeStatusReportFrequency: 0s
nodeStatusUpdateFrequency: 0s
resolvConf: /run/systemd/resolve/resolv.conf
rotateCertificates: true
runtimeRequestTimeout: 0s
shutdownGracePeriod: 0s
shutdownGracePeriodCriticalPods: 0s
staticPodPath: /etc/kubernetes/manifests
streamingConnectionIdleTimeout: 0s
syncFrequency: 0s
volumeStatsAggPeriod: 0s
`

func TestKubeadmsKubeletConfig(t *testing.T) {
	o, err, said := configured(t, kubeadmKubelet)
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(said, "level=WARN"); n != 1 || !strings.Contains(said, "cgroupDriver") {
		t.Errorf("warned: %s", said)
	}
	got := []string{o.staticPods, o.clientCA, o.settings.ResolvConf, o.cfg.RuntimeEndpoint}
	want := []string{"/etc/kubernetes/manifests", "/etc/kubernetes/pki/ca.crt", "/run/systemd/resolve/resolv.conf", "unix:///run/containerd/containerd.sock"}
	if d := cmp.Diff(want, got); d != "" || o.fixed {
		t.Error(d, o.fixed)
	}
}

// The file that the yardstick gives upstream's kubelet.
func TestYardsticksKubeletConfig(t *testing.T) {
	o, err, said := configured(t, kubeletHead+`cgroupDriver: cgroupfs
evictionHard: {memory.available: 100Mi, nodefs.available: 1%, imagefs.available: 1%, nodefs.inodesFree: 1%}
failCgroupV1: false
failSwapOn: false
imageGCHighThresholdPercent: 99
imageGCLowThresholdPercent: 98
oomScoreAdj: 0
resolvConf: /etc/resolv.conf
`)
	if err != nil || o.settings.Pulls.HighPercent != 99 || o.settings.Reserve.Storage.Percent != 1 {
		t.Errorf("%v %+v", err, o.settings)
	}
	if !strings.Contains(said, "pods are not evicted") {
		t.Errorf("said %q", said)
	}
}

const proxyHead = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n"

// kubeadmProxy is what kubeadm writes to the ConfigMap kube-system/kube-proxy.
const kubeadmProxy = proxyHead + `bindAddress: 0.0.0.0
bindAddressHardFail: false
clientConnection: {acceptContentTypes: "", burst: 0, contentType: "", kubeconfig: /var/lib/kube-proxy/kubeconfig.conf, qps: 0}
clusterCIDR: 10.244.0.0/16
configSyncPeriod: 0s
conntrack: {maxPerCore: null, min: null, tcpBeLiberal: false, tcpCloseWaitTimeout: null, tcpEstablishedTimeout: null, udpStreamTimeout: 0s, udpTimeout: 0s}
detectLocal: {bridgeInterface: "", interfaceNamePrefix: ""}
detectLocalMode: ""
enableProfiling: false
healthzBindAddress: ""
hostnameOverride: ""
iptables: {localhostNodePorts: null, masqueradeAll: false, masqueradeBit: null, minSyncPeriod: 0s, syncPeriod: 0s}
ipvs: {excludeCIDRs: null, minSyncPeriod: 0s, scheduler: "", strictARP: false, syncPeriod: 0s, tcpFinTimeout: 0s, tcpTimeout: 0s, udpTimeout: 0s}
logging:
  flushFrequency: 0
  options: {json: {infoBufferSize: "0"}, text: {infoBufferSize: "0"}}
  verbosity: 0
metricsBindAddress: ""
mode: ""
nftables: {masqueradeAll: false, masqueradeBit: null, minSyncPeriod: 0s, syncPeriod: 0s}
nodePortAddresses: null
oomScoreAdj: null
portRange: ""
showHiddenMetricsForVersion: ""
winkernel: {enableDSR: false, forwardHealthCheckVip: false, networkName: "", rootHnsEndpointName: "", sourceVip: ""}
`

// loaded is what a file makes of the proxy, its error and what it warned about.
func loaded(t *testing.T, text string) (*kubeProxy, error, string) {
	t.Helper()
	var log bytes.Buffer
	old := slog.Default()
	slog.SetDefault(slog.New(slog.NewTextHandler(&log, nil)))
	defer slog.SetDefault(old)
	file := filepath.Join(t.TempDir(), "proxy.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	p := &kubeProxy{component: newComponent("kube-proxy", 0, nil)}
	f := pflag.NewFlagSet("", pflag.ContinueOnError)
	p.flags(f)
	p.file = file
	err := p.load(f)
	return p, err, log.String()
}

func TestKubeadmsProxyConfig(t *testing.T) {
	p, err, said := loaded(t, kubeadmProxy)
	if err != nil || said != "" {
		t.Errorf("%v, said %q", err, said)
	}
	if p.kubeconfig != "/var/lib/kube-proxy/kubeconfig.conf" || p.clusterCIDR != "10.244.0.0/16" {
		t.Errorf("%+v", p)
	}
	for text, want := range map[string]string{
		"detectLocalMode: BridgeInterface\n":          "detectLocalMode: what comes from pods is told by their addresses",
		"detectLocal: {bridgeInterface: br0}\n":       "detectLocal.bridgeInterface: what comes from pods",
		"detectLocalMode: ClusterCIDR\n":              "",
		"noSuchField: 1\n":                            "noSuchField",
		"conntrack: {maxPerCore: 1, min: 2}\n":        "",
		"nftables: {syncPeriod: 30s}\nmode: nftables": "",
	} {
		if _, err, _ := loaded(t, proxyHead+text); (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", text, err)
		}
	}
	if _, _, said := loaded(t, proxyHead+"conntrack: {maxPerCore: 1}\n"); !strings.Contains(said, "conntrack.maxPerCore") {
		t.Errorf("said %q", said)
	}
}

// Every field is carried out, without effect and warned about, or refused.
func TestEveryFieldOfTheProxyIsKnown(t *testing.T) {
	known := map[string]bool{"apiVersion": true, "kind": true}
	var walk func(typ reflect.Type, prefix string)
	walk = func(typ reflect.Type, prefix string) {
		for i := range typ.NumField() {
			name, _, _ := strings.Cut(typ.Field(i).Tag.Get("json"), ",")
			if name == "" {
				continue
			}
			name = prefix + name
			_, said := proxyFields[name]
			if at := typ.Field(i).Type; !said && at.Kind() == reflect.Struct {
				walk(at, name+".")
				continue
			}
			known[name] = true
			if !said {
				t.Errorf("nothing is said about %s", name)
			}
		}
	}
	walk(reflect.TypeFor[proxyv1alpha1.KubeProxyConfiguration](), "")
	for name := range proxyFields {
		if !known[name] {
			t.Errorf("there is no field %s", name)
		}
	}
}

// A scheduler's file as kubeadm's users mount it.
func TestKubeadmsSchedulerConfig(t *testing.T) {
	file := filepath.Join(t.TempDir(), "scheduler.yaml")
	text := `apiVersion: kubescheduler.config.k8s.io/v1
kind: KubeSchedulerConfiguration
clientConnection: {kubeconfig: /etc/kubernetes/scheduler.conf, acceptContentTypes: "", contentType: application/vnd.kubernetes.protobuf, qps: 50, burst: 100}
leaderElection: {leaderElect: true, leaseDuration: 15s, renewDeadline: 10s, retryPeriod: 2s, resourceLock: leases, resourceName: kube-scheduler, resourceNamespace: kube-system}
enableContentionProfiling: true
enableProfiling: true
parallelism: 16
podInitialBackoffSeconds: 1
podMaxBackoffSeconds: 10
`
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	c := newComponent("kube-scheduler", schedulerPort, nil)
	f := pflag.NewFlagSet("", pflag.ContinueOnError)
	c.clientFlags(f)
	c.leaderFlags(f)
	if _, err := c.schedulerConfig(f, file); err != nil || c.kubeconfig != "/etc/kubernetes/scheduler.conf" || !c.lead.LeaderElect {
		t.Errorf("%v %+v", err, c)
	}
}
