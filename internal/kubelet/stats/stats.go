// Package stats tells what the node, its pods and their containers use: CPU,
// memory, network, processes and storage. It answers /stats/summary and the
// Prometheus endpoints of the kubelet, and is what evictions are decided on.
//
// Nothing is collected unless someone asks. CPU and memory come from the
// control groups, the node's from /proc, the writable layers from the
// container runtime; it writes nothing.
package stats

import (
	"context"
	"fmt"
	"log/slog"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	api "k8s.io/kubelet/pkg/apis/stats/v1alpha1"

	"skiff.dev/skiff/internal/cgroup"
	"skiff.dev/skiff/internal/kubelet/layout"
)

// Runtime is the part of the container runtime that is asked; see package cri.
type Runtime interface {
	ListContainerStats(ctx context.Context, filter *runtimeapi.ContainerStatsFilter) ([]*runtimeapi.ContainerStats, error)
	ImageFSInfo(ctx context.Context) (*runtimeapi.ImageFsInfoResponse, error)
}

// Groups tells where the pods' control groups are; see podcgroup.Groups.
type Groups interface {
	// Root is the group above all pods'.
	Root() string
	// Path is the group of one pod; its containers' are below, by ID.
	Path(p *v1.Pod) string
}

// Config is what statistics are made from.
type Config struct {
	Node    string
	Tree    cgroup.Tree
	Groups  Groups
	Runtime Runtime
	Pods    func() []*v1.Pod // of the node, with their status
	Layout  layout.Layout
	Log     *slog.Logger
}

// Provider works out statistics. It is safe for concurrent use.
type Provider struct {
	Config
	root string // of the host's files; "/" but in tests

	mu    sync.Mutex
	rates map[string]rate
	disks map[string]disk // what directories hold, by path
}

// New returns a provider.
func New(c Config) *Provider {
	return &Provider{Config: c, root: "/", rates: map[string]rate{}, disks: map[string]disk{}}
}

// rate is how fast something used CPU between two looks.
type rate struct {
	at    time.Time
	cpu   time.Duration
	cores *uint64 // in 1e-9 of one
}

const (
	// rateWindow is the shortest time over which a rate is worked out.
	rateWindow = time.Second
	// diskAge is how long the size of a directory is taken as known.
	diskAge = time.Minute
	// forgetAge is when what was not asked for is forgotten.
	forgetAge = 10 * time.Minute
)

// usage is what a group of processes uses.
type usage struct {
	cgroup.Stats
	cores *uint64
}

// containerUsage is what a running container uses.
type containerUsage struct {
	usage
	name, id, image, group string
	started                time.Time
}

// podUsage is what a pod uses.
type podUsage struct {
	pod        *v1.Pod
	group      string
	all        *usage // nil where the pod has no group
	containers []containerUsage
	network    []link
}

// use reads what the group at path uses, with its rate.
func (p *Provider) use(group string) (usage, error) {
	s, err := p.Tree.Stats(group)
	if err != nil {
		return usage{}, err
	}
	return usage{Stats: s, cores: p.rateOf(group, s.Time, s.CPU)}, nil
}

// rateOf returns how fast CPU was used since an earlier look, nil before there
// is one.
func (p *Provider) rateOf(key string, at time.Time, cpu time.Duration) *uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	old, ok := p.rates[key]
	next := rate{at: at, cpu: cpu}
	if ok {
		window := at.Sub(old.at)
		if window < rateWindow {
			return old.cores
		}
		if cpu >= old.cpu {
			n := uint64(float64(cpu-old.cpu) / float64(window) * 1e9)
			next.cores = &n
		}
	}
	p.rates[key] = next
	return next.cores
}

// forget drops what belongs to pods that are gone.
func (p *Provider) forget(now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for k, r := range p.rates {
		if now.Sub(r.at) > forgetAge {
			delete(p.rates, k)
		}
	}
	for k, d := range p.disks {
		if now.Sub(d.at) > forgetAge {
			delete(p.disks, k)
		}
	}
}

// pods returns what the node's pods use, those that use anything.
func (p *Provider) pods(ctx context.Context) []podUsage {
	var out []podUsage
	var fallback map[string]*runtimeapi.ContainerStats
	for _, pod := range p.Pods() {
		u := podUsage{pod: pod, group: p.Groups.Path(pod)}
		if all, err := p.use(u.group); err == nil {
			u.all = &all
		}
		for _, cs := range statuses(pod) {
			if cs.State.Running == nil || cs.ContainerID == "" {
				continue
			}
			c := containerUsage{name: cs.Name, id: trimID(cs.ContainerID), image: cs.Image, started: cs.State.Running.StartedAt.Time}
			c.group = path.Join(u.group, c.id)
			var err error
			if c.usage, err = p.use(c.group); err != nil {
				if fallback == nil {
					fallback = p.fromRuntime(ctx)
				}
				s, ok := fallback[c.id]
				if !ok {
					continue // ended since its status was taken
				}
				c.usage = p.convert(c.id, s)
			}
			u.containers = append(u.containers, c)
		}
		if u.all == nil && len(u.containers) == 0 {
			continue
		}
		if !pod.Spec.HostNetwork {
			u.network = p.podLinks(u.group)
		}
		out = append(out, u)
	}
	return out
}

// fromRuntime asks the runtime, which may keep containers in groups of its own
// liking. It returns an empty map where the runtime does not answer.
func (p *Provider) fromRuntime(ctx context.Context) map[string]*runtimeapi.ContainerStats {
	out := map[string]*runtimeapi.ContainerStats{}
	all, err := p.Runtime.ListContainerStats(ctx, nil)
	if err != nil {
		p.Log.Warn("asking the container runtime what containers use", "err", err)
	}
	for _, s := range all {
		out[s.GetAttributes().GetId()] = s
	}
	return out
}

func (p *Provider) convert(id string, s *runtimeapi.ContainerStats) usage {
	m := s.GetMemory()
	at := time.Unix(0, s.GetCpu().GetTimestamp())
	out := cgroup.Stats{
		Time: at, CPU: time.Duration(s.GetCpu().GetUsageCoreNanoSeconds().GetValue()), //nolint:gosec // 292 years
		MemoryUsage: m.GetUsageBytes().GetValue(), WorkingSet: m.GetWorkingSetBytes().GetValue(), RSS: m.GetRssBytes().GetValue(),
		PageFaults: m.GetPageFaults().GetValue(), MajorPageFaults: m.GetMajorPageFaults().GetValue(),
	}
	return usage{Stats: out, cores: p.rateOf(id, at, out.CPU)}
}

func statuses(pod *v1.Pod) []v1.ContainerStatus {
	return slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses, pod.Status.EphemeralContainerStatuses)
}

func trimID(id string) string {
	if _, rest, ok := strings.Cut(id, "://"); ok {
		return rest
	}
	return id
}

// Summary returns what everything uses. CPU and memory are quick to read;
// storage is asked of the runtime and counted in directories.
func (p *Provider) Summary(ctx context.Context, onlyCPUAndMemory bool) (*api.Summary, error) {
	now := time.Now()
	defer p.forget(now)
	node, err := p.node(now)
	if err != nil {
		return nil, fmt.Errorf("reading what the node uses: %w", err)
	}
	out := &api.Summary{Node: *node, Pods: []api.PodStats{}}
	var disks *storage
	if !onlyCPUAndMemory {
		if disks, err = p.storage(ctx, now); err != nil {
			return nil, err
		}
		out.Node.Fs, out.Node.Runtime = disks.node, &api.RuntimeStats{ImageFs: disks.image, ContainerFs: disks.containers}
	} else {
		out.Node.Network, out.Node.Rlimit = nil, nil
	}
	for _, u := range p.pods(ctx) {
		out.Pods = append(out.Pods, p.podStats(&u, disks, now))
	}
	return out, nil
}

func (p *Provider) podStats(u *podUsage, disks *storage, now time.Time) api.PodStats {
	out := api.PodStats{
		PodRef:     api.PodReference{Namespace: u.pod.Namespace, Name: u.pod.Name, UID: string(u.pod.UID)},
		Containers: []api.ContainerStats{},
	}
	if u.pod.Status.StartTime != nil {
		out.StartTime = *u.pod.Status.StartTime
	}
	if u.all != nil {
		out.CPU, out.Memory = cpuStats(u.all), memoryStats(u.all)
		out.ProcessStats = &api.ProcessStats{ProcessCount: &u.all.Pids}
	}
	for i := range u.containers {
		c := &u.containers[i]
		one := api.ContainerStats{Name: c.name, StartTime: metav1.NewTime(c.started), CPU: cpuStats(&c.usage), Memory: memoryStats(&c.usage)}
		if disks != nil {
			one.Rootfs, one.Logs = disks.rootfs(c.id), p.logs(u.pod, c.name, disks, now)
		}
		out.Containers = append(out.Containers, one)
	}
	if disks != nil {
		if len(u.network) > 0 {
			out.Network = networkStats(u.network, "eth0", now)
		}
		out.VolumeStats = p.volumes(u.pod, disks, now)
		out.EphemeralStorage = ephemeral(u.pod, &out, disks)
	}
	return out
}

func cpuStats(u *usage) *api.CPUStats {
	n := uint64(u.CPU)
	return &api.CPUStats{Time: metav1.NewTime(u.Time), UsageNanoCores: u.cores, UsageCoreNanoSeconds: &n}
}

func memoryStats(u *usage) *api.MemoryStats {
	out := &api.MemoryStats{
		Time: metav1.NewTime(u.Time), UsageBytes: &u.MemoryUsage, WorkingSetBytes: &u.WorkingSet, RSSBytes: &u.RSS,
		PageFaults: &u.PageFaults, MajorPageFaults: &u.MajorPageFaults,
	}
	if u.MemoryLimit > 0 {
		left := u.MemoryLimit - min(u.WorkingSet, u.MemoryLimit)
		out.AvailableBytes = &left
	}
	return out
}
