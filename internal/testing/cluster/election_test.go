package cluster

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
)

// TestTwoManagers has two processes compete for the lead while the one that has
// it is stopped or cut off, for shorter and longer than its Lease lasts, and
// users go on. No leader may write after his successor has begun to (I22), and
// the cluster must come to rest.
func TestTwoManagers(t *testing.T) {
	for seed := range seeds(t, 1) {
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) { twoManagers(t, seed) })
	}
}

func twoManagers(t *testing.T, seed uint64) {
	r := rand.New(rand.NewPCG(seed, 3))
	s := shape{nodes: 10, apps: 6, replicas: 6, rollouts: 4, length: 30 * time.Minute}
	var plan []deed
	for _, d := range draw(r, s, nil) {
		if !d.fault {
			plan = append(plan, d)
		}
	}
	Run(t, Config{Seed: seed, Nodes: s.nodes, Managers: 2}, func(c *Cluster) {
		done := make(chan struct{})
		go func() { // the faults, beside the users
			defer close(done)
			for start := time.Now(); time.Since(start) < s.length*9/10; {
				m := c.Managers[0]
				if !m.Leads() || r.IntN(6) == 0 {
					m = c.Managers[1]
				}
				begin, end := m.Stop, m.Continue
				if r.IntN(2) == 0 {
					begin, end = m.Cut, m.Mend
				}
				begun := make(chan struct{})
				m.InRequest(1+r.IntN(20), func() { begin(); close(begun) })
				select {
				case <-begun:
					time.Sleep(time.Duration(r.Int64N(int64(40 * time.Second))))
				case <-time.After(time.Minute): // it had nothing to do
				}
				m.InRequest(0, nil)
				end()
			}
		}()
		start := time.Now()
		for _, d := range plan {
			time.Sleep(time.Until(start.Add(d.at)))
			d.do(c)
		}
		<-done
		c.Eventually(20*time.Minute, "the cluster comes to rest", Settled)
		for _, lease := range []string{controllersLease, schedulerLease} {
			terms, commits, breaches := c.ledger.read(lease)
			t.Logf("%s: %d terms, %d commits", lease, terms, commits)
			if terms < 5 || commits < 100 {
				t.Errorf("%s: %d terms with %d commits are no test of this", lease, terms, commits)
			}
			for _, b := range breaches {
				t.Error(b)
			}
		}
	})
}
