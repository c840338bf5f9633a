package kubelet

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"skiff.dev/skiff/internal/client"
	"skiff.dev/skiff/internal/kubelet/podsync"
	"skiff.dev/skiff/internal/testing/fakecri"
)

var chaosSeeds = flag.Int("chaos.seeds", 20, "how many runs of TestChaos, each of another seed")

// TestChaos runs random pods through random faults in virtual time: crashes,
// lost sandboxes and events, a failing runtime, an API that is away, kubelet
// restarts, deletions. Throughout, the runtime is never misused (two instances
// of a container, a stop of a sandbox in use) and terminal phases stay. When
// the faults end and all pods are deleted, nothing is left.
//
//	go test ./internal/kubelet -run TestChaos -chaos.seeds 500
func TestChaos(t *testing.T) {
	for seed := range *chaosSeeds {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			simulate(t, func(t *testing.T, s *sim) { chaos(t, s, uint64(seed)) })
		})
	}
}

func chaos(t *testing.T, s *sim, seed uint64) {
	// The fake runtime asks from many goroutines; it has dice of its own.
	r, dice := rand.New(rand.NewPCG(seed, 1)), rand.New(rand.NewPCG(seed, 2))
	watch := watchPhases(t, s)
	defer watch()
	var mu sync.Mutex
	faulty := false
	s.cri.Program = func(c *runtimeapi.ContainerConfig) *fakecri.Program {
		mu.Lock()
		defer mu.Unlock()
		p := &fakecri.Program{StopsAfter: time.Duration(dice.IntN(40)) * time.Second}
		if dice.IntN(3) > 0 || c.Metadata.Name[0] == 'i' {
			p.Runs, p.Exit = time.Duration(1+dice.IntN(90))*time.Second, int32(dice.IntN(3))
		}
		return p
	}
	s.cri.Fail = func(string, string) error {
		mu.Lock()
		defer mu.Unlock()
		if faulty && dice.IntN(4) == 0 {
			return errors.New("injected")
		}
		return nil
	}
	var names []string
	for i := range 60 {
		n := r.IntN(12)
		wait := time.Duration(r.IntN(20000)) * time.Millisecond
		mu.Lock()
		faulty = r.IntN(5) == 0
		mu.Unlock()
		switch {
		case n < 4 && len(names) < 12:
			p := randomPod(r, fmt.Sprintf("p%d", i))
			names = append(names, p.Name)
			s.create(p)
		case n < 5 && len(names) > 0:
			k := r.IntN(len(names))
			chaosDelete(s, names[k], r.IntN(3) == 0)
		case n < 7 && len(names) > 0:
			s.cri.Kill(names[r.IntN(len(names))], "a", int32(r.IntN(3)))
		case n < 8 && len(names) > 0:
			s.cri.LoseSandbox(names[r.IntN(len(names))])
		case n < 9:
			s.cri.DropStreams()
		case n < 10:
			s.api.down.Store(!s.api.down.Load())
		case n < 11:
			s.stop()
			time.Sleep(wait)
			s.start()
		}
		s.pass(wait)
	}
	mu.Lock()
	faulty = false
	mu.Unlock()
	s.api.down.Store(false)
	for _, name := range names {
		chaosDelete(s, name, false)
	}
	s.pass(15 * time.Minute)
	for _, name := range names {
		if p := s.get(name); p != nil {
			t.Errorf("pod %s is left: %+v", name, p.Status)
		}
	}
	if !s.cri.Empty() {
		t.Errorf("the runtime is not empty; running %v", s.cri.Running())
	}
}

// chaosDelete deletes a pod if it is there; force removes it at once.
func chaosDelete(s *sim, name string, force bool) {
	opts := metav1.DeleteOptions{}
	if force {
		opts.GracePeriodSeconds = new(int64)
	}
	// An error means that it is deleted already.
	_ = client.For[*v1.Pod](s.client).Delete(context.Background(), "default", name, opts)
	synctest.Wait()
}

func randomPod(r *rand.Rand, name string) *v1.Pod {
	p := simPod(name, "a")
	if r.IntN(2) == 0 {
		p = simPod(name, "a", "b")
	}
	p.Spec.RestartPolicy = []v1.RestartPolicy{v1.RestartPolicyAlways, v1.RestartPolicyOnFailure, v1.RestartPolicyNever}[r.IntN(3)]
	always := v1.ContainerRestartPolicyAlways
	for i := range r.IntN(3) {
		c := v1.Container{Name: fmt.Sprintf("i%d", i), Image: "img"}
		if r.IntN(2) == 0 {
			c.Name, c.RestartPolicy = fmt.Sprintf("s%d", i), &always
		}
		p.Spec.InitContainers = append(p.Spec.InitContainers, c)
	}
	grace := int64(r.IntN(40))
	p.Spec.TerminationGracePeriodSeconds = &grace
	if r.IntN(3) == 0 {
		p.Spec.Containers[0].Lifecycle = sleepHook(int64(r.IntN(30)))
	}
	if r.IntN(6) == 0 {
		limit := int64(30 + r.IntN(200))
		p.Spec.ActiveDeadlineSeconds = &limit
	}
	if r.IntN(5) == 0 {
		p.Spec.Containers[0].RestartPolicyRules = []v1.ContainerRestartRule{{Action: v1.ContainerRestartRuleActionRestartAllContainers,
			ExitCodes: &v1.ContainerRestartRuleOnExitCodes{Operator: v1.ContainerRestartRuleOnExitCodesOpIn, Values: []int32{2}}}}
	}
	return p
}

// watchPhases checks every state of every pod: a terminal phase stays, and no
// restart count goes back.
func watchPhases(t *testing.T, s *sim) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	cache, err := client.For[*v1.Pod](s.client).Cache(ctx)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		// It ends with ctx.
		_ = cache.Follow(ctx, func(ch client.Change[*v1.Pod]) {
			if ch.Old == nil || ch.New == nil {
				return
			}
			if was, is := ch.Old.Status.Phase, ch.New.Status.Phase; podsync.Terminal(was) && was != is {
				t.Errorf("pod %s went from %s to %s", ch.New.Name, was, is)
			}
			for i := range ch.Old.Status.ContainerStatuses {
				was, is := ch.Old.Status.ContainerStatuses[i], ch.New.Status.ContainerStatuses[i]
				if is.RestartCount < was.RestartCount {
					t.Errorf("container %s/%s went from %d restarts to %d", ch.New.Name, is.Name, was.RestartCount, is.RestartCount)
				}
			}
		}, nil)
	}()
	return func() {
		cancel()
		<-done
	}
}
