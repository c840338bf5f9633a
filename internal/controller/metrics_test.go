package controller

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"skiff.dev/skiff/internal/meta"
)

func TestQueueMetrics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		registry := prometheus.NewRegistry()
		c := Keyed(nil, "x", func(context.Context, meta.Key) (Result, error) { return Result{}, nil })
		c.Measure(NewMetrics(registry))
		q := c.queue
		defer q.stop()
		q.Add(key("a"))
		q.Add(key("b"))
		q.Add(key("a")) // is waiting already
		time.Sleep(2 * time.Second)
		if k, ok := q.Get(t.Context()); !ok || k != key("a") {
			t.Fatal(k, ok)
		}
		q.Add(key("a")) // to be done again
		time.Sleep(3 * time.Second)
		wants := func(want map[string]float64) {
			t.Helper()
			families, err := registry.Gather()
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range families {
				m := f.GetMetric()[0]
				got := m.GetGauge().GetValue() + m.GetCounter().GetValue() + m.GetHistogram().GetSampleSum()
				if w, ok := want[f.GetName()]; ok && got != w {
					t.Errorf("%s is %v, want %v", f.GetName(), got, w)
				}
				delete(want, f.GetName())
			}
			if len(want) > 0 {
				t.Errorf("missing: %v", want)
			}
		}
		wants(map[string]float64{"workqueue_depth": 1, "workqueue_longest_running_processor_seconds": 3, "workqueue_unfinished_work_seconds": 3, "workqueue_adds_total": 2})
		q.Done(key("a"), true)
		if k, ok := q.Get(t.Context()); !ok || k != key("b") {
			t.Fatal(k, ok)
		}
		q.Done(key("b"), true)
		wants(map[string]float64{
			"workqueue_depth": 1, "workqueue_longest_running_processor_seconds": 0, "workqueue_adds_total": 3, "workqueue_retries_total": 1,
			"workqueue_queue_duration_seconds": 2 + 5, "workqueue_work_duration_seconds": 3,
		})
	})
}
