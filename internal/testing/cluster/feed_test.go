package cluster

import (
	"fmt"
	"math/rand/v2"
	"os"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestDisturbedFeeds has events late, doubled and lost on their way to one part
// at a time (I23). Users do what they do in the run where nothing is disturbed,
// and the cluster must come to the same. Without SKIFF_SEEDS only those parts
// have their turn that most depends on.
func TestDisturbedFeeds(t *testing.T) {
	parts, err := Parts()
	if err != nil {
		t.Fatal(err)
	}
	disturbed := []string{"deployment", "replicaset", "endpointslice", "garbage-collector", "node-lifecycle", schedulerName}
	if os.Getenv("SKIFF_SEEDS") != "" {
		disturbed = parts
	}
	s := shape{nodes: 6, apps: 6, replicas: 4, rollouts: 2, length: 10 * time.Minute}
	for seed := range seeds(t, 1) {
		var plan []deed
		for _, d := range draw(rand.New(rand.NewPCG(seed, 0)), s, parts) {
			if !d.fault {
				plan = append(plan, d)
			}
		}
		calm := carryOut(t, fmt.Sprint("seed=", seed, "/calm"), Config{Seed: seed, Nodes: s.nodes}, plan)
		for _, part := range disturbed {
			d := Disturb(part, seed)
			till := append(plan[:len(plan):len(plan)], deed{s.length, "the disturbance ends", func(*Cluster) { d.End() }, true})
			rough := carryOut(t, fmt.Sprintf("seed=%d/%s", seed, part), Config{Seed: seed, Nodes: s.nodes, Disturb: d}, till)
			if diff := cmp.Diff(calm, rough); diff != "" {
				t.Errorf("I23: with events to %s disturbed, seed %d, it ended elsewhere (-without +with):\n%s", part, seed, diff)
			}
			t.Logf("%s: %d events late, %d doubled, %d lost", part, d.Late.Load(), d.Doubled.Load(), d.Lost.Load())
		}
	}
}
