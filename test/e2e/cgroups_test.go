//go:build e2e

package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	stats "k8s.io/kubelet/pkg/apis/stats/v1alpha1"

	"skiff.dev/skiff/internal/cgroup"
	"skiff.dev/skiff/test/e2e/cluster"
	"skiff.dev/skiff/test/e2e/machine"
)

// TestCgroups holds the kernel's own files against the pods' requests and
// limits, on this machine's version of cgroups. `make e2e-v2` runs it on
// version 2, wherever it is called.
func TestCgroups(t *testing.T) {
	version, err := cgroup.Detect()
	if err != nil {
		t.Skip("SKIPPED: this machine's cgroups cannot be used:", err)
	}
	t.Logf("cgroups of version %d", version)
	c := cluster.Start(t, machine.NewSwitch(t).New(t))
	c.BuildImages(t)
	k := &kernel{pods: &pods{Cluster: c.On(t), t: t}, version: version}
	k.node()
	k.qualities()
	k.usage()
	k.survive()
	k.oomGroup()
	k.end()
}

// kernel looks at the files of the cluster's groups.
type kernel struct {
	*pods
	version cgroup.Version
}

// file reads a file of a group that is named from the cluster's root on. What
// it is called depends on the version: controller is where it is on v1.
func (k *kernel) file(group, controller, v1, v2 string) string {
	k.t.Helper()
	root := cgroup.RootOf(k.Dir)
	name := filepath.Join("/sys/fs/cgroup", root, group, v2)
	if k.version == cgroup.V1 {
		name = filepath.Join("/sys/fs/cgroup", controller, root, group, v1)
	}
	text, err := os.ReadFile(name)
	if err != nil {
		k.t.Error(err)
	}
	return strings.TrimSpace(string(text))
}

// limits of a group in the kernel's words.
type limits struct {
	Shares, Weight string // v1, v2
	Quota          string // both: µs of 100,000, or max
	Memory         string // bytes, or max
}

func (k *kernel) of(group string) limits {
	k.t.Helper()
	if k.version == cgroup.V2 {
		return limits{
			Weight: k.file(group, "", "", "cpu.weight"), Quota: strings.TrimSuffix(k.file(group, "", "", "cpu.max"), " 100000"),
			Memory: k.file(group, "", "", "memory.max"),
		}
	}
	l := limits{
		Shares: k.file(group, "cpu", "cpu.shares", ""), Quota: k.file(group, "cpu", "cpu.cfs_quota_us", ""),
		Memory: k.file(group, "memory", "memory.limit_in_bytes", ""),
	}
	if l.Quota == "-1" {
		l.Quota = "max"
	}
	if len(l.Memory) == len("9223372036854771712") {
		l.Memory = "max"
	}
	return l
}

// are compares a group's limits with want, of which only the version's own
// word for the share of CPU counts.
func (k *kernel) are(what, group string, want limits) {
	k.t.Helper()
	if k.version == cgroup.V2 {
		want.Shares = ""
	} else {
		want.Weight = ""
	}
	if d := cmp.Diff(want, k.of(group)); d != "" {
		k.t.Errorf("limits of %s (-want +got):\n%s", what, d)
	}
}

// node checks the group of all pods: it has what the node offers.
func (k *kernel) node() {
	k.t.Helper()
	k.Eventually("the node is ready", time.Minute, func() error {
		return cluster.Want(k.Kubectl("get", "node", "n1"), " Ready ")
	})
	if got := k.of("kubepods"); got.Memory == "max" || got.Quota != "max" {
		k.t.Errorf("all pods together have %+v; they must be limited in memory and not in CPU", got)
	}
}

const mib = 1 << 20

// qualities starts pods of the three qualities of service.
func (k *kernel) qualities() {
	k.t.Helper()
	k.pod("guaranteed", `
  terminationGracePeriodSeconds: 0
  containers:
  - {name: a, image: IMAGE, command: [sleep, "100000"], resources: {limits: {cpu: 250m, memory: 64Mi}}}
  - name: b
    image: IMAGE
    command: [sh, -c, "echo hello; while :; do i=$((i+1)); done"]
    resources: {limits: {cpu: 250m, memory: 32Mi}}
`)
	k.pod("burstable", `
  terminationGracePeriodSeconds: 0
  containers:
  - name: a
    image: WEB
    resources: {requests: {cpu: 100m, memory: 32Mi}, limits: {memory: 64Mi}}
    readinessProbe: {httpGet: {path: /healthz, port: 8080}, periodSeconds: 1, timeoutSeconds: 30}
    livenessProbe: {exec: {command: ["/webapp", host, localhost]}, periodSeconds: 5, timeoutSeconds: 60}
`)
	k.pod("besteffort", `
  terminationGracePeriodSeconds: 0
  containers: [{name: a, image: IMAGE, command: [sleep, "100000"]}]
`)
	pods := map[string]*corev1.Pod{}
	for name, quality := range map[string]corev1.PodQOSClass{
		"guaranteed": corev1.PodQOSGuaranteed, "burstable": corev1.PodQOSBurstable, "besteffort": corev1.PodQOSBestEffort,
	} {
		pods[name] = k.running(name)
		if got := pods[name].Status.QOSClass; got != quality {
			k.t.Errorf("pod %s is %s", name, got)
		}
	}
	g, b, e := groupOf("", pods["guaranteed"]), groupOf("burstable", pods["burstable"]), groupOf("besteffort", pods["besteffort"])
	k.are("the guaranteed pod", g, limits{"512", "59", "50000", fmt.Sprint(96 * mib)})
	k.are("its first container", containerOf(g, pods["guaranteed"], "a"), limits{"256", "35", "25000", fmt.Sprint(64 * mib)})
	k.are("its second container", containerOf(g, pods["guaranteed"], "b"), limits{"256", "35", "25000", fmt.Sprint(32 * mib)})
	k.are("the burstable pod", b, limits{"102", "17", "max", fmt.Sprint(64 * mib)})
	k.are("its container", containerOf(b, pods["burstable"], "a"), limits{"102", "17", "max", fmt.Sprint(64 * mib)})
	k.are("the best-effort pod", e, limits{"2", "1", "max", "max"})
	k.are("its container", containerOf(e, pods["besteffort"], "a"), limits{"2", "1", "max", "max"})
	k.are("burstable pods", "kubepods/burstable", limits{"102", "17", "max", "max"})
	k.are("best-effort pods", "kubepods/besteffort", limits{"2", "1", "max", "max"})
	if n := k.file(containerOf(e, pods["besteffort"], "a"), "pids", "pids.current", "pids.current"); n != "1" {
		k.t.Errorf("the container of one process has %s", n)
	}
	k.same("the log", k.Kubectl("logs", "guaranteed", "-c", "b"), "hello\n")
	k.same("exec", k.in("besteffort", "echo $((6*7))"), "42")
}

// groupOf is the group of a pod, from the cluster's root on.
func groupOf(quality string, p *corev1.Pod) string {
	return filepath.Join("kubepods", quality, "pod"+string(p.UID))
}

func containerOf(group string, p *corev1.Pod, name string) string {
	for _, s := range p.Status.ContainerStatuses {
		if s.Name == name {
			_, id, _ := strings.Cut(s.ContainerID, "://")
			return filepath.Join(group, id)
		}
	}
	return filepath.Join(group, "none")
}

// usage reads the stats summary until everything that must use something does.
func (k *kernel) usage() {
	k.t.Helper()
	k.Eventually("the stats summary", time.Minute, func() error {
		var s stats.Summary
		text, err := k.Try("get", "--raw", "/api/v1/nodes/n1/proxy/stats/summary")
		if err == nil {
			err = json.Unmarshal([]byte(text), &s)
		}
		if err != nil {
			return fmt.Errorf("%w: %.200s", err, text)
		}
		err = uses("the node", s.Node.CPU, s.Node.Memory)
		if len(s.Pods) < 3 {
			err = errors.Join(err, fmt.Errorf("there are %d pods", len(s.Pods)))
		}
		for _, p := range s.Pods {
			err = errors.Join(err, uses("pod "+p.PodRef.Name, p.CPU, p.Memory))
			for _, c := range p.Containers {
				err = errors.Join(err, uses(p.PodRef.Name+"/"+c.Name, c.CPU, c.Memory))
				if p.PodRef.Name == "guaranteed" && c.Name == "b" && (c.CPU == nil || c.CPU.UsageNanoCores == nil || *c.CPU.UsageNanoCores < 10e6) {
					err = errors.Join(err, errors.New("the container that is busy does not seem to be"))
				}
			}
		}
		return err
	})
}

func uses(what string, cpu *stats.CPUStats, memory *stats.MemoryStats) error {
	if cpu == nil || cpu.UsageCoreNanoSeconds == nil || *cpu.UsageCoreNanoSeconds == 0 {
		return fmt.Errorf("%s uses no CPU", what)
	}
	if memory == nil || memory.WorkingSetBytes == nil || *memory.WorkingSetBytes == 0 {
		return fmt.Errorf("%s uses no memory", what)
	}
	return nil
}

// survive kills skiff: the containers and their limits stay.
func (k *kernel) survive() {
	k.t.Helper()
	ids := func() string {
		return k.Kubectl("get", "pods", "-o", `jsonpath={range .items[*]}{.metadata.name} {.status.containerStatuses[*].containerID} {.status.containerStatuses[*].restartCount}{"\n"}{end}`)
	}
	before := ids()
	k.Kill(k.t)
	k.Start(k.t)
	k.WaitReady(k.t)
	k.Eventually("exec after a restart", time.Minute, func() error { // the node is there a moment after the API
		out, err := k.Try("exec", "besteffort", "--", "echo", "again")
		return errors.Join(err, cluster.Want(out, "again"))
	})
	k.usage()
	k.same("the containers", ids(), before)
	k.are("burstable pods", "kubepods/burstable", limits{"102", "17", "max", "max"})
}

// oomGroup has a process in a container eat too much that is not its first. On
// version 2 the container is killed as a whole; on 1 the kernel knows no such
// thing, and the process alone is.
func (k *kernel) oomGroup() {
	k.t.Helper()
	k.pod("family", `
  restartPolicy: Never
  terminationGracePeriodSeconds: 0
  containers:
  - name: main
    image: IMAGE
    command: [sh, -c, "webapp eat 200; echo the child ended; exit 7"]
    resources: {limits: {memory: 32Mi}}
`)
	p := k.until("family", "has failed", func(pod *corev1.Pod) bool { return pod.Status.Phase == corev1.PodFailed })
	s := p.Status.ContainerStatuses[0].State.Terminated
	if s == nil {
		k.t.Fatalf("its container is %+v", p.Status.ContainerStatuses[0])
	}
	wantCode := int32(7)
	if k.version == cgroup.V2 {
		wantCode = 137
	}
	if s.ExitCode != wantCode || s.Reason != "OOMKilled" {
		k.t.Errorf("it ended as %+v, want OOMKilled and %d", s, wantCode)
	}
}

// end deletes all pods: their groups go, and the weight of those that stay is
// what it was.
func (k *kernel) end() {
	k.t.Helper()
	k.Kubectl("delete", "pods", "--all", "--timeout="+cluster.Within(time.Minute).String())
	k.Eventually("the pods' groups are gone", 30*time.Second, func() error {
		var left []string
		err := filepath.WalkDir("/sys/fs/cgroup", func(path string, e fs.DirEntry, err error) error {
			if err != nil {
				return nil // gone meanwhile
			}
			if e.IsDir() && strings.Contains(path, cgroup.RootOf(k.Dir)+"/kubepods/") && strings.HasPrefix(e.Name(), "pod") {
				left = append(left, path)
			}
			return nil
		})
		if len(left) > 0 {
			err = errors.Join(err, fmt.Errorf("there are %v", left))
		}
		return err
	})
	k.are("burstable pods", "kubepods/burstable", limits{"2", "1", "max", "max"})
}
