package podsync

import (
	"encoding/json"
	"fmt"
	"hash/fnv"
	"slices"
	"strconv"
	"time"

	v1 "k8s.io/api/core/v1"
)

const (
	// FirstBackoff and LastBackoff bound the wait before a crashed container is
	// started again; the wait doubles from one to the other.
	FirstBackoff = 10 * time.Second
	LastBackoff  = 5 * time.Minute
	// settled is how long a container must have run for its past crashes to
	// count no more.
	settled = 10 * time.Minute
)

// Kind is the role of a container in its pod.
type Kind int

const (
	Init      Kind = iota // runs to its end before the next one starts
	Sidecar               // an init container that goes on running
	Main                  // decides the pod's phase
	Ephemeral             // put in for debugging, never restarted
)

// KindOfInit tells init containers and sidecars apart.
func KindOfInit(c *v1.Container) Kind {
	if c.RestartPolicy != nil && *c.RestartPolicy == v1.ContainerRestartPolicyAlways {
		return Sidecar
	}
	return Init
}

// Find returns the container of that name as one of the pod's three lists has it.
func Find(pod *v1.Pod, name string) (*v1.Container, Kind, bool) {
	for i := range pod.Spec.Containers {
		if c := &pod.Spec.Containers[i]; c.Name == name {
			return c, Main, true
		}
	}
	for i := range pod.Spec.InitContainers {
		if c := &pod.Spec.InitContainers[i]; c.Name == name {
			return c, KindOfInit(c), true
		}
	}
	for i := range pod.Spec.EphemeralContainers {
		if e := &pod.Spec.EphemeralContainers[i]; e.Name == name {
			c := v1.Container(e.EphemeralContainerCommon)
			return &c, Ephemeral, true
		}
	}
	return nil, 0, false
}

// Hash identifies what of a container cannot change while it runs: its name
// and image. Resources change in place; nothing else is mutable.
func Hash(c *v1.Container) string {
	h := fnv.New32a()
	b, err := json.Marshal([2]string{c.Name, c.Image})
	if err != nil {
		panic(fmt.Sprintf("podsync: two strings do not encode: %v", err))
	}
	h.Write(b) // a hash's Write never fails
	return strconv.FormatUint(uint64(h.Sum32()), 16)
}

// afterExit is what the restart policies say about a container that ended.
type afterExit int

const (
	leave      afterExit = iota // it is done
	restart                     // once its back-off is over
	restartAll                  // together with all others of the pod
)

// verdict applies the container's rules, then its own policy, then the pod's.
func verdict(pod *v1.Pod, c *v1.Container, kind Kind, exit int32) afterExit {
	switch kind {
	case Ephemeral:
		return leave
	case Sidecar:
		if ruled(c, exit) == restartAll {
			return restartAll
		}
		return restart
	}
	if v := ruled(c, exit); v != leave {
		return v
	}
	policy := pod.Spec.RestartPolicy
	if c.RestartPolicy != nil {
		policy = v1.RestartPolicy(*c.RestartPolicy)
	}
	// For an init container Always means what OnFailure means: success ends it.
	if policy == v1.RestartPolicyNever || exit == 0 && (kind == Init || policy == v1.RestartPolicyOnFailure) {
		return leave
	}
	return restart
}

// Restarts reports whether a container that ended with that exit code is
// started again while its pod goes on.
func Restarts(pod *v1.Pod, name string, exit int32) bool {
	c, kind, ok := Find(pod, name)
	return ok && verdict(pod, c, kind, exit) != leave
}

// ruled returns what the first matching restart rule says, or leave.
func ruled(c *v1.Container, exit int32) afterExit {
	for _, rule := range c.RestartPolicyRules {
		if rule.ExitCodes == nil {
			continue
		}
		in := slices.Contains(rule.ExitCodes.Values, exit)
		if in != (rule.ExitCodes.Operator == v1.ContainerRestartRuleOnExitCodesOpIn) {
			continue
		}
		switch rule.Action {
		case v1.ContainerRestartRuleActionRestart:
			return restart
		case v1.ContainerRestartRuleActionRestartAllContainers:
			return restartAll
		}
	}
	return leave
}

// RestartAt returns when an exited instance may be followed by the next.
func RestartAt(c *Container) time.Time {
	if ranLong(c) {
		return c.FinishedAt
	}
	return c.FinishedAt.Add(c.Backoff)
}

// nextBackoff returns the wait to write into the instance that follows c.
func nextBackoff(c *Container) time.Duration {
	if c == nil {
		return 0
	}
	if ranLong(c) {
		return FirstBackoff
	}
	return min(max(2*c.Backoff, FirstBackoff), LastBackoff)
}

func ranLong(c *Container) bool {
	return !c.StartedAt.IsZero() && c.FinishedAt.Sub(c.StartedAt) > settled
}

// Format names a pod in messages as upstream does: name_namespace(uid).
func Format(pod *v1.Pod) string {
	return fmt.Sprintf("%s_%s(%s)", pod.Name, pod.Namespace, pod.UID)
}
