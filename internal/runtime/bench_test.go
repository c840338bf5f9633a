package runtime

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// memory returns the resident memory of processes in MiB, the part of it that is theirs when each page
// is divided by those who share it (PSS), and the part that is no file.
func (n *node) memory(pids ...int) (rss, pss, anon float64) {
	n.Helper()
	for _, pid := range pids {
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
		n.ok(err)
		for line := range strings.Lines(string(data)) {
			for name, sum := range map[string]*float64{"Rss": &rss, "Pss": &pss, "Anonymous": &anon} {
				var kib float64
				if _, err := fmt.Sscanf(line, name+": %f", &kib); err == nil {
					*sum += kib / 1024
				}
			}
		}
	}
	return rss, pss, anon
}

// otherShim puts the shim that SKIFF_BENCH_SHIM names in place of the carried one, to compare them.
func (n *node) otherShim() {
	n.Helper()
	if other := os.Getenv("SKIFF_BENCH_RUNC"); other != "" {
		data, err := os.ReadFile(other)
		n.ok(err)
		n.ok(replace(filepath.Join(n.rt.layout.bin, runcName), data))
	}
	if other := os.Getenv("SKIFF_BENCH_SHIM"); other != "" {
		data, err := os.ReadFile(other)
		n.ok(err)
		n.ok(replace(filepath.Join(n.rt.layout.bin, shimName), data))
	}
}

// BenchmarkPodStart measures RunPodSandbox, CreateContainer and StartContainer of one pod after the
// other, on the host's network and with the image present.
func BenchmarkPodStart(b *testing.B) {
	n := newNode(b)
	n.otherShim()
	n.image(probeImage)
	var took, sandboxTook []time.Duration
	for i := 0; b.Loop(); i++ {
		began := time.Now()
		sandbox, config := n.sandbox(fmt.Sprintf("pod-%d", i))
		sandboxTook = append(sandboxTook, time.Since(began))
		n.container(sandbox, config, "c", probeImage)
		took = append(took, time.Since(began))
		b.StopTimer()
		_, err := n.cri.StopPodSandbox(b.Context(), &cri.StopPodSandboxRequest{PodSandboxId: sandbox})
		n.ok(err)
		_, err = n.cri.RemovePodSandbox(b.Context(), &cri.RemovePodSandboxRequest{PodSandboxId: sandbox})
		n.ok(err)
		b.StartTimer()
	}
	slices.Sort(took)
	slices.Sort(sandboxTook)
	b.ReportMetric(float64(took[len(took)/2].Milliseconds()), "p50-ms")
	b.ReportMetric(float64(took[len(took)*99/100].Milliseconds()), "p99-ms")
	b.ReportMetric(float64(sandboxTook[len(sandboxTook)/2].Milliseconds()), "sandbox-p50-ms")
}

// spent is the CPU time of processes and of their children that have ended, by /proc.
func (n *node) spent(pids ...int) time.Duration {
	n.Helper()
	var ticks time.Duration
	for _, pid := range pids {
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		n.ok(err)
		// The 14th to the 17th field; the second is the name in parentheses.
		fields := strings.Fields(string(data[strings.LastIndexByte(string(data), ')')+1:]))
		for _, field := range fields[11:15] {
			t, err := strconv.Atoi(field)
			n.ok(err)
			ticks += time.Duration(t)
		}
	}
	return ticks * time.Second / 100
}

// BenchmarkPodCPU measures the CPU time of starting a pod and of ending it: of containerd, and of the shim
// with all that it runs. Each round starts 20 pods, 4 at a time, and ends them one by one.
func BenchmarkPodCPU(b *testing.B) {
	const pods, abreast = 20, 4
	n := newNode(b)
	n.otherShim()
	n.image(probeImage)
	first, config := n.sandbox("first") // the shim starts
	n.container(first, config, "c", probeImage)
	var took, daemon, shims, stopTook, endDaemon, endShims time.Duration
	rounds := 0
	for ; b.Loop(); rounds++ {
		began, daemonBefore, shimsBefore := time.Now(), n.spent(n.rt.Pid()), n.spent(n.shims()...)
		slots := make(chan struct{}, abreast)
		var all sync.WaitGroup
		ids, containers := make([]string, pods), make([]string, pods)
		inits := make([]int, pods)
		for i := range pods {
			slots <- struct{}{}
			all.Go(func() {
				defer func() { <-slots }()
				sandbox, config := n.sandbox(fmt.Sprintf("pod-%d-%d", rounds, i))
				ids[i] = sandbox
				containers[i], _ = n.container(sandbox, config, "c", probeImage)
				inits[i] = n.init(containers[i])
			})
		}
		all.Wait()
		took += time.Since(began)
		daemon += n.spent(n.rt.Pid()) - daemonBefore
		shims += n.spent(n.shims()...) - shimsBefore + n.spent(inits...)
		b.StopTimer()
		daemonBefore, shimsBefore = n.spent(n.rt.Pid()), n.spent(n.shims()...)+n.spent(inits...)
		for i, id := range ids {
			began := time.Now()
			_, err := n.cri.StopContainer(b.Context(), &cri.StopContainerRequest{ContainerId: containers[i], Timeout: 30})
			n.ok(err)
			stopTook += time.Since(began)
			_, err = n.cri.StopPodSandbox(b.Context(), &cri.StopPodSandboxRequest{PodSandboxId: id})
			n.ok(err)
			_, err = n.cri.RemovePodSandbox(b.Context(), &cri.RemovePodSandboxRequest{PodSandboxId: id})
			n.ok(err)
		}
		endDaemon += n.spent(n.rt.Pid()) - daemonBefore
		endShims += n.spent(n.shims()...) - shimsBefore
		b.StartTimer()
	}
	perPod := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 / float64(pods*rounds) }
	b.ReportMetric(perPod(took), "ms/pod")
	b.ReportMetric(perPod(daemon), "cpu-ms/pod-containerd")
	b.ReportMetric(perPod(shims), "cpu-ms/pod-shim")
	b.ReportMetric(perPod(stopTook), "ms/stop")
	b.ReportMetric(perPod(endDaemon), "cpu-ms/end-containerd")
	b.ReportMetric(perPod(endShims), "cpu-ms/end-shim")
}

// BenchmarkFootprint measures the resident memory of an idle node with 20 pods.
func BenchmarkFootprint(b *testing.B) {
	n := newNode(b)
	n.otherShim()
	fresh, _, _ := n.memory(n.rt.Pid())
	n.image(probeImage)
	const pods = 20
	began := time.Now()
	for i := range pods {
		sandbox, config := n.sandbox(fmt.Sprintf("pod-%d", i))
		n.container(sandbox, config, "c", probeImage)
	}
	perPod := float64(time.Since(began).Milliseconds()) / pods
	time.Sleep(35 * time.Second) // a benchmark of what stays: the shims return memory every 30 s
	for b.Loop() {
		n.cri.Version(b.Context(), &cri.VersionRequest{}) //nolint:errcheck // only keeps the loop from being empty
	}
	b.ReportMetric(perPod, "ms/pod")
	report := func(what string, pids ...int) {
		rss, pss, anon := n.memory(pids...)
		b.ReportMetric(rss, "MiB-rss-"+what)
		b.ReportMetric(pss, "MiB-pss-"+what)
		b.ReportMetric(anon, "MiB-anon-"+what)
	}
	b.ReportMetric(fresh, "MiB-rss-containerd-fresh")
	report("containerd", n.rt.Pid())
	shims := n.shims()
	report("shims", shims...)
	b.ReportMetric(float64(len(shims)), "shims")
	pauses, err := findProcesses(func(exe string, _ []string) bool { return exe == "/pause" })
	n.ok(err)
	report("pauses", pauses...)
}

// BenchmarkExec measures the CPU time of a process that is executed in a container, as an exec probe is: of
// containerd, and of the shim with all that it runs, the process itself (a Go program) included.
func BenchmarkExec(b *testing.B) {
	n := newNode(b)
	n.otherShim()
	n.image(probeImage)
	sandbox, config := n.sandbox("pod")
	id, _ := n.container(sandbox, config, "c", probeImage)
	exec := func() {
		_, err := n.cri.ExecSync(b.Context(), &cri.ExecSyncRequest{ContainerId: id, Cmd: []string{"/probe", "0"}})
		n.ok(err)
	}
	exec()
	daemonBefore, shimsBefore := n.spent(n.rt.Pid()), n.spent(n.shims()...)
	for b.Loop() {
		exec()
	}
	b.ReportMetric(float64((n.spent(n.rt.Pid())-daemonBefore).Milliseconds())/float64(b.N), "cpu-ms/containerd")
	b.ReportMetric(float64((n.spent(n.shims()...)-shimsBefore).Milliseconds())/float64(b.N), "cpu-ms/shim")
}
