package watchcache

import (
	"context"
	"encoding/json"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	corev1 "k8s.io/api/core/v1"
	quantity "k8s.io/apimachinery/pkg/api/resource"

	"skiff.dev/skiff/internal/meta"
)

// fatPod is about as big as a pod in a real cluster.
func fatPod(ns, name, node string, rev int64) *corev1.Pod {
	p := pod(ns, name, node, rev)
	p.Labels = map[string]string{"app": name, "tier": "web", "pod-template-hash": "5d59d67564"}
	for i := range 2 {
		p.Spec.Containers = append(p.Spec.Containers, corev1.Container{
			Name: fmt.Sprint("c", i), Image: "registry.example.com/app:v1",
			Env: []corev1.EnvVar{{Name: "A", Value: "b"}, {Name: "C", Value: "d"}},
			Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{
				"cpu": quantity.MustParse("100m"), "memory": quantity.MustParse("64Mi"),
			}},
		})
		p.Status.ContainerStatuses = append(p.Status.ContainerStatuses, corev1.ContainerStatus{Name: fmt.Sprint("c", i), Ready: true})
	}
	p.Status.Conditions = []corev1.PodCondition{{Type: "Ready", Status: "True"}, {Type: "Initialized", Status: "True"}}
	return p
}

func encodeJSON(o meta.Object) ([]byte, error) { return json.Marshal(o) }

// encodeEvent costs nothing, so that only the delivery is measured.
func encodeEvent(*Event) ([]byte, error) { return []byte("{}"), nil }

// loaded returns a table of n pods, 100 to a namespace and to a node.
func loaded(n int, opts ...Option) *Table {
	t := NewTable("pods", append([]Option{WithIndexes(byNode)}, opts...)...)
	items := make([]Item, 0, n)
	for i := range n {
		ns, node := fmt.Sprintf("ns%d", i/100), fmt.Sprintf("node%d", i%(n/100+1))
		items = append(items, Item{Object: fatPod(ns, fmt.Sprintf("pod%d", i), node, 1), Rev: 1})
	}
	t.Replace(items, 1)
	return t
}

func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc + m.StackInuse
}

// BenchmarkApply is one update of one of 10,000 pods: with nobody looking, and
// with a snapshot taken between any two.
func BenchmarkApply(b *testing.B) {
	for _, snapshots := range []bool{false, true} {
		b.Run(fmt.Sprintf("snapshots=%t", snapshots), func(b *testing.B) {
			t := loaded(10000)
			changes := make([]Change, 1000)
			for i := range changes {
				changes[i] = set(fmt.Sprintf("ns%d", i/10), fmt.Sprintf("pod%d", i*10), "node1", 0)
			}
			b.ReportAllocs()
			rev := int64(1)
			for b.Loop() {
				rev++
				c := changes[rev%1000]
				c.Rev = rev
				t.Apply([]Change{c}, rev)
				if snapshots {
					t.Snapshot()
				}
			}
		})
	}
}

func BenchmarkGet(b *testing.B) {
	t := loaded(10000)
	key := meta.Key{Namespace: "ns50", Name: "pod5050"}
	b.ReportAllocs()
	for b.Loop() {
		if _, ok := t.Get(key); !ok {
			b.Fatal("not found")
		}
	}
}

// BenchmarkList10k walks 10,000 pods: objects only, and with their encodings,
// for the first time and again.
func BenchmarkList10k(b *testing.B) {
	t := loaded(10000)
	walk := func(format string) (bytes int) {
		for item := range t.Snapshot().All("", meta.Key{}) {
			if format != "" {
				data, err := item.Encoded(format, encodeJSON)
				if err != nil {
					b.Fatal(err)
				}
				bytes += len(data)
			}
		}
		return bytes
	}
	b.Run("objects", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			walk("")
		}
	})
	b.Run("first", func(b *testing.B) {
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			walk(fmt.Sprint("json", i))
			runtime.GC()
		}
	})
	b.Run("again", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			walk("json")
		}
	})
}

// BenchmarkFanout delivers one event per iteration: to 10,000 watches of all
// pods, and to one of 10,000 watches of one pod each.
func BenchmarkFanout(b *testing.B) {
	const watchers = 10000
	for _, scoped := range []bool{false, true} {
		b.Run(fmt.Sprintf("scoped=%t", scoped), func(b *testing.B) {
			t := NewTable("pods", WithIndexes(byNode))
			t.Replace(nil, 1)
			ctx, cancel := context.WithCancel(context.Background())
			var group, round sync.WaitGroup
			var delivered atomic.Int64
			before := heap()
			for i := range watchers {
				var scope Scope
				if scoped {
					scope = Scope{Namespace: "a", Name: fmt.Sprint("pod", i)}
				}
				w, err := t.Watch(scope, 1)
				if err != nil {
					b.Fatal(err)
				}
				group.Go(func() {
					defer w.Close()
					for {
						events, _, err := w.Next(ctx)
						if err != nil {
							return
						}
						for _, e := range events {
							if _, err := e.Encoded("json", encodeEvent); err != nil {
								panic(err)
							}
							delivered.Add(1)
							round.Done()
						}
					}
				})
			}
			perWatch := float64(heap()-before) / watchers
			changes := make([]Change, watchers)
			for i := range changes {
				changes[i] = set("a", fmt.Sprint("pod", i), "n1", 0)
			}
			rev := int64(1)
			b.ResetTimer()
			for range b.N {
				rev++
				round.Add(1)
				if !scoped {
					round.Add(watchers - 1)
				}
				c := changes[rev%watchers]
				c.Rev = rev
				t.Apply([]Change{c}, rev)
				round.Wait()
			}
			b.StopTimer()
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(delivered.Load()), "ns/delivery")
			b.ReportMetric(perWatch, "B/watch")
			cancel()
			group.Wait()
		})
	}
}

// BenchmarkMemory reports what a table costs beyond its objects, per object,
// and what encodings leave behind once nobody uses them.
func BenchmarkMemory(b *testing.B) {
	const n = 10000
	for b.Loop() {
		objects := make([]Item, n)
		for i := range objects {
			objects[i].Object = fatPod(fmt.Sprintf("ns%d", i/100), fmt.Sprintf("pod%d", i), fmt.Sprintf("node%d", i%100), 1)
			objects[i].Rev = 1
		}
		start := heap()
		t := NewTable("pods", WithIndexes(byNode))
		t.Replace(objects, 1)
		table := heap()
		var pin [][]byte
		for item := range t.Snapshot().All("", meta.Key{}) {
			data, err := item.Encoded("json", encodeJSON)
			if err != nil {
				b.Fatal(err)
			}
			pin = append(pin, data)
		}
		encoded := heap()
		runtime.KeepAlive(pin)
		pin = nil
		after := heap()
		b.ReportMetric(float64(table-start)/n, "B/object")
		b.ReportMetric(float64(encoded-table)/n, "B/encoding-in-use")
		b.ReportMetric(float64(int64(after)-int64(table))/n, "B/encoding-left")
		runtime.KeepAlive(t)
		runtime.KeepAlive(objects)
	}
}
