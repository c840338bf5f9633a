package replicaset

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff.dev/skiff/internal/client"
	"skiff.dev/skiff/internal/meta"
	"skiff.dev/skiff/internal/testing/controltest"
)

func set(name string, replicas int32) *appsv1.ReplicaSet {
	l := map[string]string{"app": name}
	return &appsv1.ReplicaSet{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"},
		Spec: appsv1.ReplicaSetSpec{
			Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: l},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: l},
				Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}},
			},
		},
	}
}

func scale(w *controltest.World, rs *appsv1.ReplicaSet, n int32) {
	controltest.Update(w, rs, func(rs *appsv1.ReplicaSet) { rs.Spec.Replicas = &n })
}

func pods(w *controltest.World) []*corev1.Pod { return controltest.List[*corev1.Pod](w, "default") }

func TestKeepsTheNumberOfPods(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := controltest.New(t)
		defer w.Close()
		w.Run(New(w.Client, w.Events), w.Nodes(3))
		rs := controltest.Create(w, set("web", 7))
		w.Settle()
		if got := len(pods(w)); got != 7 {
			t.Fatalf("%d pods, want 7", got)
		}
		zero := int32(0)
		want := appsv1.ReplicaSetStatus{
			Replicas: 7, FullyLabeledReplicas: 7, ReadyReplicas: 7, AvailableReplicas: 7, TerminatingReplicas: &zero, ObservedGeneration: 1,
		}
		if diff := cmp.Diff(want, controltest.Get[*appsv1.ReplicaSet](w, "default", "web").Status); diff != "" {
			t.Error(diff)
		}
		controltest.Delete[*corev1.Pod](w, "default", pods(w)[0].Name, "")
		w.Settle()
		if got := len(pods(w)); got != 7 {
			t.Errorf("%d pods after one was deleted, want 7", got)
		}
		scale(w, rs, 2)
		w.Settle()
		if got := len(pods(w)); got != 2 {
			t.Errorf("%d pods after scaling down, want 2", got)
		}
		if c, d := len(w.Events.With("SuccessfulCreate web: Created pod: web-")), len(w.Events.With("SuccessfulDelete web: Deleted pod: web-")); c != 8 || d != 5 {
			t.Errorf("%d events of creation, %d of deletion", c, d)
		}
	})
}

func TestAdoptsAndReleases(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := controltest.New(t)
		defer w.Close()
		w.Run(New(w.Client, w.Events), w.Nodes(1))
		rs := controltest.Create(w, set("web", 2))
		w.Settle()
		stray := controltest.Update(w, pods(w)[0], func(p *corev1.Pod) { p.Labels = map[string]string{"app": "debug"} })
		w.Settle()
		if got := len(pods(w)); got != 3 {
			t.Fatalf("%d pods, want 2 and the one that was let go", got)
		}
		if got := controltest.Get[*corev1.Pod](w, "default", stray.Name); len(got.OwnerReferences) != 0 {
			t.Errorf("the pod let go has owners %v", got.OwnerReferences)
		}
		controltest.Update(w, stray, func(p *corev1.Pod) { p.Labels = map[string]string{"app": "web"} })
		w.Settle()
		left := pods(w)
		if len(left) != 2 {
			t.Errorf("%d pods after it came back, want 2", len(left))
		}
		for _, p := range left {
			if !meta.IsControlledBy(p, rs) {
				t.Errorf("pod %s is not owned", p.Name)
			}
		}
	})
}

// I17: neither late caches, nor restarts, nor lost answers make it create more
// pods than asked for.
func TestNeverOvershoots(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := controltest.New(t)
		defer w.Close()
		rs := controltest.Create(w, set("web", 10))
		faulty := w.Faulty(3 * time.Second)
		for round := range 8 {
			if round%2 == 1 {
				faulty.LoseCreates(1)
			}
			stop := w.Run(New(client.New(faulty), w.Events))
			time.Sleep(time.Duration(round) * time.Second)
			stop()
			if got := len(pods(w)); got > int(*rs.Spec.Replicas) {
				t.Fatalf("round %d: %d pods, want no more than %d", round, got, *rs.Spec.Replicas)
			}
			want := *rs.Spec.Replicas + 4
			rs = controltest.Update(w, rs, func(rs *appsv1.ReplicaSet) { rs.Spec.Replicas = &want })
		}
		w.Run(New(client.New(faulty), w.Events))
		time.Sleep(time.Minute)
		w.Settle()
		if got := len(pods(w)); got != int(*rs.Spec.Replicas) {
			t.Errorf("%d pods in the end, want %d", got, *rs.Spec.Replicas)
		}
	})
}

func TestAvailableAfterMinReadySeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := controltest.New(t)
		defer w.Close()
		w.Run(New(w.Client, w.Events), w.Nodes(1))
		rs := set("web", 1)
		rs.Spec.MinReadySeconds = 30
		controltest.Create(w, rs)
		w.Settle()
		available := func() int32 {
			return controltest.Get[*appsv1.ReplicaSet](w, "default", "web").Status.AvailableReplicas
		}
		time.Sleep(29 * time.Second)
		w.Settle()
		if got := available(); got != 0 {
			t.Errorf("%d available after 29 s", got)
		}
		time.Sleep(2 * time.Second)
		w.Settle()
		if got := available(); got != 1 {
			t.Errorf("%d available after 31 s", got)
		}
	})
}
