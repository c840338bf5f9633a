package probe

import (
	"container/heap"
	"context"
	"log/slog"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"

	"skiff.dev/skiff/internal/kubelet/hook"
	"skiff.dev/skiff/internal/kubelet/podsync"
	"skiff.dev/skiff/internal/meta"
)

// Events reports to people what happened to a pod; see client.Events.
type Events interface {
	Warning(obj meta.Object, reason, note string, args ...any)
}

// tick is what the times of probes are rounded up to, so that the probes of a
// node share their wake-ups.
const tick = 250 * time.Millisecond

// maxAsking bounds the probes in flight.
const maxAsking = 64

// Manager probes the containers it is given and tells what it found. One
// goroutine keeps the time of all probes; each question is one more while it
// is open.
type Manager struct {
	prober *Prober
	events Events
	log    *slog.Logger

	mu      sync.Mutex
	targets map[string]*target // by container id
	due     queue
	wake    chan struct{}
}

// target is one running container and what is known of it.
type target struct {
	pod    *v1.Pod
	spec   *v1.Container
	id, ip string
	since  time.Time // when it started
	notify func()
	state  podsync.Probe
	ended  bool // its pod is: it need not be kept alive
	gone   bool
}

// kind is one of the three probes of a container.
type kind int

const (
	startup kind = iota
	liveness
	readiness
)

func (k kind) String() string { return [...]string{"Startup", "Liveness", "Readiness"}[k] }

// job is one probe of a target and its place in time.
type job struct {
	target    *target
	kind      kind
	probe     *v1.Probe
	at        time.Time
	successes int32
	failures  int32
}

// NewManager returns a manager that runs commands by exec.
func NewManager(exec hook.Execer, events Events, log *slog.Logger) *Manager {
	return &Manager{prober: NewProber(exec), events: events, log: log,
		targets: map[string]*target{}, wake: make(chan struct{}, 1)}
}

// Watch makes sure that a running container is probed and returns what has
// been found so far. notify is called when that changes.
func (m *Manager) Watch(pod *v1.Pod, c *podsync.Container, ip string, notify func()) podsync.Probe {
	m.mu.Lock()
	defer m.mu.Unlock()
	t := m.targets[c.ID]
	if t == nil {
		spec, _, ok := podsync.Find(pod, c.Name)
		if !ok {
			return podsync.Probe{}
		}
		t = &target{pod: pod, spec: spec, id: c.ID, ip: ip, since: c.StartedAt, notify: notify}
		t.state = initial(pod, spec, c.ID)
		m.targets[c.ID] = t
		m.schedule(t)
	}
	t.pod, t.ip = pod, ip
	t.ended = pod.DeletionTimestamp != nil || podsync.Terminal(pod.Status.Phase)
	return t.state
}

// initial is what a container counts as before its probes have answered: not
// started and not ready, but for one that an earlier kubelet has told of.
func initial(pod *v1.Pod, spec *v1.Container, id string) podsync.Probe {
	state := podsync.Probe{Started: spec.StartupProbe == nil, Ready: spec.ReadinessProbe == nil}
	for _, list := range [][]v1.ContainerStatus{pod.Status.ContainerStatuses, pod.Status.InitContainerStatuses} {
		for i := range list {
			s := &list[i]
			if podsync.RuntimeID(s.ContainerID) == id && s.State.Running != nil && s.Started != nil && *s.Started {
				state.Started, state.Ready = true, state.Ready || s.Ready
			}
		}
	}
	return state
}

// Forget stops probing a container.
func (m *Manager) Forget(id string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if t := m.targets[id]; t != nil {
		t.gone = true // its jobs fall out of the queue when their time comes
		delete(m.targets, id)
	}
}

func (m *Manager) schedule(t *target) {
	now := time.Now()
	for k, p := range map[kind]*v1.Probe{startup: t.spec.StartupProbe, liveness: t.spec.LivenessProbe, readiness: t.spec.ReadinessProbe} {
		if p == nil || k == startup && t.state.Started {
			continue
		}
		first := t.since.Add(time.Duration(p.InitialDelaySeconds) * time.Second)
		if first.Before(now) {
			first = now
		}
		heap.Push(&m.due, &job{target: t, kind: k, probe: p, at: first})
	}
	m.signal()
}

func (m *Manager) signal() {
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

// Run probes until ctx ends and returns when no question is open.
func (m *Manager) Run(ctx context.Context) {
	var open sync.WaitGroup
	defer open.Wait()
	slots := make(chan struct{}, maxAsking)
	for {
		j, wait := m.next(time.Now())
		if j == nil {
			if !m.sleep(ctx, wait) {
				return
			}
			continue
		}
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			return
		}
		open.Go(func() {
			defer func() { <-slots }()
			m.ask(ctx, j)
		})
	}
}

func (m *Manager) sleep(ctx context.Context, wait time.Duration) bool {
	var timeout <-chan time.Time
	if wait > 0 {
		t := time.NewTimer(wait)
		defer t.Stop()
		timeout = t.C
	}
	select {
	case <-ctx.Done():
		return false
	case <-m.wake:
	case <-timeout:
	}
	return true
}

// next takes the job whose time has come, or tells how long to wait, 0 for ever.
func (m *Manager) next(now time.Time) (*job, time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for len(m.due) > 0 {
		j := m.due[0]
		if j.target.gone {
			heap.Pop(&m.due)
			continue
		}
		if wait := j.at.Sub(now); wait > 0 {
			return nil, wait
		}
		heap.Pop(&m.due)
		if j.held() {
			m.again(j, now)
			continue
		}
		return j, 0
	}
	return nil, 0
}

// held: liveness and readiness wait for the startup probe, and the liveness
// of a pod that is being stopped does not matter any more.
func (j *job) held() bool {
	return j.kind != startup && !j.target.state.Started || j.kind != readiness && j.target.ended
}

// again puts a job back for its next turn.
func (m *Manager) again(j *job, now time.Time) {
	period := time.Duration(max(j.probe.PeriodSeconds, 1)) * time.Second
	j.at = now.Add(period).Round(tick)
	if !j.at.After(now) {
		j.at = j.at.Add(tick)
	}
	heap.Push(&m.due, j)
}

func (m *Manager) ask(ctx context.Context, j *job) {
	m.mu.Lock()
	t := j.target
	pod, ip := t.pod, t.ip
	m.mu.Unlock()
	answer, said := m.prober.Ask(ctx, j.probe, t.spec, t.id, ip)
	if ctx.Err() != nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if t.gone {
		return
	}
	switch answer {
	case Failure:
		m.events.Warning(pod, "Unhealthy", "%s probe failed: %s", j.kind, said)
	case Unknown:
		m.events.Warning(pod, "Unhealthy", "%s probe errored and resulted in unknown state: %s", j.kind, said)
	}
	before := t.state
	done := j.take(answer)
	if t.state != before {
		t.notify()
	}
	if t.state.Started && !before.Started {
		m.release(t)
	}
	if !done {
		m.again(j, time.Now())
		m.signal()
	}
}

// release lets the probes that waited for the container's start ask now.
func (m *Manager) release(t *target) {
	for _, j := range m.due {
		if j.target == t {
			j.at = time.Now()
		}
	}
	heap.Init(&m.due)
}

// take counts an answer and draws its conclusion. It reports whether the probe
// need not be asked again.
func (j *job) take(a Answer) bool {
	switch a {
	case Success:
		j.successes, j.failures = j.successes+1, 0
	case Failure:
		j.successes, j.failures = 0, j.failures+1
	default:
		return false
	}
	s := &j.target.state
	healthy := j.successes >= max(j.probe.SuccessThreshold, 1)
	sick := j.failures >= max(j.probe.FailureThreshold, 1)
	switch {
	case j.kind == readiness && healthy:
		s.Ready = true
	case j.kind == readiness && sick:
		s.Ready = false
	case j.kind == startup && healthy:
		s.Started = true
		return true
	case j.kind != readiness && sick:
		s.Unhealthy = &podsync.Unhealthy{Startup: j.kind == startup, Grace: j.probe.TerminationGracePeriodSeconds}
		return true // the container will be another one
	}
	return false
}

// queue orders jobs by time.
type queue []*job

func (q queue) Len() int           { return len(q) }
func (q queue) Less(i, j int) bool { return q[i].at.Before(q[j].at) }
func (q queue) Swap(i, j int)      { q[i], q[j] = q[j], q[i] }
func (q *queue) Push(x any)        { *q = append(*q, x.(*job)) }
func (q *queue) Pop() any {
	old := *q
	last := old[len(old)-1]
	*q = old[:len(old)-1]
	return last
}
