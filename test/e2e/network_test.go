//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"skiff.dev/skiff/test/e2e/cluster"
	"skiff.dev/skiff/test/e2e/machine"
)

// TestNetwork looks at services, ports and names on one node.
func TestNetwork(t *testing.T) {
	sw := machine.NewSwitch(t)
	m := sw.New(t)
	resolver := startResolver(t, m)
	c := cluster.Start(t, m)
	t.Cleanup(resolver)
	c.BuildImages(t)
	c.Apply(networkApp)
	c.Kubectl("rollout", "status", "deployment/web", "--timeout=60s")
	c.Kubectl("wait", "--for=condition=Ready", "pods", "--all", "--timeout=60s")
	n := &network{Cluster: c, sw: sw}
	for _, test := range []struct {
		name string
		run  func(*network)
	}{
		{"Names", (*network).names},
		{"HostPort", (*network).hostPort},
		{"HostNetwork", (*network).hostNetwork},
		{"NodePort", (*network).nodePort},
		{"Affinity", (*network).affinity},
		{"Hairpin", (*network).hairpin},
		{"UDP", (*network).udp},
		{"NoEndpoints", (*network).noEndpoints},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(&network{Cluster: n.On(t), t: t, sw: sw}) })
	}
}

type network struct {
	*cluster.Cluster
	t  *testing.T
	sw *machine.Switch
}

const networkApp = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 3
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - name: web
        image: ` + cluster.WebApp + `
        ports: [{name: http, containerPort: 8080}]
        readinessProbe: {httpGet: {path: /healthz, port: http}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  type: NodePort
  selector: {app: web}
  ports:
  - {name: http, port: 80, targetPort: http, nodePort: 30081}
  - {name: datagrams, port: 9001, protocol: UDP}
---
apiVersion: v1
kind: Service
metadata: {name: sticky}
spec: {sessionAffinity: ClientIP, selector: {app: web}, ports: [{port: 80, targetPort: http}]}
---
apiVersion: v1
kind: Service
metadata: {name: headless}
spec: {clusterIP: None, selector: {app: web}, ports: [{name: http, port: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: outside}
spec: {type: ExternalName, externalName: www.e2e.test}
---
apiVersion: v1
kind: Service
metadata: {name: itself}
spec: {selector: {app: single}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: nobody}
spec: {selector: {app: nobody}, ports: [{port: 80}]}
---
apiVersion: v1
kind: Pod
metadata: {name: single, labels: {app: single}}
spec:
  hostname: one
  subdomain: named
  containers:
  - {name: web, image: ` + cluster.WebApp + `, ports: [{containerPort: 8080, hostPort: 18080}]}
  - {name: tools, image: "` + cluster.Tools + `", command: [sleep, "100000"]}
---
apiVersion: v1
kind: Service
metadata: {name: named}
spec: {clusterIP: None, selector: {app: single}, ports: [{port: 8080}]}
---
apiVersion: v1
kind: Pod
metadata: {name: host}
spec:
  hostNetwork: true
  dnsPolicy: ClusterFirstWithHostNet
  containers: [{name: tools, image: "` + cluster.Tools + `", command: [sleep, "100000"]}]
`

// startResolver serves the zone e2e.test and makes it the machine's resolver
// until end is called.
func startResolver(t *testing.T, m *machine.Machine) (end func()) {
	t.Helper()
	var packets net.PacketConn
	var err error
	inside := m.Inside(func() { packets, err = net.ListenPacket("udp", "127.0.0.1:53") })
	if inside != nil || err != nil {
		t.Fatal(inside, err)
	}
	server := &dns.Server{PacketConn: packets, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		a := new(dns.Msg).SetReply(q)
		if q.Question[0].Name == "www.e2e.test." && q.Question[0].Qtype == dns.TypeA {
			rr, _ := dns.NewRR("www.e2e.test. 5 IN A 192.0.2.7") // it is well-formed
			a.Answer = append(a.Answer, rr)
		}
		w.WriteMsg(a) // who asked may have gone
	})}
	go server.ActivateAndServe()
	t.Cleanup(func() { server.Shutdown() })
	file := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(file, []byte("nameserver 127.0.0.1\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	m.Run(t, "mount", "--bind", file, "/etc/resolv.conf")
	return func() {
		m.Run(t, "umount", "/etc/resolv.conf")
		m.Run(t, "rm", "-rf", "/run/mount") // where mount keeps its notes
	}
}

func (n *network) in(pod string, command ...string) string {
	n.t.Helper()
	return strings.TrimSpace(n.Kubectl(append([]string{"exec", pod, "-c", "tools", "--"}, command...)...))
}

func (n *network) serviceIP(name string) string {
	n.t.Helper()
	return n.Kubectl("get", "service", name, "-o", "jsonpath={.spec.clusterIP}")
}

func (n *network) same(what, got, want string) {
	n.t.Helper()
	if got != want {
		n.t.Errorf("%s: %q, want %q", what, got, want)
	}
}

func (n *network) names() {
	for _, pod := range []string{"single", "host"} {
		for _, name := range []string{"web", "web.default", "web.default.svc", "web.default.svc.cluster.local", "web.default.svc.cluster.local."} {
			n.same(pod+" asks for "+name, n.in(pod, "webapp", "host", name), n.serviceIP("web"))
		}
	}
	ips := strings.Fields(n.Kubectl("get", "pods", "-l", "app=web", "-o", `jsonpath={range .items[*]}{.status.podIP}{"\n"}{end}`))
	if got := strings.Fields(n.in("single", "webapp", "host", "headless")); len(got) != 3 || !subset(got, ips) {
		n.t.Errorf("the headless service has %v, the pods %v", got, ips)
	}
	n.same("SRV", n.in("single", "webapp", "srv", "_http._tcp.web.default.svc.cluster.local"), "web.default.svc.cluster.local. 80")
	n.same("a pod's own name", n.in("single", "webapp", "host", "one.named.default.svc.cluster.local"), n.Kubectl("get", "pod", "single", "-o", "jsonpath={.status.podIP}"))
	n.same("the API server", n.in("single", "webapp", "host", "kubernetes.default"), n.serviceIP("kubernetes"))
	n.same("a name elsewhere", n.in("single", "webapp", "host", "www.e2e.test"), "192.0.2.7")
	n.same("an external name", n.in("single", "webapp", "host", "outside"), "192.0.2.7")
	if out, err := n.Try("exec", "single", "-c", "tools", "--", "webapp", "host", "nothing.default.svc.cluster.local"); err == nil || cluster.Want(out, "no such host") != nil {
		n.t.Errorf("a name of nothing: %v %s", err, out)
	}
}

func subset(some, of []string) bool {
	for _, s := range some {
		found := false
		for _, o := range of {
			found = found || s == o
		}
		if !found {
			return false
		}
	}
	return true
}

// outside is a client that is not part of the cluster.
func (n *network) outside() *http.Client {
	return &http.Client{Timeout: 3 * time.Second, Transport: &http.Transport{DialContext: n.sw.Dial, DisableKeepAlives: true}}
}

func (n *network) hostPort() {
	for from, client := range map[string]*http.Client{"outside": n.outside(), "the node": n.HTTP(3 * time.Second)} {
		got, err := get(client, "http://"+n.Machine.IP+":18080/hostname")
		if err != nil || got != "one\n" {
			n.t.Errorf("from %s: %q %v", from, got, err)
		}
	}
	seen, err := get(n.outside(), "http://"+n.Machine.IP+":18080/client")
	if err != nil || !strings.HasPrefix(seen, n.sw.IP()+":") {
		n.t.Errorf("the source address of a host port is %q (%v)", seen, err)
	}
}

func (n *network) hostNetwork() {
	n.same("its address", n.Kubectl("get", "pod", "host", "-o", "jsonpath={.status.podIP}"), n.Machine.IP)
	if err := cluster.Want(n.in("host", "webapp", "get", "http://web/hostname"), "web-"); err != nil {
		n.t.Error(err)
	}
}

func (n *network) nodePort() {
	hosts := map[string]int{}
	for range 60 {
		host, err := get(n.outside(), "http://"+n.Machine.IP+":30081/hostname")
		if err != nil {
			n.t.Fatal(err)
		}
		hosts[host]++
	}
	if len(hosts) != 3 {
		n.t.Errorf("the node port reached %v", hosts)
	}
	if err := cluster.Want(n.in("single", "webapp", "get", "http://"+n.Machine.IP+":30081/hostname"), "web-"); err != nil {
		n.t.Errorf("from a pod: %v", err)
	}
}

func (n *network) affinity() {
	first := n.in("single", "webapp", "get", "http://sticky/hostname")
	for range 15 {
		n.same("the same client again", n.in("single", "webapp", "get", "http://sticky/hostname"), first)
	}
}

func (n *network) hairpin() {
	n.same("a pod through its own service", n.in("single", "webapp", "get", "http://itself/hostname"), "one")
}

func (n *network) udp() {
	conn, err := n.Machine.Dial(n.t.Context(), "udp", net.JoinHostPort(n.serviceIP("web"), "9001"))
	if err != nil {
		n.t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(3 * time.Second)); err != nil {
		n.t.Fatal(err)
	}
	if _, err := fmt.Fprint(conn, "ping"); err != nil {
		n.t.Fatal(err)
	}
	buf := make([]byte, 100)
	k, err := conn.Read(buf)
	if err != nil || !strings.HasSuffix(string(buf[:k]), " ping") {
		n.t.Errorf("%q %v", buf[:k], err)
	}
}

// noEndpoints refuses at once instead of letting clients wait.
func (n *network) noEndpoints() {
	address := net.JoinHostPort(n.serviceIP("nobody"), "80")
	ctx, cancel := context.WithTimeout(n.t.Context(), 2*time.Second)
	defer cancel()
	begin := time.Now()
	if conn, err := n.Machine.Dial(ctx, "tcp", address); err == nil {
		conn.Close()
		n.t.Error("somebody answered")
	}
	if took := time.Since(begin); took > time.Second {
		n.t.Errorf("the refusal took %v", took)
	}
}
