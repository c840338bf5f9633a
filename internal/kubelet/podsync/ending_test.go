package podsync

import (
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func (s *setup) isGone() *setup { s.gone = true; return s }

func (s *setup) phase(p v1.PodPhase) *setup { s.pod.Status.Phase = p; return s }

func (s *setup) limit(seconds int64) *setup {
	start := metav1.NewTime(t0)
	s.pod.Spec.ActiveDeadlineSeconds, s.pod.Status.StartTime = &seconds, &start
	return s
}

func (s *setup) evict(grace int64) *setup {
	s.evicted = &Eviction{Reason: "Evicted", Message: "low", Grace: &grace}
	return s
}

func (s *setup) released() *setup { s.memory.Released = true; return s }

func TestComputeEnd(t *testing.T) {
	stop := func(name string, deadline float64) StopContainer {
		return StopContainer{ID: name + "-0", Container: name, Deadline: at(deadline), Message: stopMessage(name)}
	}
	silent := func(a StopContainer) StopContainer { a.Message = ""; return a }
	stopping := func(id string, deadline float64) func(*Memory) {
		return func(m *Memory) { m.Stopping[id] = Stopping{Deadline: at(deadline), Hooked: true} }
	}
	cases{
		"a deleted pod's containers stop together": {pod("a", "b").up().running("a", "b").deleted(30, t0),
			want{[]Action{stop("a", 30), stop("b", 30)}, nil, time.Time{}, Ending, v1.PodRunning, ""}},
		"the grace counts from when the end began": {pod("a").up().running("a").deleted(30, t0).at(20),
			want{[]Action{stop("a", 30)}, nil, time.Time{}, Ending, v1.PodRunning, ""}},
		"a container always gets a moment": {pod("a").up().running("a").deleted(30, t0).at(60),
			want{[]Action{stop("a", 62)}, nil, time.Time{}, Ending, v1.PodRunning, ""}},
		"hooks run first, inside the grace": {pod("a", "b").preStop("a").up().running("a", "b").deleted(30, t0),
			want{[]Action{RunPreStop{ID: "a-0", Container: "a", Deadline: at(30), Message: stopMessage("a")}, stop("b", 30)}, nil, at(30), Ending, v1.PodRunning, ""}},
		"then the signal with what is left": {pod("a").preStop("a").up().running("a").deleted(30, t0).mem(stopping("a-0", 30)).at(5),
			want{[]Action{silent(stop("a", 30))}, nil, time.Time{}, Ending, v1.PodRunning, ""}},
		"a hook in flight is waited for": {pod("a").preStop("a").up().running("a").deleted(30, t0).
			busy(RunPreStop{ID: "a-0", Container: "a", Deadline: at(30)}).at(5),
			want{nil, nil, at(30), Ending, v1.PodRunning, ""}},
		"grace 0 skips the hook": {pod("a").preStop("a").up().running("a").deleted(0, t0),
			want{[]Action{stop("a", 2)}, nil, time.Time{}, Ending, v1.PodRunning, ""}},
		"a stop in flight goes on": {pod("a").up().running("a").deleted(30, t0).busy(stop("a", 30)).at(5),
			want{nil, nil, time.Time{}, Ending, v1.PodRunning, ""}},
		"less grace than before hastens it": {pod("a").up().running("a").deleted(5, t0).busy(stop("a", 30)).at(1),
			want{[]Action{silent(stop("a", 5))}, nil, time.Time{}, Ending, v1.PodRunning, ""}},
		"less grace also ends a hook": {pod("a").preStop("a").up().running("a").deleted(1, t0).
			busy(RunPreStop{ID: "a-0", Container: "a", Deadline: at(30)}).at(1),
			want{[]Action{silent(stop("a", 3))}, nil, time.Time{}, Ending, v1.PodRunning, ""}},
		"starts in flight are given up": {pod("a").up().deleted(30, t0).busy(StartContainer{Container: "a"}),
			want{nil, []string{"container/a"}, time.Time{}, Ending, v1.PodPending, ""}},
		"the sandbox stops after the containers": {pod("a").up().exited("a", 0, 0).deleted(30, t0).at(2),
			want{[]Action{StopSandbox{ID: "s1"}}, nil, time.Time{}, Ending, v1.PodSucceeded, ""}},
		"then volumes and cgroup go": {pod("a").up().exited("a", 137, 0).dead("s1").deleted(30, t0).at(2),
			want{[]Action{ReleasePod{}}, nil, time.Time{}, Ending, v1.PodFailed, ""}},
		"containers stay until the API has let go": {pod("a").up().exited("a", 137, 0).dead("s1").deleted(30, t0).released().at(2),
			want{nil, nil, time.Time{}, Stopped, v1.PodFailed, ""}},
		"then they go": {pod("a").up().exited("a", 137, 0).dead("s1").released().isGone().at(2),
			want{[]Action{RemoveContainer{ID: "a-0", Container: "a"}}, nil, time.Time{}, Stopped, v1.PodFailed, ""}},
		"then the sandbox": {pod("a").up().dead("s1").released().isGone(),
			want{[]Action{RemoveSandbox{ID: "s1"}}, nil, time.Time{}, Stopped, v1.PodFailed, ""}},
		"then the files": {pod("a").released().isGone(),
			want{[]Action{ForgetPod{}}, nil, time.Time{}, Stopped, v1.PodFailed, ""}},
		"then all is forgotten": {pod("a").released().isGone().mem(func(m *Memory) { m.Forgotten = true }),
			want{[]Action{ForgetPod{}}, nil, time.Time{}, Forgotten, v1.PodFailed, ""}},
		"a pod that vanished is stopped with its own grace": {pod("a").up().running("a").isGone(),
			want{[]Action{stop("a", 30)}, nil, time.Time{}, Ending, v1.PodRunning, ""}},
		"a pod out of time fails": {pod("a").up().running("a").limit(60).at(60),
			want{[]Action{stop("a", 90)}, nil, time.Time{}, Ending, v1.PodRunning, ""}},
		"with upstream's reason": {pod("a").exited("a", 137, 0).mem(func(m *Memory) {}).up().dead("s1").running("a").limit(60).at(60).allExited(),
			want{[]Action{ReleasePod{}}, nil, time.Time{}, Ending, v1.PodFailed, "DeadlineExceeded"}},
		"a pod in time wakes at its limit": {pod("a").up().running("a").limit(60).at(10),
			want{nil, nil, at(60), Active, v1.PodRunning, ""}},
		"an evicted pod stops with the eviction's grace": {pod("a").up().running("a").evict(3),
			want{[]Action{stop("a", 3)}, nil, time.Time{}, Ending, v1.PodRunning, ""}},
		"a rejected pod fails without having run": {pod("a").evict(0),
			want{[]Action{ReleasePod{}}, nil, time.Time{}, Ending, v1.PodFailed, "Evicted"}},
		"a terminal phase is final": {pod("a").phase(v1.PodSucceeded).up().exited("a", 1, 0).at(2),
			want{[]Action{StopSandbox{ID: "s1"}}, nil, time.Time{}, Ending, v1.PodSucceeded, ""}},
	}.run(t)
}

func (s *setup) allExited() *setup {
	for i := range s.seen.Containers {
		s.seen.Containers[i].State = Exited
	}
	return s
}

func TestComputeSidecarsEndLast(t *testing.T) {
	base := func() *setup { return pod("a").sidecars("p", "q").up() }
	stop := func(name string) StopContainer {
		return StopContainer{ID: name + "-0", Container: name, Deadline: at(30), Message: stopMessage(name)}
	}
	cases{
		"main containers first": {base().running("p", "q", "a").deleted(30, t0),
			want{[]Action{stop("a")}, nil, at(30), Ending, v1.PodRunning, ""}},
		"then the last sidecar": {base().running("p", "q").exited("a", 0, 0).deleted(30, t0),
			want{[]Action{stop("q")}, nil, at(30), Ending, v1.PodRunning, ""}},
		"then the one before": {base().running("p").exited("q", 0, 0).exited("a", 0, 0).deleted(30, t0),
			want{[]Action{stop("p")}, nil, time.Time{}, Ending, v1.PodRunning, ""}},
		"all at the end of the grace": {base().running("p", "q").deleted(30, t0).at(30),
			want{[]Action{
				StopContainer{ID: "p-0", Container: "p", Deadline: at(32), Message: stopMessage("p")},
				StopContainer{ID: "q-0", Container: "q", Deadline: at(32), Message: stopMessage("q")},
			}, nil, time.Time{}, Ending, v1.PodPending, ""}},
		"a finished job stops its sidecars": {base().policy(v1.RestartPolicyNever).running("p", "q").exited("a", 0, 0),
			want{[]Action{stop("q")}, nil, at(30), Ending, v1.PodRunning, ""}},
	}.run(t)
}

func TestRecall(t *testing.T) {
	lost := v1.ContainerStatus{Name: "a", RestartCount: 4, ContainerID: "containerd://x",
		State: v1.ContainerState{Running: &v1.ContainerStateRunning{StartedAt: metav1.NewTime(t0)}}}
	s := pod("a").up().image("a").at(1)
	s.pod.Status.ContainerStatuses = []v1.ContainerStatus{lost}
	check(t, s, want{[]Action{StartContainer{Container: "a", SandboxID: "s1", Image: "ref-a", Attempt: 5, Backoff: FirstBackoff}},
		nil, time.Time{}, Active, v1.PodRunning, ""})
	s.policy(v1.RestartPolicyNever)
	check(t, s, want{[]Action{StopSandbox{ID: "s1"}}, nil, time.Time{}, Ending, v1.PodFailed, ""})
}
