// Package podsync decides what a node has to do for one pod. It is pure:
// Compute takes the pod that is wanted, what the runtime has and what the
// kubelet remembers, and returns the actions to carry out next and when to look
// again. It reads no clock, writes nothing and keeps nothing. Package steps
// carries the actions out; the pod's worker in package kubelet goes round:
// see, compute, act, remember.
//
// The rules are those of the pod lifecycle documentation and of KEP-753
// (sidecars), KEP-5307 and KEP-5532 (container restart rules).
package podsync

import (
	"time"

	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Input is everything a decision depends on besides the time.
type Input struct {
	// Pod is what is wanted, with the newest status known. Read-only.
	Pod *v1.Pod
	// Gone says that the API no longer has this pod (by uid).
	Gone bool
	// Evicted says that the node wants the pod to fail; nil where it does not.
	Evicted *Eviction
	Seen    Seen
	// Memory is read only by Compute.
	Memory *Memory
}

// Eviction is why and how fast the node itself ends a pod: a failed admission,
// pressure, a shutdown.
type Eviction struct {
	Reason, Message string
	Grace           *int64 // seconds; nil means the pod's own
	// Disrupts says that the pod would have run on: it gets the condition
	// DisruptionTarget, which jobs count by.
	Disrupts bool
}

// Seen is a pod as the runtime has it.
type Seen struct {
	Sandboxes  []Sandbox   // newest first
	Containers []Container // newest attempt first, of all sandboxes
}

// Sandbox is one incarnation of the pod's shared namespaces.
type Sandbox struct {
	ID        string
	Ready     bool
	Attempt   uint32
	CreatedAt time.Time
	IPs       []string // none with host network
}

// State is what the runtime says of a container.
type State int

const (
	Created State = iota
	Running
	Exited
	Unknown
)

// Container is one instance of a container of the pod.
type Container struct {
	ID, Name, SandboxID              string
	State                            State
	Attempt                          int // 0 for the first instance, then one more for each
	CreatedAt, StartedAt, FinishedAt time.Time
	ExitCode                         int32
	Reason, Message                  string
	// Hash identifies the part of the spec that cannot change in place.
	Hash string
	// Backoff is how long to wait after this instance's exit before the next
	// one. It is written into the container when it is made, so that a restart
	// of the kubelet does not forget it.
	Backoff time.Duration
	// Image is the name asked for, ImageRef and ImageID what the runtime made of it.
	Image, ImageRef, ImageID string
	// Lost says that the runtime does not know this instance any more: it is
	// recalled from the pod's status.
	Lost bool
	// Status is the runtime's own account, for the pod's status; nil if Lost.
	Status *runtimeapi.ContainerStatus
}

// Stage is how far a pod has come.
type Stage int

const (
	// Active pods have, or will have, something to run.
	Active Stage = iota
	// Ending pods are being stopped and will not start anything again.
	Ending
	// Stopped pods have no process, no network, no volume and no cgroup left;
	// their containers and logs can still be read.
	Stopped
	// Forgotten pods have left nothing on the node.
	Forgotten
)

// Plan is what to do now.
type Plan struct {
	Actions []Action
	// Cancel lists the keys of actions in flight that are no longer wanted.
	Cancel []string
	// Wake is when to compute again if nothing happens before; zero for never.
	Wake  time.Time
	Stage Stage
	// Phase is the pod's phase, with Reason and Message where the pod failed as
	// a whole.
	Phase           v1.PodPhase
	Reason, Message string
	// Initialized says that the init containers are done and sidecars started.
	Initialized bool
	// Restarting says that a restart of all containers is under way.
	Restarting bool
}

// Key names what the in-flight actions of a pod exclude each other by.
const (
	sandboxKey = "sandbox"
	volumesKey = "volumes"
	podKey     = "pod"
)

// ContainerKey is the key of pulling for and starting the container name.
func ContainerKey(name string) string { return "container/" + name }

// instanceKey is the key of stopping and removing one instance.
func instanceKey(id string) string { return "instance/" + id }

// An Action is one thing to do. Two actions of one key never run at once.
type Action interface{ Key() string }

// MountVolumes makes the pod's volumes ready.
type MountVolumes struct{}

// CreateSandbox makes the pod's cgroup, namespaces and network.
type CreateSandbox struct{ Attempt uint32 }

// StopSandbox takes the network away and ends what is left in the sandbox.
type StopSandbox struct{ ID string }

// RemoveSandbox removes a stopped sandbox.
type RemoveSandbox struct{ ID string }

// PullImage makes sure that the image of a container is there, as its pull
// policy asks.
type PullImage struct{ Container string }

// StartContainer creates and starts a container and runs its postStart hook.
type StartContainer struct {
	Container string
	SandboxID string
	Image     string // reference from PullImage
	Attempt   int
	Backoff   time.Duration // see Container.Backoff
}

// RunPreStop runs the preStop hook of an instance, for as long as Deadline allows.
type RunPreStop struct {
	ID, Container string
	Deadline      time.Time
	Message       string // for the Killing event
}

// StopContainer stops an instance: its stop signal, and KILL at Deadline.
type StopContainer struct {
	ID, Container string
	Deadline      time.Time
	Message       string // for the Killing event; empty if already reported
}

// RemoveContainer removes a stopped instance with its log.
type RemoveContainer struct{ ID, Container string }

// ReportBackoff tells people that a container is waiting for its next try.
type ReportBackoff struct {
	Container string
	Pull      bool
	Attempt   int
}

// ReleasePod takes volumes and cgroup of a pod away in which nothing runs.
type ReleasePod struct{}

// ForgetPod removes the pod's directory and logs.
type ForgetPod struct{}

func (MountVolumes) Key() string      { return volumesKey }
func (CreateSandbox) Key() string     { return sandboxKey }
func (a StopSandbox) Key() string     { return sandboxKey + "/" + a.ID }
func (a RemoveSandbox) Key() string   { return sandboxKey + "/" + a.ID }
func (a PullImage) Key() string       { return ContainerKey(a.Container) }
func (a StartContainer) Key() string  { return ContainerKey(a.Container) }
func (a RunPreStop) Key() string      { return instanceKey(a.ID) }
func (a StopContainer) Key() string   { return instanceKey(a.ID) }
func (a RemoveContainer) Key() string { return instanceKey(a.ID) }
func (a ReportBackoff) Key() string   { return "backoff/" + a.Container }
func (ReleasePod) Key() string        { return volumesKey }
func (ForgetPod) Key() string         { return podKey }
