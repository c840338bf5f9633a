package podsync

import (
	"fmt"
	"reflect"
	"slices"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"
)

// world is a runtime in a few lines: it does what actions say, when the test
// lets them end, and has containers exit and sandboxes die in between.
type world struct {
	pod    *v1.Pod
	seen   Seen
	memory *Memory
	now    time.Time
	gone   bool
	next   int
	ended  bool // the plan has been to end the pod
}

func (w *world) plan() Plan {
	return Compute(Input{Pod: w.pod, Gone: w.gone, Seen: w.seen, Memory: w.memory}, w.now)
}

func (w *world) find(id string) *Container {
	i := slices.IndexFunc(w.seen.Containers, func(c Container) bool { return c.ID == id })
	if i < 0 {
		return nil
	}
	return &w.seen.Containers[i]
}

// apply does what an action says.
func (w *world) apply(a Action) {
	w.next++
	switch a := a.(type) {
	case CreateSandbox:
		w.seen.Sandboxes = append(w.seen.Sandboxes, Sandbox{ID: fmt.Sprintf("s%d", w.next), Ready: true, Attempt: a.Attempt, CreatedAt: w.now, IPs: []string{"10.0.0.1"}})
	case StopSandbox:
		for i := range w.seen.Sandboxes {
			if w.seen.Sandboxes[i].ID == a.ID {
				w.seen.Sandboxes[i].Ready = false
			}
		}
	case RemoveSandbox:
		w.seen.Sandboxes = slices.DeleteFunc(w.seen.Sandboxes, func(s Sandbox) bool { return s.ID == a.ID })
	case StartContainer:
		spec, _, _ := Find(w.pod, a.Container)
		c := Container{ID: fmt.Sprintf("c%d", w.next), Name: a.Container, SandboxID: a.SandboxID, State: Running, Attempt: a.Attempt,
			CreatedAt: w.now, StartedAt: w.now, Hash: Hash(spec), Backoff: a.Backoff}
		w.seen.Containers = append(w.seen.Containers, c)
		w.memory.Probes[c.ID] = Probe{Started: true, Ready: true}
	case StopContainer:
		w.exit(a.ID, 137)
	case RemoveContainer:
		w.seen.Containers = slices.DeleteFunc(w.seen.Containers, func(c Container) bool { return c.ID == a.ID })
	}
}

func (w *world) exit(id string, code int32) {
	if c := w.find(id); c != nil && c.State == Running {
		c.State, c.ExitCode, c.FinishedAt = Exited, code, w.now
	}
}

// permit fails the test if an action must not happen in this state.
func (w *world) permit(t *rapid.T, a Action) {
	switch a := a.(type) {
	case StartContainer:
		if w.ended {
			t.Fatalf("%+v although the pod is ending", a)
		}
		for _, c := range w.seen.Containers {
			if c.Name == a.Container && alive(&c) {
				t.Fatalf("%+v while %s runs", a, c.ID)
			}
			if c.Name == a.Container && c.Attempt >= a.Attempt {
				t.Fatalf("%+v after attempt %d", a, c.Attempt)
			}
		}
		if _, kind, _ := Find(w.pod, a.Container); kind == Main {
			w.permitMain(t, a)
		}
	case StopSandbox:
		for _, c := range w.seen.Containers {
			if c.SandboxID == a.ID && alive(&c) {
				t.Fatalf("%+v while %s runs in it", a, c.ID)
			}
		}
	case RemoveContainer:
		if c := w.find(a.ID); c != nil && alive(c) {
			t.Fatalf("%+v while it runs", a)
		}
	case ReleasePod:
		for _, c := range w.seen.Containers {
			if alive(&c) {
				t.Fatalf("volumes are taken away while %s runs", c.ID)
			}
		}
	}
}

// permitMain: every init container has succeeded in this sandbox.
func (w *world) permitMain(t *rapid.T, a StartContainer) {
	for i := range w.pod.Spec.InitContainers {
		spec := &w.pod.Spec.InitContainers[i]
		ok := slices.ContainsFunc(w.seen.Containers, func(c Container) bool {
			return c.Name == spec.Name && c.SandboxID == a.SandboxID && (c.State == Exited && c.ExitCode == 0 || KindOfInit(spec) == Sidecar)
		})
		if !ok {
			t.Fatalf("%+v before init container %s is done", a, spec.Name)
		}
	}
}

func drawPod(t *rapid.T) *v1.Pod {
	p := pod("a", "b")
	always := v1.ContainerRestartPolicyAlways
	for i := range rapid.IntRange(0, 3).Draw(t, "init containers") {
		c := v1.Container{Name: fmt.Sprintf("i%d", i), Image: "img"}
		if rapid.Bool().Draw(t, "sidecar") {
			c.RestartPolicy = &always
		}
		p.pod.Spec.InitContainers = append(p.pod.Spec.InitContainers, c)
	}
	p.policy(rapid.SampledFrom([]v1.RestartPolicy{v1.RestartPolicyAlways, v1.RestartPolicyOnFailure, v1.RestartPolicyNever}).Draw(t, "policy"))
	if rapid.Bool().Draw(t, "hook") {
		p.preStop("a")
	}
	return p.pod
}

// TestComputeProperties walks at random through the life of random pods.
func TestComputeProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := &world{pod: drawPod(t), memory: NewMemory(), now: t0}
		for range rapid.IntRange(5, 60).Draw(t, "steps") {
			w.step(t)
		}
		w.gone = true
		for range 200 {
			p := w.plan()
			if p.Stage == Forgotten {
				return
			}
			w.ended = true
			w.carryOut(t, p, func() bool { return true })
			w.now = w.now.Add(10 * time.Second)
		}
		t.Fatalf("not forgotten: %+v, memory %+v", w.seen, w.memory)
	})
}

// step lets the plan be carried out in part, or something happen.
func (w *world) step(t *rapid.T) {
	p := w.plan()
	if again := w.plan(); !reflect.DeepEqual(p, again) {
		t.Fatalf("two plans of one state: %+v, %+v", p, again)
	}
	if Terminal(w.pod.Status.Phase) && p.Phase != w.pod.Status.Phase {
		t.Fatalf("phase went from %s to %s", w.pod.Status.Phase, p.Phase)
	}
	w.pod.Status.Phase = p.Phase
	w.ended = w.ended || p.Stage != Active
	w.carryOut(t, p, func() bool { return rapid.Bool().Draw(t, "ends well") })
	switch rapid.IntRange(0, 5).Draw(t, "event") {
	case 0:
		if n := len(w.seen.Containers); n > 0 {
			w.exit(w.seen.Containers[rapid.IntRange(0, n-1).Draw(t, "which")].ID, int32(rapid.IntRange(0, 1).Draw(t, "code")))
		}
	case 1:
		for i := range w.seen.Sandboxes {
			w.seen.Sandboxes[i].Ready = false
		}
	case 2:
		if rapid.IntRange(0, 9).Draw(t, "delete") == 0 && w.pod.DeletionTimestamp == nil {
			grace, stamp := int64(30), metav1.NewTime(w.now.Add(30*time.Second))
			w.pod = w.pod.DeepCopy()
			w.pod.DeletionTimestamp, w.pod.DeletionGracePeriodSeconds = &stamp, &grace
		}
	}
	w.now = w.now.Add(time.Duration(rapid.IntRange(0, 30).Draw(t, "seconds")) * time.Second)
}

// carryOut begins the plan's actions and ends each, well or not.
func (w *world) carryOut(t *rapid.T, p Plan, well func() bool) {
	for _, a := range p.Actions {
		w.permit(t, a)
	}
	for _, a := range p.Actions {
		w.memory.Begin(a)
		result := Result{Image: "ref"}
		if _, hook := a.(RunPreStop); !hook && !well() {
			result = Result{Err: fmt.Errorf("injected")}
		} else {
			w.apply(a)
		}
		w.memory.Done(a, result, w.now)
	}
}
