package scheduler

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// BenchmarkSchedule5000Nodes measures the pure decision, from a pod's arrival
// in the cache to its place in the snapshot, on 5,000 nodes in which half of
// the room is taken at the end.
func BenchmarkSchedule5000Nodes(b *testing.B) {
	for _, classes := range []int{1, 10, 100, 1_000_000} {
		name := fmt.Sprintf("classes=%d", classes)
		if classes == 1_000_000 {
			name = "classes=every-pod-its-own"
		}
		b.Run(name, func(b *testing.B) { benchmarkSchedule(b, 5000, classes) })
	}
}

func benchmarkSchedule(b *testing.B, nodes, classes int) {
	const perNode = 20 // pods, so that the cluster is emptied after nodes × perNode
	fill := func() *core {
		c := testCore(b)
		for i := range nodes {
			c.addNode(makeNode(fmt.Sprintf("node-%d", i), func(n *corev1.Node) {
				n.Labels = map[string]string{"zone": fmt.Sprint(i % 3)}
				if i%10 == 0 {
					n.Spec.Taints = []corev1.Taint{{Key: "soft", Effect: corev1.TaintEffectPreferNoSchedule}}
				}
			}), start)
		}
		return c
	}
	pods := make([]*corev1.Pod, min(b.N, nodes*perNode))
	for i := range pods {
		pods[i] = makePod(fmt.Sprintf("pod-%d", i), fmt.Sprintf("%dm", 90+i%min(classes, 20)), fmt.Sprintf("%d", 128<<20+i%classes))
	}
	c := fill()
	b.ReportAllocs()
	b.ResetTimer()
	for i := range b.N {
		if i > 0 && i%len(pods) == 0 {
			b.StopTimer()
			c = fill()
			b.StartTimer()
		}
		c.addPod(pods[i%len(pods)], start)
		if a, ok := c.next(start); !ok || a.err != nil {
			b.Fatal(ok, a.err)
		}
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "pods/s")
}
