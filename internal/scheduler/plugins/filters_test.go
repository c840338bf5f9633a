package plugins

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	configv1 "k8s.io/kube-scheduler/config/v1"

	"skiff.dev/skiff/internal/scheduler/framework"
)

func TestSchedulingGates(t *testing.T) {
	gated := makePod("p", func(p *corev1.Pod) { p.Spec.SchedulingGates = []corev1.PodSchedulingGate{{Name: "a"}, {Name: "b"}} })
	got := SchedulingGates().Admit(gated)
	if got == nil || got.Code != framework.Unresolvable || got.Reasons[0] != "waiting for scheduling gates: [a b]" {
		t.Errorf("gated: %v", got)
	}
	if got := SchedulingGates().Admit(makePod("p")); got != nil {
		t.Errorf("without gates: %v", got)
	}
}

func cordoned() *corev1.Node {
	return makeNode("n", func(n *corev1.Node) { n.Spec.Unschedulable = true })
}

func TestNodeUnschedulable(t *testing.T) {
	testVerdicts(t, NodeUnschedulable(), []verdictTest{
		{name: "open", pod: makePod("p"), node: makeNode("n")},
		{name: "cordoned", pod: makePod("p"), node: cordoned(), want: framework.RejectFinally("node(s) were unschedulable")},
		{
			name: "tolerated", node: cordoned(),
			pod: withTolerations(corev1.Toleration{Key: "node.kubernetes.io/unschedulable", Operator: corev1.TolerationOpExists}),
		},
	})
	testWakes(t, NodeUnschedulable(), makePod("p"), []wakeTest{
		{name: "uncordoned", event: framework.Event{Action: framework.NodeTaints, Old: cordoned(), New: makeNode("n")}, want: true},
		{name: "cordoned", event: framework.Event{Action: framework.NodeTaints, Old: makeNode("n"), New: cordoned()}},
		{name: "cordoned node comes", event: framework.Event{Action: framework.NodeAdded, New: cordoned()}},
		{name: "open node comes", event: framework.Event{Action: framework.NodeAdded, New: makeNode("n")}, want: true},
	})
}

func TestNodeName(t *testing.T) {
	named := makePod("p", func(p *corev1.Pod) { p.Spec.NodeName = "wanted" })
	testVerdicts(t, NodeName(), []verdictTest{
		{name: "any", pod: makePod("p"), node: makeNode("n")},
		{name: "wanted", pod: named, node: makeNode("wanted")},
		{name: "another", pod: named, node: makeNode("n"), want: framework.RejectFinally("node(s) didn't match the requested node name")},
	})
}

func zoned(name, zone string) *corev1.Node {
	return makeNode(name, func(n *corev1.Node) { n.Labels = map[string]string{"zone": zone} })
}

func in(key string, values ...string) corev1.NodeSelectorRequirement {
	return corev1.NodeSelectorRequirement{Key: key, Operator: corev1.NodeSelectorOpIn, Values: values}
}

func requiring(terms ...corev1.NodeSelectorTerm) *corev1.Pod {
	return makePod("p", func(p *corev1.Pod) {
		p.Spec.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{
			RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{NodeSelectorTerms: terms},
		}}
	})
}

func preferring(weight int32, value string) []corev1.PreferredSchedulingTerm {
	return []corev1.PreferredSchedulingTerm{{Weight: weight, Preference: corev1.NodeSelectorTerm{MatchExpressions: []corev1.NodeSelectorRequirement{in("zone", value)}}}}
}

func nodeAffinityPlugin(t *testing.T, added *corev1.NodeAffinity) *framework.Any {
	t.Helper()
	p, err := NodeAffinity(&configv1.NodeAffinityArgs{AddedAffinity: added})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestNodeAffinity(t *testing.T) {
	mismatch := framework.RejectFinally("node(s) didn't match Pod's node affinity/selector")
	selecting := makePod("p", func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{"zone": "a"} })
	inA := corev1.NodeSelectorTerm{MatchExpressions: []corev1.NodeSelectorRequirement{in("zone", "a")}}
	inB := corev1.NodeSelectorTerm{MatchExpressions: []corev1.NodeSelectorRequirement{in("zone", "b")}}
	onN := corev1.NodeSelectorTerm{MatchFields: []corev1.NodeSelectorRequirement{in(metav1.ObjectNameField, "n")}}
	nowhere := corev1.NodeSelectorTerm{MatchFields: []corev1.NodeSelectorRequirement{in(metav1.ObjectNameField, "n"), in(metav1.ObjectNameField, "m")}}
	preferrer := makePod("p", func(p *corev1.Pod) {
		p.Spec.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{
			PreferredDuringSchedulingIgnoredDuringExecution: append(preferring(30, "a"), preferring(5, "b")...),
		}}
	})
	testVerdicts(t, nodeAffinityPlugin(t, nil), []verdictTest{
		{name: "selector matches", pod: selecting, node: zoned("n", "a")},
		{name: "selector does not match", pod: selecting, node: zoned("n", "b"), want: mismatch},
		{name: "selector, no label", pod: selecting, node: makeNode("n"), want: mismatch},
		{name: "one of two terms", pod: requiring(inA, inB), node: zoned("n", "b")},
		{name: "no term", pod: requiring(inA, inB), node: zoned("n", "c"), want: mismatch},
		{name: "an empty list of terms matches nothing", pod: requiring(), node: zoned("n", "a"), want: mismatch},
		{name: "by name", pod: requiring(onN), node: makeNode("n")},
		{name: "by another name", pod: requiring(onN), node: makeNode("m"), want: mismatch},
		{name: "by contradictory names", pod: requiring(nowhere), node: makeNode("n"), want: framework.RejectFinally("pod affinity terms conflict")},
		{name: "preferred", pod: preferrer, node: zoned("n", "a"), score: 30},
		{name: "not preferred", pod: preferrer, node: zoned("n", "c"), score: 0},
	})
	added := &corev1.NodeAffinity{
		RequiredDuringSchedulingIgnoredDuringExecution:  &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{inA}},
		PreferredDuringSchedulingIgnoredDuringExecution: preferring(7, "a"),
	}
	testVerdicts(t, nodeAffinityPlugin(t, added), []verdictTest{
		{name: "added affinity, any pod", pod: makePod("p"), node: zoned("n", "b"), want: framework.RejectFinally("node(s) didn't match scheduler-enforced node affinity")},
		{name: "added preference counts too", pod: preferrer, node: zoned("n", "a"), score: 37},
	})
	testWakes(t, nodeAffinityPlugin(t, nil), selecting, []wakeTest{
		{name: "label comes", event: framework.Event{Action: framework.NodeLabels, Old: zoned("n", "b"), New: zoned("n", "a")}, want: true},
		{name: "label goes", event: framework.Event{Action: framework.NodeLabels, Old: zoned("n", "a"), New: zoned("n", "b")}},
		{name: "other label", event: framework.Event{Action: framework.NodeLabels, Old: zoned("n", "a"), New: zoned("n", "a")}},
	})
}

func TestNamedNodes(t *testing.T) {
	a := corev1.NodeSelectorTerm{MatchFields: []corev1.NodeSelectorRequirement{in(metav1.ObjectNameField, "a")}}
	b := corev1.NodeSelectorTerm{MatchFields: []corev1.NodeSelectorRequirement{in(metav1.ObjectNameField, "b")}}
	open := corev1.NodeSelectorTerm{MatchExpressions: []corev1.NodeSelectorRequirement{in("zone", "a")}}
	ready := nodeAffinityPlugin(t, nil).Prepare(framework.NewPod(requiring(b, a)), framework.NewSnapshot())
	if len(ready.Nodes) != 2 || ready.Nodes[0] != "a" || ready.Nodes[1] != "b" {
		t.Errorf("terms for a and b name %v", ready.Nodes)
	}
	ready = nodeAffinityPlugin(t, nil).Prepare(framework.NewPod(requiring(a, open)), framework.NewSnapshot())
	if ready.Nodes != nil {
		t.Errorf("a term that names no node still limits to %v", ready.Nodes)
	}
}

func listening(name string, ip string, port int32, protocol corev1.Protocol) *corev1.Pod {
	return makePod(name, func(p *corev1.Pod) {
		p.Spec.Containers = []corev1.Container{{Ports: []corev1.ContainerPort{{HostIP: ip, HostPort: port, Protocol: protocol}}}}
	})
}

func TestNodePorts(t *testing.T) {
	taken := framework.Reject("node(s) didn't have free ports for the requested pod ports")
	on := func(p *corev1.Pod) []*corev1.Pod { return []*corev1.Pod{p} }
	testVerdicts(t, NodePorts(), []verdictTest{
		{name: "free", pod: listening("p", "", 80, "TCP"), node: makeNode("n")},
		{name: "taken", pod: listening("p", "", 80, "TCP"), node: makeNode("n"), placed: on(listening("q", "", 80, "")), want: taken},
		{name: "another port", pod: listening("p", "", 80, "TCP"), node: makeNode("n"), placed: on(listening("q", "", 81, "TCP"))},
		{name: "another protocol", pod: listening("p", "", 80, "TCP"), node: makeNode("n"), placed: on(listening("q", "", 80, "UDP"))},
		{name: "another address", pod: listening("p", "10.0.0.1", 80, "TCP"), node: makeNode("n"), placed: on(listening("q", "10.0.0.2", 80, "TCP"))},
		{name: "all addresses", pod: listening("p", "10.0.0.1", 80, "TCP"), node: makeNode("n"), placed: on(listening("q", "", 80, "TCP")), want: taken},
		{name: "no ports", pod: makePod("p"), node: makeNode("n"), placed: on(listening("q", "", 80, "TCP"))},
	})
	testWakes(t, NodePorts(), listening("p", "", 80, "TCP"), []wakeTest{
		{name: "port freed", event: framework.Event{Action: framework.PodDeleted, Old: listening("q", "", 80, "TCP")}, want: true},
		{name: "another port freed", event: framework.Event{Action: framework.PodDeleted, Old: listening("q", "", 81, "TCP")}},
		{name: "node comes", event: framework.Event{Action: framework.NodeAdded, New: makeNode("m")}, want: true},
	})
}
