package scheduler

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/strategicpatch"

	"skiff.dev/skiff/internal/client"
	"skiff.dev/skiff/internal/meta"
	"skiff.dev/skiff/internal/pod"
	"skiff.dev/skiff/internal/watchcache"
)

// api is as much of an API server as a scheduler talks to.
type api struct {
	client.Transport
	nodes, pods *watchcache.Table

	mu  sync.Mutex
	rev int64
	// failBind, if not nil, says why a binding fails.
	failBind func(pod string) error
	patches  int
	hold     chan struct{} // patches wait for it
	events   []string
}

func newAPI() *api {
	a := &api{nodes: watchcache.NewTable("nodes"), pods: watchcache.NewTable("pods"), rev: 1}
	a.nodes.Replace(nil, 1)
	a.pods.Replace(nil, 1)
	return a
}

func (a *api) Table(_ context.Context, gvr schema.GroupVersionResource, _ watchcache.Scope) (*watchcache.Table, error) {
	if gvr.Resource == "nodes" {
		return a.nodes, nil
	}
	return a.pods, nil
}

func (a *api) put(obj meta.Object) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.putLocked(obj)
}

func (a *api) putLocked(obj meta.Object) {
	a.rev++
	obj.SetResourceVersion(strconv.FormatInt(a.rev, 10))
	a.table(obj).Apply([]watchcache.Change{{Key: meta.KeyOf(obj), Object: obj, Rev: a.rev}}, a.rev)
}

func (a *api) delete(obj meta.Object) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.rev++
	a.table(obj).Apply([]watchcache.Change{{Key: meta.KeyOf(obj), Rev: a.rev}}, a.rev)
}

func (a *api) table(obj meta.Object) *watchcache.Table {
	if _, ok := obj.(*corev1.Node); ok {
		return a.nodes
	}
	return a.pods
}

func (a *api) pod(name string) *corev1.Pod {
	item, ok := a.pods.Get(meta.Key{Namespace: "default", Name: name})
	if !ok {
		return nil
	}
	return item.Object.(*corev1.Pod)
}

// Create binds a pod.
func (a *api) Create(_ context.Context, ref client.Ref, obj runtime.Object, _ metav1.CreateOptions) (runtime.Object, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	binding := obj.(*corev1.Binding)
	if a.failBind != nil {
		if err := a.failBind(ref.Name); err != nil {
			return nil, err
		}
	}
	p := a.pod(ref.Name)
	if p == nil {
		return nil, apierrors.NewNotFound(ref.GroupResource(), ref.Name)
	}
	if p.Spec.NodeName != "" || p.UID != binding.UID {
		return nil, apierrors.NewConflict(ref.GroupResource(), ref.Name, fmt.Errorf("pod is already assigned to node %q", p.Spec.NodeName))
	}
	p = p.DeepCopy()
	p.Spec.NodeName = binding.Target.Name
	a.putLocked(p)
	return &metav1.Status{Status: metav1.StatusSuccess}, nil
}

func (a *api) Patch(_ context.Context, ref client.Ref, pt types.PatchType, data []byte, _ metav1.PatchOptions) (meta.Object, error) {
	if a.hold != nil {
		<-a.hold
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	p := a.pod(ref.Name)
	if p == nil {
		return nil, apierrors.NewNotFound(ref.GroupResource(), ref.Name)
	}
	if pt != types.StrategicMergePatchType || ref.Subresource != "status" {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("%s patch of %q", pt, ref.Subresource))
	}
	was, err := json.Marshal(p)
	if err != nil {
		return nil, err
	}
	is, err := strategicpatch.StrategicMergePatch(was, data, p)
	if err != nil {
		return nil, err
	}
	p = &corev1.Pod{}
	if err := json.Unmarshal(is, p); err != nil {
		return nil, err
	}
	a.patches++
	a.putLocked(p)
	return p, nil
}

func (a *api) Normal(obj meta.Object, reason, note string, args ...any) {
	a.report("Normal", obj, reason, note, args)
}

func (a *api) Warning(obj meta.Object, reason, note string, args ...any) {
	a.report("Warning", obj, reason, note, args)
}

func (a *api) report(kind string, obj meta.Object, reason, note string, args []any) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.events = append(a.events, fmt.Sprintf("%s %s %s: %s", obj.GetName(), kind, reason, fmt.Sprintf(note, args...)))
}

func (a *api) reported() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	events := a.events
	a.events = nil
	slices.Sort(events)
	return events
}

// run runs a scheduler against a in virtual time while f does.
func run(t *testing.T, f func(a *api)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		a := newAPI()
		s, err := New(client.New(a), Config{Events: a, Registry: prometheus.NewRegistry(), Random: rand.NewPCG(1, 2)})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- s.Run(ctx) }()
		synctest.Wait()
		f(a)
		cancel()
		if err := <-ended; err != context.Canceled {
			t.Errorf("Run returned %v, want %v", err, context.Canceled)
		}
	})
}

// after lets the time pass and everything settle.
func after(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func expectEvents(t *testing.T, a *api, want ...string) {
	t.Helper()
	if diff := cmp.Diff(want, a.reported()); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
}

func TestSchedulesWhatComes(t *testing.T) {
	run(t, func(a *api) {
		a.put(makeNode("n1"))
		synctest.Wait()
		a.put(makePod("web", "1", "1Gi"))
		a.put(makePod("other", "1", "1Gi", func(p *corev1.Pod) { p.Spec.SchedulerName = "another" }))
		synctest.Wait()
		if got := a.pod("web").Spec.NodeName; got != "n1" {
			t.Errorf("web is on %q, want n1", got)
		}
		if got := a.pod("other").Spec.NodeName; got != "" {
			t.Errorf("the pod of another scheduler was bound to %s", got)
		}
		expectEvents(t, a, "web Normal Scheduled: Successfully assigned default/web to n1")
	})
}

func TestWaitsForRoom(t *testing.T) {
	const full = "0/1 nodes are available: 1 Insufficient cpu."
	run(t, func(a *api) {
		a.put(makeNode("n1"))
		synctest.Wait()
		first := makePod("first", "3", "1Gi")
		a.put(first)
		synctest.Wait()
		a.put(makePod("second", "3", "1Gi"))
		synctest.Wait()
		expectEvents(t, a, "first Normal Scheduled: Successfully assigned default/first to n1", "second Warning FailedScheduling: "+full)
		got := *pod.Condition(&a.pod("second").Status, corev1.PodScheduled)
		want := corev1.PodCondition{
			Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: "Unschedulable", Message: full,
			LastTransitionTime: got.LastTransitionTime,
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("condition (-want +got):\n%s", diff)
		}

		after(time.Minute)
		expectEvents(t, a)
		if a.patches != 1 {
			t.Errorf("%d conditions written, want 1", a.patches)
		}

		a.delete(first)
		synctest.Wait()
		if got := a.pod("second").Spec.NodeName; got != "n1" {
			t.Errorf("second is on %q after first has gone, want n1", got)
		}
	})
}

// A pod that came before the first node is tried as soon as there is one, and
// again as soon as it is ready: there is nothing to gain from making it wait.
func TestFirstNode(t *testing.T) {
	run(t, func(a *api) {
		a.put(makePod("web", "1", "1Gi"))
		synctest.Wait()
		expectEvents(t, a, "web Warning FailedScheduling: no nodes available to schedule pods")
		node := makeNode("n1", func(n *corev1.Node) {
			n.Spec.Taints = []corev1.Taint{{Key: corev1.TaintNodeNotReady, Effect: corev1.TaintEffectNoSchedule}}
		})
		a.put(node)
		after(100 * time.Millisecond)
		expectEvents(t, a, "web Warning FailedScheduling: 0/1 nodes are available: 1 node(s) had untolerated taint(s).")
		ready := node.DeepCopy()
		ready.Spec.Taints = nil
		a.put(ready)
		after(100 * time.Millisecond)
		expectEvents(t, a, "web Normal Scheduled: Successfully assigned default/web to n1")
	})
}

func TestTriesAgainAfterFiveMinutes(t *testing.T) {
	run(t, func(a *api) {
		a.put(makeNode("n1"))
		synctest.Wait()
		a.put(makePod("large", "5", "1Gi"))
		after(4*time.Minute + 59*time.Second)
		if got := len(a.reported()); got != 1 {
			t.Errorf("%d attempts in under five minutes, want 1", got)
		}
		after(2 * time.Second)
		if got := len(a.reported()); got != 1 {
			t.Errorf("%d attempts when five minutes had passed, want 1", got)
		}
		if a.patches != 1 {
			t.Errorf("%d conditions written although the message is the same, want 1", a.patches)
		}
	})
}

func TestBindingFails(t *testing.T) {
	run(t, func(a *api) {
		a.failBind = func(string) error { return apierrors.NewInternalError(fmt.Errorf("disk full")) }
		a.put(makeNode("n1"))
		synctest.Wait()
		a.put(makePod("web", "3", "1Gi"))
		synctest.Wait()
		const failed = "web Warning FailedScheduling: binding pod default/web to node n1: Internal error occurred: disk full"
		expectEvents(t, a, failed)
		if c := pod.Condition(&a.pod("web").Status, corev1.PodScheduled); c == nil || c.Reason != "SchedulerError" {
			t.Errorf("condition %v, want reason SchedulerError", c)
		}
		after(time.Second) // the first penalty
		expectEvents(t, a, failed)
		after(time.Second)
		expectEvents(t, a)
		a.mu.Lock()
		a.failBind = nil
		a.mu.Unlock()
		after(time.Second) // the second has been twice as long
		if got := a.pod("web").Spec.NodeName; got != "n1" {
			t.Errorf("web is on %q, want n1", got)
		}
	})
}

// A pod that is deleted while it is being bound gives back its place at once.
func TestDeletedWhileBinding(t *testing.T) {
	run(t, func(a *api) {
		web := makePod("web", "3", "1Gi")
		a.failBind = func(name string) error {
			if name != "web" {
				return nil
			}
			a.rev++
			a.pods.Apply([]watchcache.Change{{Key: meta.KeyOf(web), Rev: a.rev}}, a.rev)
			return nil
		}
		a.put(makeNode("n1"))
		synctest.Wait()
		a.put(web)
		synctest.Wait()
		a.put(makePod("next", "3", "1Gi"))
		synctest.Wait()
		expectEvents(t, a, "next Normal Scheduled: Successfully assigned default/next to n1")
	})
}

// A condition that is slow to be written must not overtake the binding, or the
// pod would run and still be called unschedulable.
func TestConditionComesBeforeBinding(t *testing.T) {
	run(t, func(a *api) {
		a.hold = make(chan struct{})
		a.put(makePod("web", "1", "1Gi"))
		synctest.Wait()
		a.put(makeNode("n1"))
		after(time.Minute)
		if got := a.pod("web").Spec.NodeName; got != "" {
			t.Errorf("bound to %s while the condition is being written", got)
		}
		close(a.hold)
		synctest.Wait()
		if got := a.pod("web").Spec.NodeName; got != "n1" || a.patches != 1 {
			t.Errorf("on %q after %d conditions, want n1 after 1", got, a.patches)
		}
	})
}

// A scheduler that runs again after losing the lead starts from what is there.
func TestRunsAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAPI()
		s, err := New(client.New(a), Config{Events: a})
		if err != nil {
			t.Fatal(err)
		}
		for i := range 2 {
			name := fmt.Sprintf("p%d", i)
			a.put(makeNode("n1"))
			ctx, cancel := context.WithCancel(t.Context())
			ended := make(chan error)
			go func() { ended <- s.Run(ctx) }()
			synctest.Wait()
			a.put(makePod(name, "3", "1Gi"))
			synctest.Wait()
			cancel()
			<-ended
			if got := a.pod(name).Spec.NodeName; got != "n1" {
				t.Errorf("%s is on %q, want n1", name, got)
			}
			a.delete(a.pod(name)) // and nobody is there to see it
		}
	})
}

func TestGates(t *testing.T) {
	run(t, func(a *api) {
		a.put(makeNode("n1"))
		synctest.Wait()
		gated := makePod("gated", "1", "1Gi", func(p *corev1.Pod) { p.Spec.SchedulingGates = []corev1.PodSchedulingGate{{Name: "quota"}} })
		a.put(gated)
		after(10 * time.Minute)
		expectEvents(t, a)
		open := gated.DeepCopy()
		open.Spec.SchedulingGates = nil
		a.put(open)
		synctest.Wait()
		expectEvents(t, a, "gated Normal Scheduled: Successfully assigned default/gated to n1")
	})
}

// Every node gets as many pods as it has room for, and no more (I21).
func TestManyPodsFillNodesExactly(t *testing.T) {
	run(t, func(a *api) {
		for i := range 10 {
			a.put(makeNode(fmt.Sprintf("n%d", i)))
		}
		synctest.Wait()
		for i := range 45 {
			a.put(makePod(fmt.Sprintf("p%d", i), "1", "100Mi"))
		}
		after(time.Minute)
		on := map[string]int{}
		for i := range 45 {
			on[a.pod(fmt.Sprintf("p%d", i)).Spec.NodeName]++
		}
		for i := range 10 {
			if got := on[fmt.Sprintf("n%d", i)]; got != 4 {
				t.Errorf("%d pods of 1 CPU on n%d, want 4", got, i)
			}
		}
		if on[""] != 5 {
			t.Errorf("%d pods wait, want 5", on[""])
		}
	})
}
