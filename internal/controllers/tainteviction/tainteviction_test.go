package tainteviction

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff.dev/skiff/internal/pod"
	"skiff.dev/skiff/internal/testing/controltest"
)

func taint(key string, at time.Time) corev1.Taint {
	added := metav1.NewTime(at)
	return corev1.Taint{Key: key, Effect: corev1.TaintEffectNoExecute, TimeAdded: &added}
}

func tolerating(key string, seconds ...int64) corev1.Toleration {
	t := corev1.Toleration{Key: key, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute}
	if len(seconds) > 0 {
		t.TolerationSeconds = &seconds[0]
	}
	return t
}

func TestDeadline(t *testing.T) {
	at := func(s int) time.Time { return time.Unix(int64(s), 0) }
	tests := []struct {
		name        string
		tolerations []corev1.Toleration
		taints      []corev1.Taint
		want        time.Time // zero for never
	}{
		{"no taints", nil, nil, time.Time{}},
		{"not tolerated", nil, []corev1.Taint{taint("a", at(100))}, at(100)},
		{"tolerated for ever", []corev1.Toleration{tolerating("a")}, []corev1.Taint{taint("a", at(100))}, time.Time{}},
		{"tolerated for a while", []corev1.Toleration{tolerating("a", 300)}, []corev1.Taint{taint("a", at(100))}, at(400)},
		{"tolerated for no time", []corev1.Toleration{tolerating("a", -5)}, []corev1.Taint{taint("a", at(100))}, at(100)},
		{"the first that matches counts", []corev1.Toleration{tolerating("a", 20), tolerating("a")}, []corev1.Taint{taint("a", at(100))}, at(120)},
		{"the earliest of two", []corev1.Toleration{tolerating("a", 300), tolerating("b", 20)}, []corev1.Taint{taint("a", at(100)), taint("b", at(150))}, at(170)},
		{"one of two not tolerated", []corev1.Toleration{tolerating("a")}, []corev1.Taint{taint("a", at(100)), taint("b", at(150))}, at(150)},
		{"taint older than the pod", []corev1.Toleration{tolerating("a", 10)}, []corev1.Taint{taint("a", at(1))}, at(60)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{CreationTimestamp: metav1.NewTime(at(50))}, Spec: corev1.PodSpec{Tolerations: tt.tolerations}}
			got, ever := deadline(p, tt.taints)
			if ever == tt.want.IsZero() || !got.Equal(tt.want) {
				t.Errorf("deadline %v (%t), want %v", got, ever, tt.want)
			}
		})
	}
}

func TestEvictsWhenPatienceEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := controltest.New(t)
		defer w.Close()
		n := controltest.Create(w, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}})
		controltest.Create(w, &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "default"},
			Spec: corev1.PodSpec{
				NodeName: "n1", Containers: []corev1.Container{{Name: "c", Image: "i"}}, Tolerations: []corev1.Toleration{tolerating("lost", 300)},
			},
		})
		ctl := New(w.Client, w.Events)
		stop := w.Run(ctl)
		setTaint := func(on bool) {
			controltest.Update(w, n, func(n *corev1.Node) {
				n.Spec.Taints = nil
				if on {
					n.Spec.Taints = []corev1.Taint{taint("lost", time.Now())}
				}
			})
		}
		setTaint(true)
		time.Sleep(200 * time.Second)
		setTaint(false)
		time.Sleep(200 * time.Second)
		setTaint(true)
		time.Sleep(200 * time.Second)
		stop()
		stop = w.Run(New(w.Client, w.Events)) // a restart does not prolong it
		defer stop()
		time.Sleep(98 * time.Second)
		w.Settle()
		if got := controltest.Get[*corev1.Pod](w, "default", "p"); got.DeletionTimestamp != nil {
			t.Fatal("evicted too early")
		}
		time.Sleep(4 * time.Second)
		w.Settle()
		got := controltest.Get[*corev1.Pod](w, "default", "p")
		if got.DeletionTimestamp == nil {
			t.Fatal("not evicted")
		}
		c := pod.Condition(&got.Status, corev1.DisruptionTarget)
		if c == nil || c.Reason != "DeletionByTaintManager" {
			t.Errorf("condition %+v", c)
		}
		want := []string{
			"Normal TaintManagerEviction p: Cancelling deletion of Pod default/p",
			"Normal TaintManagerEviction p: Marking for deletion Pod default/p",
		}
		if diff := cmp.Diff(want, w.Events.With("TaintManagerEviction")); diff != "" {
			t.Error(diff)
		}
	})
}
