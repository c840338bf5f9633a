package status

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"skiff.dev/skiff/internal/kubelet/podsync"
)

var update = flag.Bool("update", false, "rewrite the golden files")

var t0 = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// situation builds the input of one golden file.
type situation struct {
	pod      *v1.Pod
	seen     podsync.Seen
	memory   *podsync.Memory
	messages map[string]string
	evicted  *podsync.Eviction
}

func base(containers ...string) *situation {
	p := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web", UID: "u1", Generation: 2}}
	p.Spec.RestartPolicy = v1.RestartPolicyAlways
	for _, c := range containers {
		p.Spec.Containers = append(p.Spec.Containers, v1.Container{Name: c, Image: "img"})
	}
	p.Status.Conditions = []v1.PodCondition{{Type: v1.PodScheduled, Status: v1.ConditionTrue, LastTransitionTime: metav1.NewTime(t0.Add(-time.Minute))}}
	s := &situation{pod: p, memory: podsync.NewMemory(), messages: map[string]string{}}
	s.memory.Mounted = true
	return s
}

func (s *situation) up() *situation {
	s.seen.Sandboxes = []podsync.Sandbox{{ID: "s1", Ready: true, CreatedAt: t0, IPs: []string{"10.0.0.1", "fd00::1"}}}
	return s
}

func (s *situation) has(c podsync.Container) *situation {
	c.SandboxID, c.CreatedAt, c.StartedAt = "s1", t0, t0
	if c.ImageRef == "" {
		c.Image, c.ImageRef = "docker.io/library/img:latest", "docker.io/library/img@sha256:1"
	}
	s.seen.Containers = append(s.seen.Containers, c)
	return s
}

func (s *situation) probes(id string, p podsync.Probe) *situation {
	s.memory.Probes[id] = p
	return s
}

func exited(id, name string, attempt int, code int32, reason string) podsync.Container {
	return podsync.Container{ID: id, Name: name, State: podsync.Exited, Attempt: attempt, ExitCode: code, Reason: reason, FinishedAt: t0.Add(9 * time.Second)}
}

func situations() map[string]*situation {
	failed := func(container string, f podsync.Failure) *situation {
		s := base(container).up()
		f.At = t0
		s.memory.Failed[podsync.ContainerKey(container)] = f
		return s
	}
	out := map[string]*situation{
		"new":       base("a"),
		"creating":  base("a").up(),
		"running":   base("a").up().has(podsync.Container{ID: "c1", Name: "a", State: podsync.Running}).probes("c1", podsync.Probe{Started: true, Ready: true}),
		"not-ready": base("a", "b").up().has(podsync.Container{ID: "c1", Name: "a", State: podsync.Running}).has(podsync.Container{ID: "c2", Name: "b", State: podsync.Running}).probes("c1", podsync.Probe{Started: true, Ready: true}).probes("c2", podsync.Probe{Started: true}),
		"crash-loop": base("a").up().has(func() podsync.Container {
			c := exited("c2", "a", 1, 1, "Error")
			c.Backoff = 10 * time.Second
			return c
		}()).has(exited("c1", "a", 0, 137, "OOMKilled")),
		"config-error":     failed("a", podsync.Failure{Reason: "CreateContainerConfigError", Message: `configmap "c" not found`}),
		"image-pull":       failed("a", podsync.Failure{Reason: "ErrImagePull", Message: "not found", Pull: true, Count: 1}),
		"image-back-off":   failed("a", podsync.Failure{Reason: "ErrImagePull", Message: "not found", Pull: true, Count: 1}),
		"succeeded":        base("a").has(exited("c1", "a", 0, 0, "Completed")),
		"evicted":          base("a").has(exited("c1", "a", 0, 137, "Error")),
		"readiness-gate":   base("a").up().has(podsync.Container{ID: "c1", Name: "a", State: podsync.Running}).probes("c1", podsync.Probe{Started: true, Ready: true}),
		"init-and-sidecar": base("a").up().has(exited("c1", "init", 0, 0, "Completed")).has(podsync.Container{ID: "c2", Name: "proxy", State: podsync.Running}).probes("c2", podsync.Probe{Started: true, Ready: true}),
	}
	out["post-start"] = base("a", "b").up().has(podsync.Container{ID: "c1", Name: "a", State: podsync.Running}).has(podsync.Container{ID: "c2", Name: "b", State: podsync.Running}).probes("c1", podsync.Probe{Started: true, Ready: true})
	out["post-start"].memory.Begin(podsync.StartContainer{Container: "b"})
	out["restart-after-back-off"] = base("a").up().has(podsync.Container{ID: "c2", Name: "a", State: podsync.Running, Attempt: 1}).has(exited("c1", "a", 0, 1, "Error"))
	out["restart-after-back-off"].memory.Begin(podsync.StartContainer{Container: "a", Attempt: 1})
	out["restart-after-back-off"].pod.Status.ContainerStatuses = []v1.ContainerStatus{{Name: "a", Image: "img", ContainerID: "containerd://c1",
		State: v1.ContainerState{Waiting: &v1.ContainerStateWaiting{Reason: "CrashLoopBackOff"}}}}
	out["image-back-off"].memory.Reported["a"] = podsync.ReportBackoff{Container: "a", Pull: true, Attempt: 1}
	out["succeeded"].pod.Spec.RestartPolicy = v1.RestartPolicyNever
	out["succeeded"].messages["c1"] = "all done"
	out["evicted"].evicted = &podsync.Eviction{Reason: "Evicted", Message: "The node was low on resource: memory.", Disrupts: true}
	out["readiness-gate"].pod.Spec.ReadinessGates = []v1.PodReadinessGate{{ConditionType: "example.com/lb"}}
	always := v1.ContainerRestartPolicyAlways
	out["init-and-sidecar"].pod.Spec.InitContainers = []v1.Container{{Name: "init", Image: "img"}, {Name: "proxy", Image: "img", RestartPolicy: &always}}
	return out
}

func (s *situation) make(now time.Time) v1.PodStatus {
	plan := podsync.Compute(podsync.Input{Pod: s.pod, Seen: s.seen, Memory: s.memory, Evicted: s.evicted}, now)
	return Make(Input{Pod: s.pod, Seen: s.seen, Plan: plan, Memory: s.memory, Evicted: s.evicted, Messages: s.messages,
		HostIPs: []string{"192.0.2.1"}, Runtime: "containerd", Now: now})
}

func TestMake(t *testing.T) {
	for name, s := range situations() {
		t.Run(name, func(t *testing.T) {
			st := s.make(t0.Add(10 * time.Second))
			got, err := yaml.Marshal(st)
			if err != nil {
				t.Fatal(err)
			}
			file := filepath.Join("testdata", name+".yaml")
			if *update {
				if err := os.WriteFile(file, got, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), string(got)); diff != "" {
				t.Errorf("status (-want +got):\n%s", diff)
			}
		})
	}
}

// A status made again from itself is the same, or the kubelet would never rest.
func TestMakeRests(t *testing.T) {
	for name, s := range situations() {
		first := s.make(t0.Add(10 * time.Second))
		s.pod.Status = first
		if diff := cmp.Diff(first, s.make(t0.Add(10*time.Second))); diff != "" {
			t.Errorf("%s (-first +second):\n%s", name, diff)
		}
	}
}

func TestPatch(t *testing.T) {
	p := &v1.Pod{ObjectMeta: metav1.ObjectMeta{UID: "u1"}, Status: v1.PodStatus{Phase: v1.PodPending, Conditions: []v1.PodCondition{{Type: "other", Status: v1.ConditionTrue}}}}
	next := *p.Status.DeepCopy()
	next.Phase = v1.PodRunning
	got, err := Patch(p, next)
	if err != nil {
		t.Fatal(err)
	}
	want := `{"metadata":{"uid":"u1"},"status":{"phase":"Running"}}`
	var a, b any
	if err := json.Unmarshal(got, &a); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(want), &b); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(b, a); diff != "" {
		t.Errorf("patch %s (-want +got):\n%s", got, diff)
	}
}

func TestLogEnd(t *testing.T) {
	log := "2026-01-01T00:00:00Z stdout F one\n2026-01-01T00:00:00Z stderr P tw\n2026-01-01T00:00:00Z stderr F o\n"
	if got := logEnd(log); got != "one\ntwo\n" {
		t.Errorf("got %q", got)
	}
}
