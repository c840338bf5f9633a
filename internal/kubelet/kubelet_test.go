package kubelet

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff.dev/skiff/internal/testing/fakecri"
)

func sleepHook(seconds int64) *v1.Lifecycle {
	return &v1.Lifecycle{PreStop: &v1.LifecycleHandler{Sleep: &v1.SleepAction{Seconds: seconds}}}
}

func TestPodLife(t *testing.T) {
	simulate(t, func(t *testing.T, s *sim) {
		s.programs["a"] = &fakecri.Program{StopsAfter: 3 * time.Second}
		s.create(simPod("web", "a", "b"))
		p := s.get("web")
		if !running(p) || p.Status.PodIP == "" || p.Status.HostIP != "192.0.2.1" || p.Status.StartTime == nil {
			t.Fatalf("status %+v, want running with addresses", p.Status)
		}
		s.delete("web")
		if p := s.get("web"); p == nil {
			t.Fatal("the pod is gone before its container has ended")
		}
		s.pass(3 * time.Second)
		if p := s.get("web"); p != nil || !s.cri.Empty() {
			t.Errorf("pod %v, running %v, want nothing left", p, s.cri.Running())
		}
	})
}

// A container whose image changes is replaced before anybody hears of it, unless
// that takes long.
func TestImageChanges(t *testing.T) {
	simulate(t, func(t *testing.T, s *sim) {
		s.create(simPod("web", "a"))
		if !running(s.get("web")) {
			t.Fatal("it does not run")
		}
		s.cri.Fail = func(method, _ string) error {
			if method == "PullImage" {
				return errors.New("no such image")
			}
			return nil
		}
		s.update("web", func(p *v1.Pod) { p.Spec.Containers[0].Image = "not-there" })
		if p := s.get("web"); len(s.cri.Running()) != 0 || !p.Status.ContainerStatuses[0].Ready {
			t.Errorf("between the images: running %v, status %+v", s.cri.Running(), p.Status.ContainerStatuses)
		}
		s.pass(time.Second)
		if c := s.get("web").Status.ContainerStatuses[0]; c.Ready || c.State.Waiting == nil {
			t.Errorf("a second later: %+v", c)
		}
	})
}

func TestGraceAndHooks(t *testing.T) {
	tests := map[string]struct {
		hook, stops, grace int64
		gone               time.Duration
	}{
		"hook, then signal":                {hook: 5, stops: 3, grace: 30, gone: 8 * time.Second},
		"killed at the end of the grace":   {hook: 5, stops: 60, grace: 20, gone: 20 * time.Second},
		"a hook that uses up all the time": {hook: 60, stops: 60, grace: 10, gone: 12 * time.Second},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			simulate(t, func(t *testing.T, s *sim) {
				s.programs["a"] = &fakecri.Program{StopsAfter: secondsOf(tt.stops)}
				p := simPod("web", "a")
				p.Spec.Containers[0].Lifecycle = sleepHook(tt.hook)
				p.Spec.TerminationGracePeriodSeconds = &tt.grace
				s.create(p)
				s.delete("web")
				s.pass(tt.gone - time.Millisecond)
				if s.get("web") == nil {
					t.Errorf("gone before %v", tt.gone)
				}
				s.pass(time.Millisecond)
				if s.get("web") != nil || !s.cri.Empty() {
					t.Errorf("not gone after %v: %v", tt.gone, s.cri.Running())
				}
			})
		})
	}
}

// The end of a pod goes on where it was when the kubelet comes back (I27).
func TestGraceAcrossRestart(t *testing.T) {
	simulate(t, func(t *testing.T, s *sim) {
		s.programs["a"] = &fakecri.Program{StopsAfter: time.Hour}
		p := simPod("web", "a")
		p.Spec.Containers[0].Lifecycle = sleepHook(5)
		s.create(p)
		s.delete("web")
		s.pass(6 * time.Second) // the hook is over, the signal sent
		s.stop()
		time.Sleep(10 * time.Second)
		s.start()
		s.pass(14*time.Second - time.Millisecond)
		if s.get("web") == nil {
			t.Error("gone before its grace was over")
		}
		s.pass(time.Millisecond)
		if s.get("web") != nil || !s.cri.Empty() {
			t.Errorf("outlived its grace: %v", s.cri.Running())
		}
	})
}

func TestCrashBackoff(t *testing.T) {
	simulate(t, func(t *testing.T, s *sim) {
		s.programs["a"] = &fakecri.Program{Runs: time.Second, Exit: 1}
		s.create(simPod("web", "a"))
		// Starts at 0 s, 1 s, then after 10 s, 20 s, 40 s, 80 s, 160 s and 300 s for ever.
		for _, want := range []struct {
			after    time.Duration
			restarts int32
		}{{time.Second, 1}, {10 * time.Second, 1}, {2 * time.Second, 2}, {19 * time.Second, 2}, {2 * time.Second, 3}, {5 * time.Minute, 6}, {time.Hour, 18}} {
			s.pass(want.after)
			if got := s.get("web").Status.ContainerStatuses[0].RestartCount; got != want.restarts {
				t.Fatalf("%d restarts %v later, want %d", got, want.after, want.restarts)
			}
		}
		got := s.get("web").Status
		want := "back-off 5m0s restarting failed container=a pod=web_default(" + string(s.get("web").UID) + ")"
		if w := got.ContainerStatuses[0].State.Waiting; got.Phase != v1.PodRunning || w == nil || w.Message != want {
			t.Errorf("phase %s, state %+v, want Running and %q", got.Phase, w, want)
		}
	})
}

func TestOrderOfInitAndSidecars(t *testing.T) {
	simulate(t, func(t *testing.T, s *sim) {
		always := v1.ContainerRestartPolicyAlways
		s.programs["init"] = &fakecri.Program{Runs: 2 * time.Second}
		s.programs["main"] = &fakecri.Program{Runs: 10 * time.Second}
		p := simPod("job", "main")
		p.Spec.RestartPolicy = v1.RestartPolicyNever
		p.Spec.InitContainers = []v1.Container{
			{Name: "proxy", Image: "img", RestartPolicy: &always}, {Name: "init", Image: "img"}, {Name: "agent", Image: "img", RestartPolicy: &always},
		}
		s.create(p)
		if diff := cmp.Diff([]string{"job/init", "job/proxy"}, s.cri.Running()); diff != "" {
			t.Errorf("at first (-want +got):\n%s", diff)
		}
		s.pass(2 * time.Second)
		if diff := cmp.Diff([]string{"job/agent", "job/main", "job/proxy"}, s.cri.Running()); diff != "" {
			t.Errorf("then (-want +got):\n%s", diff)
		}
		s.pass(10 * time.Second)
		if p := s.get("job"); p.Status.Phase != v1.PodSucceeded || len(s.cri.Running()) != 0 {
			t.Errorf("phase %s, running %v, want Succeeded and nothing", p.Status.Phase, s.cri.Running())
		}
		var order []string
		for _, c := range s.cri.Calls() {
			if strings.HasPrefix(c, "Start") || strings.HasPrefix(c, "StopContainer") {
				order = append(order, c)
			}
		}
		want := []string{"StartContainer proxy", "StartContainer init", "StartContainer agent", "StartContainer main", "StopContainer agent", "StopContainer proxy"}
		if diff := cmp.Diff(want, order); diff != "" {
			t.Errorf("order (-want +got):\n%s", diff)
		}
	})
}

func TestRestartOfKubeletTouchesNothing(t *testing.T) {
	simulate(t, func(t *testing.T, s *sim) {
		s.create(simPod("web", "a", "b"))
		before := s.cri.Calls()
		status := s.get("web").Status
		for range 3 {
			s.stop()
			s.start()
			s.pass(time.Minute)
		}
		if diff := cmp.Diff(before, s.cri.Calls()); diff != "" {
			t.Errorf("calls to the runtime (-before +after):\n%s", diff)
		}
		if diff := cmp.Diff(status, s.get("web").Status); diff != "" {
			t.Errorf("status (-before +after):\n%s", diff)
		}
		if !s.groups.has("web") {
			t.Error("the pod's control group has not been taken over")
		}
	})
}

func TestIdleDoesNothing(t *testing.T) {
	simulate(t, func(t *testing.T, s *sim) {
		s.create(simPod("web", "a"))
		s.pass(time.Minute)
		writes, calls := s.api.writes, len(s.cri.Calls())
		s.pass(time.Hour)
		if s.api.writes != writes || len(s.cri.Calls()) != calls {
			t.Errorf("%d writes and %d calls in an idle hour", s.api.writes-writes, len(s.cri.Calls())-calls)
		}
	})
}

func TestSandboxLost(t *testing.T) {
	simulate(t, func(t *testing.T, s *sim) {
		s.create(simPod("web", "a"))
		ip := s.get("web").Status.PodIP
		s.cri.LoseSandbox("web")
		s.pass(time.Second)
		p := s.get("web")
		if !running(p) || p.Status.PodIP == ip || p.Status.ContainerStatuses[0].RestartCount != 1 {
			t.Errorf("status %+v, want running again at another address after 1 restart", p.Status)
		}
		if !s.events.has("Normal SandboxChanged: Pod sandbox changed, it will be killed and re-created.") {
			t.Errorf("events %q", s.events.list)
		}
	})
}

// An exit whose event is lost with the stream is seen when the stream is back.
func TestLostEvents(t *testing.T) {
	simulate(t, func(t *testing.T, s *sim) {
		s.create(simPod("web", "a"))
		s.cri.DropStreams()
		s.cri.Kill("web", "a", 9)
		s.pass(time.Second)
		if got := s.get("web").Status.ContainerStatuses[0].RestartCount; got != 1 {
			t.Errorf("%d restarts, want 1", got)
		}
	})
}

func TestPullBackoff(t *testing.T) {
	simulate(t, func(t *testing.T, s *sim) {
		s.cri.Fail = func(method, _ string) error {
			if method == "PullImage" {
				return errors.New("no such image")
			}
			return nil
		}
		p := simPod("web", "a")
		p.Spec.Containers[0].Image = "other:1"
		s.create(p)
		waiting := func() v1.ContainerStateWaiting { return *s.get("web").Status.ContainerStatuses[0].State.Waiting }
		if got := waiting(); got.Reason != "ErrImagePull" || got.Message != "no such image" {
			t.Errorf("waiting %+v, want ErrImagePull", got)
		}
		s.pass(2 * time.Second)
		if got := waiting(); got.Reason != "ImagePullBackOff" || got.Message != `Back-off pulling image "other:1": ErrImagePull: no such image` {
			t.Errorf("waiting %+v, want ImagePullBackOff", got)
		}
		s.pass(10 * time.Minute)
		pulls := 0
		for _, c := range s.cri.Calls() {
			if strings.HasPrefix(c, "PullImage") {
				pulls++
			}
		}
		s.cri.Fail = nil
		s.pass(5 * time.Minute)
		if p := s.get("web"); pulls != 0 || !running(p) {
			t.Errorf("status %+v, want running", p.Status)
		}
		for _, want := range []string{`Normal Pulling: Pulling image "other:1"`, `Warning Failed: Failed to pull image "other:1": no such image`,
			"Warning Failed: Error: ErrImagePull", `Normal BackOff: Back-off pulling image "other:1"`, "Warning Failed: Error: ImagePullBackOff"} {
			if !s.events.has(want) {
				t.Errorf("no event %q", want)
			}
		}
	})
}

func TestConfigError(t *testing.T) {
	simulate(t, func(t *testing.T, s *sim) {
		p := simPod("web", "a")
		p.Spec.Containers[0].EnvFrom = []v1.EnvFromSource{{ConfigMapRef: &v1.ConfigMapEnvSource{LocalObjectReference: v1.LocalObjectReference{Name: "c"}}}}
		s.create(p)
		w := s.get("web").Status.ContainerStatuses[0].State.Waiting
		if w.Reason != "CreateContainerConfigError" || w.Message != `configmaps "c" not found` {
			t.Errorf("waiting %+v, want CreateContainerConfigError", w)
		}
		if _, err := s.client.Create(t.Context(), refOf("configmaps", "c"), &v1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "c"}}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		s.pass(time.Minute)
		if !running(s.get("web")) {
			t.Errorf("status %+v, want running", s.get("web").Status)
		}
	})
}

func TestDeadline(t *testing.T) {
	simulate(t, func(t *testing.T, s *sim) {
		p := simPod("web", "a")
		limit := int64(60)
		p.Spec.ActiveDeadlineSeconds = &limit
		s.create(p)
		s.pass(61 * time.Second)
		got := s.get("web").Status
		if got.Phase != v1.PodFailed || got.Reason != "DeadlineExceeded" || len(s.cri.Running()) != 0 {
			t.Errorf("phase %s, reason %s, running %v", got.Phase, got.Reason, s.cri.Running())
		}
		s.pass(time.Hour)
		if got := s.get("web").Status; got.Phase != v1.PodFailed || len(s.cri.Running()) != 0 {
			t.Errorf("later: phase %s, running %v: a terminal phase is final", got.Phase, s.cri.Running())
		}
	})
}

func TestProbes(t *testing.T) {
	simulate(t, func(t *testing.T, s *sim) {
		began, healthy, isReady := time.Now(), true, false
		s.programs["a"] = &fakecri.Program{Exec: func(cmd []string) (string, int32) {
			switch cmd[0] {
			case "startup":
				return "not yet", code(time.Since(began) > 20*time.Second)
			case "live":
				return "sick", code(healthy)
			}
			return "busy", code(isReady)
		}}
		exec := func(cmd string) *v1.Probe {
			return &v1.Probe{ProbeHandler: v1.ProbeHandler{Exec: &v1.ExecAction{Command: []string{cmd}}}, PeriodSeconds: 5, FailureThreshold: 3, SuccessThreshold: 1, TimeoutSeconds: 1}
		}
		p := simPod("web", "a")
		p.Spec.Containers[0].StartupProbe = exec("startup")
		p.Spec.Containers[0].StartupProbe.FailureThreshold = 30
		p.Spec.Containers[0].LivenessProbe = exec("live")
		p.Spec.Containers[0].ReadinessProbe = exec("ready")
		s.create(p)
		expect := func(when string, started, ready bool, restarts int32) {
			t.Helper()
			c := s.get("web").Status.ContainerStatuses[0]
			if *c.Started != started || c.Ready != ready || c.RestartCount != restarts {
				t.Errorf("%s: started %v, ready %v, %d restarts", when, *c.Started, c.Ready, c.RestartCount)
			}
		}
		expect("at first", false, false, 0)
		s.pass(30 * time.Second)
		expect("after the startup probe", true, false, 0)
		isReady = true
		s.pass(6 * time.Second)
		expect("when ready", true, true, 0)
		isReady = false
		s.pass(16 * time.Second)
		expect("after three failures", true, false, 0)
		healthy = false
		s.pass(16 * time.Second)
		healthy = true
		s.pass(20 * time.Second)
		expect("after the liveness probe failed", true, false, 1)
		for _, want := range []string{"Warning Unhealthy: Startup probe failed: not yet", "Warning Unhealthy: Readiness probe failed: busy",
			"Warning Unhealthy: Liveness probe failed: sick", "Normal Killing: Container a failed liveness probe, will be restarted"} {
			if !s.events.has(want) {
				t.Errorf("no event %q", want)
			}
		}
	})
}

func code(ok bool) int32 {
	if ok {
		return 0
	}
	return 1
}

func TestAdmission(t *testing.T) {
	node := &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1", Labels: map[string]string{"zone": "a"}},
		Status: v1.NodeStatus{Allocatable: v1.ResourceList{v1.ResourceCPU: resource.MustParse("1"), v1.ResourcePods: resource.MustParse("2")}}}
	want := func(cpu string) func(*v1.Pod) {
		return func(p *v1.Pod) {
			p.Spec.Containers[0].Resources.Requests = v1.ResourceList{v1.ResourceCPU: resource.MustParse(cpu)}
		}
	}
	tests := map[string]struct {
		change          func(*v1.Pod)
		reason, message string
	}{
		"too much CPU": {want("600m"), "OutOfcpu", "Pod was rejected: Node didn't have enough resource: cpu, requested: 600, used: 500, capacity: 1000"},
		"wrong zone": {func(p *v1.Pod) { p.Spec.NodeSelector = map[string]string{"zone": "b"} }, "NodeAffinity",
			"Pod was rejected: Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			simulate(t, func(t *testing.T, s *sim) {
				s.api.Create(t.Context(), refOf("nodes", "n1"), node, metav1.CreateOptions{})
				first := simPod("first", "a")
				want("500m")(first)
				s.create(first)
				p := simPod("web", "a")
				tt.change(p)
				s.create(p)
				got := s.get("web").Status
				if got.Phase != v1.PodFailed || got.Reason != tt.reason || got.Message != tt.message {
					t.Errorf("phase %s, reason %s, message %q", got.Phase, got.Reason, got.Message)
				}
				if !slices.Equal(s.cri.Running(), []string{"first/a"}) {
					t.Errorf("running %v", s.cri.Running())
				}
			})
		})
	}
}

// A kubelet that cannot reach the API runs its pods on and catches up later.
func TestAPIOutage(t *testing.T) {
	simulate(t, func(t *testing.T, s *sim) {
		s.create(simPod("web", "a"))
		s.api.down.Store(true)
		s.cri.Kill("web", "a", 1)
		s.pass(time.Minute)
		if !slices.Equal(s.cri.Running(), []string{"web/a"}) {
			t.Errorf("running %v without the API", s.cri.Running())
		}
		s.api.down.Store(false)
		s.pass(30 * time.Second)
		if got := s.get("web").Status.ContainerStatuses[0].RestartCount; got != 1 {
			t.Errorf("%d restarts in the API, want 1", got)
		}
	})
}
