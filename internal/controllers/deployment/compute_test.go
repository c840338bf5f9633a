package deployment

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"pgregory.net/rapid"
)

func newDeployment(replicas int32, surge, unavailable string) *appsv1.Deployment {
	s, u := intstr.Parse(surge), intstr.Parse(unavailable)
	l, limit, deadline := map[string]string{"app": "web"}, int32(10), int32(600)
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "default", UID: "d", Generation: 1},
		Spec: appsv1.DeploymentSpec{
			Replicas: &replicas, RevisionHistoryLimit: &limit, ProgressDeadlineSeconds: &deadline,
			Selector: &metav1.LabelSelector{MatchLabels: l},
			Strategy: appsv1.DeploymentStrategy{Type: appsv1.RollingUpdateDeploymentStrategyType, RollingUpdate: &appsv1.RollingUpdateDeployment{MaxSurge: &s, MaxUnavailable: &u}},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: l},
				Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "1"}}},
			},
		},
	}
}

// rollout plays the API and the replica sets' controller around compute.
type rollout struct {
	d    *appsv1.Deployment
	sets []*appsv1.ReplicaSet
	pods map[string][]*corev1.Pod
	now  time.Time
}

func start(d *appsv1.Deployment) *rollout {
	return &rollout{d: d, now: time.Unix(1000, 0), pods: map[string][]*corev1.Pod{}}
}

// step carries out one plan and reports whether anything changed.
func (r *rollout) step() bool {
	p := compute(r.d, observed{sets: r.sets, pods: r.pods, now: r.now})
	r.sets = p.after(r.sets)
	if p.create != nil {
		p.create.UID = types.UID(p.create.Name)
		r.now = r.now.Add(time.Second)
		p.create.CreationTimestamp = metav1.NewTime(r.now)
	}
	changed := p.create != nil || len(p.scale)+len(p.remove) > 0 || !maps.Equal(r.d.Annotations, p.annotations)
	r.d.Annotations = p.annotations
	return changed
}

// settle makes all pods that are asked for available, and none else.
func (r *rollout) settle() {
	for i, rs := range r.sets {
		rs = rs.DeepCopy()
		n := *rs.Spec.Replicas
		rs.Status = appsv1.ReplicaSetStatus{Replicas: n, ReadyReplicas: n, AvailableReplicas: n, ObservedGeneration: rs.Generation}
		r.sets[i] = rs
	}
	r.d.Status = status(r.d, observed{sets: r.sets, now: r.now}, nil)
}

// finish steps and settles until nothing changes, and returns the sizes after
// each step, by image.
func (r *rollout) finish(t interface{ Fatal(...any) }) (trace []string) {
	for range 200 {
		if !r.step() {
			return trace
		}
		trace = append(trace, r.sizes())
		r.settle()
	}
	t.Fatal("the rollout does not end")
	return nil
}

func (r *rollout) sizes() string {
	var parts []string
	for _, rs := range r.sets {
		parts = append(parts, fmt.Sprintf("%s:%d", image(rs), *rs.Spec.Replicas))
	}
	slices.Sort(parts)
	return strings.Join(parts, " ")
}

func image(rs *appsv1.ReplicaSet) string { return rs.Spec.Template.Spec.Containers[0].Image }

func (r *rollout) set(image string) { r.d.Spec.Template.Spec.Containers[0].Image = image }

func (r *rollout) of(img string) *appsv1.ReplicaSet {
	for _, rs := range r.sets {
		if image(rs) == img {
			return rs
		}
	}
	return nil
}

func TestRollingUpdateStepByStep(t *testing.T) {
	tests := []struct {
		surge, unavailable string
		replicas           int32
		want               []string
	}{
		{"25%", "25%", 4, []string{"1:4 2:1", "1:2 2:1", "1:2 2:3", "1:0 2:3", "1:0 2:4"}},
		{"1", "0", 2, []string{"1:2 2:1", "1:1 2:1", "1:1 2:2", "1:0 2:2"}},
		{"0", "1", 2, []string{"1:2 2:0", "1:1 2:0", "1:1 2:1", "1:0 2:1", "1:0 2:2"}},
		{"100%", "0", 3, []string{"1:3 2:3", "1:0 2:3"}},
	}
	for _, tt := range tests {
		t.Run(tt.surge+"/"+tt.unavailable, func(t *testing.T) {
			r := start(newDeployment(tt.replicas, tt.surge, tt.unavailable))
			r.finish(t)
			r.set("2")
			if diff := cmp.Diff(tt.want, r.finish(t)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// A rollout whose new pods never become available stops where the bounds say.
func TestBrokenRolloutStops(t *testing.T) {
	r := start(newDeployment(10, "25%", "25%"))
	r.finish(t)
	r.set("broken")
	for range 20 {
		r.step()
		old := r.of("1")
		n := *old.Spec.Replicas
		old.Status = appsv1.ReplicaSetStatus{Replicas: n, ReadyReplicas: n, AvailableReplicas: n}
		if broken := r.of("broken"); broken != nil {
			broken.Status.Replicas = *broken.Spec.Replicas
		}
	}
	if got := r.sizes(); got != "1:8 broken:5" {
		t.Errorf("sizes %s", got)
	}
	r.set("1")
	r.finish(t)
	if got := r.sizes(); got != "1:10 broken:0" {
		t.Errorf("sizes after going back: %s", got)
	}
}

func TestRecreateWaitsForOldPods(t *testing.T) {
	d := newDeployment(3, "0", "0")
	d.Spec.Strategy = appsv1.DeploymentStrategy{Type: appsv1.RecreateDeploymentStrategyType}
	r := start(d)
	r.finish(t)
	uid := string(r.of("1").UID)
	r.pods[uid] = []*corev1.Pod{{Status: corev1.PodStatus{Phase: corev1.PodRunning}}}
	r.set("2")
	var trace []string
	for range 3 {
		r.step()
		trace = append(trace, r.sizes())
		r.settle()
	}
	r.pods[uid][0].Status.Phase = corev1.PodSucceeded
	r.step()
	trace = append(trace, r.sizes())
	if diff := cmp.Diff([]string{"1:0", "1:0", "1:0", "1:0 2:3"}, trace); diff != "" {
		t.Error(diff)
	}
}

func TestPause(t *testing.T) {
	r := start(newDeployment(4, "1", "0"))
	r.finish(t)
	r.d.Spec.Paused = true
	r.set("2")
	r.finish(t)
	if got := r.sizes(); got != "1:4" {
		t.Errorf("a paused Deployment rolls out: %s", got)
	}
	*r.d.Spec.Replicas = 6
	r.finish(t)
	if got := r.sizes(); got != "1:6" {
		t.Errorf("a paused Deployment does not scale: %s", got)
	}
	r.d.Spec.Paused = false
	r.finish(t)
	if got := r.sizes(); got != "1:0 2:6" {
		t.Errorf("after resuming: %s", got)
	}
}

func TestScaleInMidRollout(t *testing.T) {
	r := start(newDeployment(10, "3", "2"))
	r.finish(t)
	r.set("2")
	r.step() // 1:10 2:3
	r.step() // nothing new is available yet
	if got := r.sizes(); got != "1:8 2:3" {
		t.Fatalf("before: %s", got)
	}
	*r.d.Spec.Replicas = 20
	r.step()
	if got := r.sizes(); got != "1:18 2:5" {
		t.Errorf("proportions after scaling up: %s", got)
	}
	r.settle()
	r.finish(t)
	if got := r.sizes(); got != "1:0 2:20" {
		t.Errorf("in the end: %s", got)
	}
}

func TestRevisions(t *testing.T) {
	r := start(newDeployment(1, "1", "0"))
	*r.d.Spec.RevisionHistoryLimit = 2
	for _, img := range []string{"1", "2", "3", "1"} {
		r.set(img)
		r.finish(t)
	}
	revisions := map[string]string{}
	for _, rs := range r.sets {
		revisions[image(rs)] = rs.Annotations[revisionAnnotation]
	}
	if diff := cmp.Diff(map[string]string{"1": "4", "2": "2", "3": "3"}, revisions); diff != "" {
		t.Error(diff)
	}
	if got := r.of("1").Annotations[historyAnnotation]; got != "1" {
		t.Errorf("history of the set that was rolled back to: %q", got)
	}
	if got := r.d.Annotations[revisionAnnotation]; got != "4" {
		t.Errorf("revision %s", got)
	}
	for _, img := range []string{"4", "5"} {
		r.set(img)
		r.finish(t)
	}
	if got := r.sizes(); got != "1:0 4:0 5:1" { // the oldest revisions are forgotten
		t.Errorf("history %s", got)
	}
}

func TestNewSet(t *testing.T) {
	d := newDeployment(2, "1", "0")
	d.Annotations = map[string]string{"note": "x", corev1.LastAppliedConfigAnnotation: "{}"}
	rs := newSet(d, 7, 2)
	hash := rs.Labels["pod-template-hash"]
	if hash == "" || rs.Name != "web-"+hash || rs.Spec.Selector.MatchLabels["pod-template-hash"] != hash || rs.Spec.Template.Labels["pod-template-hash"] != hash {
		t.Errorf("hash %q in %+v", hash, rs)
	}
	want := map[string]string{"note": "x", revisionAnnotation: "7", desiredAnnotation: "2", maxAnnotation: "3"}
	if diff := cmp.Diff(want, rs.Annotations); diff != "" {
		t.Error(diff)
	}
	one := int32(1)
	d.Status.CollisionCount = &one
	if again := newSet(d, 7, 2); again.Name == rs.Name {
		t.Error("a collision makes no other name")
	}
}

// I19: whatever is rolled out, scaled, paused in whatever order while pods come
// up as they please, the bounds hold and the end is what was asked for.
func TestBoundsHold(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		values := []string{"0", "1", "25%", "50%", "100%"}
		r := start(newDeployment(rapid.Int32Range(1, 12).Draw(t, "replicas"),
			rapid.SampledFrom(values).Draw(t, "surge"), rapid.SampledFrom(values).Draw(t, "unavailable")))
		r.finish(t)
		b := boundsOf(r.d)
		want := *r.d.Spec.Replicas
		for range rapid.IntRange(1, 30).Draw(t, "steps") {
			if rapid.IntRange(0, 4).Draw(t, "new template") == 0 {
				r.set(rapid.SampledFrom([]string{"1", "2", "3"}).Draw(t, "image"))
			}
			r.step()
			var total, available int32
			for i, rs := range r.sets {
				n := *rs.Spec.Replicas
				total += n
				// Old pods stay available; of new ones any part is.
				up := min(rs.Status.AvailableReplicas, n)
				up += rapid.Int32Range(0, n-up).Draw(t, "up")
				rs = rs.DeepCopy()
				rs.Status = appsv1.ReplicaSetStatus{Replicas: n, ReadyReplicas: up, AvailableReplicas: up}
				r.sets[i] = rs
				available += up
			}
			if total > want+b.Surge {
				t.Fatalf("%d pods, no more than %d + %d allowed: %s", total, want, b.Surge, r.sizes())
			}
			if available < want-b.Unavailable {
				t.Fatalf("%d pods available, %d - %d needed: %s", available, want, b.Unavailable, r.sizes())
			}
		}
		r.settle()
		r.finish(t)
		if newest, _ := split(r.d, r.sets); *newest.Spec.Replicas != want {
			t.Fatalf("in the end %s", r.sizes())
		}
	})
}
