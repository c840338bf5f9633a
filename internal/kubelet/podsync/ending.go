package podsync

import (
	"fmt"
	"maps"
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"
)

// minimumGrace is what a container always gets to act on its stop signal, even
// if the hook before it has used up the pod's grace or the grace is 0.
const minimumGrace = 2 * time.Second

// Reason and message of a pod that ran longer than activeDeadlineSeconds.
const (
	deadlineReason  = "DeadlineExceeded"
	deadlineMessage = "Pod was active on the node longer than the specified deadline"
)

// An end is why a whole pod is stopped.
type end struct {
	grace           time.Duration
	fails           bool // the pod fails with reason and message
	reason, message string
	deleted         bool // it leaves nothing behind
}

// ending returns why the pod has to end, or nil.
func (p *planner) ending() *end {
	e := &end{grace: p.specGrace(), deleted: p.Gone}
	ended := p.Gone
	if p.Pod.DeletionTimestamp != nil {
		ended = true
		if s := p.Pod.DeletionGracePeriodSeconds; s != nil {
			e.grace = time.Duration(*s) * time.Second
		}
	}
	at, limited := p.deadline()
	switch {
	case Terminal(p.Pod.Status.Phase):
		ended = true
	case p.Evicted != nil:
		ended, e.fails, e.reason, e.message = true, true, p.Evicted.Reason, p.Evicted.Message
		if s := p.Evicted.Grace; s != nil {
			e.grace = min(e.grace, time.Duration(*s)*time.Second)
		}
	case limited && !p.now.Before(at) && !(p.finished() && !p.anyAlive()):
		ended, e.fails, e.reason, e.message = true, true, deadlineReason, deadlineMessage
	}
	if !ended {
		return nil
	}
	return e
}

func (p *planner) specGrace() time.Duration {
	s := int64(v1.DefaultTerminationGracePeriodSeconds)
	if t := p.Pod.Spec.TerminationGracePeriodSeconds; t != nil {
		s = *t
	}
	return time.Duration(max(s, 0)) * time.Second
}

// end plans for a pod that has to stop for good.
func (p *planner) end(e *end) {
	p.plan.Stage = Ending
	p.cancelStarts()
	if !p.stopAll(e.grace) {
		return
	}
	if !Terminal(p.Pod.Status.Phase) {
		p.plan.Phase = p.result()
		if e.fails {
			p.plan.Phase, p.plan.Reason, p.plan.Message = v1.PodFailed, e.reason, e.message
		}
	}
	if !p.release() {
		return
	}
	p.plan.Stage = Stopped
	if e.deleted && p.removeAll() {
		p.plan.Stage = Forgotten
	}
}

// finish plans for a pod whose main containers are done: sidecars end, in
// reverse order, and the pod keeps its containers only to be read.
func (p *planner) finish() {
	p.plan.Stage = Ending
	p.cancelStarts()
	if p.stopAll(p.specGrace()) && p.release() {
		p.plan.Stage = Stopped
	}
}

// cancelStarts gives up what is in flight to get containers running.
func (p *planner) cancelStarts() {
	for _, key := range slices.Sorted(maps.Keys(p.Memory.Busy)) {
		switch p.Memory.Busy[key].(type) {
		case PullImage, StartContainer, CreateSandbox, MountVolumes:
			p.plan.Cancel = append(p.plan.Cancel, key)
		}
	}
}

// stopAll stops every container and reports whether nothing is alive any more
// nor about to be.
func (p *planner) stopAll(grace time.Duration) bool {
	done := len(p.plan.Cancel) == 0
	since := p.Memory.EndSince
	if since.IsZero() {
		since = p.now
	}
	left := max(since.Add(grace).Sub(p.now), 0)
	for i := range p.Seen.Containers {
		if c := &p.Seen.Containers[i]; alive(c) {
			done = false
			p.stop(c, left, fmt.Sprintf("Stopping container %s", c.Name))
		}
	}
	return done
}

// stop moves one instance nearer to its end: hook first, then, when its turn
// has come, the stop signal. An end already begun is not given more time.
func (p *planner) stop(c *Container, grace time.Duration, message string) {
	deadline := p.now.Add(grace)
	was, begun := p.Memory.Stopping[c.ID]
	if begun && was.Deadline.Before(deadline) {
		deadline = was.Deadline
	}
	if begun {
		message = ""
	}
	spec, kind, known := Find(p.Pod, c.Name)
	hooked := !known || spec.Lifecycle == nil || spec.Lifecycle.PreStop == nil ||
		c.State != Running || was.Hooked || grace == 0
	if !hooked {
		if hook, ok := p.Memory.Busy[instanceKey(c.ID)].(RunPreStop); !ok || hook.Deadline.Sub(deadline) <= time.Second {
			p.do(RunPreStop{ID: c.ID, Container: c.Name, Deadline: deadline, Message: message})
			p.wakeAt(deadline)
			return
		}
	}
	if known && kind == Sidecar && !p.turn(c.Name) && p.now.Before(deadline) {
		p.wakeAt(deadline)
		return
	}
	if least := p.now.Add(minimumGrace); deadline.Before(least) {
		deadline = least
	}
	p.do(StopContainer{ID: c.ID, Container: c.Name, Deadline: deadline, Message: message})
}

// turn reports whether a sidecar may be stopped: when no other container runs
// but the sidecars before it. While the pod goes on a single sidecar that has
// to be restarted need not wait.
func (p *planner) turn(name string) bool {
	if p.plan.Stage == Active {
		return true
	}
	before := map[string]bool{name: true}
	for i := range p.Pod.Spec.InitContainers {
		c := &p.Pod.Spec.InitContainers[i]
		if c.Name == name {
			break
		}
		if KindOfInit(c) == Sidecar {
			before[c.Name] = true
		}
	}
	for i := range p.Seen.Containers {
		if c := &p.Seen.Containers[i]; alive(c) && !before[c.Name] {
			return false
		}
	}
	return true
}

// release gives back network, volumes and cgroup, and reports whether they are.
func (p *planner) release() bool {
	done := true
	for i := range p.Seen.Sandboxes {
		if sb := &p.Seen.Sandboxes[i]; sb.Ready {
			done = false
			p.do(StopSandbox{ID: sb.ID})
		}
	}
	if done && !p.Memory.Released {
		done = false
		p.do(ReleasePod{})
	}
	return done
}

// removeAll removes what is left of a pod that the API has forgotten, and
// reports whether nothing is.
func (p *planner) removeAll() bool {
	done := true
	for i := range p.Seen.Containers {
		if c := &p.Seen.Containers[i]; !c.Lost {
			done = false
			p.do(RemoveContainer{ID: c.ID, Container: c.Name})
		}
	}
	if !done {
		return false
	}
	for i := range p.Seen.Sandboxes {
		done = false
		p.do(RemoveSandbox{ID: p.Seen.Sandboxes[i].ID})
	}
	if done {
		p.do(ForgetPod{})
	}
	return done && p.Memory.Forgotten
}
