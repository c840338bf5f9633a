package scheduler

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"

	"skiff.dev/skiff/internal/scheduler/framework"
	"skiff.dev/skiff/internal/scheduler/plugins"
)

// queueTest is a queue with pods named after their uid, and a clock.
type queueTest struct {
	*queue
	d   *decider
	now time.Time
}

func newQueueTest() *queueTest {
	return &queueTest{
		queue: newQueue(plugins.PrioritySort().Less, time.Second, 10*time.Second),
		d:     &decider{profile: &profile{admits: []*framework.Any{plugins.SchedulingGates()}}},
		now:   start,
	}
}

func (q *queueTest) come(name string, edit ...func(*corev1.Pod)) *entry {
	return q.add(framework.NewPod(makePod(name, "1", "1Gi", edit...)), q.d, q.now)
}

// names pops all that there is to pop.
func (q *queueTest) names() []string {
	var names []string
	for e := q.pop(q.now); e != nil; e = q.pop(q.now) {
		names = append(names, e.pod.Name)
	}
	return names
}

func (q *queueTest) expect(t *testing.T, when string, want ...string) {
	t.Helper()
	if diff := cmp.Diff(want, q.names()); diff != "" {
		t.Errorf("%s (-want +got):\n%s", when, diff)
	}
}

func withPriority(n int32) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Spec.Priority = ptr.To(n) }
}

func TestQueueOrder(t *testing.T) {
	q := newQueueTest()
	q.come("first")
	q.come("second")
	q.come("urgent", withPriority(10))
	q.now = q.now.Add(time.Second)
	q.come("third")
	q.come("later-urgent", withPriority(10))
	q.expect(t, "by priority, then by arrival", "urgent", "later-urgent", "first", "second", "third")
}

func TestQueuePenalties(t *testing.T) {
	q := newQueueTest()
	e := q.come("p")
	for i, want := range []time.Duration{1, 2, 4, 8, 10, 10} {
		if got := q.pop(q.now); got != e {
			t.Fatalf("attempt %d: popped %v", i, got)
		}
		q.retry(e, q.now)
		due, ok := q.due()
		if got := due.Sub(q.now); !ok || got != want*time.Second {
			t.Errorf("penalty after attempt %d: %v, want %ds", i, got, want)
		}
		q.expect(t, "before its end")
		q.now = due
	}
}

func TestQueueWakes(t *testing.T) {
	taints := []*framework.Any{plugins.TaintToleration()}
	clean, tainted := makeNode("n"), makeNode("n", func(n *corev1.Node) {
		n.Spec.Taints = []corev1.Taint{{Key: "a", Effect: corev1.TaintEffectNoSchedule}}
	})
	q := newQueueTest()
	q.come("p")
	q.park(q.pop(q.now), taints, q.now)
	q.happened(framework.Event{Action: framework.PodDeleted, Old: makePod("gone", "1", "1Gi")}, q.now)
	q.expect(t, "an event that its plugin does not care about")
	q.happened(framework.Event{Action: framework.NodeAdded, New: tainted}, q.now)
	q.expect(t, "an event that does not help, by the plugin's hint")
	q.happened(framework.Event{Action: framework.NodeTaints, Old: tainted, New: clean}, q.now)
	q.expect(t, "an event that helps, with nothing else to do", "p")
}

func TestQueueKeepsStormsOff(t *testing.T) {
	q := newQueueTest()
	for i := range maxEarly + 1 {
		q.come(fmt.Sprint(i))
		q.park(q.pop(q.now), nil, q.now)
	}
	q.happened(framework.Event{Action: framework.NodeOther, New: makeNode("n")}, q.now)
	q.expect(t, "more than a few woken, within their penalty")
	due, ok := q.due()
	if !ok || due.Sub(q.now) != time.Second {
		t.Fatalf("due in %v, %v; want a second", due.Sub(q.now), ok)
	}
	q.now = due
	if got := len(q.names()); got != maxEarly+1 {
		t.Errorf("%d to try after the penalty, want %d", got, maxEarly+1)
	}
}

func TestQueueFlush(t *testing.T) {
	q := newQueueTest()
	q.come("p")
	q.park(q.pop(q.now), []*framework.Any{plugins.TaintToleration()}, q.now)
	due, ok := q.due()
	if !ok || due.Sub(q.now) != 5*time.Minute {
		t.Fatalf("due in %v, %v; want five minutes", due.Sub(q.now), ok)
	}
	q.now = due.Add(-1)
	q.expect(t, "just under five minutes")
	q.now = due
	q.expect(t, "five minutes", "p")
}

func TestQueueUpdates(t *testing.T) {
	gate := func(p *corev1.Pod) { p.Spec.SchedulingGates = []corev1.PodSchedulingGate{{Name: "g"}} }
	q := newQueueTest()
	gated := q.come("gated", gate)
	if q.gated != 1 {
		t.Errorf("%d gated, want 1", q.gated)
	}
	q.expect(t, "gated")
	q.update(gated, framework.NewPod(makePod("gated", "1", "1Gi")), framework.Event{Action: framework.SelfGates}, q.now)
	if q.gated != 0 {
		t.Errorf("%d gated after the gate has gone, want 0", q.gated)
	}
	q.expect(t, "gate gone", "gated")

	q.park(gated, []*framework.Any{plugins.TaintToleration()}, q.now)
	q.update(gated, gated.pod, framework.Event{Action: framework.SelfLabels}, q.now)
	q.expect(t, "labels changed")
	q.update(gated, gated.pod, framework.Event{Action: framework.SelfTolerations}, q.now)
	q.expect(t, "tolerations changed", "gated")

	q.park(gated, nil, q.now)
	q.update(gated, gated.pod, framework.Event{}, q.now)
	q.expect(t, "only its status changed")

	waiting := q.come("waiting")
	q.update(waiting, framework.NewPod(makePod("waiting", "2", "1Gi")), framework.Event{}, q.now)
	q.remove("gated")
	q.expect(t, "updated while active", "waiting")
	if got := waiting.pod.Requests.MilliCPU; got != 2000 {
		t.Errorf("requests %dm after the update, want 2000m", got)
	}
	q.remove("waiting")
	if len(q.all) != 0 {
		t.Errorf("%d entries left, want none", len(q.all))
	}
}
