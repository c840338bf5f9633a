package replicaset

import (
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"skiff.dev/skiff/internal/pod"
)

// status returns the status of rs given its active pods, the number of those
// that are going, and the error, if any, of creating or deleting some.
func status(rs *appsv1.ReplicaSet, pods []*corev1.Pod, terminating int32, failure error, now time.Time) appsv1.ReplicaSetStatus {
	st := appsv1.ReplicaSetStatus{
		Replicas: int32(len(pods)), ObservedGeneration: rs.Generation, TerminatingReplicas: &terminating,
		Conditions: slices.Clone(rs.Status.Conditions),
	}
	template := labels.SelectorFromValidatedSet(rs.Spec.Template.Labels)
	for _, p := range pods {
		if template.Matches(labels.Set(p.Labels)) {
			st.FullyLabeledReplicas++
		}
		if pod.IsReady(p) {
			st.ReadyReplicas++
			if pod.IsAvailable(p, rs.Spec.MinReadySeconds, now) {
				st.AvailableReplicas++
			}
		}
	}
	isFailure := func(c appsv1.ReplicaSetCondition) bool { return c.Type == appsv1.ReplicaSetReplicaFailure }
	switch has := slices.ContainsFunc(st.Conditions, isFailure); {
	case failure == nil:
		st.Conditions = slices.DeleteFunc(st.Conditions, isFailure)
	case !has:
		reason := "FailedCreate"
		if len(pods) > int(*rs.Spec.Replicas) {
			reason = "FailedDelete"
		}
		st.Conditions = append(st.Conditions, appsv1.ReplicaSetCondition{
			Type: appsv1.ReplicaSetReplicaFailure, Status: corev1.ConditionTrue, Reason: reason,
			Message: failure.Error(), LastTransitionTime: metav1.NewTime(now.Truncate(time.Second)),
		})
	}
	return st
}

// nextAvailable returns how long it takes until the next ready pod has been so
// for minReadySeconds; 0 if there is none.
func nextAvailable(rs *appsv1.ReplicaSet, pods []*corev1.Pod, now time.Time) (next time.Duration) {
	wait := time.Duration(rs.Spec.MinReadySeconds) * time.Second
	for _, p := range pods {
		if !pod.IsReady(p) || pod.IsAvailable(p, rs.Spec.MinReadySeconds, now) {
			continue
		}
		since := pod.Condition(&p.Status, corev1.PodReady).LastTransitionTime
		if since.IsZero() {
			continue
		}
		if left := max(since.Add(wait).Sub(now), time.Millisecond); next == 0 || left < next {
			next = left
		}
	}
	return next
}
