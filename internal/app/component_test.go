package app

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"go.etcd.io/etcd/server/v3/embed"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apiresource "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff.dev/skiff/internal/client"
	"skiff.dev/skiff/internal/meta"
	"skiff.dev/skiff/internal/pki"
	"skiff.dev/skiff/internal/testing/loopback"
)

// parts is a control plane of separate components, each with its own identity.
type parts struct {
	t   *testing.T
	dir string
	ca  *pki.Cluster
	url string
}

func (p *parts) file(name string) string { return filepath.Join(p.dir, name) }

// issue writes a certificate and its key.
func (p *parts) issue(name string, r pki.Request) (crt, key string) {
	p.t.Helper()
	pair, err := p.ca.CA.Issue(r)
	if err != nil {
		p.t.Fatal(err)
	}
	crt, key = p.file(name+".crt"), p.file(name+".key")
	if err := pki.SavePair(crt, key, pair); err != nil {
		p.t.Fatal(err)
	}
	return crt, key
}

func (p *parts) kubeconfig(name string, id pki.Identity) string {
	p.t.Helper()
	pair, err := p.ca.CA.Issue(pki.Request{Identity: id, Usage: pki.Client})
	if err != nil {
		p.t.Fatal(err)
	}
	file := p.file(name + ".kubeconfig")
	err = pki.WriteKubeconfig(file, pki.Kubeconfig{
		Server: p.url, CA: p.ca.CA.CertPEM, Cluster: "test", User: id.User, CertPEM: pair.CertPEM, KeyPEM: pair.KeyPEM,
	})
	if err != nil {
		p.t.Fatal(err)
	}
	return file
}

// run runs a command until the test ends, when it must end well.
func (p *parts) run(cmd *cobra.Command, args ...string) {
	p.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	cmd.SetArgs(append(args, "--log-level=error"))
	cmd.SilenceUsage, cmd.SilenceErrors = true, true
	done := make(chan error, 1)
	go func() { done <- cmd.ExecuteContext(ctx) }()
	p.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			p.t.Errorf("%s ended: %v", cmd.Name(), err)
		}
	})
}

func startEtcd(t *testing.T) string {
	t.Helper()
	cfg := embed.NewConfig()
	cfg.Dir = t.TempDir()
	cfg.LogLevel, cfg.LogOutputs = "error", []string{os.DevNull}
	at := func() []url.URL {
		return []url.URL{{Scheme: "http", Host: fmt.Sprintf("127.0.0.1:%d", loopback.Port(t))}}
	}
	cfg.ListenClientUrls, cfg.ListenPeerUrls = at(), at()
	cfg.AdvertiseClientUrls, cfg.AdvertisePeerUrls = cfg.ListenClientUrls, cfg.ListenPeerUrls
	cfg.InitialCluster = cfg.Name + "=" + cfg.ListenPeerUrls[0].String()
	e, err := embed.StartEtcd(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Close)
	<-e.Server.ReadyNotify()
	return cfg.ListenClientUrls[0].String()
}

// TestComponents runs the control plane as upstream's would be run: an etcd,
// and three components with their own identities over HTTPS.
func TestComponents(t *testing.T) {
	log := slog.Default()
	t.Cleanup(func() { slog.SetDefault(log) })
	p := &parts{t: t, dir: t.TempDir()}
	var err error
	if p.ca, err = pki.LoadOrCreateCluster(p.file("pki")); err != nil {
		t.Fatal(err)
	}
	secure := loopback.Port(t)
	p.url = fmt.Sprintf("https://127.0.0.1:%d", secure)
	serving, servingKey := p.issue("apiserver", pki.Request{Identity: pki.Identity{User: "kube-apiserver"}, Usage: pki.Server, IPs: []net.IP{net.IPv4(127, 0, 0, 1)}})
	kubelet, kubeletKey := p.issue("kubelet-client", pki.Request{Identity: pki.KubeletClient(), Usage: pki.Client})
	p.run(kubeAPIServerCommand(), "--etcd-servers="+startEtcd(t), fmt.Sprintf("--secure-port=%d", secure), "--bind-address=127.0.0.1",
		"--advertise-address=10.0.0.1", "--tls-cert-file="+serving, "--tls-private-key-file="+servingKey,
		"--client-ca-file="+p.file("pki/ca.crt"), "--requestheader-client-ca-file="+p.file("pki/front-proxy-ca.crt"),
		"--service-account-key-file="+p.file("pki/sa.pub"), "--service-account-signing-key-file="+p.file("pki/sa.key"),
		"--service-account-issuer=https://kubernetes.default.svc", "--service-cluster-ip-range=10.96.0.0/16",
		"--kubelet-client-certificate="+kubelet, "--kubelet-client-key="+kubeletKey, "--kubelet-certificate-authority="+p.file("pki/ca.crt"),
		"--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction", "--allow-privileged=true")
	admin := p.ready()
	managerHealth, schedulerHealth := loopback.Port(t), loopback.Port(t)
	p.run(kubeControllerManagerCommand(), "--kubeconfig="+p.kubeconfig("manager", pki.ControllerManager()), "--use-service-account-credentials",
		"--bind-address=127.0.0.1", fmt.Sprintf("--secure-port=%d", managerHealth), "--allocate-node-cidrs", "--cluster-cidr=10.244.0.0/16",
		"--cluster-signing-cert-file="+p.file("pki/ca.crt"), "--cluster-signing-key-file="+p.file("pki/ca.key"),
		"--service-account-private-key-file="+p.file("pki/sa.key"), "--root-ca-file="+p.file("pki/ca.crt"), "--controllers=*,-token-cleaner",
		"--client-ca-file="+p.file("pki/ca.crt"))
	p.run(kubeSchedulerCommand(), "--kubeconfig="+p.kubeconfig("scheduler", pki.Scheduler()), "--bind-address=127.0.0.1", fmt.Sprintf("--secure-port=%d", schedulerHealth),
		"--client-ca-file="+p.file("pki/ca.crt"), "--authentication-kubeconfig="+p.file("scheduler.kubeconfig"), "--authorization-kubeconfig="+p.file("scheduler.kubeconfig"))
	p.addNode(admin)
	p.deploy(admin, 2)
	for port, wants := range map[int][]string{
		managerHealth: {`workqueue_adds_total{name="deployment`, `workqueue_depth{name="replicaset`,
			`workqueue_work_duration_seconds_bucket{name="endpointslice`, `rest_client_requests_total{code="201",host="127.0.0.1:`, "kubernetes_build_info{"},
		schedulerHealth: {`scheduler_schedule_attempts_total{profile="default-scheduler",result="scheduled"} 2`,
			`scheduler_scheduling_attempt_duration_seconds_count{`, `scheduler_pending_pods{queue="active"} 0`, `rest_client_request_duration_seconds_bucket{`},
	} {
		for _, path := range []string{"/healthz", "/livez", "/readyz"} {
			if code, body := p.ask(port, path, nil); code != http.StatusOK || body != "ok" {
				t.Errorf("%s on %d: %d %q", path, port, code, body)
			}
		}
		if code, body := p.ask(port, "/metrics", nil); code != http.StatusUnauthorized {
			t.Errorf("metrics without a credential: %d %s", code, body)
		}
		code, body := p.ask(port, "/metrics", &pki.Identity{User: "nobody"})
		if want := `forbidden: User \"nobody\" cannot get path \"/metrics\"`; code != http.StatusForbidden || !strings.Contains(body, want) {
			t.Errorf("metrics without the right: %d %s", code, body)
		}
		id := pki.Admin()
		code, body = p.ask(port, "/metrics", &id)
		for _, want := range wants {
			if code != http.StatusOK || !strings.Contains(body, want) {
				t.Errorf("%d: %d, no %s in\n%s", port, code, want, body)
			}
		}
	}
}

// ready waits for the API server and returns the administrator's client.
func (p *parts) ready() *client.Client {
	p.t.Helper()
	a := admin{kubeconfig: p.kubeconfig("admin", pki.Admin())}
	c, _, closer, err := a.open("test")
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(closer)
	p.await("the API server", func() bool {
		_, err := client.For[*corev1.Namespace](c).Get(p.t.Context(), "", "kube-system")
		return err == nil
	})
	return c
}

// await asks again until it is so, or half a minute has passed.
func (p *parts) await(what string, done func() bool) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), 30*time.Second)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !done() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			p.t.Fatalf("waited in vain for %s", what)
		}
	}
}

func (p *parts) addNode(c *client.Client) {
	p.t.Helper()
	nodes := client.For[*corev1.Node](c)
	n, err := nodes.Create(p.t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}})
	if err != nil {
		p.t.Fatal(err)
	}
	room := corev1.ResourceList{"cpu": apiresource.MustParse("4"), "memory": apiresource.MustParse("4Gi"), "pods": apiresource.MustParse("10")}
	n = meta.Copy(n)
	n.Status.Capacity, n.Status.Allocatable = room, room
	n.Status.Conditions = []corev1.NodeCondition{{
		Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "KubeletReady", LastHeartbeatTime: metav1.Now(), LastTransitionTime: metav1.Now(),
	}}
	if _, err := nodes.UpdateStatus(p.t.Context(), n); err != nil {
		p.t.Fatal(err)
	}
	p.await("the node's pod range", func() bool {
		n, err := nodes.Get(p.t.Context(), "", "n1")
		return err == nil && n.Spec.PodCIDR != ""
	})
}

func (p *parts) deploy(c *client.Client, replicas int32) {
	p.t.Helper()
	labels := map[string]string{"app": "web"}
	_, err := client.For[*appsv1.Deployment](c).Create(p.t.Context(), &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"},
		Spec: appsv1.DeploymentSpec{
			Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "web"}}},
			},
		},
	})
	if err != nil {
		p.t.Fatal(err)
	}
	p.await("pods on the node", func() bool {
		pods, err := client.For[*corev1.Pod](c).List(p.t.Context(), "default", metav1.ListOptions{FieldSelector: "spec.nodeName=n1"})
		return err == nil && len(pods) == int(replicas)
	})
}

// ask asks for a path of a component's port, with a certificate of that identity
// if there is one.
func (p *parts) ask(port int, path string, id *pki.Identity) (int, string) {
	p.t.Helper()
	config := &tls.Config{InsecureSkipVerify: true} //nolint:gosec // made for the run
	if id != nil {
		pair, err := p.ca.CA.Issue(pki.Request{Identity: *id, Usage: pki.Client})
		if err != nil {
			p.t.Fatal(err)
		}
		config.Certificates = []tls.Certificate{*pair.TLS()}
	}
	hc := &http.Client{Transport: &http.Transport{TLSClientConfig: config}}
	defer hc.CloseIdleConnections()
	resp, err := hc.Get(fmt.Sprintf("https://127.0.0.1:%d%s", port, path))
	if err != nil {
		p.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		p.t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

func TestComponentFlags(t *testing.T) {
	for name, test := range map[string]struct {
		cmd  *cobra.Command
		args string
		want string
	}{
		"unknown":        {kubeSchedulerCommand(), "--no-such-flag", "unknown flag: --no-such-flag"},
		"no kubeconfig":  {kubeSchedulerCommand(), "", "--kubeconfig: say how to reach the API server"},
		"no etcd":        {kubeAPIServerCommand(), "", "--etcd-servers: say where etcd is"},
		"webhook":        {kubeAPIServerCommand(), "--authorization-mode=Node,RBAC,Webhook", `"Webhook" is not supported`},
		"plugin":         {kubeAPIServerCommand(), "--enable-admission-plugins=EventRateLimit", `there is no plugin "EventRateLimit"`},
		"header":         {kubeAPIServerCommand(), "--requestheader-username-headers=X:User", `--requestheader-username-headers: "X:User" is not the name of a header`},
		"same header":    {kubeAPIServerCommand(), "--requestheader-uid-headers=x-remote-user", "--requestheader-uid-headers: x-remote-user is already one of --requestheader-username-headers"},
		"no user header": {kubeAPIServerCommand(), "--requestheader-client-ca-file=x --requestheader-username-headers=", "say in which header the user's name is"},
		"plugin off":     {kubeAPIServerCommand(), "--disable-admission-plugins=ServiceAccount", "ServiceAccount cannot be turned off"},
		"proxy mode":     {kubeProxyCommand(), "--proxy-mode=ipvs", `"ipvs" is not supported`},
		"kubelet":        {kubeletCommand(), "--root-dir=" + t.TempDir(), "--kubeconfig: say how to reach"},
		"kubelet no IP":  {kubeletCommand(), "--node-ip=x --root-dir=" + t.TempDir(), `--node-ip: "x" is not an IP address`},
		"missing file":   {kubeControllerManagerCommand(), "--kubeconfig=/none", "--kubeconfig: "},
		"scheduler file": {kubeSchedulerCommand(), "--config=/none", "--config: "},
		"argument":       {kubeProxyCommand(), "now", "unknown command"},
	} {
		t.Run(name, func(t *testing.T) {
			log := slog.Default()
			defer slog.SetDefault(log)
			test.cmd.SetArgs(strings.Fields(test.args))
			test.cmd.SilenceUsage, test.cmd.SilenceErrors = true, true
			if err := test.cmd.ExecuteContext(t.Context()); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v, want %q", err, test.want)
			}
		})
	}
}

func TestFlagsWithoutEffectAreHiddenAndHaveAReason(t *testing.T) {
	for _, cmd := range componentCommands() {
		cmd.Flags().VisitAll(func(f *pflag.Flag) {
			if f.Usage == "accepted without effect" && !f.Hidden {
				t.Errorf("%s --%s is shown", cmd.Name(), f.Name)
			}
		})
	}
	for _, w := range []without{withoutEverywhere, managerWithout()} {
		for flag, reason := range w {
			if reason == "" {
				t.Errorf("%s has no reason", flag)
			}
		}
	}
}

func TestFlagsWinOverTheFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "proxy.yaml")
	text := "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\nclusterCIDR: 10.1.0.0/16\nhostnameOverride: a\nnftables: {masqueradeAll: true}\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	p := &kubeProxy{component: newComponent("kube-proxy", 0, nil), file: file}
	f := pflag.NewFlagSet("", pflag.ContinueOnError)
	p.flags(f)
	if err := f.Parse([]string{"--config=" + file, "--hostname-override=b", "--bind-address=10.0.0.9"}); err != nil {
		t.Fatal(err)
	}
	if err := p.load(f); err != nil {
		t.Fatal(err)
	}
	n, err := p.node()
	if err != nil {
		t.Fatal(err)
	}
	got := []string{n.Name, n.PodCIDRs[0].String(), n.NodePortAddresses[0].String(), fmt.Sprint(p.masqueradeAll)}
	if !slices.Equal(got, []string{"b", "10.1.0.0/16", "10.0.0.9", "true"}) {
		t.Errorf("got %q", got)
	}
}
