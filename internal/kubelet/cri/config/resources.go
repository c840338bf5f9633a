package config

import (
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"skiff.dev/skiff/internal/pod"
)

const (
	defaultPeriod = 100_000 // microseconds
	minQuota      = 1_000
	minShares     = 2
	maxShares     = 262_144
	sharesPerCPU  = 1024

	guaranteedOOM = -997
	bestEffortOOM = 1000
	// systemNodeCritical is the priority of system-node-critical.
	systemNodeCritical = 2_000_001_000
)

// Resources translates a container's requests and limits.
func (b *Builder) Resources(p *v1.Pod, c *v1.Container) *runtimeapi.LinuxContainerResources {
	cpu := c.Resources.Requests.Cpu()
	if _, set := c.Resources.Requests[v1.ResourceCPU]; !set {
		cpu = c.Resources.Limits.Cpu()
	}
	out := &runtimeapi.LinuxContainerResources{
		CpuShares:          shares(cpu),
		MemoryLimitInBytes: c.Resources.Limits.Memory().Value(),
		OomScoreAdj:        b.oomScore(p, c),
		HugepageLimits:     hugepages(c.Resources.Limits),
	}
	if limit := c.Resources.Limits.Cpu(); !limit.IsZero() {
		out.CpuPeriod, out.CpuQuota = b.quota(limit)
	}
	if b.Node.OOMGroup {
		out.Unified = map[string]string{"memory.oom.group": "1"}
	}
	return out
}

// shares are 1024 for each CPU requested; what requests nothing gets the least.
func shares(cpu *resource.Quantity) int64 {
	return min(max(cpu.MilliValue()*sharesPerCPU/1000, minShares), maxShares)
}

func (b *Builder) quota(cpu *resource.Quantity) (period, quota int64) {
	period = b.Node.CPUQuotaPeriod
	if period == 0 {
		period = defaultPeriod
	}
	return period, max(cpu.MilliValue()*period/1000, minQuota)
}

// oomScore lets the kernel take pods that requested nothing first and
// guaranteed ones last; between them, who uses more than he requested.
func (b *Builder) oomScore(p *v1.Pod, c *v1.Container) int64 {
	score := int64(guaranteedOOM)
	switch {
	case pod.Priority(p) >= systemNodeCritical:
	case pod.QOS(p) == v1.PodQOSGuaranteed:
	case pod.QOS(p) == v1.PodQOSBestEffort:
		score = bestEffortOOM
	default:
		request := c.Resources.Requests.Memory().Value()
		score = bestEffortOOM
		if b.Node.MemoryBytes > 0 {
			score -= bestEffortOOM * request / b.Node.MemoryBytes
		}
		// Never as safe as guaranteed, never as exposed as best effort.
		score = min(max(score, bestEffortOOM+guaranteedOOM), bestEffortOOM-1)
	}
	return max(score, b.Node.MinOOMScoreAdj)
}

func hugepages(limits v1.ResourceList) []*runtimeapi.HugepageLimit {
	var out []*runtimeapi.HugepageLimit
	for name, q := range limits {
		size, ok := strings.CutPrefix(string(name), v1.ResourceHugePagesPrefix)
		if !ok {
			continue
		}
		if parsed, err := resource.ParseQuantity(size); err == nil {
			out = append(out, &runtimeapi.HugepageLimit{PageSize: pageSize(parsed.Value()), Limit: uint64(q.Value())})
		}
	}
	slices.SortFunc(out, func(a, b *runtimeapi.HugepageLimit) int { return strings.Compare(a.PageSize, b.PageSize) })
	return out
}

// pageSize names a size as the cgroup's files do: 2MB, 1GB.
func pageSize(bytes int64) string {
	units := []string{"B", "KB", "MB", "GB"}
	i := 0
	for bytes >= 1024 && bytes%1024 == 0 && i < len(units)-1 {
		bytes, i = bytes/1024, i+1
	}
	return resource.NewQuantity(bytes, resource.DecimalSI).String() + units[i]
}

// podResources is the sum of the pod, for runtimes that size a sandbox by it.
func (b *Builder) podResources(p *v1.Pod) *runtimeapi.LinuxContainerResources {
	requests, limits := pod.Requests(p), pod.Limits(p)
	out := &runtimeapi.LinuxContainerResources{
		CpuShares: shares(requests.Cpu()), MemoryLimitInBytes: limits.Memory().Value(),
	}
	if limit := limits.Cpu(); !limit.IsZero() {
		out.CpuPeriod, out.CpuQuota = b.quota(limit)
	}
	return out
}

func (b *Builder) overhead(p *v1.Pod) *runtimeapi.LinuxContainerResources {
	if len(p.Spec.Overhead) == 0 {
		return nil
	}
	out := &runtimeapi.LinuxContainerResources{
		CpuShares: shares(p.Spec.Overhead.Cpu()), MemoryLimitInBytes: p.Spec.Overhead.Memory().Value(),
	}
	if cpu := p.Spec.Overhead.Cpu(); !cpu.IsZero() {
		out.CpuPeriod, out.CpuQuota = b.quota(cpu)
	}
	return out
}
