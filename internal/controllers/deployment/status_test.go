package deployment

import (
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
)

// told returns a condition as "Status Reason: message", "" if there is none.
func told(st appsv1.DeploymentStatus, t appsv1.DeploymentConditionType) string {
	c := getCondition(st.Conditions, t)
	if c == nil {
		return ""
	}
	return string(c.Status) + " " + c.Reason + ": " + c.Message
}

func TestStatusCounts(t *testing.T) {
	r := start(newDeployment(4, "1", "1"))
	r.finish(t)
	r.set("2")
	r.step() // 1:4 2:1
	two := int32(2)
	r.of("1").Status = appsv1.ReplicaSetStatus{Replicas: 4, ReadyReplicas: 3, AvailableReplicas: 3, TerminatingReplicas: &two}
	r.of("2").Status = appsv1.ReplicaSetStatus{Replicas: 1}
	got := status(r.d, observed{sets: r.sets, now: r.now}, nil)
	got.Conditions = nil
	want := appsv1.DeploymentStatus{
		ObservedGeneration: 1, Replicas: 5, UpdatedReplicas: 1, ReadyReplicas: 3, AvailableReplicas: 3, UnavailableReplicas: 2, TerminatingReplicas: &two,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// The conditions over a rollout that gets stuck and is then mended.
func TestConditions(t *testing.T) {
	r := start(newDeployment(2, "1", "0"))
	renew := func(failure error) appsv1.DeploymentStatus {
		r.d.Status = status(r.d, observed{sets: r.sets, now: r.now}, failure)
		return r.d.Status
	}
	expect := func(when, available, progressing string) {
		t.Helper()
		if diff := cmp.Diff(available, told(r.d.Status, appsv1.DeploymentAvailable)); diff != "" {
			t.Errorf("%s: %s", when, diff)
		}
		if diff := cmp.Diff(progressing, told(r.d.Status, appsv1.DeploymentProgressing)); diff != "" {
			t.Errorf("%s: %s", when, diff)
		}
	}
	const yes, no = "True MinimumReplicasAvailable: Deployment has minimum availability.", "False MinimumReplicasUnavailable: Deployment does not have minimum availability."
	p := compute(r.d, observed{now: r.now})
	r.sets = p.after(nil)
	name := p.create.Name
	renew(nil)
	expect("created", no, `True NewReplicaSetCreated: Created new replica set "`+name+`"`)
	p.create.UID = "1"
	r.settle()
	expect("available", yes, `True NewReplicaSetAvailable: ReplicaSet "`+name+`" has successfully progressed.`)
	r.set("2")
	r.d.Generation++
	r.step()
	broken := r.of("2")
	renew(nil)
	r.now = r.now.Add(time.Hour)
	renew(nil) // a finished rollout has no deadline, the next begins to count
	broken.Status.Replicas = 1
	renew(nil)
	expect("under way", yes, `True ReplicaSetUpdated: ReplicaSet "`+broken.Name+`" is progressing.`)
	began := r.now
	if after := nextCheck(r.d, r.d.Status, r.now); after != 601*time.Second {
		t.Errorf("the next look is in %s", after)
	}
	r.now = began.Add(599 * time.Second)
	renew(nil)
	expect("not yet overdue", yes, `True ReplicaSetUpdated: ReplicaSet "`+broken.Name+`" is progressing.`)
	r.now = began.Add(601 * time.Second)
	renew(nil)
	expect("overdue", yes, `False ProgressDeadlineExceeded: ReplicaSet "`+broken.Name+`" has timed out progressing.`)
	if after := nextCheck(r.d, r.d.Status, r.now); after != 0 {
		t.Errorf("an overdue rollout is looked at again in %s", after)
	}
	broken.Status.ReadyReplicas, broken.Status.AvailableReplicas = 1, 1
	renew(nil)
	expect("moves again", yes, `True ReplicaSetUpdated: ReplicaSet "`+broken.Name+`" is progressing.`)
	r.d.Spec.Paused = true
	renew(nil)
	expect("paused", yes, "Unknown DeploymentPaused: Deployment is paused")
	r.d.Spec.Paused = false
	renew(nil)
	expect("resumed", yes, "Unknown DeploymentResumed: Deployment is resumed")
	renew(&createError{errors.New("quota exceeded")})
	expect("refused", yes, "False ReplicaSetCreateError: quota exceeded")
	if got := told(r.d.Status, appsv1.DeploymentReplicaFailure); got != "True FailedCreate: quota exceeded" {
		t.Errorf("failure: %q", got)
	}
	renew(nil)
	if got := told(r.d.Status, appsv1.DeploymentReplicaFailure); got != "" {
		t.Errorf("failure after it is over: %q", got)
	}
}

func TestConditionTimes(t *testing.T) {
	begin := time.Unix(1000, 0)
	c := appsv1.DeploymentCondition{Type: appsv1.DeploymentAvailable, Status: corev1.ConditionTrue, Reason: "a"}
	list := setCondition(nil, c, begin)
	list = setCondition(list, c, begin.Add(time.Minute))
	if !list[0].LastUpdateTime.Time.Equal(begin) {
		t.Error("an unchanged condition got a new time")
	}
	c.Reason = "b"
	list = setCondition(list, c, begin.Add(time.Minute))
	if !list[0].LastTransitionTime.Time.Equal(begin) || !list[0].LastUpdateTime.Time.Equal(begin.Add(time.Minute)) {
		t.Errorf("times after another reason: %+v", list[0])
	}
	c.Status = corev1.ConditionFalse
	list = setCondition(list, c, begin.Add(time.Hour))
	if !list[0].LastTransitionTime.Time.Equal(begin.Add(time.Hour)) {
		t.Errorf("times after another status: %+v", list[0])
	}
}

func TestWithoutDeadlineNothingProgresses(t *testing.T) {
	r := start(newDeployment(1, "1", "0"))
	none := int32(1<<31 - 1)
	r.d.Spec.ProgressDeadlineSeconds = &none
	r.finish(t)
	if got := told(r.d.Status, appsv1.DeploymentProgressing); got != "" {
		t.Errorf("condition %q", got)
	}
}
