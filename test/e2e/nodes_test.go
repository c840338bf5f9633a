//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"skiff.dev/skiff/test/e2e/cluster"
	"skiff.dev/skiff/test/e2e/machine"
)

// pair is a server n1 and an agent n2.
type pair struct {
	*cluster.Cluster
	t       *testing.T
	machine *machine.Machine // n2's
	agent   *cluster.Node
}

func startPair(t *testing.T, mode string) *pair {
	t.Helper()
	sw := machine.NewSwitch(t)
	p := &pair{t: t, Cluster: cluster.Start(t, sw.New(t), "--pod-network", mode)}
	p.BuildImages(t)
	token, err := p.Command(t.Context(), "token", "create", "--kubeconfig", p.Kubeconfig()).Output()
	if err != nil {
		t.Fatalf("skiff token create: %v", err)
	}
	p.machine = sw.New(t)
	p.agent = p.AddNode(p.machine, "n2", "agent", "--server", "https://"+p.Machine.IP+":"+cluster.APIPort,
		"--token", strings.TrimSpace(string(token)), "--pod-network", mode)
	begin := time.Now()
	p.agent.Start(t)
	p.Eventually("n2 joins", 30*time.Second, func() error { return p.ready("n2", corev1.ConditionTrue) })
	t.Logf("n2 was ready after %v", time.Since(begin))
	p.agent.BuildImages(t)
	for _, node := range []string{"n1", "n2"} {
		p.Apply(strings.ReplaceAll(onNode, "NODE", node))
	}
	p.Kubectl("wait", "--for=condition=Ready", "pods", "--all", "--timeout=60s")
	return p
}

const onNode = `
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  selector: {app: web}
  ports: [{port: 80, targetPort: 8080}]
---
apiVersion: v1
kind: Pod
metadata: {name: web-NODE, labels: {app: web}}
spec:
  terminationGracePeriodSeconds: 1
  nodeSelector: {kubernetes.io/hostname: NODE}
  containers:
  - name: web
    image: ` + cluster.WebApp + `
    readinessProbe: {httpGet: {path: /healthz, port: 8080}, periodSeconds: 1}
---
apiVersion: v1
kind: Pod
metadata: {name: tools-NODE}
spec:
  terminationGracePeriodSeconds: 0
  nodeSelector: {kubernetes.io/hostname: NODE}
  containers:
  - {name: tools, image: "` + cluster.Tools + `", command: [sh, -c, "echo I am on NODE; sleep 100000"]}
`

// ready returns an error unless the node's Ready condition has that status.
func (p *pair) ready(node string, want corev1.ConditionStatus) error {
	out, err := p.Try("get", "node", node, "-o", "json")
	if err != nil {
		return fmt.Errorf("%s", out)
	}
	var n corev1.Node
	if err := json.Unmarshal([]byte(out), &n); err != nil {
		return err
	}
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady && c.Status == want {
			return nil
		}
	}
	return fmt.Errorf("conditions %v", n.Status.Conditions)
}

func (p *pair) podIP(name string) string {
	p.t.Helper()
	return p.Kubectl("get", "pod", name, "-o", "jsonpath={.status.podIP}")
}

// fetch gets a URL from within a pod.
func (p *pair) fetch(pod, url string) (string, error) {
	out, err := p.Try("exec", pod, "--", "webapp", "get", url)
	if err != nil {
		return "", fmt.Errorf("%s: %s: %w: %s", pod, url, err, out)
	}
	return strings.TrimSpace(out), nil
}

// reach sees that every pod reaches every other, and the services, and that
// the source address is always the pod's own.
func (p *pair) reach() {
	p.t.Helper()
	for _, from := range []string{"n1", "n2"} {
		own := p.podIP("tools-" + from)
		for _, to := range []string{"n1", "n2"} {
			p.Eventually(from+" reaches "+to, 10*time.Second, func() error {
				seen, err := p.fetch("tools-"+from, "http://"+p.podIP("web-"+to)+":8080/client")
				if err == nil && !strings.HasPrefix(seen, own+":") {
					err = fmt.Errorf("the source address was %s, the pod's is %s", seen, own)
				}
				return err
			})
		}
		hosts := map[string]bool{}
		p.Eventually(from+" reaches both behind the service", 20*time.Second, func() error {
			host, err := p.fetch("tools-"+from, "http://web.default.svc.cluster.local/hostname")
			if hosts[host] = true; err == nil && (!hosts["web-n1"] || !hosts["web-n2"]) {
				err = fmt.Errorf("it has reached %v", hosts)
			}
			return err
		})
		seen, err := p.fetch("tools-"+from, "http://web/client")
		if err != nil || !strings.HasPrefix(seen, own+":") {
			p.t.Errorf("through the service the source address of %s is %q (%v)", own, seen, err)
		}
		if out := p.Kubectl("logs", "tools-"+from); out != "I am on "+from+"\n" {
			p.t.Errorf("logs of tools-%s: %q", from, out)
		}
	}
}

func TestTwoNodesHostGateway(t *testing.T) {
	p := startPair(t, "host-gw")
	p.reach()
	p.cutOff()
}

func TestTwoNodesVXLAN(t *testing.T) {
	startPair(t, "vxlan").reach()
}

const spread = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: spread}
spec:
  replicas: 4
  selector: {matchLabels: {app: spread}}
  template:
    metadata: {labels: {app: spread}}
    spec:
      terminationGracePeriodSeconds: 1
      tolerations:
      - {key: node.kubernetes.io/unreachable, operator: Exists, effect: NoExecute, tolerationSeconds: 5}
      - {key: node.kubernetes.io/not-ready, operator: Exists, effect: NoExecute, tolerationSeconds: 5}
      containers:
      - {name: web, image: "` + cluster.WebApp + `", resources: {requests: {cpu: 10m}}}
`

// cutOff takes n2 off the network for longer than its grace and its pods'
// tolerations, and puts it back.
func (p *pair) cutOff() {
	p.t.Helper()
	p.Apply(spread)
	p.Kubectl("rollout", "status", "deployment/spread", "--timeout=60s")
	far := strings.Fields(p.onNode("n2"))
	if len(far) == 0 {
		p.t.Fatal("none of four pods is on n2")
	}
	p.machine.Unplug(p.t)
	begin := time.Now()
	p.Eventually("n2 is not ready", 60*time.Second, func() error { return p.ready("n2", corev1.ConditionUnknown) })
	notReady := time.Since(begin)
	if notReady < 30*time.Second {
		p.t.Errorf("n2 was not ready after %v already", notReady)
	}
	p.Eventually("its pods are replaced", 60*time.Second, func() error {
		if got := len(strings.Fields(p.onNode("n1"))); got != 4 {
			return fmt.Errorf("%d pods are on n1", got)
		}
		_, err := p.Try("wait", "--for=jsonpath={.status.readyReplicas}=4", "deployment/spread", "--timeout=1s")
		return err
	})
	p.t.Logf("cut off: not ready after %v, pods replaced after %v", notReady, time.Since(begin))
	if _, err := p.fetch("tools-n1", "http://web/hostname"); err != nil {
		p.t.Errorf("the service with its endpoint on n1: %v", err)
	}
	p.machine.Plug(p.t)
	begin = time.Now()
	p.Eventually("n2 is ready again", 60*time.Second, func() error { return p.ready("n2", corev1.ConditionTrue) })
	p.Eventually("its evicted pods are gone", 60*time.Second, func() error {
		if left := p.onNode("n2"); left != "" {
			return fmt.Errorf("there are %s", left)
		}
		return nil
	})
	p.t.Logf("back: ready, and evicted pods gone, after %v", time.Since(begin))
	p.Eventually("n2 has no taints", 30*time.Second, func() error {
		if taints := p.Kubectl("get", "node", "n2", "-o", "jsonpath={.spec.taints}"); taints != "" {
			return fmt.Errorf("it has %s", taints)
		}
		return nil
	})
	// What tolerates the taint for the usual five minutes has lived on.
	p.reach()
}

// onNode lists the names of spread's pods on a node.
func (p *pair) onNode(node string) string {
	p.t.Helper()
	return p.Kubectl("get", "pods", "-l", "app=spread", "--field-selector", "spec.nodeName="+node, "-o", "name")
}
