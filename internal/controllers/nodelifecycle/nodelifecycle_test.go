package nodelifecycle

import (
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff.dev/skiff/internal/node"
	"skiff.dev/skiff/internal/pod"
	"skiff.dev/skiff/internal/testing/controltest"
)

// fleet is some nodes that renew their leases while they live.
type fleet struct {
	*controltest.World
	alive map[string]bool
}

func newFleet(t *testing.T, n int) *fleet {
	f := &fleet{World: controltest.New(t), alive: map[string]bool{}}
	for i := range n {
		name := fmt.Sprintf("n%d", i)
		created := controltest.Create(f.World, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}})
		controltest.Update(f.World, created, ready)
		controltest.Create(f.World, &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: corev1.NamespaceNodeLease}})
		f.alive[name] = true
	}
	return f
}

func ready(n *corev1.Node) {
	now := metav1.Now()
	node.SetCondition(&n.Status, corev1.NodeCondition{Type: corev1.NodeReady, Status: corev1.ConditionTrue, LastHeartbeatTime: now, LastTransitionTime: now})
}

// pass lets time go by while the nodes that live renew their leases.
func (f *fleet) pass(d time.Duration) {
	for end := time.Now().Add(d); time.Now().Before(end); {
		for name, alive := range f.alive {
			if alive {
				lease := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: corev1.NamespaceNodeLease}}
				controltest.Update(f.World, lease, func(l *coordinationv1.Lease) {
					now := metav1.NowMicro()
					l.Spec.RenewTime = &now
				})
			}
		}
		time.Sleep(min(10*time.Second, time.Until(end)))
	}
	f.Settle()
}

func (f *fleet) kill(names ...string) {
	for _, n := range names {
		f.alive[n] = false
	}
}

// evicted returns the nodes from which pods are driven.
func (f *fleet) evicted() (names []string) {
	for _, n := range controltest.List[*corev1.Node](f.World, "") {
		if tainted(n) {
			names = append(names, n.Name)
		}
	}
	return names
}

func (f *fleet) taintsOf(name string) (all []string) {
	for _, t := range controltest.Get[*corev1.Node](f.World, "", name).Spec.Taints {
		all = append(all, t.Key+":"+string(t.Effect))
	}
	slices.Sort(all)
	return all
}

func TestSilentNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 3)
		defer f.Close()
		f.Run(New(f.Client, f.Events, Default()))
		p := controltest.Create(f.World, &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "default"},
			Spec:       corev1.PodSpec{NodeName: "n1", Containers: []corev1.Container{{Name: "c", Image: "i"}}},
		})
		controltest.Update(f.World, p, controltest.Run)
		f.pass(time.Hour)
		if got := f.taintsOf("n1"); len(got) > 0 {
			t.Fatalf("a node that reports has taints %v", got)
		}
		f.kill("n1")
		f.pass(30 * time.Second)
		if !node.IsReady(controltest.Get[*corev1.Node](f.World, "", "n1")) {
			t.Fatal("given up within the grace period")
		}
		f.pass(30 * time.Second)
		c := node.Condition(&controltest.Get[*corev1.Node](f.World, "", "n1").Status, corev1.NodeReady)
		if c.Status != corev1.ConditionUnknown || c.Reason != "NodeStatusUnknown" || c.Message != "Kubelet stopped posting node status." {
			t.Errorf("condition %+v", c)
		}
		if diff := cmp.Diff([]string{"node.kubernetes.io/unreachable:NoExecute", "node.kubernetes.io/unreachable:NoSchedule"}, f.taintsOf("n1")); diff != "" {
			t.Error(diff)
		}
		if pod.IsReady(controltest.Get[*corev1.Pod](f.World, "default", "p")) {
			t.Error("the pod on the lost node is ready")
		}
		if got := f.Events.With("NodeNotReady"); !slices.Equal(got, []string{
			"Normal NodeNotReady n1: Node n1 status is now: NodeNotReady", "Warning NodeNotReady p: Node is not ready",
		}) {
			t.Errorf("events %q", got)
		}
		f.alive["n1"] = true
		controltest.Update(f.World, controltest.Get[*corev1.Node](f.World, "", "n1"), ready)
		f.pass(time.Minute)
		if got := f.taintsOf("n1"); len(got) > 0 {
			t.Errorf("the node that came back has taints %v", got)
		}
	})
}

func TestIdleNodesCauseNoWrites(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 3)
		defer f.Close()
		f.Run(New(f.Client, f.Events, Default()))
		f.pass(time.Minute)
		before := versions(f)
		f.pass(time.Hour)
		if diff := cmp.Diff(before, versions(f)); diff != "" {
			t.Error(diff)
		}
	})
}

func versions(f *fleet) map[string]string {
	v := map[string]string{}
	for _, n := range controltest.List[*corev1.Node](f.World, "") {
		v[n.Name] = n.ResourceVersion
	}
	return v
}

// When everything is lost at once it is more likely that this controller is.
func TestNothingIsEvictedWhenAllIsDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 4)
		defer f.Close()
		f.Run(New(f.Client, f.Events, Default()))
		f.pass(time.Minute)
		f.kill("n0", "n1", "n2", "n3")
		f.pass(time.Hour)
		if got := f.evicted(); len(got) > 0 {
			t.Errorf("evicted %v", got)
		}
		if got := f.taintsOf("n0"); !slices.Equal(got, []string{"node.kubernetes.io/unreachable:NoSchedule"}) {
			t.Errorf("taints %v", got)
		}
		f.alive["n0"] = true
		controltest.Update(f.World, controltest.Get[*corev1.Node](f.World, "", "n0"), ready)
		f.pass(time.Hour)
		if got := f.evicted(); len(got) > 0 { // three of four in a small zone
			t.Errorf("evicted %v after one came back", got)
		}
		f.alive["n1"] = true
		controltest.Update(f.World, controltest.Get[*corev1.Node](f.World, "", "n1"), ready)
		f.pass(time.Minute)
		if diff := cmp.Diff([]string{"n2", "n3"}, f.evicted()); diff != "" {
			t.Error(diff)
		}
	})
}

// A new controller gives every node its grace before it judges.
func TestRestartGivesGraceAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 2)
		defer f.Close()
		ctl := New(f.Client, f.Events, Default())
		stop := f.Run(ctl)
		f.pass(time.Minute)
		stop()
		time.Sleep(time.Hour) // nobody could renew a lease, as the API was down
		f.Run(ctl)
		f.Settle()
		f.pass(time.Minute)
		if got := f.taintsOf("n0"); len(got) > 0 {
			t.Errorf("taints %v", got)
		}
	})
}

func TestZones(t *testing.T) {
	tests := []struct {
		name           string
		ready, lost    int // in zone a
		elsewhere      int // ready ones in zone b
		evicted        map[time.Duration]int
		wakesOnReturns bool
	}{
		{"few: one in ten seconds", 6, 4, 0, map[time.Duration]int{4 * time.Second: 0, 5 * time.Second: 1, 15 * time.Second: 2, 35 * time.Second: 4}, false},
		{"most of a small zone: none", 4, 6, 5, map[time.Duration]int{time.Hour: 0}, true},
		{"most of a large zone: slowly", 20, 40, 0, map[time.Duration]int{104 * time.Second: 1, 105 * time.Second: 2, 305 * time.Second: 4}, false},
		{"a zone as a whole: as usual", 0, 10, 5, map[time.Duration]int{5 * time.Second: 1, 15 * time.Second: 2}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			z, start := newZones(Default()), time.Unix(0, 0)
			for i := range tt.ready {
				z.observe(fmt.Sprint("ready", i), "a", true, start)
			}
			for i := range tt.elsewhere {
				z.observe(fmt.Sprint("b", i), "b", true, start)
			}
			for i := range tt.lost {
				z.observe(fmt.Sprint("lost", i), "a", false, start)
			}
			evicted := map[string]bool{}
			for s := range 3601 {
				now := start.Add(time.Duration(s) * time.Second)
				for i := range tt.lost {
					if name := fmt.Sprint("lost", i); !evicted[name] {
						evicted[name], _ = z.admit(name, now)
					}
				}
				n := 0
				for _, done := range evicted {
					if done {
						n++
					}
				}
				if want, ok := tt.evicted[now.Sub(start)]; ok && n != want {
					t.Errorf("after %s: %d evicted, want %d", now.Sub(start), n, want)
				}
			}
			woken := z.observe("lost0", "a", true, start.Add(time.Hour))
			woken = append(woken, z.observe("lost1", "a", true, start.Add(time.Hour))...)
			if got := len(woken) > 0; got != tt.wakesOnReturns {
				t.Errorf("woken when nodes return: %v", woken)
			}
		})
	}
}
