package scheduler

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"skiff.dev/skiff/internal/meta"
	"skiff.dev/skiff/internal/pod"
)

// maxNote is the longest note that an event may have.
const maxNote = 1024

// failed tells people why a pod was not scheduled: in an event, and in the
// pod's PodScheduled condition unless it says so already.
func (s *Scheduler) failed(ctx context.Context, a attempt, now time.Time) {
	obj, msg := a.pod.Pod, a.err.Error()
	reason := corev1.PodReasonSchedulerError
	var unfit *FitError
	if errors.As(a.err, &unfit) || a.err == errNoNodes {
		reason = corev1.PodReasonUnschedulable
	}
	s.events.Warning(obj, "FailedScheduling", "%s", truncate(msg))

	next := corev1.PodCondition{
		Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: reason, Message: msg,
		LastTransitionTime: metav1.NewTime(now), ObservedGeneration: obj.Generation,
	}
	was := pod.Condition(&obj.Status, corev1.PodScheduled)
	if was != nil && says(*was, next) || says(a.told, next) {
		return
	}
	if was != nil && was.Status == next.Status {
		next.LastTransitionTime = was.LastTransitionTime
	}
	a.told = next
	before, written := a.reported, make(chan struct{})
	a.reported = written
	s.work.do(func() {
		defer close(written)
		if before != nil {
			<-before
		}
		s.writeCondition(ctx, obj, next)
	})
}

// says reports whether two conditions tell people the same.
func says(a, b corev1.PodCondition) bool {
	return a.Status == b.Status && a.Reason == b.Reason && a.Message == b.Message && a.ObservedGeneration == b.ObservedGeneration
}

func (s *Scheduler) writeCondition(ctx context.Context, obj *corev1.Pod, c corev1.PodCondition) {
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": obj.UID},
		"status":   map[string]any{"conditions": []corev1.PodCondition{c}},
	})
	if err == nil {
		_, err = s.pods.Patch(ctx, meta.KeyOf(obj), "status", types.StrategicMergePatchType, patch)
	}
	// A pod that is gone, or replaced by another of its name, needs no condition.
	if err != nil && ctx.Err() == nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		slog.Error("writing why a pod is not scheduled", "pod", meta.KeyOf(obj), "err", err)
	}
}

// bind carries a decision out and posts the outcome.
func (s *Scheduler) bind(ctx context.Context, a attempt, began time.Time) {
	obj, profile := a.pod.Pod, a.decider.profile
	before, born, attempts := a.reported, a.born, a.attempts
	s.work.do(func() {
		if before != nil {
			// Or the condition could be written after the binding, and tell of
			// a failure that is over.
			<-before
		}
		var err error
		for _, p := range profile.binds {
			if err = p.Bind(ctx, obj, a.node); err == nil {
				break
			}
		}
		if err != nil {
			s.post(func(now time.Time) { s.bindFailed(ctx, a, err, now, began) })
			return
		}
		now := time.Now()
		s.metrics.done(resultScheduled, profile.name, now.Sub(began))
		s.metrics.sli.WithLabelValues(attemptsLabel(attempts)).Observe(now.Sub(born).Seconds())
		s.events.Normal(obj, "Scheduled", "Successfully assigned %s/%s to %s", obj.Namespace, obj.Name, a.node)
	})
}

func (s *Scheduler) bindFailed(ctx context.Context, a attempt, err error, now, began time.Time) {
	if ctx.Err() != nil || !s.core.bindFailed(a, now) {
		return
	}
	s.metrics.done(resultError, a.decider.profile.name, now.Sub(began))
	if apierrors.IsNotFound(err) {
		return // the cache is about to say so
	}
	slog.Error("binding", "pod", meta.KeyOf(a.pod), "node", a.node, "err", err)
	a.err = err
	s.failed(ctx, a, now)
}

// attemptsLabel bounds the number of time series.
func attemptsLabel(n int) string {
	if n >= 16 {
		return "16+"
	}
	return fmt.Sprint(n)
}

func truncate(msg string) string {
	const tail = " ..."
	if len(msg) <= maxNote {
		return msg
	}
	return msg[:maxNote-len(tail)] + tail
}
