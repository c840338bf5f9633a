//go:build e2e

package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"

	"skiff.dev/skiff/test/e2e/cluster"
	"skiff.dev/skiff/test/e2e/machine"
)

// TestPods looks at what the parts of a pod's spec do, on the real runtime.
func TestPods(t *testing.T) {
	c := cluster.Start(t, machine.NewSwitch(t).New(t))
	c.BuildImages(t)
	for _, test := range []struct {
		name string
		run  func(*pods)
	}{
		{"InitAndSidecar", (*pods).initAndSidecar},
		{"Hooks", (*pods).hooks},
		{"Probes", (*pods).probes},
		{"CrashLoop", (*pods).crashLoop},
		{"Volumes", (*pods).volumes},
		{"Ownership", (*pods).ownership},
		{"NonRoot", (*pods).nonRoot},
		{"Limits", (*pods).limits},
		{"OOMKilled", (*pods).oomKilled},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(&pods{Cluster: c.On(t), t: t}) })
	}
}

type pods struct {
	*cluster.Cluster
	t *testing.T
}

// pod applies a pod with a spec, IMAGE and WEB replaced.
func (p *pods) pod(name, spec string) {
	p.t.Helper()
	spec = strings.NewReplacer("IMAGE", cluster.Tools, "WEB", cluster.WebApp).Replace(strings.TrimPrefix(spec, "\n"))
	p.Apply("apiVersion: v1\nkind: Pod\nmetadata: {name: " + name + ", labels: {app: " + name + "}}\nspec:\n" + spec)
	p.t.Cleanup(func() {
		p.Kubectl("delete", "pod", name, "--force", "--grace-period=0", "--ignore-not-found", "--wait=false")
	})
}

func (p *pods) read(name string) *corev1.Pod {
	p.t.Helper()
	var pod corev1.Pod
	if err := json.Unmarshal([]byte(p.Kubectl("get", "pod", name, "-o", "json")), &pod); err != nil {
		p.t.Fatal(err)
	}
	return &pod
}

// until waits for a pod's state.
func (p *pods) until(name, what string, ok func(*corev1.Pod) bool) *corev1.Pod {
	p.t.Helper()
	var pod *corev1.Pod
	p.Eventually(name+": "+what, 40*time.Second, func() error {
		if pod = p.read(name); ok(pod) {
			return nil
		}
		status, err := json.Marshal(pod.Status)
		return errors.Join(fmt.Errorf("%s", status), err)
	})
	return pod
}

func (p *pods) running(name string) *corev1.Pod {
	p.t.Helper()
	return p.until(name, "is ready", func(pod *corev1.Pod) bool {
		for _, c := range pod.Status.Conditions {
			if c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue {
				return true
			}
		}
		return false
	})
}

// in runs a shell command in a pod.
func (p *pods) in(name, command string) string {
	p.t.Helper()
	return strings.TrimSpace(p.Kubectl("exec", name, "--", "sh", "-c", command))
}

func (p *pods) same(what, got, want string) {
	p.t.Helper()
	if d := cmp.Diff(want, got); d != "" {
		p.t.Errorf("%s (-want +got):\n%s", what, d)
	}
}

func (p *pods) initAndSidecar() {
	p.pod("ordered", `
  restartPolicy: Never
  terminationGracePeriodSeconds: 5
  volumes: [{name: v, emptyDir: {}}]
  initContainers:
  - {name: one, image: IMAGE, command: [sh, -c, "echo one >> /v/log"], volumeMounts: [{name: v, mountPath: /v}]}
  - name: side
    image: IMAGE
    restartPolicy: Always
    command: [sh, -c, "trap 'echo ended >> /v/log; exit 0' TERM; echo side >> /v/log; touch /v/up; while :; do sleep 0.1; done"]
    startupProbe: {exec: {command: [test, -f, /v/up]}, periodSeconds: 1}
    volumeMounts: [{name: v, mountPath: /v}]
  - {name: two, image: IMAGE, command: [sh, -c, "echo two >> /v/log"], volumeMounts: [{name: v, mountPath: /v}]}
  containers:
  - {name: main, image: IMAGE, command: [sh, -c, "echo main >> /v/log; cat /v/log"], volumeMounts: [{name: v, mountPath: /v}]}
`)
	pod := p.until("ordered", "has succeeded", func(pod *corev1.Pod) bool { return pod.Status.Phase == corev1.PodSucceeded })
	p.same("the order", p.Kubectl("logs", "ordered", "-c", "main"), "one\nside\ntwo\nmain\n")
	for _, s := range pod.Status.InitContainerStatuses {
		if s.State.Terminated == nil || s.State.Terminated.ExitCode != 0 {
			p.t.Errorf("%s has not ended well: %+v", s.Name, s.State)
		}
	}
}

func (p *pods) hooks() {
	dir := p.t.TempDir()
	p.pod("hooked", `
  terminationGracePeriodSeconds: 10
  volumes: [{name: v, hostPath: {path: `+dir+`, type: Directory}}]
  containers:
  - name: main
    image: IMAGE
    command: [sh, -c, "trap 'echo term >> /v/log; exit 0' TERM; while :; do sleep 0.1; done"]
    lifecycle:
      postStart: {exec: {command: [sh, -c, "echo started >> /v/log"]}}
      preStop: {exec: {command: [sh, -c, "sleep 1; echo stopping >> /v/log"]}}
    volumeMounts: [{name: v, mountPath: /v}]
`)
	p.running("hooked")
	begin := time.Now()
	p.Kubectl("delete", "pod", "hooked")
	if took := time.Since(begin); took > cluster.Within(6*time.Second) {
		p.t.Errorf("it took %v to end", took)
	}
	log, err := os.ReadFile(filepath.Join(dir, "log"))
	if err != nil {
		p.t.Fatal(err)
	}
	p.same("the order", string(log), "started\nstopping\nterm\n")
	// What ignores TERM is killed when its grace is over.
	p.pod("deaf", `
  terminationGracePeriodSeconds: 2
  containers: [{name: main, image: IMAGE, command: [sh, -c, "trap '' TERM; while :; do sleep 0.1; done"]}]
`)
	p.running("deaf")
	begin = time.Now()
	p.Kubectl("delete", "pod", "deaf")
	if took := time.Since(begin); took < 2*time.Second || took > cluster.Within(5*time.Second) {
		p.t.Errorf("with a grace of 2 s it took %v", took)
	}
}

func (p *pods) probes() {
	p.Apply("apiVersion: v1\nkind: Service\nmetadata: {name: probed}\nspec: {selector: {app: probed}, ports: [{port: 80, targetPort: 8080}]}\n")
	p.pod("probed", `
  containers:
  - name: main
    image: WEB
    startupProbe: {tcpSocket: {port: 9000}, periodSeconds: 1}
    readinessProbe: {httpGet: {path: /healthz, port: 8080}, periodSeconds: 1, failureThreshold: 1}
  - name: tools
    image: IMAGE
    command: [sh, -c, "touch /tmp/alive; sleep 100000"]
    livenessProbe: {exec: {command: [test, -f, /tmp/alive]}, periodSeconds: 1, failureThreshold: 2}
    terminationMessagePolicy: FallbackToLogsOnError
  terminationGracePeriodSeconds: 1
`)
	pod := p.running("probed")
	endpoints := func(want string) {
		p.t.Helper()
		p.Eventually("endpoints "+want, 20*time.Second, func() error {
			got := p.Kubectl("get", "endpoints", "probed", "-o", "jsonpath={.subsets[*].addresses[*].ip}")
			if got != want {
				return fmt.Errorf("they are %q", got)
			}
			return nil
		})
	}
	endpoints(pod.Status.PodIP)
	client := p.HTTP(cluster.Within(5 * time.Second))
	if _, err := get(client, "http://"+pod.Status.PodIP+":8080/break"); err != nil {
		p.t.Fatal(err)
	}
	endpoints("")
	if _, err := get(client, "http://"+pod.Status.PodIP+":8080/mend"); err != nil {
		p.t.Fatal(err)
	}
	endpoints(pod.Status.PodIP)
	p.Kubectl("exec", "probed", "-c", "tools", "--", "rm", "/tmp/alive")
	pod = p.until("probed", "its container was restarted", func(pod *corev1.Pod) bool {
		for _, s := range pod.Status.ContainerStatuses {
			if s.Name == "tools" {
				return s.RestartCount == 1 && s.State.Running != nil
			}
		}
		return false
	})
	for _, s := range pod.Status.ContainerStatuses {
		if s.Name == "main" && s.RestartCount != 0 {
			p.t.Errorf("the other container was restarted too")
		}
	}
	if err := cluster.Want(p.Kubectl("get", "events", "--field-selector", "involvedObject.name=probed"), "Container tools failed liveness probe, will be restarted"); err != nil {
		p.t.Error(err)
	}
}

func (p *pods) crashLoop() {
	p.pod("crashing", `
  containers: [{name: main, image: IMAGE, command: [sh, -c, "echo why > /dev/termination-log; exit 3"]}]
`)
	pod := p.until("crashing", "is in its back-off", func(pod *corev1.Pod) bool {
		s := pod.Status.ContainerStatuses
		return len(s) == 1 && s[0].RestartCount >= 1 && s[0].State.Waiting != nil && s[0].State.Waiting.Reason == "CrashLoopBackOff"
	})
	s := pod.Status.ContainerStatuses[0]
	last := s.LastTerminationState.Terminated
	if last == nil || last.ExitCode != 3 || last.Reason != "Error" || last.Message != "why\n" {
		p.t.Errorf("the last state is %+v", last)
	}
	if err := cluster.Want(s.State.Waiting.Message, "restarting failed container=main pod=crashing_default("); err != nil {
		p.t.Error(err)
	}
	if err := cluster.Want(p.Kubectl("get", "pod", "crashing"), "CrashLoopBackOff"); err != nil {
		p.t.Error(err)
	}
}

func (p *pods) volumes() {
	p.Apply(`
apiVersion: v1
kind: ConfigMap
metadata: {name: mounted}
data: {colour: blue, size: big}
---
apiVersion: v1
kind: Secret
metadata: {name: mounted}
stringData: {password: hidden}
`)
	p.pod("volumes", `
  terminationGracePeriodSeconds: 0
  volumes:
  - {name: config, configMap: {name: mounted, items: [{key: colour, path: a/b}]}}
  - {name: secret, secret: {secretName: mounted, defaultMode: 0400}}
  - {name: memory, emptyDir: {medium: Memory, sizeLimit: 8Mi}}
  - {name: down, downwardAPI: {items: [{path: labels, fieldRef: {fieldPath: metadata.labels}}]}}
  - name: all
    projected:
      sources:
      - {configMap: {name: mounted}}
      - {secret: {name: mounted}}
      - {downwardAPI: {items: [{path: limit, resourceFieldRef: {containerName: main, resource: limits.memory, divisor: 1Mi}}]}}
      - {serviceAccountToken: {path: token, audience: somebody, expirationSeconds: 3600}}
  containers:
  - name: main
    image: IMAGE
    command: [sleep, "100000"]
    resources: {limits: {memory: 64Mi}}
    env:
    - {name: COLOUR, valueFrom: {configMapKeyRef: {name: mounted, key: colour}}}
    - {name: NODE, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}
    volumeMounts:
    - {name: config, mountPath: /config}
    - {name: secret, mountPath: /secret}
    - {name: memory, mountPath: /memory}
    - {name: down, mountPath: /down}
    - {name: all, mountPath: /all, readOnly: true}
    - {name: all, mountPath: /etc/size, subPath: size}
`)
	p.running("volumes")
	p.same("the files", p.in("volumes", `cat /config/a/b; echo; cat /secret/password; echo; stat -L -c %a /secret/password
		ls /all; cat /all/limit; echo; cat /etc/size; echo; echo $COLOUR $NODE; cat /down/labels; echo
		stat -f -c %T /memory; df -m /memory | tail -1 | awk '{print $2}'; wc -c < /all/token | grep -c ...`), strings.Join([]string{
		"blue", "hidden", "400", "colour", "limit", "password", "size", "token", "64", "big", "blue n1", `app="volumes"`, "tmpfs", "8", "1",
	}, "\n"))
	if out, err := p.Try("exec", "volumes", "--", "touch", "/all/x"); err == nil || cluster.Want(out, "Read-only file system") != nil {
		p.t.Errorf("writing to a read-only mount: %v %s", err, out)
	}
	p.Kubectl("patch", "configmap", "mounted", "-p", `{"data":{"colour":"green"}}`)
	p.Kubectl("label", "pod", "volumes", "more=labels")
	p.Eventually("the change shows", 90*time.Second, func() error {
		return errors.Join(cluster.Want(p.in("volumes", "cat /config/a/b /all/colour"), "greengreen"), cluster.Want(p.in("volumes", "cat /down/labels"), `more="labels"`))
	})
}

func (p *pods) ownership() {
	p.pod("owned", `
  terminationGracePeriodSeconds: 0
  securityContext: {runAsUser: 1234, runAsGroup: 2345, fsGroup: 3456, supplementalGroups: [4567]}
  volumes: [{name: v, emptyDir: {}}]
  containers:
  - name: main
    image: IMAGE
    command: [sleep, "100000"]
    securityContext: {readOnlyRootFilesystem: true, allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}
    volumeMounts: [{name: v, mountPath: /v}]
`)
	p.running("owned")
	p.same("ids", p.in("owned", `id -u; id -g; id -G; stat -c '%g %A' /v; touch /v/x; stat -c '%u %g' /v/x
		grep -E 'CapEff|NoNewPrivs|Seccomp:' /proc/self/status | tr -s '\t' ' '; touch /x 2>&1`+" || true"), strings.Join([]string{
		"1234", "2345", "2345 3456 4567", "3456 drwxrwsrwx", "1234 3456",
		"CapEff: 0000000000000000", "NoNewPrivs: 1", "Seccomp: 2", "touch: /x: Read-only file system",
	}, "\n"))
}

func (p *pods) nonRoot() {
	p.pod("refused", `
  securityContext: {runAsNonRoot: true}
  containers: [{name: main, image: IMAGE, command: [sleep, "1"]}]
`)
	pod := p.until("refused", "is refused", func(pod *corev1.Pod) bool {
		s := pod.Status.ContainerStatuses
		return len(s) == 1 && s[0].State.Waiting != nil && s[0].State.Waiting.Reason == "CreateContainerConfigError"
	})
	want := `container has runAsNonRoot and image will run as root (pod: "refused_default(` + string(pod.UID) + `)", container: main)`
	p.same("the reason", pod.Status.ContainerStatuses[0].State.Waiting.Message, want)
}

func (p *pods) limits() {
	p.pod("limited", `
  terminationGracePeriodSeconds: 0
  containers:
  - name: main
    image: IMAGE
    command: [sleep, "100000"]
    resources: {requests: {cpu: 100m, memory: 32Mi}, limits: {cpu: 250m, memory: 48Mi}}
`)
	pod := p.running("limited")
	if pod.Status.QOSClass != corev1.PodQOSBurstable {
		p.t.Errorf("QoS class %s", pod.Status.QOSClass)
	}
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err == nil {
		p.same("limits", p.in("limited", "cd /sys/fs/cgroup; cat memory.max cpu.max"), "50331648\n25000 100000")
		return
	}
	p.same("limits", p.in("limited", "cd /sys/fs/cgroup; cat memory/memory.limit_in_bytes cpu/cpu.cfs_quota_us cpu/cpu.cfs_period_us cpu/cpu.shares"),
		"50331648\n25000\n100000\n102")
}

func (p *pods) oomKilled() {
	p.pod("hungry", `
  restartPolicy: Never
  containers: [{name: main, image: IMAGE, command: [webapp, eat, "200"], resources: {limits: {memory: 32Mi}}}]
`)
	pod := p.until("hungry", "has failed", func(pod *corev1.Pod) bool { return pod.Status.Phase == corev1.PodFailed })
	if s := pod.Status.ContainerStatuses[0].State.Terminated; s == nil || s.Reason != "OOMKilled" || s.ExitCode != 137 {
		p.t.Errorf("it ended as %+v", s)
	}
}
