package kubelet

import (
	"slices"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff.dev/skiff/internal/client"
)

func TestRealPodLife(t *testing.T) {
	n := newRealNode(t)
	began := time.Now()
	n.create(n.pod("web"))
	p := n.wait("web", "running", running)
	t.Logf("created to running and ready: %v", time.Since(began).Round(time.Millisecond))
	id := p.Status.ContainerStatuses[0].ContainerID

	// Restarting the kubelet restarts no container (I24).
	n.stop()
	n.start()
	n.create(n.pod("second"))
	n.wait("second", "running", running)
	p = n.wait("web", "running", running)
	if got := p.Status.ContainerStatuses[0]; got.ContainerID != id || got.RestartCount != 0 {
		t.Fatalf("after a restart of the kubelet: %+v, want container %s", got, id)
	}

	began = time.Now()
	n.ok(client.For[*v1.Pod](n.client).Delete(t.Context(), "default", "web", metav1.DeleteOptions{}))
	n.wait("web", "gone", gone)
	t.Logf("deleted to gone: %v", time.Since(began).Round(time.Millisecond))

	// A pod that is deleted while the kubelet is away ends when it is back (I26).
	n.stop()
	zero := int64(0)
	n.ok(client.For[*v1.Pod](n.client).Delete(t.Context(), "default", "second", metav1.DeleteOptions{GracePeriodSeconds: &zero}))
	n.start()
	for deadline := time.Now().Add(20 * time.Second); ; {
		list, err := n.cri.ListSandboxes(t.Context(), nil)
		n.ok(err)
		if len(list) == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("left behind: %v", list)
		}
		<-time.After(20 * time.Millisecond)
	}
}

func TestRealExitAndCrash(t *testing.T) {
	n := newRealNode(t)
	never := n.pod("job", "3")
	never.Spec.RestartPolicy = v1.RestartPolicyNever
	never.Spec.Containers[0].TerminationMessagePolicy = v1.TerminationMessageFallbackToLogsOnError
	n.create(never)
	p := n.wait("job", "failed", func(p *v1.Pod) bool { return p != nil && p.Status.Phase == v1.PodFailed })
	got := p.Status.ContainerStatuses[0].State.Terminated
	if got == nil || got.ExitCode != 3 || got.Reason != "Error" || got.Message != "hello from the container\n" {
		t.Errorf("state %+v, want exit code 3, reason Error and the log as message", got)
	}
	n.create(n.pod("crash", "1"))
	p = n.wait("crash", "backing off", func(p *v1.Pod) bool {
		return p != nil && len(p.Status.ContainerStatuses) > 0 && p.Status.ContainerStatuses[0].State.Waiting != nil &&
			p.Status.ContainerStatuses[0].State.Waiting.Reason == "CrashLoopBackOff"
	})
	want := "back-off 10s restarting failed container=main pod=crash_default(" + string(p.UID) + ")"
	if w := p.Status.ContainerStatuses[0]; w.State.Waiting.Message != want || w.RestartCount != 1 {
		t.Errorf("waiting %q after %d restarts, want %q after 1", w.State.Waiting.Message, w.RestartCount, want)
	}
	if !n.events.has("Warning BackOff: Back-off restarting failed container main in pod crash_default(") {
		t.Errorf("no BackOff event in %q", n.events.list)
	}
}

// TestRealLatency measures how long pods take from their creation to Running,
// with the image present and without a network of their own.
func TestRealLatency(t *testing.T) {
	if testing.Short() {
		t.Skip("SKIPPED: a measurement")
	}
	n := newRealNode(t)
	var took []time.Duration
	for i := range 20 {
		name := "p" + string(rune('a'+i))
		began := time.Now()
		n.create(n.pod(name))
		n.wait(name, "running", running)
		took = append(took, time.Since(began))
	}
	slices.Sort(took)
	t.Logf("one at a time: p50 %v, p99 %v", took[10].Round(time.Millisecond), took[19].Round(time.Millisecond))
	if limit := 3 * time.Second; took[10] > limit {
		t.Errorf("half of the pods took longer than %v", limit)
	}
}
