package podsync

import (
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"
)

// Terminal reports whether a phase is final.
func Terminal(phase v1.PodPhase) bool {
	return phase == v1.PodSucceeded || phase == v1.PodFailed
}

// mainBegun reports whether a main container has been made in the sandbox in
// use since the last restart of all, which shows that initialization is done.
func (p *planner) mainBegun() bool {
	for i := range p.Pod.Spec.Containers {
		if p.present(p.Pod.Spec.Containers[i].Name) != nil {
			return true
		}
	}
	return false
}

// initialized reports whether every init container has succeeded and every
// sidecar has started.
func (p *planner) initialized() bool {
	if p.mainBegun() {
		return true
	}
	for i := range p.Pod.Spec.InitContainers {
		spec := &p.Pod.Spec.InitContainers[i]
		c := p.present(spec.Name)
		if p.sandbox == nil {
			c = p.newest(spec.Name)
		}
		switch {
		case c == nil:
			return false
		case KindOfInit(spec) == Sidecar:
			if c.State != Running && p.sandbox != nil || !p.Memory.Probes[c.ID].Started && p.sandbox != nil {
				return false
			}
		case c.State != Exited || c.ExitCode != 0:
			return false
		}
	}
	return true
}

// initFailed reports whether an init container failed that is not tried again.
func (p *planner) initFailed() bool {
	for i := range p.Pod.Spec.InitContainers {
		spec := &p.Pod.Spec.InitContainers[i]
		if KindOfInit(spec) == Sidecar {
			continue
		}
		c := p.newest(spec.Name)
		if c == nil {
			return false
		}
		if c.State != Exited {
			return false
		}
		if c.ExitCode != 0 && p.over(spec, Init, c) {
			return true
		}
	}
	return false
}

// finished reports whether nothing is left to run but, perhaps, sidecars.
func (p *planner) finished() bool {
	if Terminal(p.Pod.Status.Phase) || p.initFailed() && !p.mainBegun() {
		return true
	}
	for i := range p.Pod.Spec.Containers {
		spec := &p.Pod.Spec.Containers[i]
		c := p.newest(spec.Name)
		if c == nil || !p.over(spec, Main, c) || p.busy(spec.Name) {
			return false
		}
	}
	return true
}

// phase returns the pod's phase. A terminal phase is never left again (I26),
// and is not entered while anything of the pod runs.
func (p *planner) phase() v1.PodPhase {
	if Terminal(p.Pod.Status.Phase) {
		return p.Pod.Status.Phase
	}
	if p.finished() && !p.anyAlive() {
		return p.result()
	}
	for i := range p.Pod.Spec.Containers {
		if !p.begun(p.Pod.Spec.Containers[i].Name) {
			return v1.PodPending
		}
	}
	return v1.PodRunning
}

// begun reports whether an instance of the container runs or has run.
func (p *planner) begun(name string) bool {
	return slices.ContainsFunc(p.Seen.Containers, func(c Container) bool {
		return c.Name == name && c.State != Created && !p.Memory.Starting(&c)
	})
}

// result is the phase of a pod in which nothing runs any more.
func (p *planner) result() v1.PodPhase {
	if p.initFailed() && !p.mainBegun() {
		return v1.PodFailed
	}
	for i := range p.Pod.Spec.Containers {
		c := p.newest(p.Pod.Spec.Containers[i].Name)
		if c == nil || c.State != Exited || c.ExitCode != 0 {
			return v1.PodFailed
		}
	}
	return v1.PodSucceeded
}

// deadline returns when the pod's time is up.
func (p *planner) deadline() (time.Time, bool) {
	limit, start := p.Pod.Spec.ActiveDeadlineSeconds, p.Pod.Status.StartTime
	if limit == nil || start == nil {
		return time.Time{}, false
	}
	return start.Add(time.Duration(*limit) * time.Second), true
}

func (p *planner) anyAlive() bool {
	for i := range p.Seen.Containers {
		if alive(&p.Seen.Containers[i]) {
			return true
		}
	}
	return false
}
