package kubelet

import (
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// A pod's start counts once, and not again for a kubelet that finds it running.
func TestMetrics(t *testing.T) {
	simulate(t, func(t *testing.T, s *sim) {
		wants := func(starts uint64) {
			t.Helper()
			registry := prometheus.NewRegistry()
			registry.MustRegister(s.k.metrics)
			families, err := registry.Gather()
			if err != nil {
				t.Fatal(err)
			}
			got := map[string]float64{}
			for _, f := range families {
				for _, m := range f.GetMetric() {
					name := f.GetName()
					for _, l := range m.GetLabel() {
						name += " " + l.GetValue()
					}
					if got[name] = m.GetGauge().GetValue(); m.Histogram != nil {
						got[name] = float64(m.Histogram.GetSampleCount())
					}
				}
			}
			for name, want := range map[string]float64{
				"kubelet_node_name n1": 1, "kubelet_running_pods": 1, "kubelet_running_containers running": 2,
				"kubelet_running_containers exited": 0, "kubelet_pod_start_duration_seconds": float64(starts),
			} {
				if have, ok := got[name]; !ok || have != want {
					t.Errorf("%s is %v, want %v", name, have, want)
				}
			}
		}
		s.create(simPod("web", "a", "b"))
		s.pass(time.Minute)
		wants(1)
		s.stop()
		s.start()
		s.pass(time.Minute)
		wants(0)
	})
}
