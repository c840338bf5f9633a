package kubelet

import (
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
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
	bad := n.pod("bad")
	bad.Spec.Containers[0].Command = []string{"/no/such/program"}
	n.create(bad)
	p = n.wait("bad", "refused by the runtime", func(p *v1.Pod) bool {
		return p != nil && len(p.Status.ContainerStatuses) > 0 && p.Status.ContainerStatuses[0].State.Waiting != nil &&
			p.Status.ContainerStatuses[0].State.Waiting.Reason == "RunContainerError"
	})
	if last := p.Status.ContainerStatuses[0].LastTerminationState.Terminated; last == nil || last.Reason != "StartError" || last.ExitCode != 128 {
		t.Errorf("last state %+v, want StartError with 128", last)
	}
	if !n.events.has("Warning BackOff: Back-off restarting failed container main in pod crash_default(") {
		t.Errorf("no BackOff event in %q", n.events.list)
	}
}

func TestRealContainerConfig(t *testing.T) {
	n := newRealNode(t)
	no, yes, uid := false, true, int64(1234)
	p := n.shell("config", `echo "id: $(id -u) $(id -G)"; echo "env: $A"; grep -E "NoNewPrivs|Seccomp:" /proc/self/status
		touch /x 2>/dev/null && echo writable || echo read-only; cat /proc/1/oom_score_adj; cat /etc/hosts; echo -n bye >/dev/termination-log; exit 4`)
	p.Spec.RestartPolicy = v1.RestartPolicyNever
	p.Spec.SecurityContext = &v1.PodSecurityContext{RunAsUser: &uid, RunAsNonRoot: &yes, SupplementalGroups: []int64{77}}
	p.Spec.HostAliases = []v1.HostAlias{{IP: "1.2.3.4", Hostnames: []string{"alias"}}}
	c := &p.Spec.Containers[0]
	c.Env = []v1.EnvVar{{Name: "NODE", ValueFrom: &v1.EnvVarSource{FieldRef: &v1.ObjectFieldSelector{FieldPath: "spec.nodeName"}}}, {Name: "A", Value: "on $(NODE)"}}
	c.SecurityContext = &v1.SecurityContext{AllowPrivilegeEscalation: &no, ReadOnlyRootFilesystem: &yes}
	n.create(p)
	got := n.wait("config", "failed", func(p *v1.Pod) bool { return p != nil && p.Status.Phase == v1.PodFailed })
	term := got.Status.ContainerStatuses[0].State.Terminated
	if term.ExitCode != 4 || term.Message != "bye" {
		t.Errorf("exit code %d, message %q, want 4 and bye", term.ExitCode, term.Message)
	}
	log := n.log(got)
	for _, want := range []string{"id: 1234 0 77", "env: on n1", "NoNewPrivs:\t1", "Seccomp:\t2", "read-only", "1000", "Kubernetes-managed hosts file (host network).", "1.2.3.4\talias"} {
		if !strings.Contains(log, want) {
			t.Errorf("the container's output lacks %q:\n%s", want, log)
		}
	}
}

func TestRealHooksAndProbes(t *testing.T) {
	n := newRealNode(t)
	p := n.shell("hooks", `trap 'echo got TERM; exit 0' TERM; echo up; while true; do sleep 0.1; done`)
	sh := func(script string) v1.ProbeHandler {
		return v1.ProbeHandler{Exec: &v1.ExecAction{Command: []string{"/bin/sh", "-c", script}}}
	}
	c := &p.Spec.Containers[0]
	c.Lifecycle = &v1.Lifecycle{
		PostStart: &v1.LifecycleHandler{Exec: &v1.ExecAction{Command: []string{"/bin/sh", "-c", "touch /started"}}},
		PreStop:   &v1.LifecycleHandler{Exec: &v1.ExecAction{Command: []string{"/bin/sh", "-c", "echo stopping >/proc/1/fd/1"}}},
	}
	c.StartupProbe = &v1.Probe{ProbeHandler: sh("test -e /started"), PeriodSeconds: 1, FailureThreshold: 30, TimeoutSeconds: 5}
	c.ReadinessProbe = &v1.Probe{ProbeHandler: sh("cat /started"), PeriodSeconds: 1, FailureThreshold: 1, TimeoutSeconds: 5}
	n.create(p)
	got := n.wait("hooks", "running", running)
	n.ok(client.For[*v1.Pod](n.client).Delete(t.Context(), "default", "hooks", metav1.DeleteOptions{}))
	n.wait("hooks", "stopped", func(p *v1.Pod) bool {
		if p == nil {
			return true
		}
		if s := p.Status.ContainerStatuses[0].State.Terminated; s != nil {
			if log := n.log(got); !strings.Contains(log, "up\nstopping\ngot TERM\n") {
				t.Errorf("output %q, want the hook's before the signal's", log)
			}
			if s.ExitCode != 0 {
				t.Errorf("exit code %d, want 0", s.ExitCode)
			}
		}
		return false
	})
}

// Limits reach the kernel, and a container that is killed by others is seen
// and started again.
func TestRealLimitsAndKill(t *testing.T) {
	n := newRealNode(t)
	p := n.shell("limits", `cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null; touch /told; while true; do sleep 0.1; done`)
	p.Spec.Containers[0].ReadinessProbe = &v1.Probe{PeriodSeconds: 1, FailureThreshold: 1, TimeoutSeconds: 5,
		ProbeHandler: v1.ProbeHandler{Exec: &v1.ExecAction{Command: []string{"/bin/sh", "-c", "cat /told"}}}}
	p.Spec.Containers[0].Resources.Limits = v1.ResourceList{v1.ResourceMemory: resource.MustParse("64Mi")}
	p.Spec.Containers[0].Resources.Requests = p.Spec.Containers[0].Resources.Limits
	n.create(p)
	got := n.wait("limits", "running", running)
	id := strings.TrimPrefix(got.Status.ContainerStatuses[0].ContainerID, "containerd://")
	if log := n.log(got); !strings.Contains(log, "67108864") {
		t.Errorf("the container sees the memory limit %q, want 67108864", log)
	}
	n.ok(n.cri.StopContainer(t.Context(), id, 0)) // behind the kubelet's back
	n.wait("limits", "running again", func(p *v1.Pod) bool {
		return running(p) && p.Status.ContainerStatuses[0].RestartCount == 1
	})
}
