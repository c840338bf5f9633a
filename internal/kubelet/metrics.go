package kubelet

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	v1 "k8s.io/api/core/v1"
)

// metrics are the kubelet's under upstream's names. How many pods and
// containers there are is counted when somebody looks.
// https://kubernetes.io/docs/reference/instrumentation/metrics/
type metrics struct {
	k     *Kubelet
	start prometheus.Histogram
}

var (
	nodeNameDesc   = prometheus.NewDesc("kubelet_node_name", "The node's name. The count is always 1.", []string{"node"}, nil)
	podsDesc       = prometheus.NewDesc("kubelet_running_pods", "Number of pods that have a running pod sandbox", nil, nil)
	containersDesc = prometheus.NewDesc("kubelet_running_containers", "Number of containers currently running", []string{"container_state"}, nil)
)

func newMetrics(k *Kubelet) *metrics {
	return &metrics{k: k, start: prometheus.NewHistogram(prometheus.HistogramOpts{
		Name:    "kubelet_pod_start_duration_seconds",
		Help:    "Duration in seconds from kubelet seeing a pod for the first time to the pod starting to run",
		Buckets: []float64{0.5, 1, 2, 3, 4, 5, 6, 8, 10, 20, 30, 45, 60, 120, 180, 240, 300, 360, 480, 600, 900, 1200, 1800, 2700, 3600},
	})}
}

// started tells of a pod that has begun to run.
func (m *metrics) started(took time.Duration) { m.start.Observe(took.Seconds()) }

// Describe implements prometheus.Collector.
func (m *metrics) Describe(out chan<- *prometheus.Desc) {
	out <- nodeNameDesc
	out <- podsDesc
	out <- containersDesc
	m.start.Describe(out)
}

// Collect implements prometheus.Collector.
func (m *metrics) Collect(out chan<- prometheus.Metric) {
	pods, running, exited := 0, 0, 0
	for _, p := range m.k.Pods() {
		before := running
		for _, list := range [][]v1.ContainerStatus{p.Status.InitContainerStatuses, p.Status.ContainerStatuses, p.Status.EphemeralContainerStatuses} {
			for i := range list {
				switch {
				case list[i].State.Running != nil:
					running++
				case list[i].State.Terminated != nil:
					exited++
				}
			}
		}
		if running > before {
			pods++
		}
	}
	gauge := func(d *prometheus.Desc, n int, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(n), labels...)
	}
	gauge(nodeNameDesc, 1, m.k.Node.Name)
	gauge(podsDesc, pods)
	gauge(containersDesc, running, "running")
	gauge(containersDesc, exited, "exited")
	m.start.Collect(out)
}
