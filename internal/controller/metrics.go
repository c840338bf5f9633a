package controller

import (
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics are those of the queues of a process's controllers, under upstream's
// names; each controller's name is that of its queue.
// https://kubernetes.io/docs/reference/instrumentation/metrics/
type Metrics struct {
	adds, retries *prometheus.CounterVec
	waited, took  *prometheus.HistogramVec

	mu     sync.Mutex
	queues map[string]*queue // asked when somebody looks
}

var (
	depthDesc      = queueDesc("depth", "Current depth of workqueue")
	unfinishedDesc = queueDesc("unfinished_work_seconds", "How many seconds of work has done that is in progress and hasn't been observed by work_duration. Large values indicate stuck threads.")
	longestDesc    = queueDesc("longest_running_processor_seconds", "How many seconds has the longest running processor for workqueue been running.")
)

func queueDesc(name, help string) *prometheus.Desc {
	return prometheus.NewDesc("workqueue_"+name, help, []string{"name"}, nil)
}

// NewMetrics returns metrics that are in r.
func NewMetrics(r prometheus.Registerer) *Metrics {
	name := []string{"name"}
	histogram := func(what, help string) *prometheus.HistogramVec {
		return prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Subsystem: "workqueue", Name: what, Help: help, Buckets: prometheus.ExponentialBuckets(1e-8, 10, 10),
		}, name)
	}
	m := &Metrics{
		queues:  map[string]*queue{},
		adds:    prometheus.NewCounterVec(prometheus.CounterOpts{Subsystem: "workqueue", Name: "adds_total", Help: "Total number of adds handled by workqueue"}, name),
		retries: prometheus.NewCounterVec(prometheus.CounterOpts{Subsystem: "workqueue", Name: "retries_total", Help: "Total number of retries handled by workqueue"}, name),
		waited:  histogram("queue_duration_seconds", "How long in seconds an item stays in workqueue before being requested"),
		took:    histogram("work_duration_seconds", "How long in seconds processing an item from workqueue takes."),
	}
	r.MustRegister(m.adds, m.retries, m.waited, m.took, m)
	return m
}

// Measure makes the controller tell m what its queue does. It is called before
// Run.
func (c *Controller) Measure(m *Metrics) {
	c.queue.measure = &measure{
		adds: m.adds.WithLabelValues(c.name), retries: m.retries.WithLabelValues(c.name),
		waited: m.waited.WithLabelValues(c.name), took: m.took.WithLabelValues(c.name),
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.queues[c.name] = c.queue
}

// Describe implements prometheus.Collector.
func (m *Metrics) Describe(out chan<- *prometheus.Desc) {
	out <- depthDesc
	out <- unfinishedDesc
	out <- longestDesc
}

// Collect implements prometheus.Collector.
func (m *Metrics) Collect(out chan<- prometheus.Metric) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for name, q := range m.queues {
		depth, all, longest := q.load(time.Now())
		out <- prometheus.MustNewConstMetric(depthDesc, prometheus.GaugeValue, float64(depth), name)
		out <- prometheus.MustNewConstMetric(unfinishedDesc, prometheus.GaugeValue, all.Seconds(), name)
		out <- prometheus.MustNewConstMetric(longestDesc, prometheus.GaugeValue, longest.Seconds(), name)
	}
}

// load returns how many keys wait, how long those being worked on have been, in
// all, and the longest of them.
func (q *queue) load(now time.Time) (depth int, all, longest time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, s := range q.states {
		if s.working {
			d := now.Sub(s.since)
			all, longest = all+d, max(longest, d)
		}
	}
	return len(q.ready), all, longest
}

// measure is told what one queue does; nil where nobody wants to know.
type measure struct {
	adds, retries prometheus.Counter
	waited, took  prometheus.Observer
}

func (m *measure) added() {
	if m != nil {
		m.adds.Inc()
	}
}

func (m *measure) delayed() {
	if m != nil {
		m.retries.Inc()
	}
}

func (m *measure) began(waited time.Duration) {
	if m != nil {
		m.waited.Observe(waited.Seconds())
	}
}

func (m *measure) done(took time.Duration) {
	if m != nil {
		m.took.Observe(took.Seconds())
	}
}
