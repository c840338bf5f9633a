package stats

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	api "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

// node returns what the whole machine uses.
func (p *Provider) node(now time.Time) (*api.NodeStats, error) {
	cpu, boot, err := p.nodeCPU()
	if err != nil {
		return nil, err
	}
	memory, swap, err := p.nodeMemory(now)
	if err != nil {
		return nil, err
	}
	used := uint64(cpu)
	out := &api.NodeStats{
		NodeName: p.Node, StartTime: metav1.NewTime(boot), Memory: memory, Swap: swap,
		CPU: &api.CPUStats{Time: metav1.NewTime(now), UsageCoreNanoSeconds: &used, UsageNanoCores: p.rateOf("/", now, cpu)},
	}
	if u, err := p.use(p.Groups.Root()); err == nil {
		out.SystemContainers = append(out.SystemContainers, api.ContainerStats{
			Name: api.SystemContainerPods, StartTime: metav1.NewTime(boot), CPU: cpuStats(&u), Memory: memoryStats(&u),
		})
	}
	if own, err := p.self(now); err == nil {
		out.SystemContainers = append(out.SystemContainers, *own)
	}
	if links, err := readLinks(filepath.Join(p.root, "proc/1/net/dev")); err == nil {
		out.Network = networkStats(links, defaultLink(p.root), now)
	}
	out.Rlimit = p.processes(now)
	return out, nil
}

// tick is what the kernel counts CPU time in for programs, on every platform.
const tick = 10 * time.Millisecond

// nodeCPU returns the CPU time used and when the machine started.
func (p *Provider) nodeCPU() (time.Duration, time.Time, error) {
	data, err := os.ReadFile(filepath.Join(p.root, "proc/stat"))
	if err != nil {
		return 0, time.Time{}, err
	}
	var used time.Duration
	var boot time.Time
	lines := bufio.NewScanner(bytes.NewReader(data))
	for lines.Scan() {
		f := strings.Fields(lines.Text())
		switch {
		case len(f) > 8 && f[0] == "cpu":
			// user nice system idle iowait irq softirq steal; what guests use is in user.
			for _, i := range []int{1, 2, 3, 6, 7, 8} {
				n, err := strconv.ParseInt(f[i], 10, 64)
				if err != nil {
					return 0, boot, fmt.Errorf("reading /proc/stat: %w", err)
				}
				used += time.Duration(n) * tick
			}
		case len(f) == 2 && f[0] == "btime":
			n, err := strconv.ParseInt(f[1], 10, 64)
			if err != nil {
				return 0, boot, fmt.Errorf("reading /proc/stat: %w", err)
			}
			boot = time.Unix(n, 0)
		}
	}
	return used, boot, nil
}

// nodeMemory returns the machine's memory and swap. The working set is what
// the kernel could not take back at once.
func (p *Provider) nodeMemory(now time.Time) (*api.MemoryStats, *api.SwapStats, error) {
	info, err := table(filepath.Join(p.root, "proc/meminfo"))
	if err != nil {
		return nil, nil, err
	}
	for name := range info {
		info[name] <<= 10
	}
	usage := without(info["MemTotal"], info["MemFree"])
	working := without(usage, info["Inactive(file)"])
	left := without(info["MemTotal"], working)
	anon := info["AnonPages"]
	out := &api.MemoryStats{Time: metav1.NewTime(now), UsageBytes: &usage, WorkingSetBytes: &working, AvailableBytes: &left, RSSBytes: &anon}
	if faults, err := table(filepath.Join(p.root, "proc/vmstat")); err == nil {
		minor, major := faults["pgfault"], faults["pgmajfault"]
		out.PageFaults, out.MajorPageFaults = &minor, &major
	}
	free := info["SwapFree"]
	used := without(info["SwapTotal"], free)
	return out, &api.SwapStats{Time: metav1.NewTime(now), SwapAvailableBytes: &free, SwapUsageBytes: &used}, nil
}

func without(a, b uint64) uint64 { return a - min(a, b) }

// table reads lines that begin with a name and a number.
func table(file string) (map[string]uint64, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	out := map[string]uint64{}
	lines := bufio.NewScanner(bytes.NewReader(data))
	for lines.Scan() {
		f := strings.Fields(lines.Text())
		if len(f) < 2 {
			continue
		}
		if n, err := strconv.ParseUint(f[1], 10, 64); err == nil {
			out[strings.TrimSuffix(f[0], ":")] = n
		}
	}
	return out, nil
}

// self is what this process uses, the kubelet and whatever runs with it.
func (p *Provider) self(now time.Time) (*api.ContainerStats, error) {
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		return nil, err
	}
	data, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return nil, err
	}
	f := strings.Fields(string(data))
	if len(f) < 2 {
		return nil, fmt.Errorf("reading /proc/self/statm: %q", data)
	}
	pages, err := strconv.ParseUint(f[1], 10, 64)
	if err != nil {
		return nil, err
	}
	rss := pages * uint64(os.Getpagesize())
	cpu := time.Duration(r.Utime.Nano() + r.Stime.Nano())
	used := uint64(cpu)
	return &api.ContainerStats{
		Name:   api.SystemContainerKubelet,
		CPU:    &api.CPUStats{Time: metav1.NewTime(now), UsageCoreNanoSeconds: &used, UsageNanoCores: p.rateOf("self", now, cpu)},
		Memory: &api.MemoryStats{Time: metav1.NewTime(now), RSSBytes: &rss, UsageBytes: &rss, WorkingSetBytes: &rss},
	}, nil
}

// processes tells how many processes there are and may be.
func (p *Provider) processes(now time.Time) *api.RlimitStats {
	out := &api.RlimitStats{Time: metav1.NewTime(now)}
	if data, err := os.ReadFile(filepath.Join(p.root, "proc/sys/kernel/pid_max")); err == nil {
		if n, err := strconv.ParseInt(strings.TrimSpace(string(data)), 10, 64); err == nil {
			out.MaxPID = &n
		}
	}
	// "0.00 0.01 0.05 1/123 4567": 123 processes and threads.
	if data, err := os.ReadFile(filepath.Join(p.root, "proc/loadavg")); err == nil {
		if f := strings.Fields(string(data)); len(f) > 3 {
			_, all, _ := strings.Cut(f[3], "/")
			if n, err := strconv.ParseInt(all, 10, 64); err == nil {
				out.NumOfRunningProcesses = &n
			}
		}
	}
	return out
}

// link is a network interface with what has passed it.
type link struct {
	name                   string
	rx, tx, rxErrs, txErrs uint64
	rxPackets, txPackets   uint64
	rxDropped, txDropped   uint64
}

// readLinks reads a net/dev file, without the loopback.
func readLinks(file string) ([]link, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var out []link
	lines := bufio.NewScanner(bytes.NewReader(data))
	for lines.Scan() {
		name, rest, ok := strings.Cut(lines.Text(), ":")
		f := strings.Fields(rest)
		if name = strings.TrimSpace(name); !ok || len(f) < 12 || name == "lo" {
			continue
		}
		n := make([]uint64, len(f))
		for i := range f {
			if n[i], err = strconv.ParseUint(f[i], 10, 64); err != nil {
				return nil, fmt.Errorf("reading %s: %w", file, err)
			}
		}
		out = append(out, link{
			name: name, rx: n[0], rxPackets: n[1], rxErrs: n[2], rxDropped: n[3],
			tx: n[8], txPackets: n[9], txErrs: n[10], txDropped: n[11],
		})
	}
	return out, lines.Err()
}

// podLinks reads the interfaces of a pod by way of one of its processes.
func (p *Provider) podLinks(group string) []link {
	pids, err := p.Tree.Processes(group)
	if err != nil {
		return nil
	}
	for _, pid := range pids {
		if links, err := readLinks(filepath.Join(p.root, "proc", strconv.Itoa(pid), "net/dev")); err == nil {
			return links
		}
	}
	return nil
}

// defaultLink is the interface that the default route leads out of.
func defaultLink(root string) string {
	data, err := os.ReadFile(filepath.Join(root, "proc/1/net/route"))
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(data)) {
		if f := strings.Fields(line); len(f) > 1 && f[1] == "00000000" {
			return f[0]
		}
	}
	return ""
}

// networkStats lists the interfaces; the main one, or else the first, stands
// for the whole.
func networkStats(links []link, main string, now time.Time) *api.NetworkStats {
	out := &api.NetworkStats{Time: metav1.NewTime(now)}
	for i := range links {
		l := &links[i]
		one := api.InterfaceStats{Name: l.name, RxBytes: &l.rx, RxErrors: &l.rxErrs, TxBytes: &l.tx, TxErrors: &l.txErrs}
		out.Interfaces = append(out.Interfaces, one)
		if l.name == main || i == 0 {
			out.InterfaceStats = one
		}
	}
	return out
}

// onlineCPUs counts the processors in a list such as "0-3,8"; 0 if it cannot be read.
func onlineCPUs(root string) int {
	data, err := os.ReadFile(filepath.Join(root, "sys/devices/system/cpu/online"))
	if err != nil {
		return 0
	}
	n := 0
	for part := range strings.SplitSeq(strings.TrimSpace(string(data)), ",") {
		from, to, isRange := strings.Cut(part, "-")
		if !isRange {
			to = from
		}
		a, errA := strconv.Atoi(from)
		b, errB := strconv.Atoi(to)
		if errA != nil || errB != nil || b < a {
			return 0
		}
		n += b - a + 1
	}
	return n
}
