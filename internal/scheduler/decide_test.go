package scheduler

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"

	"skiff.dev/skiff/internal/client"
	"skiff.dev/skiff/internal/scheduler/config"
	"skiff.dev/skiff/internal/scheduler/framework"
)

var start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func testCore(t interface{ Fatal(...any) }) *core {
	c, err := newCore(client.New(nil), config.Default(), rand.New(rand.NewPCG(1, 2)))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func amounts(pairs ...string) corev1.ResourceList {
	list := corev1.ResourceList{}
	for i := 0; i < len(pairs); i += 2 {
		list[corev1.ResourceName(pairs[i])] = resource.MustParse(pairs[i+1])
	}
	return list
}

func makeNode(name string, edit ...func(*corev1.Node)) *corev1.Node {
	n := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Status:     corev1.NodeStatus{Allocatable: amounts("cpu", "4", "memory", "8Gi", "pods", "110")},
	}
	for _, f := range edit {
		f(n)
	}
	return n
}

func makePod(name, cpu, memory string, edit ...func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID(name)},
		Spec: corev1.PodSpec{
			SchedulerName: corev1.DefaultSchedulerName,
			Containers: []corev1.Container{{
				Name: "c", Image: "app:1",
				Resources: corev1.ResourceRequirements{Requests: amounts("cpu", cpu, "memory", memory)},
			}},
		},
	}
	for _, f := range edit {
		f(p)
	}
	return p
}

func (c *core) addPod(p *corev1.Pod, now time.Time) {
	c.podChanged(client.Change[*corev1.Pod]{New: p, Created: true}, now)
}

func (c *core) addNode(n *corev1.Node, now time.Time) {
	c.nodeChanged(client.Change[*corev1.Node]{New: n, Created: true}, now)
}

// naive asks every plugin about every node, with nothing remembered: the
// totals of the nodes that fit, and the reasons of the others.
func naive(t *rapid.T, d *decider, pod *framework.Pod) (map[string]int64, map[string]int) {
	q, err := d.profile.prepare(pod, d.snap)
	if err != nil {
		t.Fatal(err)
	}
	reasons, raws := map[string]int{}, map[string][]int64{}
	e := extremes{low: make([]int64, len(q.scorers)), high: make([]int64, len(q.scorers))}
	for _, n := range d.snap.Nodes() {
		if s, _ := q.filter(n); s != nil {
			for _, reason := range s.Reasons {
				reasons[reason]++
			}
			continue
		}
		mine := make([]int64, len(q.scorers))
		q.score(n, mine)
		for i, raw := range mine {
			if len(raws) == 0 {
				e.low[i], e.high[i] = raw, raw
			}
			e.low[i], e.high[i] = min(e.low[i], raw), max(e.high[i], raw)
		}
		raws[n.Name()] = mine
	}
	totals := map[string]int64{}
	for name, mine := range raws {
		totals[name] = q.total(mine, e)
	}
	return totals, reasons
}

// remembered is what the table of the pod's class says, in the same form.
func remembered(d *decider, pod *framework.Pod) map[string]int64 {
	totals := map[string]int64{}
	c := d.classes.tables[pod.Class]
	for slot := range c.rows {
		if c.rows[slot].fits {
			totals[d.snap.Nodes()[slot].Name()] = c.board.totals[slot]
		}
	}
	return totals
}

func drawNode(t *rapid.T, name string) *corev1.Node {
	return makeNode(name, func(n *corev1.Node) {
		n.Status.Allocatable = amounts("cpu", rapid.SampledFrom([]string{"1", "2", "4"}).Draw(t, "cpu"),
			"memory", rapid.SampledFrom([]string{"1Gi", "4Gi"}).Draw(t, "memory"), "pods", rapid.SampledFrom([]string{"2", "10"}).Draw(t, "pods"))
		n.Labels = map[string]string{"zone": rapid.SampledFrom([]string{"a", "b"}).Draw(t, "zone")}
		n.Spec.Unschedulable = rapid.IntRange(0, 7).Draw(t, "cordon") == 0
		for _, key := range []string{"x", "y"} {
			if effect := rapid.SampledFrom([]corev1.TaintEffect{"", "", corev1.TaintEffectNoSchedule, corev1.TaintEffectPreferNoSchedule}).Draw(t, key); effect != "" {
				n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: key, Effect: effect})
			}
		}
		if rapid.Bool().Draw(t, "image") {
			n.Status.Images = []corev1.ContainerImage{{Names: []string{"app:1"}, SizeBytes: 400 << 20}}
		}
	})
}

// drawPod makes a pod of one of a few dozen classes.
func drawPod(t *rapid.T, name string) *corev1.Pod {
	pod := makePod(name, rapid.SampledFrom([]string{"0", "300m", "3"}).Draw(t, "cpu"), "256Mi")
	if rapid.IntRange(0, 5).Draw(t, "silent") == 0 {
		delete(pod.Spec.Containers[0].Resources.Requests, corev1.ResourceCPU)
	}
	switch rapid.IntRange(0, 4).Draw(t, "kind") {
	case 0:
		pod.Spec.Tolerations = []corev1.Toleration{{Key: rapid.SampledFrom([]string{"x", "y"}).Draw(t, "tolerated"), Operator: corev1.TolerationOpExists}}
	case 1:
		pod.Spec.NodeSelector = map[string]string{"zone": "a"}
	case 2:
		pod.Spec.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{PreferredDuringSchedulingIgnoredDuringExecution: []corev1.PreferredSchedulingTerm{{
			Weight: 10, Preference: corev1.NodeSelectorTerm{MatchExpressions: []corev1.NodeSelectorRequirement{{Key: "zone", Operator: corev1.NodeSelectorOpIn, Values: []string{"b"}}}},
		}}}}
	case 3:
		pod.Spec.Containers[0].Ports = []corev1.ContainerPort{{HostPort: rapid.Int32Range(80, 81).Draw(t, "port"), Protocol: corev1.ProtocolTCP}}
	}
	return pod
}

// TestTableIsNaive drives a decider through random changes of the cluster and
// checks every decision against one made with nothing remembered, and that it
// does not overcommit the node.
func TestTableIsNaive(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := testCore(t)
		d := c.deciders[corev1.DefaultSchedulerName]
		var placed []*framework.Pod
		serial := 0
		nodeName := func() string { return fmt.Sprintf("n%d", rapid.IntRange(0, 7).Draw(t, "node")) }
		t.Repeat(map[string]func(*rapid.T){
			"node":   func(t *rapid.T) { c.snap.SetNode(drawNode(t, nodeName())) },
			"nodes":  func(t *rapid.T) { c.snap.SetNode(drawNode(t, nodeName())); c.snap.SetNode(drawNode(t, nodeName())) },
			"delete": func(t *rapid.T) { c.snap.DeleteNode(nodeName()) },
			"end": func(t *rapid.T) {
				if len(placed) == 0 {
					t.Skip()
				}
				i := rapid.IntRange(0, len(placed)-1).Draw(t, "which")
				c.snap.RemovePod(placed[i].UID)
				placed = slices.Delete(placed, i, i+1)
			},
			"schedule": func(t *rapid.T) {
				template := drawPod(t, "")
				for range rapid.IntRange(1, 3).Draw(t, "replicas") {
					serial++
					obj := template.DeepCopy()
					obj.UID = types.UID(fmt.Sprint(serial))
					pod := framework.NewPod(obj)
					d.sign(pod, &c.signer)
					if name, ok := checkDecision(t, d, pod); ok {
						c.snap.SetPod(pod, name)
						placed = append(placed, pod)
					}
				}
			},
		})
	})
}

func checkDecision(t *rapid.T, d *decider, pod *framework.Pod) (string, bool) {
	name, err := d.decide(pod)
	if len(d.snap.Nodes()) == 0 {
		if err != errNoNodes {
			t.Fatalf("without nodes: %v, want %v", err, errNoNodes)
		}
		return "", false
	}
	totals, reasons := naive(t, d, pod)
	if c := d.classes.tables[pod.Class]; c != nil {
		if diff := cmp.Diff(totals, remembered(d, pod)); diff != "" {
			t.Fatalf("scores in the table (-naive +table):\n%s", diff)
		}
	}
	var unfit *FitError
	if errors.As(err, &unfit) {
		if len(totals) != 0 {
			t.Fatalf("%v, but %v fit", err, totals)
		}
		if diff := cmp.Diff(reasons, unfit.Reasons); diff != "" {
			t.Fatalf("reasons (-naive +got):\n%s", diff)
		}
		return "", false
	}
	if err != nil {
		t.Fatal(err)
	}
	got, fits := totals[name]
	for other, total := range totals {
		if !fits || total > got {
			t.Fatalf("chose %s with score %d (fits: %v), %s has %d", name, got, fits, other, total)
		}
	}
	n := d.snap.Node(name)
	if n.Requested.MilliCPU+pod.Requests.MilliCPU > n.Allocatable.MilliCPU && pod.Requests.MilliCPU > 0 ||
		n.Requested.Memory+pod.Requests.Memory > n.Allocatable.Memory && pod.Requests.Memory > 0 ||
		int64(len(n.Pods)) >= n.Allocatable.Pods {
		t.Fatalf("%s does not have room for the pod", name)
	}
	return name, true
}

func TestFitErrorText(t *testing.T) {
	c := testCore(t)
	for i := range 5 {
		c.addNode(makeNode(fmt.Sprintf("n%d", i), func(n *corev1.Node) {
			if i < 3 {
				n.Spec.Taints = []corev1.Taint{{Key: "k", Effect: corev1.TaintEffectNoSchedule}}
			}
		}), start)
	}
	named := func(names ...string) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			p.Spec.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{}}}
			var fields []corev1.NodeSelectorRequirement
			for _, name := range names {
				fields = append(fields, corev1.NodeSelectorRequirement{Key: metav1.ObjectNameField, Operator: corev1.NodeSelectorOpIn, Values: []string{name}})
			}
			p.Spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms = []corev1.NodeSelectorTerm{{MatchFields: fields}}
		}
	}
	for _, tt := range []struct {
		name string
		pod  *corev1.Pod
		want string
	}{
		{"too large", makePod("a", "5", "1Gi"), "0/5 nodes are available: 2 Insufficient cpu, 3 node(s) had untolerated taint(s)."},
		{"too large twice over", makePod("b", "5", "9Gi"), "0/5 nodes are available: 2 Insufficient cpu, 2 Insufficient memory, 3 node(s) had untolerated taint(s)."},
		{"of a DaemonSet", makePod("c", "5", "1Gi", named("n4")), "0/5 nodes are available: 1 Insufficient cpu, 4 node(s) didn't satisfy plugin(s) [NodeAffinity]."},
		{"impossible", makePod("d", "1", "1Gi", named("n3", "n4")), "0/5 nodes are available: pod affinity terms conflict."},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for range 3 { // by sampling, by a fresh table, by an old one
				p := framework.NewPod(tt.pod)
				d := c.deciders[corev1.DefaultSchedulerName]
				d.sign(p, &c.signer)
				if _, err := d.decide(p); err == nil || err.Error() != tt.want {
					t.Errorf("got  %v\nwant %s", err, tt.want)
				}
			}
		})
	}
}

func TestSampleSize(t *testing.T) {
	for _, tt := range []struct {
		nodes      int
		percentage int32
		want       int
	}{
		{50, 0, 50}, {100, 0, 100}, {1000, 0, 420}, {5000, 0, 500}, {10000, 0, 500}, {1000, 30, 300}, {200, 10, 100}, {5000, 100, 5000},
	} {
		d := &decider{profile: &profile{percentage: tt.percentage}}
		if got := d.wanted(tt.nodes); got != tt.want {
			t.Errorf("%d nodes at %d %%: look for %d, want %d", tt.nodes, tt.percentage, got, tt.want)
		}
	}
}
