package plugins

import (
	"testing"

	corev1 "k8s.io/api/core/v1"

	"skiff.dev/skiff/internal/scheduler/framework"
)

func taint(key, value string, effect corev1.TaintEffect) corev1.Taint {
	return corev1.Taint{Key: key, Value: value, Effect: effect}
}

func withTaints(taints ...corev1.Taint) *corev1.Node {
	return makeNode("n", func(n *corev1.Node) { n.Spec.Taints = taints })
}

func withTolerations(t ...corev1.Toleration) *corev1.Pod {
	return makePod("p", func(p *corev1.Pod) { p.Spec.Tolerations = t })
}

func TestTaintToleration(t *testing.T) {
	const untolerated = "node(s) had untolerated taint(s)"
	dedicated := corev1.Toleration{Key: "dedicated", Operator: corev1.TolerationOpEqual, Value: "db", Effect: corev1.TaintEffectNoSchedule}
	tests := []verdictTest{{
		name: "no taints",
		pod:  withTolerations(), node: withTaints(),
	}, {
		name: "untolerated NoSchedule",
		pod:  withTolerations(), node: withTaints(taint("dedicated", "db", corev1.TaintEffectNoSchedule)),
		want: framework.RejectFinally(untolerated),
	}, {
		name: "untolerated NoExecute",
		pod:  withTolerations(dedicated), node: withTaints(taint("dedicated", "db", corev1.TaintEffectNoExecute)),
		want: framework.RejectFinally(untolerated),
	}, {
		name: "tolerated by value",
		pod:  withTolerations(dedicated), node: withTaints(taint("dedicated", "db", corev1.TaintEffectNoSchedule)),
	}, {
		name: "another value",
		pod:  withTolerations(dedicated), node: withTaints(taint("dedicated", "web", corev1.TaintEffectNoSchedule)),
		want: framework.RejectFinally(untolerated),
	}, {
		name: "one of two tolerated",
		pod:  withTolerations(dedicated),
		node: withTaints(taint("dedicated", "db", corev1.TaintEffectNoSchedule), taint("gpu", "", corev1.TaintEffectNoSchedule)),
		want: framework.RejectFinally(untolerated),
	}, {
		name: "everything tolerated",
		pod:  withTolerations(corev1.Toleration{Operator: corev1.TolerationOpExists}),
		node: withTaints(taint("a", "b", corev1.TaintEffectNoExecute)),
	}, {
		name: "preference does not reject, but scores",
		pod:  withTolerations(corev1.Toleration{Key: "a", Operator: corev1.TolerationOpExists}),
		node: withTaints(
			taint("a", "", corev1.TaintEffectPreferNoSchedule),
			taint("b", "", corev1.TaintEffectPreferNoSchedule),
			taint("c", "", corev1.TaintEffectPreferNoSchedule)),
		score: 2,
	}}
	testVerdicts(t, TaintToleration(), tests)
}

func TestTaintTolerationNormalizes(t *testing.T) {
	got := []int64{}
	for _, raw := range []int64{0, 1, 4} {
		got = append(got, TaintToleration().Normalize(raw, 0, 4))
	}
	if got[0] != 100 || got[1] != 75 || got[2] != 0 {
		t.Errorf("normalized scores of 0, 1 and 4 taints: %v, want [100 75 0]", got)
	}
}

func TestTaintTolerationWakes(t *testing.T) {
	tainted := withTaints(taint("a", "", corev1.TaintEffectNoSchedule))
	clean := withTaints()
	tests := []wakeTest{
		{name: "tolerable node comes", event: framework.Event{Action: framework.NodeAdded, New: clean}, want: true},
		{name: "tainted node comes", event: framework.Event{Action: framework.NodeAdded, New: tainted}},
		{name: "taint goes", event: framework.Event{Action: framework.NodeTaints, Old: tainted, New: clean}, want: true},
		{name: "taint comes", event: framework.Event{Action: framework.NodeTaints, Old: clean, New: tainted}},
		{name: "taint was not what kept it out", event: framework.Event{Action: framework.NodeTaints, Old: clean, New: clean}},
		{name: "node has room again", event: framework.Event{Action: framework.NodeAllocatable, Old: tainted, New: clean}},
		{name: "toleration added", event: framework.Event{Action: framework.SelfTolerations, Old: withTolerations(), New: withTolerations()}, want: true},
	}
	testWakes(t, TaintToleration(), withTolerations(), tests)
}
