package stats

import (
	"context"
	"encoding/json"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	v1 "k8s.io/api/core/v1"
)

// Handlers are the paths of the kubelet's API that this package answers.
func (p *Provider) Handlers() map[string]http.Handler {
	return map[string]http.Handler{
		"/stats/summary": p.SummaryHandler(), "/metrics/resource": p.ResourceHandler(), "/metrics/cadvisor": p.CadvisorHandler(),
	}
}

// SummaryHandler answers /stats/summary.
func (p *Provider) SummaryHandler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		only := r.URL.Query().Get("only_cpu_and_memory") == "true"
		summary, err := p.Summary(r.Context(), only)
		var data []byte
		if err == nil {
			data, err = json.Marshal(summary)
		}
		if err != nil {
			p.Log.Warn("making the stats summary", "err", err)
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(data) // a client that is gone needs no answer
	})
}

// ResourceHandler answers /metrics/resource, which metrics-server reads.
func (p *Provider) ResourceHandler() http.Handler { return p.handler(p.resources) }

// CadvisorHandler answers /metrics/cadvisor.
func (p *Provider) CadvisorHandler() http.Handler { return p.handler(p.cadvisor) }

// collector hands one request's metrics to the library that writes them.
type collector struct {
	ctx  context.Context
	emit func(ctx context.Context, m *metrics)
}

// Describe names nothing: which series there are depends on the pods.
func (collector) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (c collector) Collect(out chan<- prometheus.Metric) { c.emit(c.ctx, &metrics{out: out}) }

// metrics makes samples.
type metrics struct{ out chan<- prometheus.Metric }

// series is one metric: its name, its text, its labels, and whether it counts.
type series struct {
	name, help string
	labels     []string
	counter    bool
}

func (m *metrics) add(s *series, at time.Time, value float64, labels ...string) {
	kind := prometheus.GaugeValue
	if s.counter {
		kind = prometheus.CounterValue
	}
	one, err := prometheus.NewConstMetric(prometheus.NewDesc(s.name, s.help, s.labels, nil), kind, value, labels...)
	if err != nil {
		one = prometheus.NewInvalidMetric(prometheus.NewDesc(s.name, s.help, s.labels, nil), err)
	} else if !at.IsZero() {
		one = prometheus.NewMetricWithTimestamp(at, one)
	}
	m.out <- one
}

func (p *Provider) handler(emit func(context.Context, *metrics)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer p.forget(time.Now())
		registry := prometheus.NewRegistry()
		registry.MustRegister(collector{r.Context(), emit})
		promhttp.HandlerFor(registry, promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError}).ServeHTTP(w, r)
	})
}

var (
	ofContainer = []string{"container", "namespace", "pod"}
	ofPod       = []string{"namespace", "pod"}

	nodeCPU         = &series{"node_cpu_usage_seconds_total", "[STABLE] Cumulative cpu time consumed by the node in core-seconds", nil, true}
	nodeMemory      = &series{"node_memory_working_set_bytes", "[STABLE] Current working set of the node in bytes", nil, false}
	nodeSwap        = &series{"node_swap_usage_bytes", "[ALPHA] Current swap usage of the node in bytes. Reported only on non-windows systems", nil, false}
	containerCPU    = &series{"container_cpu_usage_seconds_total", "[STABLE] Cumulative cpu time consumed by the container in core-seconds", ofContainer, true}
	containerMemory = &series{"container_memory_working_set_bytes", "[STABLE] Current working set of the container in bytes", ofContainer, false}
	containerStart  = &series{"container_start_time_seconds", "[STABLE] Start time of the container since unix epoch in seconds", ofContainer, false}
	podCPU          = &series{"pod_cpu_usage_seconds_total", "[STABLE] Cumulative cpu time consumed by the pod in core-seconds", ofPod, true}
	podMemory       = &series{"pod_memory_working_set_bytes", "[STABLE] Current working set of the pod in bytes", ofPod, false}
	scrapeError     = &series{"resource_scrape_error", "[STABLE] 1 if there was an error while getting container metrics, 0 otherwise", nil, false}
)

// resources writes the series of KEP-727.
func (p *Provider) resources(ctx context.Context, m *metrics) {
	now := time.Now()
	node, err := p.node(now)
	if err != nil {
		p.Log.Warn("reading what the node uses", "err", err)
		m.add(scrapeError, time.Time{}, 1)
		return
	}
	m.add(scrapeError, time.Time{}, 0)
	m.add(nodeCPU, now, float64(*node.CPU.UsageCoreNanoSeconds)/1e9)
	m.add(nodeMemory, now, float64(*node.Memory.WorkingSetBytes))
	m.add(nodeSwap, now, float64(*node.Swap.SwapUsageBytes))
	for _, u := range p.pods(ctx) {
		if u.all != nil {
			m.add(podCPU, u.all.Time, u.all.CPU.Seconds(), u.pod.Namespace, u.pod.Name)
			m.add(podMemory, u.all.Time, float64(u.all.WorkingSet), u.pod.Namespace, u.pod.Name)
		}
		for i := range u.containers {
			c := &u.containers[i]
			labels := []string{c.name, u.pod.Namespace, u.pod.Name}
			m.add(containerCPU, c.Time, c.CPU.Seconds(), labels...)
			m.add(containerMemory, c.Time, float64(c.WorkingSet), labels...)
			m.add(containerStart, time.Time{}, seconds(c.started), labels...)
		}
	}
}

func seconds(t time.Time) float64 { return float64(t.UnixNano()) / 1e9 }

// cadvisorLabels are those that dashboards select by.
var cadvisorLabels = []string{"container", "id", "image", "name", "namespace", "pod"}

func cadvisorSeries(name, help string, counter bool, more ...string) *series {
	return &series{name, help, append(append([]string{}, cadvisorLabels...), more...), counter}
}

var (
	cCPU        = cadvisorSeries("container_cpu_usage_seconds_total", "Cumulative cpu time consumed in seconds.", true, "cpu")
	cUsage      = cadvisorSeries("container_memory_usage_bytes", "Current memory usage in bytes, including all memory regardless of when it was accessed", false)
	cWorking    = cadvisorSeries("container_memory_working_set_bytes", "Current working set in bytes.", false)
	cRSS        = cadvisorSeries("container_memory_rss", "Size of RSS in bytes.", false)
	cFailures   = cadvisorSeries("container_memory_failures_total", "Cumulative count of memory allocation failures.", true, "failure_type", "scope")
	cLimit      = cadvisorSeries("container_spec_memory_limit_bytes", "Memory limit for the container.", false)
	cShares     = cadvisorSeries("container_spec_cpu_shares", "CPU share of the container.", false)
	cQuota      = cadvisorSeries("container_spec_cpu_quota", "CPU quota of the container.", false)
	cPeriod     = cadvisorSeries("container_spec_cpu_period", "CPU period of the container.", false)
	cProcesses  = cadvisorSeries("container_threads", "Number of threads running inside the container", false)
	cStart      = cadvisorSeries("container_start_time_seconds", "Start time of the container since unix epoch in seconds.", false)
	cSeen       = cadvisorSeries("container_last_seen", "Last time a container was seen by the exporter", false)
	cReceived   = cadvisorSeries("container_network_receive_bytes_total", "Cumulative count of bytes received", true, "interface")
	cSent       = cadvisorSeries("container_network_transmit_bytes_total", "Cumulative count of bytes transmitted", true, "interface")
	cReceivedP  = cadvisorSeries("container_network_receive_packets_total", "Cumulative count of packets received", true, "interface")
	cSentP      = cadvisorSeries("container_network_transmit_packets_total", "Cumulative count of packets transmitted", true, "interface")
	cReceivedE  = cadvisorSeries("container_network_receive_errors_total", "Cumulative count of errors encountered while receiving", true, "interface")
	cSentE      = cadvisorSeries("container_network_transmit_errors_total", "Cumulative count of errors encountered while transmitting", true, "interface")
	cReceivedD  = cadvisorSeries("container_network_receive_packets_dropped_total", "Cumulative count of packets dropped while receiving", true, "interface")
	cSentD      = cadvisorSeries("container_network_transmit_packets_dropped_total", "Cumulative count of packets dropped while transmitting", true, "interface")
	machineCPUs = &series{"machine_cpu_cores", "Number of logical CPU cores.", nil, false}
	machineMem  = &series{"machine_memory_bytes", "Amount of memory installed on the machine.", nil, false}
)

// cadvisor writes the core series that cAdvisor has: for the machine, for each
// pod's group, and for each container.
func (p *Provider) cadvisor(ctx context.Context, m *metrics) {
	now := time.Now()
	if node, err := p.node(now); err == nil {
		root := []string{"", "/", "", "", "", ""}
		m.add(cCPU, now, float64(*node.CPU.UsageCoreNanoSeconds)/1e9, append(root, "total")...)
		m.add(cUsage, now, float64(*node.Memory.UsageBytes), root...)
		m.add(cWorking, now, float64(*node.Memory.WorkingSetBytes), root...)
		m.add(cRSS, now, float64(*node.Memory.RSSBytes), root...)
		m.add(machineMem, time.Time{}, float64(*node.Memory.WorkingSetBytes+*node.Memory.AvailableBytes))
	} else {
		p.Log.Warn("reading what the node uses", "err", err)
	}
	if n := onlineCPUs(p.root); n > 0 {
		m.add(machineCPUs, time.Time{}, float64(n))
	}
	for _, u := range p.pods(ctx) {
		pod := []string{"", u.group, "", "", u.pod.Namespace, u.pod.Name}
		if u.all != nil {
			m.group(u.all, pod)
		}
		for i := range u.network {
			m.network(&u.network[i], now, pod)
		}
		for i := range u.containers {
			c := &u.containers[i]
			labels := []string{c.name, c.group, c.image, c.id, u.pod.Namespace, u.pod.Name}
			m.group(&c.usage, labels)
			m.add(cStart, time.Time{}, float64(c.started.Unix()), labels...)
			m.spec(u.pod, c.name, labels)
		}
	}
}

// group writes what one control group uses.
func (m *metrics) group(u *usage, labels []string) {
	with := func(more ...string) []string { return append(append([]string{}, labels...), more...) }
	m.add(cCPU, u.Time, u.CPU.Seconds(), with("total")...)
	m.add(cUsage, u.Time, float64(u.MemoryUsage), labels...)
	m.add(cWorking, u.Time, float64(u.WorkingSet), labels...)
	m.add(cRSS, u.Time, float64(u.RSS), labels...)
	m.add(cFailures, u.Time, float64(u.PageFaults), with("pgfault", "container")...)
	m.add(cFailures, u.Time, float64(u.MajorPageFaults), with("pgmajfault", "container")...)
	m.add(cLimit, time.Time{}, float64(u.MemoryLimit), labels...)
	m.add(cProcesses, u.Time, float64(u.Pids), labels...)
	m.add(cSeen, u.Time, float64(u.Time.Unix()), labels...)
}

func (m *metrics) network(l *link, at time.Time, labels []string) {
	for s, n := range map[*series]uint64{
		cReceived: l.rx, cSent: l.tx, cReceivedP: l.rxPackets, cSentP: l.txPackets,
		cReceivedE: l.rxErrs, cSentE: l.txErrs, cReceivedD: l.rxDropped, cSentD: l.txDropped,
	} {
		m.add(s, at, float64(n), append(append([]string{}, labels...), l.name)...)
	}
}

const quotaPeriod = 100_000 // in µs, the kubelet's default

// spec writes the limits of a container's CPU, as its spec has them.
func (m *metrics) spec(pod *v1.Pod, container string, labels []string) {
	for _, list := range [][]v1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			if list[i].Name != container {
				continue
			}
			r := &list[i].Resources
			m.add(cShares, time.Time{}, float64(max(r.Requests.Cpu().MilliValue()*1024/1000, 2)), labels...)
			m.add(cPeriod, time.Time{}, quotaPeriod, labels...)
			if limit := r.Limits.Cpu().MilliValue(); limit > 0 {
				m.add(cQuota, time.Time{}, float64(limit*quotaPeriod/1000), labels...)
			}
		}
	}
}
