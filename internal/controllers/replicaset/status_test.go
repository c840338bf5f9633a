package replicaset

import (
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestStatus(t *testing.T) {
	now := time.Unix(1000, 0)
	at := metav1.NewTime(now)
	readyFor := func(d time.Duration) *corev1.Pod {
		return &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "web"}},
			Status: corev1.PodStatus{Conditions: []corev1.PodCondition{
				{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(now.Add(-d))},
			}},
		}
	}
	failed := func(reason, message string) []appsv1.ReplicaSetCondition {
		return []appsv1.ReplicaSetCondition{{
			Type: appsv1.ReplicaSetReplicaFailure, Status: corev1.ConditionTrue, Reason: reason, Message: message, LastTransitionTime: at,
		}}
	}
	tests := []struct {
		name    string
		was     []appsv1.ReplicaSetCondition
		pods    []*corev1.Pod
		failure error
		want    appsv1.ReplicaSetStatus
		next    time.Duration
	}{
		{"available after a while", nil, []*corev1.Pod{readyFor(time.Minute), readyFor(25 * time.Second), readyFor(10 * time.Second), {}}, nil,
			appsv1.ReplicaSetStatus{Replicas: 4, FullyLabeledReplicas: 3, ReadyReplicas: 3, AvailableReplicas: 1}, 5 * time.Second},
		{"cannot create", nil, nil, errors.New("no quota"), appsv1.ReplicaSetStatus{Conditions: failed("FailedCreate", "no quota")}, 0},
		{"cannot delete", nil, []*corev1.Pod{{}, {}, {}}, errors.New("refused"), appsv1.ReplicaSetStatus{Replicas: 3, Conditions: failed("FailedDelete", "refused")}, 0},
		{"still cannot", failed("FailedCreate", "first"), nil, errors.New("second"), appsv1.ReplicaSetStatus{Conditions: failed("FailedCreate", "first")}, 0},
		{"can again", failed("FailedCreate", "first"), nil, nil, appsv1.ReplicaSetStatus{}, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			rs := set("web", 2)
			rs.Spec.MinReadySeconds, rs.Generation, rs.Status.Conditions = 30, 7, tt.was
			terminating := int32(1)
			tt.want.ObservedGeneration, tt.want.TerminatingReplicas = 7, &terminating
			got := status(rs, tt.pods, 1, tt.failure, now)
			if len(got.Conditions) == 0 {
				got.Conditions = nil
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Error(diff)
			}
			if next := nextAvailable(rs, tt.pods, now); next != tt.next {
				t.Errorf("looked at again in %s, want %s", next, tt.next)
			}
		})
	}
}
