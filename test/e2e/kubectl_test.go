//go:build e2e

package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"skiff.dev/skiff/test/e2e/cluster"
	"skiff.dev/skiff/test/e2e/machine"
)

// TestKubectl runs kubectl's commands, those of an older stock kubectl and of
// skiff's own, and looks at their output and exit codes.
func TestKubectl(t *testing.T) {
	c := cluster.Start(t, machine.NewSwitch(t).New(t))
	c.BuildImages(t)
	stock, err := exec.LookPath("kubectl")
	if err != nil {
		t.Log("SKIPPED: there is no stock kubectl in PATH")
	}
	for _, program := range []struct{ name, path string }{{"skiff", ""}, {"stock", stock}} {
		if program.name == "stock" && stock == "" {
			continue
		}
		t.Run(program.name, func(t *testing.T) {
			k := &kubectl{t: t, c: c, program: program.path, namespace: "k-" + program.name, port: map[string]string{"skiff": "18081", "stock": "18082"}[program.name]}
			k.ok("create", "namespace", k.namespace)
			k.apply()
			k.get()
			k.describe()
			k.logs()
			k.exec()
			k.cp()
			k.portForward()
			k.rollout()
			k.change()
			k.diff()
			k.questions()
			k.delete()
		})
	}
}

type kubectl struct {
	t         *testing.T
	c         *cluster.Cluster
	program   string
	namespace string
	port      string // for port-forward
}

func (k *kubectl) command(args ...string) *exec.Cmd {
	return k.c.KubectlCommand(k.t.Context(), k.program, append([]string{"-n", k.namespace}, args...)...)
}

// try runs a command with something on its input and returns what it printed,
// to both outputs, and its exit code.
func (k *kubectl) try(stdin string, args ...string) (stdout, stderr string, code int) {
	k.t.Helper()
	cmd := k.command(args...)
	var out, bad bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &bad
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		k.t.Fatal(err)
	}
	return out.String(), bad.String(), cmd.ProcessState.ExitCode()
}

// ok runs a command that must succeed and say nothing on stderr.
func (k *kubectl) ok(args ...string) string { k.t.Helper(); return k.okWith("", args...) }

func (k *kubectl) okWith(stdin string, args ...string) string {
	k.t.Helper()
	out, bad, code := k.try(stdin, args...)
	if code != 0 {
		k.t.Fatalf("kubectl %s: exit code %d\n%s%s", strings.Join(args, " "), code, out, bad)
	}
	if bad != "" {
		k.t.Errorf("kubectl %s says: %s", strings.Join(args, " "), bad)
	}
	return out
}

// says runs a command and compares its output with a pattern.
func (k *kubectl) says(pattern string, args ...string) {
	k.t.Helper()
	k.match(pattern, k.ok(args...), args)
}

func (k *kubectl) match(pattern, out string, args []string) {
	k.t.Helper()
	if !regexp.MustCompile(pattern).MatchString(out) {
		k.t.Errorf("kubectl %s printed\n%s\nwhich does not match %s", strings.Join(args, " "), out, pattern)
	}
}

// fails runs a command that must end with code and print the pattern.
func (k *kubectl) fails(code int, pattern string, args ...string) {
	k.t.Helper()
	out, bad, got := k.try("", args...)
	if got != code {
		k.t.Errorf("kubectl %s: exit code %d, want %d", strings.Join(args, " "), got, code)
	}
	k.match(pattern, out+bad, args)
}

const kubectlApp = `
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {colour: blue}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 5
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
  selector: {app: web}
  ports: [{name: http, port: 80, targetPort: http}]
---
apiVersion: v1
kind: Pod
metadata: {name: tools}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: tools
    image: ` + cluster.Tools + `
    command: [sh, -c, "i=0; while :; do i=$((i+1)); echo line $i; sleep 0.2; done"]
`

func (k *kubectl) apply() {
	k.t.Helper()
	args := []string{"apply", "-f", "-"}
	k.match(`(?s)configmap/settings created\ndeployment.apps/web created\nservice/web created\npod/tools created\n`, k.okWith(kubectlApp, args...), args)
	k.match(`(?s)configmap/settings unchanged\ndeployment.apps/web unchanged\nservice/web unchanged\npod/tools unchanged\n`, k.okWith(kubectlApp, args...), args)
	settings := "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: shared}\ndata: {colour: %s}\n"
	server := []string{"apply", "--server-side", "--field-manager", "first", "-f", "-"}
	k.match(`configmap/shared serverside-applied`, k.okWith(fmt.Sprintf(settings, "red"), server...), server)
	other := []string{"apply", "--server-side", "--field-manager", "second", "-f", "-"}
	out, bad, code := k.try(fmt.Sprintf(settings, "green"), other...)
	if code != 1 {
		k.t.Errorf("a conflict ends with exit code %d", code)
	}
	k.match(`Apply failed with 1 conflict: conflict with "first": .data.colour`, out+bad, other)
	k.match(`serverside-applied`, k.okWith(fmt.Sprintf(settings, "green"), append(other, "--force-conflicts")...), other)
	k.says(`green`, "get", "configmap", "shared", "-o", "jsonpath={.data.colour}")
	_, bad, code = k.try("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: bad}\ndate: {}\n", args...)
	if code != 1 {
		k.t.Errorf("an unknown field ends with exit code %d", code)
	}
	k.match(`unknown field "date"`, bad, args)
	k.says(`deployment "web" successfully rolled out`, "rollout", "status", "deployment/web", "--timeout=60s")
	k.says(`pod/tools condition met`, "wait", "--for=condition=Ready", "pod/tools", "--timeout=30s")
}

func (k *kubectl) get() {
	k.t.Helper()
	k.says(`(?m)^NAME +READY +UP-TO-DATE +AVAILABLE +AGE\nweb +2/2 +2 +2 +\d+s`, "get", "deployment")
	k.says(`(?m)^NAME +READY +UP-TO-DATE +AVAILABLE +AGE +CONTAINERS +IMAGES +SELECTOR\nweb .* web +e2e/webapp:v1 +app=web`, "get", "deployment", "-o", "wide")
	k.says(`(?m)^NAME +READY +STATUS +RESTARTS +AGE +IP +NODE +NOMINATED NODE +READINESS GATES\ntools +1/1 +Running +0 +\d+s +10\.244\.0\.\d+ +n1 +<none> +<none>`, "get", "pods", "-o", "wide")
	k.says(`(?m)^web +ClusterIP +10\.96\.\d+\.\d+ +<none> +80/TCP +\d+s`, "get", "service", "web")
	k.says(`(?m)^n1 +Ready +\S+ +\d+\w* +v1\.37`, "get", "nodes", "-o", "wide")
	k.says(`(?m)^kind: Pod$`, "get", "pod", "tools", "-o", "yaml")
	var pods corev1.PodList
	if err := json.Unmarshal([]byte(k.ok("get", "pods", "-l", "app=web", "-o", "json")), &pods); err != nil || len(pods.Items) != 2 {
		k.t.Errorf("as JSON: %d pods, %v", len(pods.Items), err)
	}
	k.says(`^pod/tools\n$`, "get", "pods", "--field-selector", "metadata.name=tools", "-o", "name")
	k.says(`(?m)^NAME +IMAGE\ntools +e2e/tools:v1$`, "get", "pod", "tools", "-o", "custom-columns=NAME:.metadata.name,IMAGE:.spec.containers[0].image")
	k.says(`(?s)pod/tools.*service/web.*deployment.apps/web.*replicaset.apps/web-`, "get", "all")
	k.fails(1, `^Error from server \(NotFound\): pods "nobody" not found\n$`, "get", "pod", "nobody")
	k.fails(1, `^error: the server doesn't have a resource type "nothings"\n$`, "get", "nothings")
	k.fails(0, `^No resources found in \S+ namespace.\n$`, "get", "leases")
}

func (k *kubectl) describe() {
	k.t.Helper()
	k.says(`(?s)Name: +tools\nNamespace: +`+k.namespace+`.*Node: +n1/.*Containers:\n  tools:\n    Container ID: +containerd://.*Image: +e2e/tools:v1.*Ready +True.*Events:.*Scheduled.*Successfully assigned.*Started`, "describe", "pod", "tools")
	k.says(`(?s)Replicas: +2 desired \| 2 updated \| 2 total \| 2 available \| 0 unavailable.*NewReplicaSet: +web-.*ScalingReplicaSet +\S+ +deployment-controller +Scaled up replica set web-\S+ from 0 to 2`, "describe", "deployment", "web")
	k.says(`(?s)Name: +web.*Endpoints: +10\.244\.0\.\d+:8080,10\.244\.0\.\d+:8080`, "describe", "service", "web")
	k.says(`(?s)Name: +n1.*Ready +True.*KubeletReady.*Allocatable:.*Non-terminated Pods:.*tools`, "describe", "node", "n1")
}

func (k *kubectl) logs() {
	k.t.Helper()
	k.says(`(?s)^line 1\nline 2\n`, "logs", "tools")
	k.says(`^line \d+\n$`, "logs", "tools", "--tail=1")
	k.says(`^line 1\n$`, "logs", "tools", "--limit-bytes=7")
	k.says(`^\d{4}-\d\d-\d\dT\S+ line 1\n`, "logs", "tools", "--timestamps")
	k.says(`(?m)^\[pod/web-\S+/web\] .*serving$`, "logs", "-l", "app=web", "--prefix")
	ctx, cancel := context.WithTimeout(k.t.Context(), 20*time.Second)
	defer cancel()
	cmd := k.c.KubectlCommand(ctx, k.program, "-n", k.namespace, "logs", "-f", "tools", "--tail=1")
	out, err := cmd.StdoutPipe()
	if err != nil {
		k.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		k.t.Fatal(err)
	}
	lines := 0
	for in := bufio.NewScanner(out); lines < 5 && in.Scan(); lines++ {
	}
	cancel()
	cmd.Wait() // it was ended in the middle
	if lines < 5 {
		k.t.Errorf("logs -f gave %d lines", lines)
	}
	k.fails(1, `previous terminated container "tools" in pod "tools" not found`, "logs", "tools", "--previous")
	k.fails(1, `container nobody is not valid for pod tools`, "logs", "tools", "-c", "nobody")
}

func (k *kubectl) exec() {
	k.t.Helper()
	k.says(`^hello\n$`, "exec", "tools", "--", "echo", "hello")
	k.fails(7, `command terminated with exit code 7`, "exec", "tools", "--", "sh", "-c", "exit 7")
	if out := k.okWith("from here", "exec", "-i", "tools", "--", "cat"); out != "from here" {
		k.t.Errorf("cat gave %q", out)
	}
	k.fails(1, `executable file not found in \$PATH`, "exec", "tools", "--", "nothing-of-this-name")
	cmd := k.command("exec", "-it", "tools", "--", "sh")
	tty := onTerminal(k.t, cmd, 33, 101)
	if err := cmd.Start(); err != nil {
		k.t.Fatal(err)
	}
	// The size comes a moment after the start.
	if _, err := io.WriteString(tty, "tty; until stty size 2>&-; do sleep 0.1; done; exit 3\n"); err != nil {
		k.t.Fatal(err)
	}
	seen := make(chan string, 1)
	go func() {
		var all bytes.Buffer
		buf := make([]byte, 1024)
		for { // until the last holder of the terminal closes it
			n, err := tty.Read(buf)
			all.Write(buf[:n])
			if err != nil || strings.Contains(all.String(), "exit code 3") {
				break
			}
		}
		seen <- all.String()
	}()
	err := cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != 3 {
		k.t.Errorf("exec -it: exit code %d (%v)", code, err)
	}
	select {
	case out := <-seen:
		k.match(`(?s)/dev/pts/0.*33 101`, out, []string{"exec", "-it"})
	case <-time.After(5 * time.Second):
		k.t.Error("exec -it does not end its output")
	}
}

func (k *kubectl) cp() {
	k.t.Helper()
	dir := k.t.TempDir()
	content := strings.Repeat("0123456789abcdef", 1<<16) // 1 MiB
	if err := os.WriteFile(filepath.Join(dir, "out"), []byte(content), 0o600); err != nil {
		k.t.Fatal(err)
	}
	k.ok("cp", filepath.Join(dir, "out"), "tools:/tmp/in")
	k.try("", "cp", "tools:/tmp/in", filepath.Join(dir, "back")) // tar speaks of the leading /
	if got, err := os.ReadFile(filepath.Join(dir, "back")); err != nil || string(got) != content {
		k.t.Errorf("cp brought back %d bytes, %v", len(got), err)
	}
}

func (k *kubectl) portForward() {
	k.t.Helper()
	ctx, cancel := context.WithCancel(k.t.Context())
	defer cancel()
	cmd := k.c.KubectlCommand(ctx, k.program, "-n", k.namespace, "port-forward", "service/web", k.port+":80")
	out, err := cmd.StdoutPipe()
	if err != nil {
		k.t.Fatal(err)
	}
	var bad bytes.Buffer
	cmd.Stderr = &bad
	if err := cmd.Start(); err != nil {
		k.t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		k.t.Errorf("port-forward: %v %s", err, bad.String())
	} else {
		k.match(`^Forwarding from 127.0.0.1:`+k.port+` -> 8080\n$`, line, []string{"port-forward"})
		for range 5 {
			if host, err := get(k.c.HTTP(5*time.Second), "http://127.0.0.1:"+k.port+"/hostname"); err != nil || !strings.HasPrefix(host, "web-") {
				k.t.Errorf("through port-forward: %q %v", host, err)
			}
		}
	}
	cancel()
	cmd.Wait() // it was ended
}

func (k *kubectl) rollout() {
	k.t.Helper()
	k.says(`deployment.apps/web scaled`, "scale", "deployment/web", "--replicas=3")
	k.says(`successfully rolled out`, "rollout", "status", "deployment/web", "--timeout=60s")
	k.fails(1, `expected 9, got 3|Expected replicas to be 9`, "scale", "deployment/web", "--current-replicas=9", "--replicas=1")
	k.says(`deployment.apps/web image updated`, "set", "image", "deployment/web", "web=e2e/webapp:v2")
	k.fails(1, `error: timed out waiting for the condition|exceeded its progress deadline`, "rollout", "status", "deployment/web", "--timeout=3s")
	k.says(`(?s)REVISION +CHANGE-CAUSE\n1 +<none>\n2 +<none>`, "rollout", "history", "deployment/web")
	k.fails(0, `deployment.apps/web rolled back`, "rollout", "undo", "deployment/web") // newer ones warn of apply
	k.says(`successfully rolled out`, "rollout", "status", "deployment/web", "--timeout=60s")
	k.says(`^e2e/webapp:v1$`, "get", "deployment", "web", "-o", "jsonpath={.spec.template.spec.containers[0].image}")
	k.says(`deployment.apps/web paused`, "rollout", "pause", "deployment/web")
	k.ok("set", "env", "deployment/web", "PAUSED=1")
	k.fails(1, `cannot rollback a paused deployment`, "rollout", "undo", "deployment/web")
	k.says(`^3$`, "get", "deployment", "web", "-o", "jsonpath={.status.readyReplicas}")
	k.says(`deployment.apps/web resumed`, "rollout", "resume", "deployment/web")
	k.says(`successfully rolled out`, "rollout", "status", "deployment/web", "--timeout=60s")
	k.says(`deployment.apps/web restarted`, "rollout", "restart", "deployment/web")
	k.says(`successfully rolled out`, "rollout", "status", "deployment/web", "--timeout=60s")
}

func (k *kubectl) change() {
	k.t.Helper()
	k.says(`pod/tools labeled`, "label", "pod", "tools", "tier=back")
	k.fails(1, `'tier' already has a value \(back\), and --overwrite is false`, "label", "pod", "tools", "tier=front")
	k.says(`^pod/tools\n$`, "get", "pods", "-l", "tier in (back)", "-o", "name")
	k.says(`pod/tools unlabeled`, "label", "pod", "tools", "tier-")
	k.says(`pod/tools annotated`, "annotate", "pod", "tools", "note=seen")
	k.says(`configmap/settings patched`, "patch", "configmap", "settings", "-p", `{"data":{"size":"big"}}`)
	k.says(`configmap/settings patched`, "patch", "configmap", "settings", "--type=merge", "-p", `{"data":{"colour":null}}`)
	k.says(`configmap/settings patched`, "patch", "configmap", "settings", "--type=json", "-p", `[{"op":"replace","path":"/data/size","value":"small"}]`)
	k.says(`^{"size":"small"}$`, "get", "configmap", "settings", "-o", "jsonpath={.data}")
	k.says(`configmap/settings patched \(no change\)`, "patch", "configmap", "settings", "-p", `{"data":{"size":"small"}}`)
	k.fails(1, `The Pod "tools" is invalid: spec: Forbidden: pod updates may not change fields other than`, "patch", "pod", "tools", "-p", `{"spec":{"hostNetwork":true}}`)
	k.fails(1, `The request is invalid|the server rejected our request`, "patch", "configmap", "settings", "--type=json", "-p", `[{"op":"remove","path":"/data/nothing"}]`)
}

func (k *kubectl) diff() {
	k.t.Helper()
	manifest := "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: compared}\ndata: {colour: %s}\n"
	k.okWith(fmt.Sprintf(manifest, "red"), "apply", "-f", "-")
	for colour, want := range map[string]int{"red": 0, "pink": 1} {
		out, bad, code := k.try(fmt.Sprintf(manifest, colour), "diff", "-f", "-")
		if code != want || want == 1 && !strings.Contains(out, "+  colour: pink") {
			k.t.Errorf("diff with %s: exit code %d\n%s%s", colour, code, out, bad)
		}
	}
	k.says(`^red$`, "get", "configmap", "compared", "-o", "jsonpath={.data.colour}")
}

func (k *kubectl) questions() {
	k.t.Helper()
	k.says(`^yes\n$`, "auth", "can-i", "create", "pods")
	k.fails(1, `^no\n$`, "auth", "can-i", "create", "pods", "--as=system:serviceaccount:default:default")
	k.says(`system:masters`, "auth", "whoami")
	k.says(`(?s)configmaps +cm +v1 +true +ConfigMap.*deployments +deploy +apps/v1 +true +Deployment`, "api-resources")
	k.says(`(?m)^apps/v1$`, "api-versions")
	k.fails(0, `Server Version: v1\.37`, "version") // an old one warns of the skew
	k.says(`(?s)KIND: +Pod.*restartPolicy`, "explain", "pod.spec")
	k.top()
	k.says(`Kubernetes control plane.* is running at .*https://`, "cluster-info")
	k.says(`^ok$`, "get", "--raw", "/readyz")
	k.says(`^pod/once created\n$`, "run", "once", "--image="+cluster.Tools, "--restart=Never", "--", "true")
	k.says(`(?m)^.*Started`, "events", "--for", "pod/tools")
}

// top looks at what a pod that works and one that sleeps use. Two answers are
// fifteen seconds apart at least, so the one that works is given time first.
func (k *kubectl) top() {
	k.t.Helper()
	k.ok("run", "busy", "--image="+cluster.Tools, "--labels=top=busy", "--", "sh", "-c", "while :; do :; done")
	k.ok("wait", "--for=condition=Ready", "pod/busy", "--timeout=60s")
	until := time.Now().Add(time.Minute)
	for {
		out, bad, code := k.try("", "top", "pod", "busy", "--no-headers")
		if code == 0 {
			k.match(`^busy +[1-9]\d+m +\d+Mi *\n$`, out, []string{"top", "pod", "busy"})
			break
		}
		if !strings.Contains(bad, `pods.metrics.k8s.io "busy" not found`) || time.Now().After(until) {
			k.t.Fatalf("top pod busy: exit code %d\n%s%s", code, out, bad)
		}
		time.Sleep(time.Second) // nobody tells when two looks are far enough apart
	}
	k.says(`(?s)^NAME +CPU\(cores\) +MEMORY\(bytes\) *\n.*busy +\d+m +\d+Mi.*tools +\d+m +\d+Mi`, "top", "pods")
	k.says(`(?s)^NAME +CPU\(cores\) +MEMORY\(bytes\) *\nbusy +\d+m +\d+Mi *\n$`, "top", "pods", "-l", "top=busy")
	k.says(`(?s)^POD +NAME +CPU\(cores\) +MEMORY\(bytes\) *\nbusy +busy +\d+m +\d+Mi *\n$`, "top", "pods", "--containers", "-l", "top=busy")
	k.says(`(?m)^`+k.namespace+` +busy +\d+m +\d+Mi`, "top", "pods", "-A")
	k.says(`(?s)^NAME +CPU\(cores\) +CPU.*\n\S+ +\d+m +\d+% +\d+Mi +\d+% *\n$`, "top", "nodes")
	k.fails(0, `^No resources found in `+k.namespace+` namespace.\n$`, "top", "pods", "-l", "top=none")
	k.fails(1, `^Error from server \(NotFound\): pods.metrics.k8s.io "none" not found\n$`, "top", "pod", "none")
	k.fails(1, `^Error from server \(NotFound\): nodes.metrics.k8s.io "none" not found\n$`, "top", "node", "none")
	k.says(`(?s)^NAME +CPU +MEMORY +WINDOW *\nbusy +\d+\S* +\d+Ki +`, "get", "pods.metrics.k8s.io", "busy")
	k.ok("delete", "pod", "busy", "--now")
}

func (k *kubectl) delete() {
	k.t.Helper()
	k.says(`pod "tools" (force )?deleted`, "delete", "pod", "tools")
	k.says(`deployment.apps "web" deleted`, "delete", "deployment", "web")
	k.says(`configmap "settings" deleted`, "delete", "configmap", "settings", "--cascade=foreground")
	k.fails(1, `Error from server \(NotFound\): configmaps "settings" not found`, "delete", "configmap", "settings")
	k.fails(0, `^$`, "delete", "configmap", "settings", "--ignore-not-found")
	k.ok("wait", "--for=delete", "pod", "-l", "app=web", "--timeout=60s")
	k.fails(0, `deleted`, "delete", "namespace", k.namespace) // some warn of the needless -n
}
