package plugins

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	configv1 "k8s.io/kube-scheduler/config/v1"
	"pgregory.net/rapid"

	"skiff.dev/skiff/internal/scheduler/framework"
)

func fitPlugin(t *testing.T, args configv1.NodeResourcesFitArgs) *framework.Any {
	t.Helper()
	p, err := NodeResourcesFit(&args)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func offering(pairs ...string) *corev1.Node {
	return makeNode("n", func(n *corev1.Node) { n.Status.Allocatable = amounts(append(pairs, "pods", "3")...) })
}

func TestNodeResourcesFit(t *testing.T) {
	placed := []*corev1.Pod{asking("q", "cpu", "3", "memory", "2Gi")}
	sidecar := makePod("p", func(p *corev1.Pod) {
		always := corev1.ContainerRestartPolicyAlways
		ask := func(cpu string) corev1.ResourceRequirements {
			return corev1.ResourceRequirements{Requests: amounts("cpu", cpu)}
		}
		p.Spec.InitContainers = []corev1.Container{{Resources: ask("1"), RestartPolicy: &always}, {Resources: ask("4")}}
		p.Spec.Containers = []corev1.Container{{Resources: ask("1")}}
	})
	// The scores are LeastAllocated's: the mean of what is left of CPU and memory.
	testVerdicts(t, fitPlugin(t, configv1.NodeResourcesFitArgs{}), []verdictTest{
		{name: "fits exactly", pod: asking("p", "cpu", "1", "memory", "6Gi"), node: offering("cpu", "4", "memory", "8Gi"), placed: placed, score: 0},
		{name: "half of an empty node", pod: asking("p", "cpu", "2", "memory", "4Gi"), node: offering("cpu", "4", "memory", "8Gi"), score: 50},
		{name: "not enough left", pod: asking("p", "cpu", "2"), node: offering("cpu", "4", "memory", "8Gi"), placed: placed,
			want: framework.Reject("Insufficient cpu")},
		{name: "never enough", pod: asking("p", "cpu", "5", "memory", "7Gi"), node: offering("cpu", "4", "memory", "8Gi"), placed: placed,
			want: framework.RejectFinally("Insufficient cpu", "Insufficient memory")},
		{name: "too many pods", pod: asking("p"), node: offering("cpu", "4", "memory", "8Gi"),
			placed: []*corev1.Pod{asking("q"), asking("r"), asking("s")}, want: framework.Reject("Too many pods")},
		{name: "nothing asked for, nothing there", pod: asking("p"), node: offering("cpu", "0", "memory", "0"), score: 0},
		{name: "ephemeral storage", pod: asking("p", "ephemeral-storage", "2Gi"), node: offering("cpu", "4", "memory", "8Gi", "ephemeral-storage", "1Gi"),
			want: framework.RejectFinally("Insufficient ephemeral-storage")},
		{name: "devices, in the order of their names", pod: asking("p", "b.com/x", "2", "a.com/x", "1"), node: offering("cpu", "4", "memory", "8Gi", "b.com/x", "1"),
			want: framework.RejectFinally("Insufficient a.com/x", "Insufficient b.com/x")},
		{name: "sidecars add to init containers", pod: sidecar, node: offering("cpu", "4", "memory", "8Gi"),
			want: framework.RejectFinally("Insufficient cpu")},
	})
	testVerdicts(t, fitPlugin(t, configv1.NodeResourcesFitArgs{IgnoredResources: []string{"a.com/x"}, IgnoredResourceGroups: []string{"b.com"}}), []verdictTest{
		{name: "ignored devices", pod: asking("p", "b.com/x", "2", "a.com/x", "1", "c.com/x", "1"), node: offering("cpu", "4", "memory", "8Gi"),
			want: framework.RejectFinally("Insufficient c.com/x")},
	})
}

func TestNodeResourcesFitWakes(t *testing.T) {
	small, large := offering("cpu", "1", "memory", "8Gi"), offering("cpu", "4", "memory", "8Gi")
	more := offering("cpu", "4", "memory", "9Gi")
	testWakes(t, fitPlugin(t, configv1.NodeResourcesFitArgs{}), asking("p", "cpu", "2"), []wakeTest{
		{name: "a pod goes", event: framework.Event{Action: framework.PodDeleted, Old: asking("q")}, want: true},
		{name: "a pod gives up CPU", event: framework.Event{Action: framework.PodScaledDown, Old: asking("q", "cpu", "2"), New: asking("q", "cpu", "1")}, want: true},
		{name: "a pod gives up memory", event: framework.Event{Action: framework.PodScaledDown, Old: asking("q", "memory", "2"), New: asking("q", "memory", "1")}},
		{name: "large node comes", event: framework.Event{Action: framework.NodeAdded, New: large}, want: true},
		{name: "small node comes", event: framework.Event{Action: framework.NodeAdded, New: small}},
		{name: "node grows", event: framework.Event{Action: framework.NodeAllocatable, Old: small, New: large}, want: true},
		{name: "node shrinks", event: framework.Event{Action: framework.NodeAllocatable, Old: large, New: small}},
		{name: "node grows in what is not asked for", event: framework.Event{Action: framework.NodeAllocatable, Old: large, New: more}},
	})
}

func TestScoringStrategies(t *testing.T) {
	placed := []*corev1.Pod{asking("q", "cpu", "1", "memory", "2Gi", "gpu.com/x", "1")}
	node := offering("cpu", "4", "memory", "8Gi", "gpu.com/x", "4")
	pod := asking("p", "cpu", "2", "memory", "2Gi", "gpu.com/x", "1")
	weights := []configv1.ResourceSpec{{Name: "cpu", Weight: 3}, {Name: "memory", Weight: 1}}
	shape := func(points ...int32) *configv1.RequestedToCapacityRatioParam {
		p := &configv1.RequestedToCapacityRatioParam{}
		for i := 0; i < len(points); i += 2 {
			p.Shape = append(p.Shape, configv1.UtilizationShapePoint{Utilization: points[i], Score: points[i+1]})
		}
		return p
	}
	for _, tt := range []struct {
		name     string
		strategy configv1.ScoringStrategy
		pod      *corev1.Pod
		want     int64
	}{
		// 75 % of CPU and 50 % of memory will be requested.
		{"least", configv1.ScoringStrategy{}, pod, (25 + 50) / 2},
		{"most", configv1.ScoringStrategy{Type: configv1.MostAllocated}, pod, (75 + 50) / 2},
		{"most, weighted", configv1.ScoringStrategy{Type: configv1.MostAllocated, Resources: weights}, pod, (3*75 + 50) / 4},
		{"least, of a device", configv1.ScoringStrategy{Resources: []configv1.ResourceSpec{{Name: "gpu.com/x"}}}, pod, 50},
		{"least, of a device not asked for", configv1.ScoringStrategy{Resources: []configv1.ResourceSpec{{Name: "gpu.com/x"}, {Name: "cpu"}}}, asking("p", "cpu", "1"), 50},
		{"least, nothing asked for: 100m and 200Mi assumed", configv1.ScoringStrategy{Resources: []configv1.ResourceSpec{{Name: "cpu"}}}, asking("p"), (4000 - 1100) * 100 / 4000},
		{"ratio, rising", configv1.ScoringStrategy{Type: configv1.RequestedToCapacityRatio, RequestedToCapacityRatio: shape(0, 0, 100, 10)}, pod, 63},
		{"ratio, falling", configv1.ScoringStrategy{Type: configv1.RequestedToCapacityRatio, RequestedToCapacityRatio: shape(0, 10, 100, 0)}, pod, 38},
		{"ratio, before the first point and after the last", configv1.ScoringStrategy{Type: configv1.RequestedToCapacityRatio, RequestedToCapacityRatio: shape(60, 2, 70, 8)}, pod, (20 + 80) / 2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			testVerdicts(t, fitPlugin(t, configv1.NodeResourcesFitArgs{ScoringStrategy: &tt.strategy}),
				[]verdictTest{{name: "score", pod: tt.pod, node: node, placed: placed, score: tt.want}})
		})
	}
}

func TestBalancedAllocation(t *testing.T) {
	p, err := NodeResourcesBalancedAllocation(&configv1.NodeResourcesBalancedAllocationArgs{})
	if err != nil {
		t.Fatal(err)
	}
	lopsided := []*corev1.Pod{asking("q", "cpu", "2")} // 50 % of CPU, 0 % of memory
	testVerdicts(t, p, []verdictTest{
		{name: "keeps the balance", pod: asking("p", "cpu", "2", "memory", "4Gi"), node: offering("cpu", "4", "memory", "8Gi"), score: 75},
		{name: "mends it", pod: asking("p", "memory", "4Gi"), node: offering("cpu", "4", "memory", "8Gi"), placed: lopsided, score: 87},
		{name: "spoils it", pod: asking("p", "cpu", "2"), node: offering("cpu", "4", "memory", "8Gi"), placed: lopsided, score: 62},
		{name: "from empty to all of one", pod: asking("p", "cpu", "4"), node: offering("cpu", "4", "memory", "8Gi"), score: 50},
	})
	if !p.Prepare(framework.NewPod(asking("p")), framework.NewSnapshot()).Skip {
		t.Error("a pod that requests nothing is scored")
	}
}

func TestImageLocality(t *testing.T) {
	snap := framework.NewSnapshot()
	having := func(name string, megabytes int64) *corev1.Node {
		return makeNode(name, func(n *corev1.Node) {
			if megabytes > 0 {
				n.Status.Images = []corev1.ContainerImage{{Names: []string{"app:latest", "app@sha256:1"}, SizeBytes: megabytes << 20}}
			}
		})
	}
	snap.SetNode(having("large", 1000))
	snap.SetNode(having("none", 0))
	pod := framework.NewPod(makePod("p", func(p *corev1.Pod) { p.Spec.Containers = []corev1.Container{{Image: "app"}} }))
	ready := ImageLocality().Prepare(pod, snap)
	// 1000 MiB on one of two nodes counts for 500; between 23 and 1000 that is 48 %.
	if got := ready.Score(snap.Node("large")); got != 48 {
		t.Errorf("score of the node with the image %d, want 48", got)
	}
	if got := ready.Score(snap.Node("none")); got != 0 {
		t.Errorf("score of the node without %d, want 0", got)
	}
	if ready.Stale(snap) {
		t.Error("stale although nothing has changed")
	}
	snap.SetNode(having("none", 1000))
	if !ready.Stale(snap) {
		t.Error("not stale although another node has the image now")
	}
	if got := ImageLocality().Prepare(pod, snap).Score(snap.Node("large")); got != 100 {
		t.Errorf("score when all nodes have it %d, want 100", got)
	}
}

// TestScoresInRange: no plugin without Normalize leaves 0..MaxScore.
func TestScoresInRange(t *testing.T) {
	var scorers []*framework.Any
	for _, f := range All() {
		p, err := f.New(nil, func(any) error { return nil })
		if err != nil {
			t.Fatal(err)
		}
		if p.Scores && p.Normalize == nil {
			scorers = append(scorers, p)
		}
	}
	if len(scorers) < 3 {
		t.Fatalf("only %d scorers without Normalize", len(scorers))
	}
	rapid.Check(t, func(t *rapid.T) {
		list := func(name string) corev1.ResourceList {
			list := corev1.ResourceList{}
			for _, r := range []corev1.ResourceName{"cpu", "memory", "x.com/y"} {
				if rapid.Bool().Draw(t, name+string(r)) {
					q := amounts(string(r), "1")[r]
					q.Set(rapid.Int64Range(0, 1<<40).Draw(t, "amount"))
					list[r] = q
				}
			}
			return list
		}
		ask := func(name string) *framework.Pod {
			return framework.NewPod(makePod(name, func(p *corev1.Pod) {
				p.Spec.Containers = []corev1.Container{{Image: "app:1", Resources: corev1.ResourceRequirements{Requests: list(name)}}}
			}))
		}
		snap := framework.NewSnapshot()
		snap.SetNode(makeNode("n", func(n *corev1.Node) {
			n.Status.Allocatable = list("node")
			n.Status.Images = []corev1.ContainerImage{{Names: []string{"app:1"}, SizeBytes: rapid.Int64Range(0, 1<<40).Draw(t, "image")}}
		}))
		snap.SetPod(ask("q"), "n")
		pod := ask("p")
		for _, p := range scorers {
			ready := p.Prepare(pod, snap)
			if ready.Skip {
				continue
			}
			if got := ready.Score(snap.Node("n")); got < 0 || got > framework.MaxScore {
				t.Fatalf("%s scores %d", p.Name, got)
			}
		}
	})
}
