package deployment

import (
	"errors"
	"fmt"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// status returns the status of d given its sets and the error, if any, of
// making the new one. Conditions change their times only when they change.
func status(d *appsv1.Deployment, seen observed, failure error) appsv1.DeploymentStatus {
	st := counts(d, seen)
	conditions := append([]appsv1.DeploymentCondition(nil), d.Status.Conditions...)
	set := func(t appsv1.DeploymentConditionType, s corev1.ConditionStatus, reason, message string) {
		conditions = setCondition(conditions, appsv1.DeploymentCondition{Type: t, Status: s, Reason: reason, Message: message}, seen.now)
	}
	if st.AvailableReplicas >= *d.Spec.Replicas-boundsOf(d).Unavailable {
		set(appsv1.DeploymentAvailable, corev1.ConditionTrue, "MinimumReplicasAvailable", "Deployment has minimum availability.")
	} else {
		set(appsv1.DeploymentAvailable, corev1.ConditionFalse, "MinimumReplicasUnavailable", "Deployment does not have minimum availability.")
	}
	st.Conditions = conditions
	conditions = progress(d, st, seen, failure)
	if message := replicaFailure(seen.sets, failure); message != "" {
		set(appsv1.DeploymentReplicaFailure, corev1.ConditionTrue, "FailedCreate", message)
	} else {
		conditions = removeCondition(conditions, appsv1.DeploymentReplicaFailure)
	}
	st.Conditions = conditions
	return st
}

func counts(d *appsv1.Deployment, seen observed) appsv1.DeploymentStatus {
	st := appsv1.DeploymentStatus{ObservedGeneration: d.Generation, CollisionCount: d.Status.CollisionCount}
	newest, _ := split(d, seen.sets)
	var terminating int32
	for _, rs := range seen.sets {
		st.Replicas += rs.Status.Replicas
		st.ReadyReplicas += rs.Status.ReadyReplicas
		st.AvailableReplicas += rs.Status.AvailableReplicas
		if rs.Status.TerminatingReplicas != nil {
			terminating += *rs.Status.TerminatingReplicas
		}
	}
	if newest != nil {
		st.UpdatedReplicas = newest.Status.Replicas
	}
	st.TerminatingReplicas = &terminating
	st.UnavailableReplicas = max(0, total(seen.sets)-st.AvailableReplicas)
	return st
}

func total(sets []*appsv1.ReplicaSet) (n int32) {
	for _, rs := range sets {
		n += *rs.Spec.Replicas
	}
	return n
}

// complete reports whether everything runs the present template.
func complete(d *appsv1.Deployment) bool { return completeWith(d, &d.Status) }

func completeWith(d *appsv1.Deployment, st *appsv1.DeploymentStatus) bool {
	want := *d.Spec.Replicas
	return st.UpdatedReplicas == want && st.Replicas == want && st.AvailableReplicas == want && st.ObservedGeneration >= d.Generation
}

// progress returns the conditions with Progressing brought up to date.
// https://kubernetes.io/docs/concepts/workloads/controllers/deployment/#deployment-status
func progress(d *appsv1.Deployment, st appsv1.DeploymentStatus, seen observed, failure error) []appsv1.DeploymentCondition {
	conditions := st.Conditions
	limit := d.Spec.ProgressDeadlineSeconds
	if limit == nil || *limit == unlimited {
		return removeCondition(conditions, appsv1.DeploymentProgressing)
	}
	newest, _ := split(d, seen.sets)
	now := getCondition(conditions, appsv1.DeploymentProgressing)
	set := func(s corev1.ConditionStatus, reason, message string, advanced bool) []appsv1.DeploymentCondition {
		c := appsv1.DeploymentCondition{Type: appsv1.DeploymentProgressing, Status: s, Reason: reason, Message: message}
		if advanced { // progress renews the deadline even if nothing else changes
			conditions = touchCondition(conditions, c.Type, seen.now)
		}
		return setCondition(conditions, c, seen.now)
	}
	name := subject(d, newest)
	var failed *createError
	switch {
	case errors.As(failure, &failed):
		return set(corev1.ConditionFalse, "ReplicaSetCreateError", failed.Error(), false)
	case d.Spec.Paused:
		if now != nil && now.Reason == "ProgressDeadlineExceeded" {
			return conditions
		}
		return set(corev1.ConditionUnknown, "DeploymentPaused", "Deployment is paused", false)
	case now != nil && now.Reason == "DeploymentPaused":
		return set(corev1.ConditionUnknown, "DeploymentResumed", "Deployment is resumed", true)
	case newest != nil && completeWith(d, &st):
		return set(corev1.ConditionTrue, "NewReplicaSetAvailable", fmt.Sprintf("%s has successfully progressed.", name), false)
	case now == nil && newest != nil && newest.UID == "":
		return set(corev1.ConditionTrue, "NewReplicaSetCreated", fmt.Sprintf("Created new replica set %q", newest.Name), false)
	case now == nil && newest != nil:
		return set(corev1.ConditionTrue, "FoundNewReplicaSet", fmt.Sprintf("Found new replica set %q", newest.Name), false)
	case advanced(&d.Status, &st):
		return set(corev1.ConditionTrue, "ReplicaSetUpdated", fmt.Sprintf("%s is progressing.", name), true)
	case newest != nil && newest.UID == "":
		return set(corev1.ConditionTrue, "NewReplicaSetCreated", fmt.Sprintf("Created new replica set %q", newest.Name), true)
	case overdue(now, *limit, seen.now):
		return set(corev1.ConditionFalse, "ProgressDeadlineExceeded", fmt.Sprintf("%s has timed out progressing.", name), false)
	}
	return conditions
}

// unlimited as a progress deadline means none (the largest int32).
const unlimited = 1<<31 - 1

func subject(d *appsv1.Deployment, newest *appsv1.ReplicaSet) string {
	if newest != nil {
		return fmt.Sprintf("ReplicaSet %q", newest.Name)
	}
	return fmt.Sprintf("Deployment %q", d.Name)
}

// advanced reports whether more is new, or less is old, than before.
func advanced(was, is *appsv1.DeploymentStatus) bool {
	return is.UpdatedReplicas > was.UpdatedReplicas ||
		is.Replicas-is.UpdatedReplicas < was.Replicas-was.UpdatedReplicas ||
		is.ReadyReplicas > was.ReadyReplicas || is.AvailableReplicas > was.AvailableReplicas
}

// overdue reports whether the last progress is longer ago than the deadline.
// A rollout that was complete, or is already overdue, has no deadline to miss.
func overdue(c *appsv1.DeploymentCondition, limit int32, now time.Time) bool {
	if c == nil || c.Reason == "NewReplicaSetAvailable" {
		return false
	}
	if c.Reason == "ProgressDeadlineExceeded" {
		return true
	}
	return now.After(c.LastUpdateTime.Add(time.Duration(limit) * time.Second))
}

// nextCheck returns when the progress deadline of an unfinished rollout ends,
// 0 if there is none.
func nextCheck(d *appsv1.Deployment, st appsv1.DeploymentStatus, now time.Time) time.Duration {
	limit := d.Spec.ProgressDeadlineSeconds
	c := getCondition(st.Conditions, appsv1.DeploymentProgressing)
	if c == nil || limit == nil || *limit == unlimited || d.Spec.Paused || completeWith(d, &st) ||
		c.Reason == "ProgressDeadlineExceeded" || c.Reason == "NewReplicaSetAvailable" {
		return 0
	}
	// A second more, as times in conditions are whole seconds.
	return max(c.LastUpdateTime.Add(time.Duration(*limit+1)*time.Second).Sub(now), time.Second)
}

func replicaFailure(sets []*appsv1.ReplicaSet, failure error) string {
	var failed *createError
	if errors.As(failure, &failed) {
		return failed.Error()
	}
	for _, rs := range sets {
		for _, c := range rs.Status.Conditions {
			if c.Type == appsv1.ReplicaSetReplicaFailure && c.Status == corev1.ConditionTrue {
				return c.Message
			}
		}
	}
	return ""
}

func getCondition(list []appsv1.DeploymentCondition, t appsv1.DeploymentConditionType) *appsv1.DeploymentCondition {
	for i := range list {
		if list[i].Type == t {
			return &list[i]
		}
	}
	return nil
}

// setCondition replaces the condition of c's type, unless it says the same.
func setCondition(list []appsv1.DeploymentCondition, c appsv1.DeploymentCondition, now time.Time) []appsv1.DeploymentCondition {
	at := metav1.NewTime(now.Truncate(time.Second))
	c.LastUpdateTime, c.LastTransitionTime = at, at
	for i := range list {
		have := &list[i]
		if have.Type != c.Type {
			continue
		}
		if have.Status == c.Status && have.Reason == c.Reason && have.Message == c.Message {
			return list
		}
		if have.Status == c.Status {
			c.LastTransitionTime = have.LastTransitionTime
		}
		list[i] = c
		return list
	}
	return append(list, c)
}

func touchCondition(list []appsv1.DeploymentCondition, t appsv1.DeploymentConditionType, now time.Time) []appsv1.DeploymentCondition {
	if c := getCondition(list, t); c != nil {
		c.LastUpdateTime = metav1.NewTime(now.Truncate(time.Second))
	}
	return list
}

func removeCondition(list []appsv1.DeploymentCondition, t appsv1.DeploymentConditionType) (kept []appsv1.DeploymentCondition) {
	for _, c := range list {
		if c.Type != t {
			kept = append(kept, c)
		}
	}
	return kept
}
