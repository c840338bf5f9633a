package endpointslice

import (
	"slices"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff.dev/skiff/internal/testing/controltest"
)

// addresses returns the endpoints of all slices and whether each is ready.
func addresses(w *controltest.World) map[string]bool {
	got := map[string]bool{}
	for _, s := range controltest.List[*discoveryv1.EndpointSlice](w, "default") {
		for _, e := range s.Endpoints {
			got[e.Addresses[0]] = *e.Conditions.Ready
		}
	}
	return got
}

func TestFollowsPodsAndNodes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := controltest.New(t)
		defer w.Close()
		w.Run(New(w.Client, w.Events, DefaultMax))
		controltest.Create(w, &corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "default"},
			Spec:       corev1.ServiceSpec{Selector: map[string]string{"app": "web"}, Ports: []corev1.ServicePort{{Port: 80}}},
		})
		w.Settle()
		if all := controltest.List[*discoveryv1.EndpointSlice](w, "default"); len(all) != 1 || len(all[0].Endpoints) != 0 {
			t.Fatalf("slices of a service without pods: %+v", all)
		}
		p := controltest.Create(w, &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "default", Labels: map[string]string{"app": "web"}},
			Spec:       corev1.PodSpec{NodeName: "n1", Containers: []corev1.Container{{Name: "c", Image: "i"}}},
		})
		p = controltest.Update(w, p, controltest.Run)
		w.Settle()
		if got := addresses(w); len(got) != 0 {
			t.Errorf("endpoints on a node that does not exist: %v", got)
		}
		controltest.Create(w, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}})
		w.Settle()
		if diff := cmp.Diff(map[string]bool{p.Status.PodIP: true}, addresses(w)); diff != "" {
			t.Error(diff)
		}
		controltest.Update(w, p, func(p *corev1.Pod) {
			p.Status.Conditions = slices.DeleteFunc(p.Status.Conditions, func(c corev1.PodCondition) bool { return c.Type == corev1.PodReady })
		})
		w.Settle()
		if diff := cmp.Diff(map[string]bool{p.Status.PodIP: false}, addresses(w)); diff != "" {
			t.Error(diff)
		}
		controltest.Update(w, p, func(p *corev1.Pod) { p.Labels = nil })
		w.Settle()
		if got := addresses(w); len(got) != 0 {
			t.Errorf("endpoints of a pod that is no longer selected: %v", got)
		}
	})
}
