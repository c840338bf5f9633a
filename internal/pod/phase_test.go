package pod

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func running(ready bool, restarts int32) corev1.ContainerStatus {
	return corev1.ContainerStatus{Name: "web", Ready: ready, RestartCount: restarts,
		State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}
}

func ended(reason string, code int32) corev1.ContainerStatus {
	return corev1.ContainerStatus{Name: "web", State: corev1.ContainerState{
		Terminated: &corev1.ContainerStateTerminated{Reason: reason, ExitCode: code}}}
}

func waiting(reason string) corev1.ContainerStatus {
	return corev1.ContainerStatus{Name: "web", State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason}}}
}

func TestSummarize(t *testing.T) {
	type status = []corev1.ContainerStatus
	for _, tc := range []struct {
		name       string
		phase      corev1.PodPhase
		init, main status
		change     func(*corev1.Pod)
		want       string
		ready      int
	}{
		{name: "pending", phase: "Pending", want: "Pending"},
		{name: "running", phase: "Running", main: status{running(true, 0)}, want: "Running", ready: 1},
		{name: "crashing", phase: "Running", main: status{waiting("CrashLoopBackOff")}, want: "CrashLoopBackOff"},
		{name: "completed", phase: "Succeeded", main: status{ended("Completed", 0)}, want: "Completed"},
		{name: "killed", phase: "Failed", main: status{ended("", 137)}, want: "ExitCode:137"},
		{name: "first init", phase: "Pending", init: status{running(false, 0)}, main: status{waiting("PodInitializing")}, want: "Init:0/1"},
		{name: "init failed", phase: "Pending", init: status{ended("Error", 1)}, want: "Init:Error"},
		{name: "init waits", phase: "Pending", init: status{waiting("ErrImagePull")}, want: "Init:ErrImagePull"},
		{name: "evicted", phase: "Failed", change: func(p *corev1.Pod) { p.Status.Reason = "Evicted" }, want: "Evicted"},
		{name: "terminating", phase: "Running", main: status{running(true, 0)}, want: "Terminating", ready: 1,
			change: func(p *corev1.Pod) { p.DeletionTimestamp = &metav1.Time{Time: time.Now()} }},
		{name: "node lost", phase: "Running", want: "Unknown", change: func(p *corev1.Pod) {
			p.DeletionTimestamp, p.Status.Reason = &metav1.Time{Time: time.Now()}, "NodeLost"
		}},
		{name: "gated", phase: "Pending", want: "SchedulingGated", change: func(p *corev1.Pod) {
			p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodScheduled, Reason: corev1.PodReasonSchedulingGated}}
		}},
		{name: "one of two done", phase: "Running", main: status{ended("Completed", 0), running(true, 0)}, want: "NotReady", ready: 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := simple()
			p.Status = corev1.PodStatus{Phase: tc.phase, InitContainerStatuses: tc.init, ContainerStatuses: tc.main}
			if tc.init != nil {
				p.Spec.InitContainers = []corev1.Container{{Name: "web"}}
			}
			if tc.change != nil {
				tc.change(p)
			}
			if got := Summarize(p); got.Status != tc.want || got.Ready != tc.ready {
				t.Errorf("got %s, %d ready", got.Status, got.Ready)
			}
		})
	}
}

func TestSummarizeSidecar(t *testing.T) {
	p := simple()
	p.Spec.InitContainers = []corev1.Container{{Name: "side", RestartPolicy: ptr(corev1.ContainerRestartPolicyAlways)}}
	side := running(true, 2)
	side.Name, side.Started = "side", ptr(true)
	p.Status = corev1.PodStatus{Phase: corev1.PodRunning,
		InitContainerStatuses: []corev1.ContainerStatus{side}, ContainerStatuses: []corev1.ContainerStatus{running(true, 1)}}
	got := Summarize(p)
	if got.Ready != 2 || got.Total != 2 || got.Restarts != 3 || got.Status != "Running" {
		t.Errorf("got %+v", got)
	}
}
