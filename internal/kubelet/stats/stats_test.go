package stats

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	api "k8s.io/kubelet/pkg/apis/stats/v1alpha1"

	"skiff.dev/skiff/internal/cgroup"
	"skiff.dev/skiff/internal/kubelet/layout"
)

// groups keeps what control groups use, by path.
type groups struct {
	cgroup.Tree
	used map[string]cgroup.Stats
}

func (g groups) Stats(path string) (cgroup.Stats, error) {
	s, ok := g.used[path]
	if !ok {
		return s, os.ErrNotExist
	}
	return s, nil
}
func (g groups) Processes(string) ([]int, error) { return []int{99, 7}, nil }
func (g groups) Root() string                    { return "/r/kubepods" }
func (g groups) Path(p *v1.Pod) string           { return "/r/kubepods/pod" + string(p.UID) }

type runtime struct{ disk string }

func value(n uint64) *runtimeapi.UInt64Value { return &runtimeapi.UInt64Value{Value: n} }

func (r runtime) ListContainerStats(context.Context, *runtimeapi.ContainerStatsFilter) ([]*runtimeapi.ContainerStats, error) {
	return []*runtimeapi.ContainerStats{
		{Attributes: &runtimeapi.ContainerAttributes{Id: "c1"}, WritableLayer: &runtimeapi.FilesystemUsage{UsedBytes: value(1000), InodesUsed: value(2)}},
		{Attributes: &runtimeapi.ContainerAttributes{Id: "elsewhere"}, Cpu: &runtimeapi.CpuUsage{Timestamp: 1, UsageCoreNanoSeconds: value(5e9)},
			Memory: &runtimeapi.MemoryUsage{WorkingSetBytes: value(77)}},
	}, nil
}

func (r runtime) ImageFSInfo(context.Context) (*runtimeapi.ImageFsInfoResponse, error) {
	return &runtimeapi.ImageFsInfoResponse{ImageFilesystems: []*runtimeapi.FilesystemUsage{
		{FsId: &runtimeapi.FilesystemIdentifier{Mountpoint: r.disk}, UsedBytes: value(4096), InodesUsed: value(3)},
	}}, nil
}

// files writes a machine's files below root.
func files(t *testing.T, root string, all map[string]string) {
	t.Helper()
	for name, text := range all {
		file := filepath.Join(root, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
}

const netDev = `Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo: 1 1 0 0 0 0 0 0 1 1 0 0 0 0 0 0
  eth0: 100 10 1 2 0 0 0 0 200 20 3 4 0 0 0 0
`

func newTest(t *testing.T) *Provider {
	t.Helper()
	root := t.TempDir()
	files(t, root, map[string]string{
		"proc/stat":                     "cpu  100 0 50 10000 500 1 2 3 40 0\ncpu0 1 1 1 1 1 1 1 1 1 1\nbtime 1700000000\n",
		"proc/meminfo":                  "MemTotal: 1000 kB\nMemFree: 400 kB\nInactive(file): 100 kB\nAnonPages: 50 kB\nSwapTotal: 10 kB\nSwapFree: 4 kB\n",
		"proc/vmstat":                   "pgfault 11\npgmajfault 2\n",
		"proc/1/net/dev":                netDev,
		"proc/1/net/route":              "Iface\tDestination\neth0\t00000000\n",
		"proc/7/net/dev":                netDev,
		"proc/loadavg":                  "0.0 0.0 0.0 1/123 4567\n",
		"proc/sys/kernel/pid_max":       "32768\n",
		"sys/devices/system/cpu/online": "0-2,5\n",
	})
	now := time.Unix(1_800_000_000, 0)
	used := map[string]cgroup.Stats{
		"/r/kubepods":          {Time: now, CPU: 9 * time.Second},
		"/r/kubepods/podu1":    {Time: now, CPU: 3 * time.Second, WorkingSet: 500, MemoryUsage: 600, Pids: 4},
		"/r/kubepods/podu1/c1": {Time: now, CPU: 2 * time.Second, WorkingSet: 300, MemoryUsage: 400, MemoryLimit: 1000, RSS: 200},
	}
	running := func(name, id string) v1.ContainerStatus {
		return v1.ContainerStatus{Name: name, Image: "img", ContainerID: "containerd://" + id,
			State: v1.ContainerState{Running: &v1.ContainerStateRunning{StartedAt: metav1.NewTime(now)}}}
	}
	pod := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p", UID: "u1"}}
	pod.Spec.Volumes = []v1.Volume{{Name: "data", VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{}}}}
	pod.Status.ContainerStatuses = []v1.ContainerStatus{running("a", "c1"), running("b", "elsewhere"), {Name: "waiting"}}
	idle := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "ended", UID: "u2"}}
	p := New(Config{
		Node: "n1", Tree: groups{used: used}, Groups: groups{}, Runtime: runtime{root}, Log: slog.New(slog.DiscardHandler),
		Pods: func() []*v1.Pod { return []*v1.Pod{pod, idle} }, Layout: layout.Below(t.TempDir()),
	})
	p.root = root
	files(t, p.Layout.VolumesDir("u1"), map[string]string{"kubernetes.io~empty-dir/data/f": strings.Repeat("x", 8192)})
	files(t, p.Layout.PodLogDir(pod), map[string]string{"a/0.log": strings.Repeat("x", 4096)})
	return p
}

func TestSummary(t *testing.T) {
	p := newTest(t)
	resp := httptest.NewRecorder()
	p.SummaryHandler().ServeHTTP(resp, httptest.NewRequest("GET", "/stats/summary", nil))
	var s api.Summary
	if err := json.Unmarshal(resp.Body.Bytes(), &s); err != nil || resp.Code != http.StatusOK {
		t.Fatal(err, resp.Body)
	}
	n := s.Node
	if *n.CPU.UsageCoreNanoSeconds != uint64((100+50+1+2+3)*10*time.Millisecond) || *n.Memory.WorkingSetBytes != 500<<10 || *n.Memory.AvailableBytes != 500<<10 ||
		*n.Swap.SwapUsageBytes != 6<<10 || n.Network.Name != "eth0" || *n.Network.TxBytes != 200 || *n.Rlimit.MaxPID != 32768 || *n.Rlimit.NumOfRunningProcesses != 123 ||
		*n.Runtime.ImageFs.UsedBytes != 4096 || *n.Fs.CapacityBytes == 0 || n.StartTime.Unix() != 1700000000 {
		t.Errorf("node: %s", resp.Body)
	}
	if len(n.SystemContainers) != 2 || n.SystemContainers[0].Name != "pods" {
		t.Errorf("system containers: %+v", n.SystemContainers)
	}
	if len(s.Pods) != 1 {
		t.Fatalf("pods: %+v", s.Pods)
	}
	pod := s.Pods[0]
	a, b := pod.Containers[0], pod.Containers[1]
	if *pod.CPU.UsageCoreNanoSeconds != 3e9 || *pod.ProcessStats.ProcessCount != 4 || *pod.Network.RxBytes != 100 {
		t.Errorf("pod: %+v", pod)
	}
	if *a.CPU.UsageCoreNanoSeconds != 2e9 || *a.Memory.AvailableBytes != 700 || *a.Rootfs.UsedBytes != 1000 || *a.Logs.UsedBytes < 4096 {
		t.Errorf("container a: %+v", a)
	}
	if *b.CPU.UsageCoreNanoSeconds != 5e9 || *b.Memory.WorkingSetBytes != 77 {
		t.Errorf("a container in a group that only the runtime knows: %+v", b)
	}
	volume := *pod.VolumeStats[0].UsedBytes
	if pod.VolumeStats[0].Name != "data" || volume < 8192 || *pod.EphemeralStorage.UsedBytes != 1000+volume+*a.Logs.UsedBytes+*b.Logs.UsedBytes {
		t.Errorf("storage: volumes %+v, all %d", pod.VolumeStats, *pod.EphemeralStorage.UsedBytes)
	}
	short, err := p.Summary(t.Context(), true)
	if err != nil || short.Node.Fs != nil || short.Pods[0].EphemeralStorage != nil || short.Pods[0].CPU == nil {
		t.Errorf("only CPU and memory: %v %+v", err, short.Node)
	}
}

func TestRate(t *testing.T) {
	p := New(Config{})
	now := time.Unix(0, 0)
	if p.rateOf("a", now, time.Second) != nil {
		t.Error("a rate after one look")
	}
	if p.rateOf("a", now.Add(time.Millisecond), 2*time.Second) != nil {
		t.Error("a rate over too short a time")
	}
	for range 2 { // looking again at once gives the same
		if got := p.rateOf("a", now.Add(4*time.Second), 3*time.Second); got == nil || *got != 5e8 {
			t.Errorf("2 s of CPU in 4 s: %v", got)
		}
	}
	if got := p.rateOf("a", now.Add(10*time.Second), 0); got != nil {
		t.Errorf("a group made anew: %d", *got)
	}
	p.forget(time.Now())
	if len(p.rates) != 0 {
		t.Error("old rates are kept")
	}
}

func scrape(t *testing.T, h http.Handler) string {
	t.Helper()
	resp := httptest.NewRecorder()
	h.ServeHTTP(resp, httptest.NewRequest("GET", "/", nil))
	text, err := io.ReadAll(resp.Body)
	if err != nil || resp.Code != http.StatusOK {
		t.Fatal(err, resp.Code, string(text))
	}
	return string(text)
}

func TestMetrics(t *testing.T) {
	p := newTest(t)
	for path, wants := range map[string][]string{
		"/metrics/resource": {
			`container_cpu_usage_seconds_total{container="a",namespace="ns",pod="p"} 2 1800000000000`,
			`container_memory_working_set_bytes{container="a",namespace="ns",pod="p"} 300 1800000000000`,
			`container_start_time_seconds{container="a",namespace="ns",pod="p"} 1.8e+09`,
			`pod_cpu_usage_seconds_total{namespace="ns",pod="p"} 3 1800000000000`,
			`pod_memory_working_set_bytes{namespace="ns",pod="p"} 500 1800000000000`,
			"node_cpu_usage_seconds_total 1.56 ", "node_memory_working_set_bytes 512000 ", "resource_scrape_error 0\n",
		},
		"/metrics/cadvisor": {
			`container_cpu_usage_seconds_total{container="a",cpu="total",id="/r/kubepods/podu1/c1",image="img",name="c1",namespace="ns",pod="p"} 2 `,
			`container_cpu_usage_seconds_total{container="",cpu="total",id="/r/kubepods/podu1",image="",name="",namespace="ns",pod="p"} 3 `,
			`container_memory_working_set_bytes{container="",id="/",image="",name="",namespace="",pod=""} 512000 `,
			`container_network_receive_bytes_total{container="",id="/r/kubepods/podu1",image="",interface="eth0",name="",namespace="ns",pod="p"} 100 `,
			`container_spec_memory_limit_bytes{container="a",id="/r/kubepods/podu1/c1",image="img",name="c1",namespace="ns",pod="p"} 1000`,
			"machine_cpu_cores 4\n", "machine_memory_bytes 1.024e+06\n",
		},
	} {
		text := scrape(t, p.Handlers()[path])
		for _, want := range wants {
			if !strings.Contains(text, want) {
				t.Errorf("no %s in\n%s", want, text)
			}
		}
	}
}

func TestCountDir(t *testing.T) {
	dir := t.TempDir()
	files(t, dir, map[string]string{"a": strings.Repeat("x", 4096), "d/b": "y"})
	if err := errors.Join(os.Link(filepath.Join(dir, "a"), filepath.Join(dir, "again")), os.Symlink("/", filepath.Join(dir, "link"))); err != nil {
		t.Fatal(err)
	}
	got := countDir(dir)
	if got.inodes != 5 || got.bytes < 8192 || got.bytes > 64<<10 {
		t.Errorf("%+v", got)
	}
	if diff := cmp.Diff(disk{}, countDir(filepath.Join(dir, "absent")), cmp.AllowUnexported(disk{})); diff != "" {
		t.Error(diff)
	}
}

// TestThisMachine reads the real files.
func TestThisMachine(t *testing.T) {
	p := New(Config{Node: "n", Tree: groups{}, Groups: groups{}, Log: slog.New(slog.DiscardHandler)})
	n, err := p.node(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if *n.CPU.UsageCoreNanoSeconds == 0 || *n.Memory.WorkingSetBytes == 0 || n.StartTime.IsZero() || onlineCPUs("/") == 0 {
		t.Errorf("%+v", n)
	}
}
