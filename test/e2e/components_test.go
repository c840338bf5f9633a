//go:build e2e

package e2e

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"skiff.dev/skiff/internal/pki"
	"skiff.dev/skiff/test/e2e/cluster"
	"skiff.dev/skiff/test/e2e/machine"
)

// TestComponents runs the five components as processes of their own, with an
// etcd of their own, each under its own identity, and the guestbook on them.
// There is no DNS, which is an addon there: services are named by address.
func TestComponents(t *testing.T) {
	sw := machine.NewSwitch(t)
	p := newParts(t, sw.New(t))
	p.start("etcd", p.etcd, p.file("etcd-data"), p.file("etcd.crt"), p.file("etcd.key"), p.file("pki/ca.crt"))
	p.start("kube-apiserver", p.skiff, p.apiServerFlags()...)
	p.c.WaitReady(t)
	p.start("kube-controller-manager", p.skiff, "--kubeconfig="+p.kubeconfig("manager", pki.ControllerManager()), "--use-service-account-credentials",
		"--cluster-cidr=10.244.0.0/16", "--allocate-node-cidrs", "--root-ca-file="+p.file("pki/ca.crt"),
		"--cluster-signing-cert-file="+p.file("pki/ca.crt"), "--cluster-signing-key-file="+p.file("pki/ca.key"))
	p.start("kube-scheduler", p.skiff, "--kubeconfig="+p.kubeconfig("scheduler", pki.Scheduler()))
	serving, key := p.issue("n1", pki.Request{Identity: pki.Node("n1"), Usage: pki.Server, DNSNames: []string{"n1"}, IPs: []net.IP{net.ParseIP(p.m.IP)}})
	p.start("kubelet", p.skiff, "--kubeconfig="+p.kubeconfig("kubelet", pki.Node("n1")), "--root-dir="+p.file("kubelet-data"), "--hostname-override=n1",
		"--tls-cert-file="+serving, "--tls-private-key-file="+key, "--client-ca-file="+p.file("pki/ca.crt"))
	p.start("kube-proxy", p.skiff, "--kubeconfig="+p.kubeconfig("proxy", pki.Proxy()), "--hostname-override=n1", "--cluster-cidr=10.244.0.0/16")
	p.c.Eventually("the node joins", 30*time.Second, func() error {
		out, err := p.c.Try("wait", "--for=condition=Ready", "node/n1", "--timeout=1s")
		if err != nil {
			return cluster.Want(out, "condition met")
		}
		return nil
	})
	g := p.deployGuestbook(sw)
	g.signAndRead()
	g.roll()
	before := g.kubectl("get", "pods", "-o", podsAndContainers)
	for _, name := range []string{"kube-scheduler", "kube-controller-manager", "kube-proxy", "kubelet", "kube-apiserver", "etcd"} {
		p.nodes[name].Kill(t)
		p.nodes[name].Start(t)
		p.c.WaitReady(t)
		g.signAndRead()
	}
	g.scale()
	g.kubectl("scale", "deployment/frontend", "--replicas=3")
	g.kubectl("rollout", "status", "deployment/frontend", "--timeout=60s")
	for line := range strings.Lines(g.kubectl("get", "pods", "-l", "app=redis", "-o", podsAndContainers)) {
		if !strings.Contains(before, line) {
			t.Errorf("a container is another than before the components were killed: %s", line)
		}
	}
	if err := cluster.Want(g.kubectl("logs", "deployment/redis-leader"), "Ready to accept connections"); err != nil {
		t.Error(err)
	}
	g.deleteNamespace()
}

const podsAndContainers = `jsonpath={range .items[*]}{.metadata.name} {.status.containerStatuses[*].containerID}{"\n"}{end}`

// parts is a cluster of separate processes.
type parts struct {
	t           *testing.T
	m           *machine.Machine
	c           *cluster.Cluster
	dir         string
	skiff, etcd string
	ca          *pki.Cluster
	nodes       map[string]*cluster.Node
}

func newParts(t *testing.T, m *machine.Machine) *parts {
	t.Helper()
	p := &parts{t: t, m: m, dir: t.TempDir(), skiff: cluster.Binary(t), nodes: map[string]*cluster.Node{}}
	t.Cleanup(func() { m.CheckNothingLeft(t, p.file("kubelet-data")) })
	var err error
	if p.ca, err = pki.LoadOrCreateCluster(p.file("pki")); err != nil {
		t.Fatal(err)
	}
	p.c = cluster.Adopt(t, m, p.dir)
	if err := os.Rename(p.kubeconfig("admin", pki.Admin()), p.c.Kubeconfig()); err != nil {
		t.Fatal(err)
	}
	p.etcd = p.file("etcd")
	cluster.GoBuild(t, p.etcd, "./test/e2e/etcd")
	p.issue("etcd", pki.Request{Identity: pki.Identity{User: "etcd"}, Usage: pki.Server, IPs: []net.IP{net.IPv4(127, 0, 0, 1)}})
	return p
}

func (p *parts) file(name string) string { return filepath.Join(p.dir, name) }

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
	if err := pki.WriteKubeconfig(file, pki.Kubeconfig{
		Server: "https://" + p.m.IP + ":" + cluster.APIPort, CA: p.ca.CA.CertPEM, Cluster: "e2e", User: id.User, CertPEM: pair.CertPEM, KeyPEM: pair.KeyPEM,
	}); err != nil {
		p.t.Fatal(err)
	}
	return file
}

func (p *parts) apiServerFlags() []string {
	serving, key := p.issue("apiserver", pki.Request{
		Identity: pki.APIServer(), Usage: pki.Server, DNSNames: []string{"kubernetes.default.svc"},
		IPs: []net.IP{net.ParseIP(p.m.IP), net.IPv4(127, 0, 0, 1), net.IPv4(10, 96, 0, 1)},
	})
	kubelet, kubeletKey := p.issue("kubelet-client", pki.Request{Identity: pki.KubeletClient(), Usage: pki.Client})
	store, storeKey := p.issue("etcd-client", pki.Request{Identity: pki.APIServer(), Usage: pki.Client})
	return []string{
		"--etcd-servers=https://127.0.0.1:2379", "--etcd-cafile=" + p.file("pki/ca.crt"), "--etcd-certfile=" + store, "--etcd-keyfile=" + storeKey,
		"--advertise-address=" + p.m.IP, "--tls-cert-file=" + serving, "--tls-private-key-file=" + key,
		"--client-ca-file=" + p.file("pki/ca.crt"), "--requestheader-client-ca-file=" + p.file("pki/front-proxy-ca.crt"),
		"--service-account-key-file=" + p.file("pki/sa.pub"), "--service-account-signing-key-file=" + p.file("pki/sa.key"),
		"--service-account-issuer=https://kubernetes.default.svc", "--service-cluster-ip-range=10.96.0.0/16",
		"--kubelet-client-certificate=" + kubelet, "--kubelet-client-key=" + kubeletKey, "--kubelet-certificate-authority=" + p.file("pki/ca.crt"),
		"--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction",
	}
}

// start starts a component; skiff's are named by the command.
func (p *parts) start(name, program string, args ...string) {
	p.t.Helper()
	if program == p.skiff {
		args = append([]string{name}, args...)
	}
	n := cluster.NewNode(p.m, name, p.file(name+"-data"), program, args...)
	p.nodes[name] = n
	p.t.Cleanup(func() {
		n.Stop(p.t)
		switch name {
		case "kubelet":
			n.Reset(p.t)
		case "kube-proxy":
			p.m.Run(p.t, p.skiff, "kube-proxy", "--cleanup")
		}
		if log, err := os.ReadFile(n.Log); p.t.Failed() && err == nil {
			p.t.Logf("log of %s:\n%s", name, log[max(0, len(log)-4096):])
		}
	})
	n.Start(p.t)
}

// deployGuestbook builds the guestbook's images and deploys it, with the
// addresses of its services in place of their names.
func (p *parts) deployGuestbook(sw *machine.Switch) *guestbook {
	p.t.Helper()
	frontend := p.file("frontend")
	cluster.GoBuild(p.t, frontend, "./examples/guestbook/frontend")
	kubelet := p.nodes["kubelet"]
	kubelet.BuildImage(p.t, "guestbook/frontend:v1", "--binary", frontend)
	redis := installRedis(p.t)
	kubelet.BuildImage(p.t, "guestbook/redis:v1", "--binary", filepath.Join(redis, "redis-server"), "--add-binary", filepath.Join(redis, "redis-cli"))
	manifest, err := os.ReadFile(filepath.Join(cluster.Root(), "examples", "guestbook", "guestbook.yaml"))
	if err != nil {
		p.t.Fatal(err)
	}
	const leader, follower = "10.96.0.100", "10.96.0.101"
	p.c.Apply(strings.NewReplacer(
		"redis-leader:6379", leader+":6379", "redis-follower:6379", follower+":6379", `"--replicaof", "redis-leader"`, `"--replicaof", "`+leader+`"`,
		"selector: {app: redis, role: leader}", "clusterIP: "+leader+"\n  selector: {app: redis, role: leader}",
		"selector: {app: redis, role: follower}", "clusterIP: "+follower+"\n  selector: {app: redis, role: follower}",
	).Replace(string(manifest)))
	g := &guestbook{t: p.t, c: p.c, sw: sw, url: "http://" + p.m.IP + ":30080/"}
	g.kubectl("rollout", "status", "deployment", "--timeout=120s")
	return g
}
