package cluster

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime/debug"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff.dev/skiff/internal/client"
	"skiff.dev/skiff/internal/meta"
	"skiff.dev/skiff/internal/testing/build"
)

// The exemplar of a simulation: users and faults are drawn from a seed as a plan,
// the plan is carried out twice, with and without its faults, and both clusters
// must come to the same state. What must hold at every moment between is watched
// by the checker of every cluster.

// shape is how large a simulation is.
type shape struct {
	nodes, apps, replicas int
	rollouts              int           // of each application, and as many changes of size
	length                time.Duration // until which users act; faults end before
}

// deed is one thing that happens, at a time since the start.
type deed struct {
	at    time.Duration
	what  string
	do    func(*Cluster)
	fault bool
}

// TestSimulation is 20 minutes of small clusters that also check that nobody
// changes a shared object, on several seeds, and an hour of 100 nodes.
func TestSimulation(t *testing.T) {
	for seed := range seeds(t, 2) {
		t.Run(fmt.Sprint("small/seed=", seed), func(t *testing.T) {
			simulate(t, Config{Seed: seed, Nodes: 20, Verify: true}, shape{nodes: 20, apps: 6, replicas: 8, rollouts: 2, length: 20 * time.Minute})
		})
	}
	t.Run("100 nodes", func(t *testing.T) {
		if testing.Short() {
			t.Skip("not in a short run")
		}
		simulate(t, Config{Seed: 1, Nodes: 100}, shape{nodes: 100, apps: 10, replicas: 20, rollouts: 2, length: time.Hour})
	})
}

// TestThousandNodes is the same for an hour of 1,000 nodes and some 5,000 pods.
// It takes minutes and so runs only when asked for: make simulation.
func TestThousandNodes(t *testing.T) {
	if os.Getenv("SKIFF_SIMULATION") != "large" {
		t.Skip("SKIFF_SIMULATION=large is not set; see make simulation")
	}
	// The heap is a gigabyte of what lives long; looking through it less often is
	// worth a third of the time.
	defer debug.SetGCPercent(debug.SetGCPercent(300))
	for seed := range seeds(t, 1) {
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) {
			simulate(t, Config{Seed: seed, Nodes: 1000}, shape{nodes: 1000, apps: 50, replicas: 100, rollouts: 1, length: time.Hour})
		})
	}
}

// seeds is how many seeds to run: as many as asked for in SKIFF_SEEDS, or n.
func seeds(t *testing.T, n uint64) uint64 {
	t.Helper()
	text := os.Getenv("SKIFF_SEEDS")
	if text == "" {
		return n
	}
	n, err := strconv.ParseUint(text, 10, 32)
	if err != nil {
		t.Fatalf("SKIFF_SEEDS: %v", err)
	}
	return n
}

const year = 365 * 24 * time.Hour

// simulate carries the plan of a seed out with and without faults.
func simulate(t *testing.T, cfg Config, s shape) {
	t.Helper()
	parts, err := Parts()
	if err != nil {
		t.Fatal(err)
	}
	plan := draw(rand.New(rand.NewPCG(cfg.Seed, 0)), s, parts)
	calm := carryOut(t, "calm", cfg, slices.DeleteFunc(slices.Clone(plan), func(d deed) bool { return d.fault }))
	rough := carryOut(t, "rough", cfg, plan)
	if diff := cmp.Diff(calm, rough); diff != "" {
		t.Errorf("I16: the run with faults ended elsewhere (-without +with):\n%s", diff)
	}
	if calm != nil && len(calm.Odd) > 0 {
		t.Errorf("at rest: %v", calm.Odd)
	}
}

// carryOut runs a cluster through the plan and returns what it came to.
func carryOut(t *testing.T, name string, cfg Config, plan []deed) (state *State) {
	t.Helper()
	t.Run(name, func(t *testing.T) {
		began := time.Now()
		Run(t, cfg, func(c *Cluster) {
			start := time.Now()
			for _, d := range plan {
				time.Sleep(time.Until(start.Add(d.at)))
				d.do(c)
			}
			c.Eventually(20*time.Minute, "the cluster comes to rest", Settled)
			time.Sleep(time.Minute) // what is still to happen now would be wrong
			state = c.State()
			t.Logf("%d deeds in %v of virtual time, %d revisions", len(plan), time.Since(start), c.check.rev)
		})
		t.Logf("took %v", time.Since(began).Round(time.Millisecond))
	})
	return state
}

// draw plans what users do and what goes wrong. It is pure.
func draw(r *rand.Rand, s shape, parts []string) (plan []deed) {
	within := func(from, to float64) time.Duration { // parts of the length
		return time.Duration((from + r.Float64()*(to-from)) * float64(s.length))
	}
	for i := range s.apps {
		name := fmt.Sprintf("app-%02d", i)
		plan = append(plan, users(r, s, name, within)...)
		switch i % 6 {
		case 4:
			plan = append(plan, deed{within(0.86, 0.89), "delete " + name, func(c *Cluster) { remove[*appsv1.Deployment](c, name, name) }, false})
		case 5:
			plan = append(plan, deed{within(0.86, 0.89), "delete namespace " + name, func(c *Cluster) { remove[*corev1.Namespace](c, "", name) }, false})
		}
	}
	// All faults end at 0.9 of the length: then the cluster must heal.
	fault := func(from, to time.Duration, what string, begin, end func(*Cluster)) {
		plan = append(plan, deed{from, what, begin, true})
		plan = append(plan, deed{min(to, s.length*9/10), what + " ends", end, true})
	}
	for _, i := range r.Perm(s.nodes)[:s.nodes/10] {
		from := within(0.05, 0.7)
		fault(from, from+within(0.01, 0.3), fmt.Sprint("power off ", i),
			func(c *Cluster) { c.Nodes[i].PowerOff() }, func(c *Cluster) { c.Nodes[i].PowerOn() })
	}
	for _, i := range r.Perm(s.nodes)[:s.nodes/20] {
		from := within(0.05, 0.7)
		fault(from, from+within(0.01, 0.3), fmt.Sprint("cut ", i),
			func(c *Cluster) { c.Nodes[i].Cut() }, func(c *Cluster) { c.Nodes[i].Mend() })
	}
	for _, i := range r.Perm(s.nodes)[:s.nodes/20] {
		from := within(0.05, 0.7)
		fault(from, from+within(0.01, 0.3), fmt.Sprint("slow ", i),
			func(c *Cluster) { c.Nodes[i].Slow(15 * time.Second) }, func(c *Cluster) { c.Nodes[i].Slow(0) })
	}
	// Clocks jump by an hour or a year, forth or back.
	for _, i := range r.Perm(s.nodes)[:s.nodes/10] {
		from := within(0.05, 0.7)
		ahead := []time.Duration{-year, -time.Hour, time.Hour, year}[r.IntN(4)]
		fault(from, from+within(0.01, 0.3), fmt.Sprintf("clock of %d jumps by %v", i, ahead),
			func(c *Cluster) { c.Nodes[i].SetClock(ahead) }, func(c *Cluster) { c.Nodes[i].SetClock(0) })
	}
	// Parts crash at the very moments at which users give them work.
	work := slices.Clone(plan)
	for _, part := range parts {
		for range 4 {
			from := work[r.IntN(len(work))].at + time.Duration(r.IntN(2000))*time.Millisecond
			fault(from, from+within(0, 0.02), "crash of "+part,
				func(c *Cluster) { c.Crash(part) }, func(c *Cluster) { c.Restart(part) })
		}
	}
	for range 8 {
		n, after, down := 1+r.IntN(200), r.IntN(2) == 0, within(0, 0.01)
		at := min(work[r.IntN(len(work))].at, s.length*8/10)
		plan = append(plan, deed{at, fmt.Sprintf("kill in commit %d, made: %v", n, after),
			func(c *Cluster) { c.KillInCommit(n, after, down) }, true})
	}
	slices.SortStableFunc(plan, func(a, b deed) int { return int(a.at - b.at) })
	return plan
}

// users plans the life of one application, in a namespace of its own: it is
// created, rolled out anew and scaled some times, often the one in the middle
// of the other.
func users(r *rand.Rand, s shape, name string, within func(from, to float64) time.Duration) (plan []deed) {
	first := int32(s.replicas/2 + r.IntN(s.replicas+1))
	plan = append(plan, deed{within(0, 0.02), "create " + name, func(c *Cluster) {
		ensure(c, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}})
		ensure(c, build.Deployment(name, first, func(d *appsv1.Deployment) { d.Namespace = name }))
		ensure(c, build.Service(name, func(s *corev1.Service) { s.Namespace = name }))
	}, false})
	for version := 2; version < 2+s.rollouts; version++ {
		at := within(0.1, 0.85)
		plan = append(plan, deed{at, fmt.Sprintf("roll %s out to %d", name, version), func(c *Cluster) {
			change(c, name, build.Image(version))
		}, false})
		if r.IntN(2) == 0 {
			at += time.Duration(r.IntN(20)) * time.Second
		} else {
			at = within(0.1, 0.85)
		}
		n := int32(s.replicas/2 + r.IntN(s.replicas+1))
		plan = append(plan, deed{at, fmt.Sprintf("scale %s to %d", name, n), func(c *Cluster) {
			change(c, name, func(d *appsv1.Deployment) { d.Spec.Replicas = &n })
		}, false})
	}
	return plan
}

// ensure creates obj; a user whose answer got lost finds it there.
func ensure[T meta.Object](c *Cluster, obj T) {
	c.Do("creating "+obj.GetName(), func(ctx context.Context, api *client.Client) error {
		_, err := client.For[T](api).Create(ctx, obj)
		if apierrors.IsAlreadyExists(err) {
			return nil
		}
		return err
	})
}

// change has a user change a Deployment.
func change(c *Cluster, name string, how func(*appsv1.Deployment)) {
	c.Do("changing "+name, func(ctx context.Context, api *client.Client) error {
		kind := client.For[*appsv1.Deployment](api)
		d, err := kind.Get(ctx, name, name)
		if err != nil {
			return err
		}
		d = meta.Copy(d)
		how(d)
		_, err = kind.Update(ctx, d)
		return err
	})
}

// remove has a user delete an object and not wait for what hangs on it.
func remove[T meta.Object](c *Cluster, namespace, name string) {
	c.Do("deleting "+name, func(ctx context.Context, api *client.Client) error {
		background := metav1.DeletePropagationBackground
		err := client.For[T](api).Delete(ctx, namespace, name, metav1.DeleteOptions{PropagationPolicy: &background})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return err
	})
}
