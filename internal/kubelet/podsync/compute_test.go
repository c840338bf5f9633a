package podsync

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

var t0 = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func at(seconds float64) time.Time { return t0.Add(time.Duration(seconds * float64(time.Second))) }

// A setup builds the input of one case.
type setup struct {
	pod      *v1.Pod
	seen     Seen
	memory   *Memory
	gone     bool
	evicted  *Eviction
	now      time.Time
	sandbox  string
	attempts map[string]int
}

func pod(containers ...string) *setup {
	p := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web", UID: "u1"}}
	p.Spec.RestartPolicy = v1.RestartPolicyAlways
	grace := int64(30)
	p.Spec.TerminationGracePeriodSeconds = &grace
	for _, c := range containers {
		p.Spec.Containers = append(p.Spec.Containers, v1.Container{Name: c, Image: "img"})
	}
	s := &setup{pod: p, memory: NewMemory(), now: t0, attempts: map[string]int{}}
	return s
}

func (s *setup) policy(p v1.RestartPolicy) *setup { s.pod.Spec.RestartPolicy = p; return s }

func (s *setup) init(names ...string) *setup {
	for _, n := range names {
		s.pod.Spec.InitContainers = append(s.pod.Spec.InitContainers, v1.Container{Name: n, Image: "img"})
	}
	return s
}

func (s *setup) sidecars(names ...string) *setup {
	always := v1.ContainerRestartPolicyAlways
	for _, n := range names {
		s.pod.Spec.InitContainers = append(s.pod.Spec.InitContainers, v1.Container{Name: n, Image: "img", RestartPolicy: &always})
	}
	return s
}

// spec changes the container of that name.
func (s *setup) spec(name string, f func(*v1.Container)) *setup {
	for _, list := range [][]v1.Container{s.pod.Spec.InitContainers, s.pod.Spec.Containers} {
		for i := range list {
			if list[i].Name == name {
				f(&list[i])
			}
		}
	}
	return s
}

func (s *setup) preStop(name string) *setup {
	return s.spec(name, func(c *v1.Container) {
		c.Lifecycle = &v1.Lifecycle{PreStop: &v1.LifecycleHandler{Sleep: &v1.SleepAction{Seconds: 5}}}
	})
}

// up: volumes mounted and a sandbox ready.
func (s *setup) up() *setup {
	s.memory.Mounted = true
	return s.sandboxed("s1", true)
}

func (s *setup) sandboxed(id string, ready bool) *setup {
	sb := Sandbox{ID: id, Ready: ready, Attempt: uint32(len(s.seen.Sandboxes)), CreatedAt: t0}
	if ready {
		sb.IPs = []string{"10.0.0.1"}
	}
	s.seen.Sandboxes = append(s.seen.Sandboxes, sb)
	s.sandbox = id
	return s
}

func (s *setup) add(name string, f func(*Container)) *setup {
	n := s.attempts[name]
	s.attempts[name]++
	c := Container{ID: name + "-" + string(rune('0'+n)), Name: name, SandboxID: s.sandbox, Attempt: n, CreatedAt: at(float64(n))}
	if spec, _, ok := Find(s.pod, name); ok {
		c.Hash = Hash(spec)
	}
	f(&c)
	s.seen.Containers = append(s.seen.Containers, c)
	return s
}

func (s *setup) running(names ...string) *setup {
	for _, n := range names {
		s.add(n, func(c *Container) { c.State, c.StartedAt = Running, t0 })
		id := s.seen.Containers[len(s.seen.Containers)-1].ID
		s.memory.Probes[id] = Probe{Started: true, Ready: true}
	}
	return s
}

// exited adds an instance that ran from 0 s to 1 s.
func (s *setup) exited(name string, code int32, backoff time.Duration) *setup {
	return s.add(name, func(c *Container) {
		c.State, c.StartedAt, c.FinishedAt, c.ExitCode, c.Backoff = Exited, t0, at(1), code, backoff
	})
}

func (s *setup) image(names ...string) *setup {
	for _, n := range names {
		s.memory.Images[n] = "ref-" + n
	}
	return s
}

func (s *setup) busy(a Action) *setup { s.memory.Begin(a); return s }

func (s *setup) deleted(grace int64, since time.Time) *setup {
	dt := metav1.NewTime(since.Add(time.Duration(grace) * time.Second))
	s.pod.DeletionTimestamp, s.pod.DeletionGracePeriodSeconds = &dt, &grace
	s.memory.EndSince = since
	return s
}

func (s *setup) at(seconds float64) *setup { s.now = at(seconds); return s }

func (s *setup) mem(f func(*Memory)) *setup { f(s.memory); return s }

func (s *setup) compute() Plan {
	return Compute(Input{Pod: s.pod, Gone: s.gone, Evicted: s.evicted, Seen: s.seen, Memory: s.memory}, s.now)
}

// want is the part of a plan that a case looks at.
type want struct {
	actions []Action
	cancel  []string
	wake    time.Time
	stage   Stage
	phase   v1.PodPhase
	reason  string
}

func check(t *testing.T, s *setup, w want) {
	t.Helper()
	p := s.compute()
	got := want{actions: p.Actions, cancel: p.Cancel, wake: p.Wake, stage: p.Stage, phase: p.Phase, reason: p.Reason}
	if diff := cmp.Diff(w, got, cmp.AllowUnexported(want{})); diff != "" {
		t.Errorf("plan (-want +got):\n%s", diff)
	}
}

type cases map[string]struct {
	setup *setup
	want  want
}

func (cs cases) run(t *testing.T) {
	for name, c := range cs {
		t.Run(name, func(t *testing.T) { check(t, c.setup, c.want) })
	}
}

func stopMessage(name string) string { return "Stopping container " + name }

func TestComputeStart(t *testing.T) {
	cases{
		"a new pod gets everything at once": {pod("a", "b"),
			want{[]Action{MountVolumes{}, CreateSandbox{}, PullImage{"a"}, PullImage{"b"}}, nil, time.Time{}, Active, v1.PodPending, ""}},
		"nothing starts before the volumes are ready": {pod("a").sandboxed("s1", true).image("a").busy(MountVolumes{}),
			want{nil, nil, time.Time{}, Active, v1.PodPending, ""}},
		"nothing starts without a sandbox": {pod("a").image("a").busy(CreateSandbox{}).mem(func(m *Memory) { m.Mounted = true }),
			want{nil, nil, time.Time{}, Active, v1.PodPending, ""}},
		"containers start in order": {pod("a", "b").up().image("a", "b"),
			want{[]Action{StartContainer{Container: "a", SandboxID: "s1", Image: "ref-a"}}, nil, time.Time{}, Active, v1.PodPending, ""}},
		"the second waits while the first starts": {pod("a", "b").up().image("a", "b").running("a").busy(StartContainer{Container: "a"}),
			want{nil, nil, time.Time{}, Active, v1.PodPending, ""}},
		"the second does not wait for a pull that failed": {pod("a", "b").up().image("b").mem(func(m *Memory) {
			m.Failed[ContainerKey("a")] = Failure{Retry: at(10)}
		}), want{[]Action{StartContainer{Container: "b", SandboxID: "s1", Image: "ref-b"}}, nil, at(10), Active, v1.PodPending, ""}},
		"a sandbox without address is replaced": {pod("a").up().image("a").mem(func(m *Memory) {}).noAddress(),
			want{[]Action{StopSandbox{ID: "s1"}}, nil, time.Time{}, Active, v1.PodPending, ""}},
		"all runs, nothing to do": {pod("a", "b").up().running("a", "b"),
			want{nil, nil, time.Time{}, Active, v1.PodRunning, ""}},
		"a container made but not started is made again": {pod("a").up().image("a").add("a", func(c *Container) { c.State = Created }),
			want{[]Action{RemoveContainer{ID: "a-0", Container: "a"}}, nil, time.Time{}, Active, v1.PodPending, ""}},
		"a container whose start is not through does not run yet": {pod("a", "b").up().running("a", "b").mem(func(m *Memory) {
			m.Begin(StartContainer{Container: "b"})
		}), want{nil, nil, time.Time{}, Active, v1.PodPending, ""}},
		"a failed sandbox waits": {pod("a").image("a").mem(func(m *Memory) {
			m.Mounted = true
			m.Failed[sandboxKey] = Failure{Retry: at(4)}
		}), want{nil, nil, at(4), Active, v1.PodPending, ""}},
	}.run(t)
}

func (s *setup) noAddress() *setup { s.seen.Sandboxes[0].IPs = nil; return s }

func TestComputeInit(t *testing.T) {
	notStarted := func(id string) func(*Memory) { return func(m *Memory) { m.Probes[id] = Probe{} } }
	start := func(name string) []Action {
		return []Action{StartContainer{Container: name, SandboxID: "s1", Image: "ref-" + name}}
	}
	cases{
		"the first init container is first": {pod("a").init("i", "j").up().image("i"),
			want{start("i"), nil, time.Time{}, Active, v1.PodPending, ""}},
		"others wait while it runs": {pod("a").init("i", "j").up().running("i"),
			want{nil, nil, time.Time{}, Active, v1.PodPending, ""}},
		"then the second": {pod("a").init("i", "j").up().image("j").exited("i", 0, 0),
			want{start("j"), nil, time.Time{}, Active, v1.PodPending, ""}},
		"then the main container": {pod("a").init("i", "j").up().image("a").exited("i", 0, 0).exited("j", 0, 0),
			want{start("a"), nil, time.Time{}, Active, v1.PodPending, ""}},
		"a failed one is tried again": {pod("a").init("i").up().image("i").exited("i", 1, 0).at(1),
			want{[]Action{StartContainer{Container: "i", SandboxID: "s1", Image: "ref-i", Attempt: 1, Backoff: FirstBackoff}}, nil, time.Time{}, Active, v1.PodPending, ""}},
		"unless the policy is Never": {pod("a").init("i").policy(v1.RestartPolicyNever).up().exited("i", 1, 0).at(1),
			want{[]Action{StopSandbox{ID: "s1"}}, nil, time.Time{}, Ending, v1.PodFailed, ""}},
		"they run again in a new sandbox": {pod("a").init("i").up().exited("i", 0, 0).exited("a", 1, 0).dead("s1").sandboxed("s2", true).image("i").at(5),
			want{[]Action{StartContainer{Container: "i", SandboxID: "s2", Image: "ref-i", Attempt: 1, Backoff: FirstBackoff}}, nil, time.Time{}, Active, v1.PodRunning, ""}},
		"a sidecar that has not started holds up": {pod("a").sidecars("p").up().running("p").mem(notStarted("p-0")),
			want{nil, nil, time.Time{}, Active, v1.PodPending, ""}},
		"a sidecar that has started does not": {pod("a").sidecars("p").up().image("a").running("p"),
			want{start("a"), nil, time.Time{}, Active, v1.PodPending, ""}},
		"a crashed sidecar starts again beside the main container": {
			pod("a").sidecars("p").policy(v1.RestartPolicyNever).up().image("p").running("a").exited("p", 0, 0).at(2),
			want{[]Action{StartContainer{Container: "p", SandboxID: "s1", Image: "ref-p", Attempt: 1, Backoff: FirstBackoff}}, nil, time.Time{}, Active, v1.PodRunning, ""}},
	}.run(t)
}

func (s *setup) dead(id string) *setup {
	for i := range s.seen.Sandboxes {
		if s.seen.Sandboxes[i].ID == id {
			s.seen.Sandboxes[i].Ready = false
		}
	}
	return s
}

func TestComputeRestart(t *testing.T) {
	again := func(attempt int, backoff time.Duration) []Action {
		return []Action{StartContainer{Container: "a", SandboxID: "s1", Image: "ref-a", Attempt: attempt, Backoff: backoff}}
	}
	rule := func(op v1.ContainerRestartRuleOnExitCodesOperator, codes ...int32) func(*v1.Container) {
		never := v1.ContainerRestartPolicyNever
		return func(c *v1.Container) {
			c.RestartPolicy = &never
			c.RestartPolicyRules = []v1.ContainerRestartRule{{Action: v1.ContainerRestartRuleActionRestart,
				ExitCodes: &v1.ContainerRestartRuleOnExitCodes{Operator: op, Values: codes}}}
		}
	}
	unhealthy := func(grace *int64) func(*Memory) {
		return func(m *Memory) { m.Probes["a-0"] = Probe{Started: true, Unhealthy: &Unhealthy{Grace: grace}} }
	}
	five := int64(5)
	cases{
		"the first crash restarts at once": {pod("a").up().image("a").exited("a", 1, 0).at(1),
			want{again(1, FirstBackoff), nil, time.Time{}, Active, v1.PodRunning, ""}},
		"the second waits, and says so": {pod("a").up().exited("a", 1, 0).exited("a", 1, FirstBackoff).at(2),
			want{[]Action{ReportBackoff{Container: "a", Attempt: 1}}, nil, at(11), Active, v1.PodRunning, ""}},
		"once": {pod("a").up().exited("a", 1, 0).exited("a", 1, FirstBackoff).at(2).mem(func(m *Memory) {
			m.Reported["a"] = ReportBackoff{Container: "a", Attempt: 1}
		}), want{nil, nil, at(11), Active, v1.PodRunning, ""}},
		"then starts with twice the wait": {pod("a").up().image("a").exited("a", 1, 0).exited("a", 1, FirstBackoff).at(11),
			want{again(2, 2*FirstBackoff), nil, time.Time{}, Active, v1.PodRunning, ""}},
		"the wait is bounded": {pod("a").up().image("a").exited("a", 1, LastBackoff).at(302),
			want{again(1, LastBackoff), nil, time.Time{}, Active, v1.PodRunning, ""}},
		"a long run clears the record": {pod("a").up().image("a").at(700).add("a", func(c *Container) {
			c.State, c.StartedAt, c.FinishedAt, c.ExitCode, c.Backoff = Exited, t0, at(700), 1, LastBackoff
		}), want{again(1, FirstBackoff), nil, time.Time{}, Active, v1.PodRunning, ""}},
		"success with Always restarts": {pod("a").up().image("a").exited("a", 0, 0).at(1),
			want{again(1, FirstBackoff), nil, time.Time{}, Active, v1.PodRunning, ""}},
		"success with OnFailure ends": {pod("a").policy(v1.RestartPolicyOnFailure).up().exited("a", 0, 0).at(1),
			want{[]Action{StopSandbox{ID: "s1"}}, nil, time.Time{}, Ending, v1.PodSucceeded, ""}},
		"failure with Never ends": {pod("a").policy(v1.RestartPolicyNever).up().exited("a", 3, 0).at(1),
			want{[]Action{StopSandbox{ID: "s1"}}, nil, time.Time{}, Ending, v1.PodFailed, ""}},
		"one of two has ended, the other runs": {pod("a", "b").policy(v1.RestartPolicyNever).up().exited("a", 0, 0).running("b").at(1),
			want{nil, nil, time.Time{}, Active, v1.PodRunning, ""}},
		"a rule overrides Never": {pod("a").up().image("a").exited("a", 42, 0).spec("a", rule(v1.ContainerRestartRuleOnExitCodesOpIn, 42)).at(1),
			want{again(1, FirstBackoff), nil, time.Time{}, Active, v1.PodRunning, ""}},
		"a rule that does not match leaves Never": {pod("a").up().exited("a", 42, 0).spec("a", rule(v1.ContainerRestartRuleOnExitCodesOpNotIn, 42)).at(1),
			want{[]Action{StopSandbox{ID: "s1"}}, nil, time.Time{}, Ending, v1.PodFailed, ""}},
		"a new image stops the container": {pod("a").up().running("a").spec("a", func(c *v1.Container) { c.Image = "other" }),
			want{[]Action{StopContainer{ID: "a-0", Container: "a", Deadline: at(30), Message: "Container a definition changed, will be restarted"}}, nil, time.Time{}, Active, v1.PodRunning, ""}},
		"and starts it without waiting": {pod("a").up().image("a").exited("a", 137, LastBackoff).spec("a", func(c *v1.Container) { c.Image = "other" }).at(2),
			want{again(1, FirstBackoff), nil, time.Time{}, Active, v1.PodRunning, ""}},
		"a failed liveness probe stops the container": {pod("a").up().running("a").mem(unhealthy(nil)),
			want{[]Action{StopContainer{ID: "a-0", Container: "a", Deadline: at(30), Message: "Container a failed liveness probe, will be restarted"}}, nil, time.Time{}, Active, v1.PodRunning, ""}},
		"with the probe's own grace": {pod("a").up().running("a").mem(unhealthy(&five)),
			want{[]Action{StopContainer{ID: "a-0", Container: "a", Deadline: at(5), Message: "Container a failed liveness probe, will be restarted"}}, nil, time.Time{}, Active, v1.PodRunning, ""}},
		"hook first": {pod("a").preStop("a").up().running("a").mem(unhealthy(&five)),
			want{[]Action{RunPreStop{ID: "a-0", Container: "a", Deadline: at(5), Message: "Container a failed liveness probe, will be restarted"}}, nil, at(5), Active, v1.PodRunning, ""}},
		"only two instances are kept": {pod("a").up().exited("a", 1, 0).exited("a", 1, 0).running("a"),
			want{[]Action{RemoveContainer{ID: "a-0", Container: "a"}}, nil, time.Time{}, Active, v1.PodRunning, ""}},
	}.run(t)
}

func TestComputeRestartAll(t *testing.T) {
	rule := func(c *v1.Container) {
		c.RestartPolicyRules = []v1.ContainerRestartRule{{Action: v1.ContainerRestartRuleActionRestartAllContainers,
			ExitCodes: &v1.ContainerRestartRuleOnExitCodes{Operator: v1.ContainerRestartRuleOnExitCodesOpIn, Values: []int32{88}}}}
	}
	message := `Stopping container b because of an "all containers restart" action`
	base := func() *setup {
		return pod("a", "b").init("i").spec("a", rule).policy(v1.RestartPolicyNever).up().exited("i", 0, 0).
			add("a", func(c *Container) { c.State, c.StartedAt, c.FinishedAt, c.ExitCode = Exited, t0, at(9), 88 }).at(9)
	}
	cases{
		"the others stop first, at once": {base().running("b"),
			want{[]Action{StopContainer{ID: "b-0", Container: "b", Deadline: at(11), Message: message}}, nil, time.Time{}, Active, v1.PodRunning, ""}},
		"then all begins with init": {base().exited("b", 137, LastBackoff).image("i"),
			want{[]Action{StartContainer{Container: "i", SandboxID: "s1", Image: "ref-i", Attempt: 1, Backoff: FirstBackoff}}, nil, time.Time{}, Active, v1.PodRunning, ""}},
	}.run(t)
}

func TestComputeSandboxLost(t *testing.T) {
	cases{
		"running containers are stopped first": {pod("a").up().running("a").dead("s1"),
			want{[]Action{StopContainer{ID: "a-0", Container: "a", Deadline: at(30), Message: "Pod sandbox changed, it will be killed and re-created."}}, nil, time.Time{}, Active, v1.PodRunning, ""}},
		"then it is made anew": {pod("a").up().exited("a", 137, LastBackoff).dead("s1").at(2),
			want{[]Action{CreateSandbox{Attempt: 1}, PullImage{"a"}}, nil, time.Time{}, Active, v1.PodRunning, ""}},
		"a finished pod needs none": {pod("a").policy(v1.RestartPolicyNever).up().exited("a", 0, 0).dead("s1").at(2),
			want{[]Action{ReleasePod{}}, nil, time.Time{}, Ending, v1.PodSucceeded, ""}},
		"what has succeeded is not run again": {pod("a", "b").policy(v1.RestartPolicyOnFailure).up().exited("a", 0, 0).exited("b", 1, 0).
			dead("s1").sandboxed("s2", true).image("b").at(2),
			want{[]Action{StartContainer{Container: "b", SandboxID: "s2", Image: "ref-b", Attempt: 1, Backoff: FirstBackoff}}, nil, time.Time{}, Active, v1.PodRunning, ""}},
	}.run(t)
}
