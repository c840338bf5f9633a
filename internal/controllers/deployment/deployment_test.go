package deployment

import (
	"testing"
	"testing/synctest"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"

	"skiff.dev/skiff/internal/client"
	"skiff.dev/skiff/internal/controllers/replicaset"
	"skiff.dev/skiff/internal/meta"
	"skiff.dev/skiff/internal/testing/controltest"
)

func create(w *controltest.World, replicas int32) *appsv1.Deployment {
	d := newDeployment(replicas, "25%", "25%")
	d.UID, d.Generation = "", 0
	return controltest.Create(w, d)
}

func sizes(w *controltest.World) map[string]int32 {
	n := map[string]int32{}
	for _, rs := range controltest.List[*appsv1.ReplicaSet](w, "default") {
		n[image(rs)] += *rs.Spec.Replicas
	}
	return n
}

func TestRollsOutAndBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := controltest.New(t)
		defer w.Close()
		w.Run(New(w.Client, w.Events), replicaset.New(w.Client, w.Events), w.Nodes(3))
		d := create(w, 8)
		for _, img := range []string{"1", "2", "1"} {
			controltest.Update(w, d, func(d *appsv1.Deployment) { d.Spec.Template.Spec.Containers[0].Image = img })
			w.Settle()
			if got := sizes(w); got[img] != 8 {
				t.Fatalf("image %s: sizes %v", img, got)
			}
			st := controltest.Get[*appsv1.Deployment](w, "default", "web").Status
			if got := told(st, appsv1.DeploymentProgressing); st.UpdatedReplicas != 8 || st.Replicas != 8 || getCondition(st.Conditions, "Progressing").Reason != "NewReplicaSetAvailable" {
				t.Errorf("image %s: status %+v, %s", img, st, got)
			}
		}
		if n := len(controltest.List[*appsv1.ReplicaSet](w, "default")); n != 2 {
			t.Errorf("%d sets, want 2", n)
		}
		if got := controltest.Get[*appsv1.Deployment](w, "default", "web").Annotations[revisionAnnotation]; got != "3" {
			t.Errorf("revision %s, want 3", got)
		}
		if got := w.Events.With("Scaled up replica set web-"); len(got) == 0 {
			t.Error("no events of scaling")
		}
	})
}

// I17, I19: with late caches and restarts the rollout ends as without, and
// there is never a second set of one template.
func TestLateCachesAndRestarts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := controltest.New(t)
		defer w.Close()
		faulty := w.Faulty(700 * time.Millisecond)
		c := client.New(faulty)
		w.Run(w.Nodes(3))
		d := create(w, 6)
		for round := range 6 {
			if round%2 == 1 {
				faulty.LoseCreates(1)
			}
			stop := w.Run(New(c, w.Events), replicaset.New(c, w.Events))
			controltest.Update(w, d, func(d *appsv1.Deployment) {
				d.Spec.Template.Spec.Containers[0].Image = []string{"1", "2", "3"}[round%3]
			})
			time.Sleep(time.Duration(round) * time.Second)
			stop()
			if got := len(controltest.List[*corev1.Pod](w, "default")); got > 8 {
				t.Errorf("%d pods, no more than 6 + 2 allowed", got)
			}
		}
		w.Run(New(c, w.Events), replicaset.New(c, w.Events))
		time.Sleep(5 * time.Minute)
		w.Settle()
		if got := sizes(w); got["3"] != 6 || got["1"]+got["2"] != 0 {
			t.Errorf("sizes %v", got)
		}
		seen := map[string]int{}
		for _, rs := range controltest.List[*appsv1.ReplicaSet](w, "default") {
			if seen[image(rs)]++; seen[image(rs)] > 1 {
				t.Errorf("two sets of image %s", image(rs))
			}
		}
	})
}

func TestAdoptsMatchingSets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := controltest.New(t)
		defer w.Close()
		stop := w.Run(New(w.Client, w.Events))
		d := create(w, 1)
		w.Settle()
		stop()
		rs := controltest.Update(w, controltest.List[*appsv1.ReplicaSet](w, "default")[0], func(rs *appsv1.ReplicaSet) { rs.OwnerReferences = nil })
		w.Run(New(w.Client, w.Events))
		w.Settle()
		all := controltest.List[*appsv1.ReplicaSet](w, "default")
		if len(all) != 1 || all[0].UID != rs.UID || !meta.IsControlledBy(all[0], d) {
			t.Errorf("%d sets, owners %v", len(all), all[0].OwnerReferences)
		}
	})
}
