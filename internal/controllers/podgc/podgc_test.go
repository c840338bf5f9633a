package podgc

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff.dev/skiff/internal/testing/controltest"
)

func newPod(name, node string, finalizers ...string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default", Finalizers: finalizers},
		Spec:       corev1.PodSpec{NodeName: node, Containers: []corev1.Container{{Name: "c", Image: "i"}}},
	}
}

func names(w *controltest.World) (all []string) {
	for _, p := range controltest.List[*corev1.Pod](w, "default") {
		all = append(all, p.Name)
	}
	return all
}

func TestOrphansAfterQuarantine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := controltest.New(t)
		defer w.Close()
		w.Run(New(w.Client, DefaultThreshold))
		controltest.Create(w, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}})
		controltest.Create(w, newPod("stays", "n1"))
		controltest.Create(w, newPod("lost", "n2"))
		controltest.Create(w, newPod("held", "n2", "example.com/job"))
		controltest.Create(w, newPod("early", "n3"))
		controltest.Create(w, newPod("waiting", ""))
		time.Sleep(39 * time.Second)
		controltest.Create(w, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n3"}})
		w.Settle()
		if got := len(names(w)); got != 5 {
			t.Fatalf("%d of 5 pods are left in quarantine", got)
		}
		time.Sleep(2 * time.Second)
		w.Settle()
		if diff := cmp.Diff([]string{"early", "held", "stays", "waiting"}, names(w)); diff != "" {
			t.Error(diff)
		}
		held := controltest.Get[*corev1.Pod](w, "default", "held")
		if c := held.Status.Conditions; held.Status.Phase != corev1.PodFailed || len(c) == 0 || c[len(c)-1].Reason != "DeletionByPodGC" {
			t.Errorf("phase %s, conditions %+v", held.Status.Phase, c)
		}
	})
}

func TestOutOfServiceNodes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := controltest.New(t)
		defer w.Close()
		w.Run(New(w.Client, DefaultThreshold))
		n := controltest.Create(w, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}})
		controltest.Create(w, newPod("ends", "n1"))
		controltest.Create(w, newPod("runs", "n1"))
		controltest.Delete[*corev1.Pod](w, "default", "ends", "")
		w.Settle()
		if diff := cmp.Diff([]string{"ends", "runs"}, names(w)); diff != "" {
			t.Error(diff)
		}
		controltest.Update(w, n, func(n *corev1.Node) {
			n.Spec.Taints = []corev1.Taint{{Key: corev1.TaintNodeOutOfService, Effect: corev1.TaintEffectNoExecute}}
		})
		w.Settle()
		if diff := cmp.Diff([]string{"runs"}, names(w)); diff != "" {
			t.Error(diff)
		}
	})
}

func TestKeepsSomeEndedPods(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := controltest.New(t)
		defer w.Close()
		w.Run(New(w.Client, 3))
		controltest.Create(w, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}})
		for i := range 6 {
			p := controltest.Create(w, newPod(fmt.Sprintf("p%d", i), "n1"))
			controltest.Update(w, p, func(p *corev1.Pod) {
				p.Status.Phase = corev1.PodSucceeded
				if i == 2 {
					p.Status.Phase, p.Status.Reason = corev1.PodFailed, "Evicted"
				}
			})
			time.Sleep(time.Minute)
		}
		w.Settle()
		if diff := cmp.Diff([]string{"p3", "p4", "p5"}, names(w)); diff != "" {
			t.Error(diff)
		}
	})
}
