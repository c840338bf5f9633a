package podsync

import (
	"errors"
	"time"
)

// Memory is what the kubelet knows of a pod beyond the API and the runtime. It
// belongs to the pod's worker, which alone changes it. All of it may be lost:
// then things are done again that can be done again, and nothing else.
type Memory struct {
	// Busy holds the actions in flight by key.
	Busy map[string]Action
	// Failed holds by key how the last try went wrong, until one succeeds.
	Failed map[string]Failure
	// Images holds by container the image made ready for its next start.
	Images map[string]string
	// Stopping holds by instance how its end goes.
	Stopping map[string]Stopping
	// Reported holds by container the last back-off that was reported.
	Reported map[string]ReportBackoff
	// Probes holds by instance what its probes found.
	Probes map[string]Probe
	// Mounted says that the volumes are ready, Released that they are gone again.
	Mounted, Released bool
	// Forgotten says that directory and logs are gone too.
	Forgotten bool
	// EndSince is when the end of the pod began; zero before.
	EndSince time.Time
}

// Failure is how an action went wrong and when it may be tried again.
type Failure struct {
	// Reason and Message are what the container's waiting state shows.
	Reason, Message string
	At, Retry       time.Time
	Count           int
	Pull            bool // it was the image
}

// Stopping is how far the end of an instance has come.
type Stopping struct {
	Deadline time.Time
	Hooked   bool // the preStop hook has run
}

// Probe is what the probes say of an instance.
type Probe struct {
	// Started: the startup probe has passed, or there is none and the
	// container runs with its postStart hook done.
	Started bool
	// Ready: the readiness probe has passed, or there is none.
	Ready bool
	// Unhealthy is set when the instance is to be restarted.
	Unhealthy *Unhealthy
}

// Unhealthy is the verdict of a liveness or startup probe.
type Unhealthy struct {
	Startup bool   // the startup probe said so
	Grace   *int64 // seconds, of the probe; nil means the pod's
}

// Result is what came of an action.
type Result struct {
	Err error
	// Reason is the waiting reason that a failed pull or start shows, Retry how
	// long to wait before trying again; 0 for the usual delay.
	Reason string
	Retry  time.Duration
	// Image is the reference that a PullImage found.
	Image string
}

// NewMemory returns the memory of a pod that nothing is known of.
func NewMemory() *Memory {
	return &Memory{
		Busy: map[string]Action{}, Failed: map[string]Failure{}, Images: map[string]string{},
		Stopping: map[string]Stopping{}, Reported: map[string]ReportBackoff{}, Probes: map[string]Probe{},
	}
}

// Begin notes that an action is now in flight.
func (m *Memory) Begin(a Action) {
	m.Busy[a.Key()] = a
	switch a := a.(type) {
	case RunPreStop:
		m.Stopping[a.ID] = Stopping{Deadline: a.Deadline}
	case StopContainer:
		m.Stopping[a.ID] = Stopping{Deadline: a.Deadline, Hooked: true}
	case StartContainer:
		delete(m.Images, a.Container) // the next attempt asks the pull policy again
	}
}

// Starting reports whether the instance is being started. Until that is through,
// its postStart hook included, the container is not told to run:
// https://kubernetes.io/docs/concepts/containers/container-lifecycle-hooks/#hook-handler-execution
func (m *Memory) Starting(c *Container) bool {
	start, ok := m.Busy[ContainerKey(c.Name)].(StartContainer)
	return ok && start.Attempt == c.Attempt
}

// Done notes what came of an action at now.
func (m *Memory) Done(a Action, r Result, now time.Time) {
	delete(m.Busy, a.Key())
	if hook, ok := a.(RunPreStop); ok {
		// A hook that fails does not keep the container alive.
		m.Stopping[hook.ID] = Stopping{Deadline: hook.Deadline, Hooked: true}
		return
	}
	if errors.Is(r.Err, ErrCancelled) {
		return
	}
	if r.Err != nil {
		m.fail(a, r, now)
		return
	}
	_, pull := a.(PullImage)
	if !pull || m.Failed[a.Key()].Pull {
		delete(m.Failed, a.Key()) // a pull does not mend a failed start
	}
	switch a := a.(type) {
	case MountVolumes:
		m.Mounted = true
	case PullImage:
		m.Images[a.Container] = r.Image
	case ReportBackoff:
		m.Reported[a.Container] = a
	case StartContainer:
		delete(m.Reported, a.Container)
	case RemoveContainer:
		delete(m.Stopping, a.ID)
		delete(m.Probes, a.ID)
	case ReleasePod:
		m.Released, m.Mounted = true, false
	case ForgetPod:
		m.Forgotten = true
	}
}

const (
	firstRetry = 500 * time.Millisecond
	lastRetry  = 30 * time.Second
)

func (m *Memory) fail(a Action, r Result, now time.Time) {
	key := a.Key()
	f := m.Failed[key]
	f.Count++
	_, f.Pull = a.(PullImage)
	f.At, f.Reason, f.Message = now, r.Reason, r.Err.Error()
	wait := r.Retry
	if wait == 0 {
		wait = min(firstRetry<<min(f.Count-1, 10), lastRetry)
	}
	f.Retry = now.Add(wait)
	m.Failed[key] = f
}

// ErrCancelled is the error of an action that was given up because the plan
// changed; it may be tried again at once.
var ErrCancelled = errors.New("cancelled")
