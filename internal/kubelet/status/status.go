// Package status tells the API how pods are. Make works out a pod's status
// from its spec, the runtime's state, the probes and the plan; it is pure.
// Writer patches it into the API, when it has changed, and deletes pods from
// the API whose end is complete.
package status

import (
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff.dev/skiff/internal/kubelet/podsync"
	"skiff.dev/skiff/internal/pod"
)

// Input is what a pod's status depends on.
type Input struct {
	// Pod has the status as it was told last. Read-only.
	Pod     *v1.Pod
	Seen    podsync.Seen
	Plan    podsync.Plan
	Memory  *podsync.Memory
	Evicted *podsync.Eviction
	// Messages holds the termination messages by instance.
	Messages map[string]string
	HostIPs  []string
	// Runtime is the name that container ids begin with: "containerd".
	Runtime string
	Now     time.Time
}

// Make returns the pod's status.
func Make(in Input) v1.PodStatus {
	m := maker{Input: in, seen: podsync.Recall(in.Pod, in.Seen)}
	old := &in.Pod.Status
	out := *old.DeepCopy()
	out.ObservedGeneration = in.Pod.Generation
	out.Phase = in.Plan.Phase
	if in.Plan.Reason != "" && !podsync.Terminal(old.Phase) {
		out.Reason, out.Message = in.Plan.Reason, in.Plan.Message
	}
	if out.StartTime == nil {
		now := metav1.NewTime(in.Now).Rfc3339Copy()
		out.StartTime = &now
	}
	out.QOSClass = pod.QOS(in.Pod)
	m.addresses(&out)
	out.InitContainerStatuses = m.containers(in.Pod.Spec.InitContainers, old.InitContainerStatuses)
	out.ContainerStatuses = m.containers(in.Pod.Spec.Containers, old.ContainerStatuses)
	out.EphemeralContainerStatuses = m.containers(ephemeral(in.Pod), old.EphemeralContainerStatuses)
	m.conditions(&out)
	return out
}

type maker struct {
	Input
	seen podsync.Seen
}

func ephemeral(p *v1.Pod) []v1.Container {
	var out []v1.Container
	for i := range p.Spec.EphemeralContainers {
		out = append(out, v1.Container(p.Spec.EphemeralContainers[i].EphemeralContainerCommon))
	}
	return out
}

// addresses sets the host's addresses and those of the sandbox. The addresses
// of a pod that has ended stay, for those who look into what happened.
func (m *maker) addresses(out *v1.PodStatus) {
	if len(m.HostIPs) > 0 {
		out.HostIP, out.HostIPs = m.HostIPs[0], nil
		for _, ip := range m.HostIPs {
			out.HostIPs = append(out.HostIPs, v1.HostIP{IP: ip})
		}
	}
	ips := m.sandboxIPs()
	if m.Pod.Spec.HostNetwork {
		ips = m.HostIPs
	}
	if len(ips) == 0 {
		return
	}
	out.PodIP, out.PodIPs = ips[0], nil
	for _, ip := range ips {
		out.PodIPs = append(out.PodIPs, v1.PodIP{IP: ip})
	}
}

func (m *maker) sandboxIPs() []string {
	for i := range m.seen.Sandboxes {
		if sb := &m.seen.Sandboxes[i]; sb.Ready && len(sb.IPs) > 0 {
			return sb.IPs
		}
	}
	return nil
}

func (m *maker) containers(specs []v1.Container, old []v1.ContainerStatus) []v1.ContainerStatus {
	var out []v1.ContainerStatus
	for i := range specs {
		var was v1.ContainerStatus
		if j := slices.IndexFunc(old, func(s v1.ContainerStatus) bool { return s.Name == specs[i].Name }); j >= 0 {
			was = old[j]
		}
		out = append(out, m.container(&specs[i], was))
	}
	return out
}

// instances returns the newest instance of a container and the one before it,
// without one that is being started.
func (m *maker) instances(name string) (newest, before *podsync.Container) {
	for i := range m.seen.Containers {
		c := &m.seen.Containers[i]
		switch {
		case c.Name != name || m.Memory.Starting(c):
		case newest == nil:
			newest = c
		default:
			return newest, c
		}
	}
	return newest, nil
}

func (m *maker) container(spec *v1.Container, was v1.ContainerStatus) v1.ContainerStatus {
	if was.State.Waiting != nil && m.starting(spec.Name) {
		return was // why it waited holds until it runs, or fails again
	}
	newest, before := m.instances(spec.Name)
	started := false
	out := v1.ContainerStatus{
		Name: spec.Name, Image: spec.Image, Started: &started,
		RestartCount: was.RestartCount, LastTerminationState: was.LastTerminationState,
		VolumeMounts: volumeMounts(spec),
	}
	if newest == nil {
		out.State.Waiting = m.waiting(spec)
		return out
	}
	if newest.State != podsync.Created { // one that never ran may yet be made again
		out.RestartCount = max(was.RestartCount, int32(newest.Attempt))
	}
	out.ContainerID = m.id(newest.ID)
	if newest.Image != "" {
		out.Image = newest.Image
	}
	out.ImageID = newest.ImageRef
	if before != nil && before.State == podsync.Exited {
		out.LastTerminationState = v1.ContainerState{Terminated: m.terminated(before)}
	}
	if s := newest.Status; s != nil {
		out.User = user(s)
		out.StopSignal = stopSignal(s)
	}
	switch newest.State {
	case podsync.Running:
		p := m.Memory.Probes[newest.ID]
		started, out.Ready = p.Started, p.Started && p.Ready && !m.isInit(spec) // which is ready when it is done
		out.State.Running = &v1.ContainerStateRunning{StartedAt: metav1.NewTime(newest.StartedAt).Rfc3339Copy()}
		resources(spec, newest, &out)
	case podsync.Exited:
		m.exited(spec, newest, &out)
	default:
		out.State.Waiting = m.waiting(spec)
	}
	return out
}

// starting reports whether an instance of the container is being started, or is about to be.
func (m *maker) starting(name string) bool {
	isStart := func(a podsync.Action) bool {
		start, ok := a.(podsync.StartContainer)
		return ok && start.Container == name
	}
	return isStart(m.Memory.Busy[podsync.ContainerKey(name)]) || slices.ContainsFunc(m.Plan.Actions, isStart)
}

// isInit reports whether the container is one that has to end before others start.
func (m *maker) isInit(spec *v1.Container) bool {
	_, kind, _ := podsync.Find(m.Pod, spec.Name)
	return kind == podsync.Init
}

// exited sets the state of a container whose newest instance has ended: it is
// terminated, unless something keeps the next instance from starting.
func (m *maker) exited(spec *v1.Container, c *podsync.Container, out *v1.ContainerStatus) {
	t := m.terminated(c)
	if m.Plan.Stage != podsync.Active || !m.again(spec, c) {
		out.State.Terminated = t
		out.Ready = m.isInit(spec) && c.ExitCode == 0
		return
	}
	if wait := m.backoff(spec, c); wait != nil {
		out.State.Waiting, out.LastTerminationState = wait, v1.ContainerState{Terminated: t}
		return
	}
	out.State.Terminated = t
}

// again reports whether the plan is to start another instance after c.
func (m *maker) again(spec *v1.Container, c *podsync.Container) bool {
	return podsync.Restarts(m.Pod, spec.Name, c.ExitCode)
}

// backoff returns the waiting state of a container that is not started again
// at once, or nil.
func (m *maker) backoff(spec *v1.Container, c *podsync.Container) *v1.ContainerStateWaiting {
	if m.Now.Before(podsync.RestartAt(c)) {
		return &v1.ContainerStateWaiting{Reason: "CrashLoopBackOff",
			Message: "back-off " + c.Backoff.String() + " restarting failed container=" + spec.Name + " pod=" + podsync.Format(m.Pod)}
	}
	// A failure since c ended, or the very one that ended it.
	if f, ok := m.Memory.Failed[podsync.ContainerKey(spec.Name)]; ok && !f.At.Before(c.FinishedAt) {
		return m.failed(spec, f)
	}
	return nil
}

// waiting returns the state of a container that has no instance yet.
func (m *maker) waiting(spec *v1.Container) *v1.ContainerStateWaiting {
	if f, ok := m.Memory.Failed[podsync.ContainerKey(spec.Name)]; ok {
		return m.failed(spec, f)
	}
	reason := "ContainerCreating"
	if len(m.Pod.Spec.InitContainers) > 0 {
		reason = "PodInitializing"
	}
	return &v1.ContainerStateWaiting{Reason: reason}
}

func (m *maker) failed(spec *v1.Container, f podsync.Failure) *v1.ContainerStateWaiting {
	report := podsync.ReportBackoff{Container: spec.Name, Pull: true, Attempt: f.Count}
	if f.Pull && f.Reason != "ErrImageNeverPull" && f.Reason != "InvalidImageName" && m.Memory.Reported[spec.Name] == report {
		return &v1.ContainerStateWaiting{Reason: "ImagePullBackOff",
			Message: "Back-off pulling image \"" + spec.Image + "\": " + f.Reason + ": " + f.Message}
	}
	return &v1.ContainerStateWaiting{Reason: f.Reason, Message: f.Message}
}

func (m *maker) terminated(c *podsync.Container) *v1.ContainerStateTerminated {
	t := &v1.ContainerStateTerminated{
		ExitCode: c.ExitCode, Reason: c.Reason, Message: c.Message, ContainerID: m.id(c.ID),
		StartedAt: metav1.NewTime(c.StartedAt).Rfc3339Copy(), FinishedAt: metav1.NewTime(c.FinishedAt).Rfc3339Copy(),
	}
	if message, ok := m.Messages[c.ID]; ok && message != "" {
		t.Message = message
	}
	return t
}

func (m *maker) id(raw string) string { return m.Runtime + "://" + raw }
