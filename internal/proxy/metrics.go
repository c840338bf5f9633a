package proxy

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics are the proxy's, under upstream's names.
type Metrics struct {
	took               *prometheus.HistogramVec
	programmed, queued *prometheus.GaugeVec
	failures           *prometheus.CounterVec
}

// NewMetrics returns metrics that are in r.
func NewMetrics(r prometheus.Registerer) *Metrics {
	family := []string{"ip_family"}
	gauge := func(name, help string) *prometheus.GaugeVec {
		return prometheus.NewGaugeVec(prometheus.GaugeOpts{Subsystem: "kubeproxy", Name: name, Help: help}, family)
	}
	m := &Metrics{
		took: prometheus.NewHistogramVec(prometheus.HistogramOpts{Subsystem: "kubeproxy", Name: "sync_proxy_rules_duration_seconds",
			Help: "SyncProxyRules latency in seconds", Buckets: prometheus.ExponentialBuckets(0.001, 2, 15)}, family),
		programmed: gauge("sync_proxy_rules_last_timestamp_seconds", "The last time proxy rules were successfully synced"),
		queued:     gauge("sync_proxy_rules_last_queued_timestamp_seconds", "The last time a sync of proxy rules was queued"),
		failures: prometheus.NewCounterVec(prometheus.CounterOpts{Subsystem: "kubeproxy", Name: "sync_proxy_rules_nftables_sync_failures_total",
			Help: "Cumulative proxy nftables sync failures"}, family),
	}
	r.MustRegister(m.took, m.programmed, m.queued, m.failures)
	return m
}

// families are what one Sync serves: both, as one transaction.
var families = []string{"IPv4", "IPv6"}

// synced tells of one Sync, which began at a time; nil does nothing.
func (m *Metrics) synced(began time.Time, err error) {
	if m == nil {
		return
	}
	now := time.Now()
	for _, f := range families {
		m.took.WithLabelValues(f).Observe(now.Sub(began).Seconds())
		if err != nil {
			m.failures.WithLabelValues(f).Inc()
			continue
		}
		m.programmed.WithLabelValues(f).Set(float64(now.UnixNano()) / 1e9)
	}
}

// pending tells that there is something to do; nil does nothing.
func (m *Metrics) pending() {
	if m == nil {
		return
	}
	for _, f := range families {
		m.queued.WithLabelValues(f).SetToCurrentTime()
	}
}
