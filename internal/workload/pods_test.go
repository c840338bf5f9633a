package workload

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

func TestDeletionOrder(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	ago := func(d time.Duration) metav1.Time { return metav1.NewTime(now.Add(-d)) }
	// Each pod is one that goes later than the one before it, for one reason.
	running := func(name string, change ...func(*corev1.Pod)) *corev1.Pod {
		p := &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name), CreationTimestamp: ago(100 * time.Hour)},
			Spec:       corev1.PodSpec{NodeName: "quiet"},
			Status: corev1.PodStatus{Phase: corev1.PodRunning, Conditions: []corev1.PodCondition{
				{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: ago(50 * time.Hour)},
			}},
		}
		for _, f := range change {
			f(p)
		}
		return p
	}
	cost := func(s string) func(*corev1.Pod) {
		return func(p *corev1.Pod) { p.Annotations = map[string]string{corev1.PodDeletionCost: s} }
	}
	order := []*corev1.Pod{
		running("1 unassigned", func(p *corev1.Pod) { p.Spec.NodeName = "" }),
		running("2 pending", func(p *corev1.Pod) { p.Status.Phase = corev1.PodPending }),
		running("3 not ready", func(p *corev1.Pod) { p.Status.Conditions = nil }),
		running("4 cheap", cost("-5")),
		running("5 crowded", func(p *corev1.Pod) { p.Spec.NodeName = "crowded" }),
		running("6 ready lately", func(p *corev1.Pod) { p.Status.Conditions[0].LastTransitionTime = ago(time.Hour) }),
		running("7 restarted", func(p *corev1.Pod) { p.Status.ContainerStatuses = []corev1.ContainerStatus{{RestartCount: 3}} }),
		running("8 created lately", func(p *corev1.Pod) { p.CreationTimestamp = ago(51 * time.Hour) }),
		running("9 plain", cost("not a number")),
		running("a dear", cost("7")),
	}
	var want []string
	for _, p := range order {
		want = append(want, p.Name)
	}
	for turn := range order {
		mixed := append(append([]*corev1.Pod{}, order[turn:]...), order[:turn]...)
		if turn%2 == 1 {
			for i, j := 0, len(mixed)-1; i < j; i, j = i+1, j-1 {
				mixed[i], mixed[j] = mixed[j], mixed[i]
			}
		}
		var got []string
		for _, p := range DeletionOrder(mixed, map[string]int{"crowded": 4, "quiet": 1}, now) {
			got = append(got, p.Name)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatal(diff)
		}
	}
}

// Ages of one order of magnitude do not decide: then a burst of new pods would
// always go before all others.
func TestAgesCountByMagnitude(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	aged := func(uid string, d time.Duration) *corev1.Pod {
		return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: uid, UID: types.UID(uid), CreationTimestamp: metav1.NewTime(now.Add(-d))}}
	}
	got := DeletionOrder([]*corev1.Pod{aged("b", 60*time.Minute), aged("a", 61*time.Minute), aged("c", 10*time.Second)}, nil, now)
	if names := got[0].Name + got[1].Name + got[2].Name; names != "cab" {
		t.Errorf("order %s, want cab", names)
	}
}
