package podsync

import (
	"fmt"
	"time"

	v1 "k8s.io/api/core/v1"
)

// Compute returns what to do for the pod now. Calling it again with the same
// input returns the same plan; actions in flight are not repeated.
func Compute(in Input, now time.Time) Plan {
	p := newPlanner(in, now)
	p.plan.Phase, p.plan.Initialized = p.phase(), p.initialized()
	p.plan.Restarting = p.restarting()
	switch end := p.ending(); {
	case end != nil:
		p.end(end)
	case p.finished():
		p.finish()
	default:
		p.run()
	}
	p.collect()
	return p.plan
}

// planner is one computation; it changes nothing but its plan.
type planner struct {
	Input
	now  time.Time
	plan Plan
	// sandbox is the one that containers are started in; nil if there is none.
	sandbox *Sandbox
	// reset is when the last exit happened that restarts all containers.
	// Instances made before it count for nothing but their number.
	reset time.Time
}

func newPlanner(in Input, now time.Time) *planner {
	in.Seen = Recall(in.Pod, in.Seen)
	p := &planner{Input: in, now: now}
	for i := range in.Seen.Sandboxes {
		if sb := &in.Seen.Sandboxes[i]; p.usable(sb) {
			p.sandbox = sb
			break
		}
	}
	for i := range in.Seen.Containers {
		c := &in.Seen.Containers[i]
		spec, kind, ok := Find(in.Pod, c.Name)
		if ok && c.State == Exited && verdict(in.Pod, spec, kind, c.ExitCode) == restartAll && c.FinishedAt.After(p.reset) {
			p.reset = c.FinishedAt
		}
	}
	return p
}

// usable: a sandbox that is up, and on the network if the pod is to be.
func (p *planner) usable(sb *Sandbox) bool {
	return sb.Ready && (len(sb.IPs) > 0 || p.Pod.Spec.HostNetwork)
}

// newest returns the latest instance of the container, of any sandbox, or nil.
func (p *planner) newest(name string) *Container {
	for i := range p.Seen.Containers {
		if c := &p.Seen.Containers[i]; c.Name == name {
			return c
		}
	}
	return nil
}

// present returns the latest instance if it belongs to the sandbox in use and
// to the time since all containers were last restarted.
func (p *planner) present(name string) *Container {
	c := p.newest(name)
	if c == nil || p.sandbox == nil || c.SandboxID != p.sandbox.ID || p.stale(c) {
		return nil
	}
	return c
}

func (p *planner) stale(c *Container) bool { return c.CreatedAt.Before(p.reset) }

// do adds an action unless one of its key is in flight or has to wait after a
// failure. It reports whether the key is free, that is, whether the action is
// now the next one to happen or only waits for its time.
func (p *planner) do(a Action) (started bool) {
	if busy, ok := p.Memory.Busy[a.Key()]; ok {
		if !hastens(a, busy) {
			return true
		}
	} else if f, ok := p.Memory.Failed[a.Key()]; ok && p.now.Before(f.Retry) {
		p.wakeAt(f.Retry)
		return false
	}
	p.plan.Actions = append(p.plan.Actions, a)
	return true
}

// hastens reports whether a stop must replace the stop or hook in flight
// because the time it was given has been cut short.
func hastens(a, busy Action) bool {
	stop, ok := a.(StopContainer)
	if !ok {
		return false
	}
	var was time.Time
	switch b := busy.(type) {
	case StopContainer:
		was = b.Deadline
	case RunPreStop:
		was = b.Deadline
	default:
		return false
	}
	return was.Sub(stop.Deadline) > time.Second
}

func (p *planner) wakeAt(t time.Time) {
	if p.plan.Wake.IsZero() || t.Before(p.plan.Wake) {
		p.plan.Wake = t
	}
}

// run plans for a pod that has something to run.
func (p *planner) run() {
	p.plan.Stage = Active
	if at, ok := p.deadline(); ok {
		p.wakeAt(at)
	}
	if !p.Memory.Mounted {
		p.do(MountVolumes{})
	}
	p.stopStrays()
	if p.sandbox == nil {
		p.replaceSandbox()
	}
	p.startEphemeral()
	if p.restarting() {
		return // nothing starts before everything has stopped
	}
	if p.startInit() {
		p.startMain()
	}
}

// replaceSandbox makes a new sandbox once nothing runs in the old ones.
func (p *planner) replaceSandbox() {
	attempt := uint32(0)
	for i := range p.Seen.Sandboxes {
		sb := &p.Seen.Sandboxes[i]
		attempt = max(attempt, sb.Attempt+1)
		if sb.Ready {
			p.do(StopSandbox{ID: sb.ID})
			return
		}
	}
	for i := range p.Seen.Containers {
		if alive(&p.Seen.Containers[i]) {
			return
		}
	}
	p.do(CreateSandbox{Attempt: attempt})
}

// stopStrays stops what must not go on: instances of another sandbox or from
// before a restart of all, doubles, those whose image changed, unhealthy ones.
func (p *planner) stopStrays() {
	for i := range p.Seen.Containers {
		c := &p.Seen.Containers[i]
		if !alive(c) {
			continue
		}
		if why, hard := p.stray(c); why != "" {
			p.stop(c, p.graceFor(c, hard), why)
		}
	}
}

// stray returns why an instance has to stop, or "". Hard means at once.
func (p *planner) stray(c *Container) (why string, hard bool) {
	spec, kind, ok := Find(p.Pod, c.Name)
	switch {
	case !ok:
		return fmt.Sprintf("Stopping container %s", c.Name), false
	case p.newest(c.Name) != c:
		return fmt.Sprintf("Stopping container %s", c.Name), false
	case p.stale(c):
		return fmt.Sprintf("Stopping container %s because of an \"all containers restart\" action", c.Name), true
	case p.sandbox == nil || c.SandboxID != p.sandbox.ID:
		return "Pod sandbox changed, it will be killed and re-created.", false
	case c.State == Unknown:
		return fmt.Sprintf("Container %s is in unknown state, try killing it before restart", c.Name), false
	case c.State == Running && kind != Ephemeral && c.Hash != "" && c.Hash != Hash(spec):
		return fmt.Sprintf("Container %s definition changed, will be restarted", c.Name), false
	}
	if u := p.Memory.Probes[c.ID].Unhealthy; u != nil && c.State == Running {
		probe := "liveness"
		if u.Startup {
			probe = "startup"
		}
		return fmt.Sprintf("Container %s failed %s probe, will be restarted", c.Name, probe), false
	}
	return "", false
}

// graceFor returns how long an instance may take to stop while its pod goes on.
func (p *planner) graceFor(c *Container, hard bool) time.Duration {
	if hard {
		return 0
	}
	if u := p.Memory.Probes[c.ID].Unhealthy; u != nil && u.Grace != nil {
		return time.Duration(*u.Grace) * time.Second
	}
	return p.specGrace()
}

// startEphemeral starts each ephemeral container once.
func (p *planner) startEphemeral() {
	for i := range p.Pod.Spec.EphemeralContainers {
		c := v1.Container(p.Pod.Spec.EphemeralContainers[i].EphemeralContainerCommon)
		last := p.newest(c.Name)
		switch {
		case last == nil:
			p.start(&c, nil, true)
		case last.State == Created && !p.busy(c.Name):
			p.do(RemoveContainer{ID: last.ID, Container: c.Name})
		}
	}
}

// startInit works through the init containers and sidecars in their order and
// reports whether the main containers may start.
func (p *planner) startInit() bool {
	begun := p.mainBegun()
	for i := range p.Pod.Spec.InitContainers {
		spec := &p.Pod.Spec.InitContainers[i]
		sidecar := KindOfInit(spec) == Sidecar
		if begun && !sidecar {
			continue
		}
		c := p.present(spec.Name)
		if c != nil && !sidecar && c.State == Exited && c.ExitCode == 0 {
			continue
		}
		if c != nil && c.State == Running {
			if begun || sidecar && p.Memory.Probes[c.ID].Started && !p.busy(spec.Name) {
				continue
			}
			return false
		}
		p.next(spec, true)
		if !begun {
			return false
		}
	}
	return true
}

// startMain starts the main containers in their order: a container waits until
// the one before it has started, with its postStart hook, or failed to.
func (p *planner) startMain() {
	mayStart := true
	for i := range p.Pod.Spec.Containers {
		spec := &p.Pod.Spec.Containers[i]
		if p.busy(spec.Name) {
			mayStart = false
			continue
		}
		if c := p.newest(spec.Name); c != nil && (alive(c) && c.State != Created || p.over(spec, Main, c)) {
			continue
		}
		if !p.next(spec, mayStart) {
			mayStart = false
		}
	}
}

// over reports whether an instance is the container's last.
func (p *planner) over(spec *v1.Container, kind Kind, c *Container) bool {
	return c.State == Exited && !p.stale(c) && verdict(p.Pod, spec, kind, c.ExitCode) == leave
}

// next brings a container that does not run nearer to running. It reports
// whether the containers after it may go ahead.
func (p *planner) next(spec *v1.Container, mayStart bool) bool {
	c := p.newest(spec.Name)
	if c == nil {
		return p.start(spec, nil, mayStart)
	}
	switch c.State {
	case Running, Unknown:
		return true // a stray that is being stopped
	case Created:
		// The kubelet ended between creating and starting it.
		if !p.busy(spec.Name) {
			p.do(RemoveContainer{ID: c.ID, Container: c.Name})
		}
		return false
	}
	if at, wait := p.backingOff(spec, c); wait {
		p.wakeAt(at)
		p.report(ReportBackoff{Container: spec.Name, Attempt: c.Attempt})
		return true
	}
	if c.Hash != "" && c.Hash != Hash(spec) {
		fresh := *c // another program: its crashes are not the old one's
		fresh.Backoff = 0
		return p.start(spec, &fresh, mayStart)
	}
	return p.start(spec, c, mayStart)
}

// backingOff returns until when the instance that follows c has to wait. It
// need not where the one before did not end by itself: with its sandbox, in a
// restart of all, or because its image changed.
func (p *planner) backingOff(spec *v1.Container, c *Container) (time.Time, bool) {
	at := RestartAt(c)
	inPlace := p.sandbox != nil && c.SandboxID == p.sandbox.ID
	changed := c.Hash != "" && c.Hash != Hash(spec)
	swept := p.stale(c) && !c.FinishedAt.Equal(p.reset)
	return at, p.now.Before(at) && inPlace && !changed && !swept
}

// report adds a report that has not been made yet.
func (p *planner) report(r ReportBackoff) {
	if p.Memory.Reported[r.Container] != r {
		p.do(r)
	}
}

// start pulls the image of a container and, when sandbox and volumes are ready
// and it is its turn, starts the instance that follows last. It reports
// whether the containers after it may go ahead.
func (p *planner) start(spec *v1.Container, last *Container, mayStart bool) bool {
	image, ok := p.Memory.Images[spec.Name]
	if !ok {
		p.reportPull(spec.Name)
		return !p.do(PullImage{Container: spec.Name})
	}
	if p.sandbox == nil || !p.Memory.Mounted || !mayStart {
		return false
	}
	a := StartContainer{Container: spec.Name, SandboxID: p.sandbox.ID, Image: image, Backoff: nextBackoff(last)}
	if last != nil {
		a.Attempt = last.Attempt + 1
	}
	return !p.do(a)
}

// reportPull reports that a failed pull waits for its next try, a moment after
// the failure itself was to be seen.
func (p *planner) reportPull(name string) {
	f := p.Memory.Failed[ContainerKey(name)]
	if !f.Pull || !p.now.Before(f.Retry) || p.busy(name) {
		return
	}
	if seen := f.At.Add(time.Second); p.now.Before(seen) {
		p.wakeAt(seen)
		return
	}
	p.report(ReportBackoff{Container: name, Pull: true, Attempt: f.Count})
}

func (p *planner) busy(name string) bool {
	_, ok := p.Memory.Busy[ContainerKey(name)]
	return ok
}

// alive: there is, or may be, a process.
func alive(c *Container) bool { return c.State == Running || c.State == Unknown }

// restarting reports whether instances from before a restart of all still run.
func (p *planner) restarting() bool {
	if p.reset.IsZero() {
		return false
	}
	for i := range p.Seen.Containers {
		if c := &p.Seen.Containers[i]; alive(c) && p.stale(c) {
			return true
		}
	}
	return false
}

// collect removes what is neither running nor worth reading: of each container
// all but the newest instance and the one before it, and empty old sandboxes.
func (p *planner) collect() {
	count, used := map[string]int{}, map[string]bool{}
	for i := range p.Seen.Containers {
		c := &p.Seen.Containers[i]
		count[c.Name]++
		if count[c.Name] == 1 && p.stale(c) {
			return // what shows that all restart must stay until all have
		}
	}
	clear(count)
	for i := range p.Seen.Containers {
		c := &p.Seen.Containers[i]
		count[c.Name]++
		if c.Lost {
			continue
		}
		used[c.SandboxID] = true
		if count[c.Name] > 2 && c.State == Exited {
			p.do(RemoveContainer{ID: c.ID, Container: c.Name})
		}
	}
	for i := range p.Seen.Sandboxes {
		sb := &p.Seen.Sandboxes[i]
		if i == 0 || sb == p.sandbox || used[sb.ID] {
			continue
		}
		if sb.Ready {
			p.do(StopSandbox{ID: sb.ID})
			continue
		}
		p.do(RemoveSandbox{ID: sb.ID})
	}
}
