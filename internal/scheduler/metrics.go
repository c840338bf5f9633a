package scheduler

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Results of a scheduling attempt, as upstream's metrics name them.
const (
	resultScheduled     = "scheduled"
	resultUnschedulable = "unschedulable"
	resultError         = "error"
)

// metrics are the scheduler's under upstream's names.
// https://kubernetes.io/docs/reference/instrumentation/metrics/
type metrics struct {
	attempts *prometheus.CounterVec
	// duration runs from the start of an attempt to the end of its binding.
	duration *prometheus.HistogramVec
	// deciding is the part of it in which a node is sought.
	deciding prometheus.Histogram
	// sli runs from when the pod came to when it is bound.
	sli     *prometheus.HistogramVec
	pending *prometheus.GaugeVec
}

func newMetrics() *metrics {
	histogram := func(name, help string, start float64, count int) prometheus.HistogramOpts {
		return prometheus.HistogramOpts{Subsystem: "scheduler", Name: name, Help: help, Buckets: prometheus.ExponentialBuckets(start, 2, count)}
	}
	return &metrics{
		attempts: prometheus.NewCounterVec(prometheus.CounterOpts{Subsystem: "scheduler", Name: "schedule_attempts_total",
			Help: "Number of attempts to schedule pods, by the result. 'unschedulable' means a pod could not be scheduled, while 'error' means an internal scheduler problem."}, []string{"result", "profile"}),
		duration: prometheus.NewHistogramVec(histogram("scheduling_attempt_duration_seconds",
			"Scheduling attempt latency in seconds (scheduling algorithm + binding)", 0.001, 15), []string{"result", "profile"}),
		deciding: prometheus.NewHistogram(histogram("scheduling_algorithm_duration_seconds",
			"Scheduling algorithm latency in seconds", 0.001, 15)),
		sli: prometheus.NewHistogramVec(histogram("pod_scheduling_sli_duration_seconds",
			"E2e latency for a pod being scheduled, from the time the pod enters the scheduling queue", 0.01, 20), []string{"attempts"}),
		pending: prometheus.NewGaugeVec(prometheus.GaugeOpts{Subsystem: "scheduler", Name: "pending_pods",
			Help: "Number of pending pods, by the queue type. 'active' means number of pods in activeQ; 'backoff' means number of pods in backoffQ; 'unschedulable' means number of pods in unschedulablePods that the scheduler attempted to schedule and failed; 'gated' is the number of unschedulable pods that the scheduler never attempted to schedule because they are gated."}, []string{"queue"}),
	}
}

func (m *metrics) register(r prometheus.Registerer) error {
	for _, c := range []prometheus.Collector{m.attempts, m.duration, m.deciding, m.sli, m.pending} {
		if err := r.Register(c); err != nil {
			return err
		}
	}
	return nil
}

// done counts a finished attempt.
func (m *metrics) done(result, profile string, took time.Duration) {
	m.attempts.WithLabelValues(result, profile).Inc()
	m.duration.WithLabelValues(result, profile).Observe(took.Seconds())
}

func (m *metrics) waiting(q *queue) {
	m.pending.WithLabelValues("active").Set(float64(q.active.Len()))
	m.pending.WithLabelValues("backoff").Set(float64(q.backoff.Len() + q.penalty.Len()))
	m.pending.WithLabelValues("unschedulable").Set(float64(q.parked.Len()))
	m.pending.WithLabelValues("gated").Set(float64(q.gated))
}
