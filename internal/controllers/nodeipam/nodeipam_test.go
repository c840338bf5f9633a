package nodeipam

import (
	"fmt"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"

	"skiff.dev/skiff/internal/client"
	"skiff.dev/skiff/internal/controller"
	"skiff.dev/skiff/internal/testing/controltest"
)

func config(cluster ...string) Config {
	cfg := Config{Bits4: DefaultBits4, Bits6: DefaultBits6}
	for _, c := range cluster {
		cfg.Cluster = append(cfg.Cluster, netip.MustParsePrefix(c))
	}
	return cfg
}

func newNode(name string, cidrs ...string) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
	if len(cidrs) > 0 {
		n.Spec.PodCIDR, n.Spec.PodCIDRs = cidrs[0], cidrs
	}
	return n
}

func start(t *testing.T, w *controltest.World, c *client.Client, cfg Config) *controller.Controller {
	t.Helper()
	ctl, err := New(c, w.Events, cfg)
	if err != nil {
		t.Fatal(err)
	}
	return ctl
}

func TestGivesEachNodeItsRange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := controltest.New(t)
		defer w.Close()
		cfg := config("10.244.0.0/16", "fd00:10::/56")
		cfg.Services = []netip.Prefix{netip.MustParsePrefix("10.244.2.0/23")}
		controltest.Create(w, newNode("old", "10.244.1.0/24", "fd00:10::/64"))
		w.Run(start(t, w, w.Client, cfg))
		for i := range 2 {
			controltest.Create(w, newNode(fmt.Sprint("n", i)))
			w.Settle()
		}
		got := map[string][]string{}
		for _, n := range controltest.List[*corev1.Node](w, "") {
			got[n.Name] = n.Spec.PodCIDRs
		}
		want := map[string][]string{
			"old": {"10.244.1.0/24", "fd00:10::/64"}, "n0": {"10.244.0.0/24", "fd00:10:0:1::/64"}, "n1": {"10.244.4.0/24", "fd00:10:0:2::/64"},
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
	})
}

// No range is ever given twice, whatever the delays and restarts, and what
// comes free is used again when all others are.
func TestNeverGivesARangeTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := controltest.New(t)
		defer w.Close()
		faulty := w.Faulty(2 * time.Second)
		c := client.New(faulty)
		for round := range 4 {
			stop := w.Run(start(t, w, c, config("10.244.0.0/20")))
			for i := range 5 {
				controltest.Create(w, newNode(fmt.Sprintf("n%d-%d", round, i)))
			}
			if round > 0 {
				controltest.Delete[*corev1.Node](w, "", fmt.Sprintf("n%d-0", round-1), "")
			}
			time.Sleep(time.Duration(round) * time.Second)
			stop()
		}
		w.Run(start(t, w, c, config("10.244.0.0/20")))
		time.Sleep(time.Minute)
		w.Settle()
		used := map[string]string{}
		for _, n := range controltest.List[*corev1.Node](w, "") {
			if n.Spec.PodCIDR != "" && used[n.Spec.PodCIDR] != "" {
				t.Errorf("%s and %s both have %s", n.Name, used[n.Spec.PodCIDR], n.Spec.PodCIDR)
			}
			used[n.Spec.PodCIDR] = n.Name
		}
		if len(used) < 16 {
			t.Errorf("%d of 16 ranges are used", len(used))
		}
		if len(w.Events.With("CIDRNotAvailable")) == 0 {
			t.Error("17 nodes and 16 ranges, and nobody was told")
		}
	})
}

func TestPool(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p, err := newPool(netip.MustParsePrefix("10.0.0.0/21"), 24, nil)
		if err != nil {
			t.Fatal(err)
		}
		have := map[string]netip.Prefix{}
		for range rapid.IntRange(1, 50).Draw(t, "steps") {
			node := fmt.Sprint("n", rapid.IntRange(0, 12).Draw(t, "node"))
			if rapid.Bool().Draw(t, "release") {
				p.release(node)
				delete(have, node)
				continue
			}
			got, ok := p.reserve(node)
			if was, had := have[node]; had && got != was {
				t.Fatalf("%s had %s and is given %s", node, was, got)
			}
			if _, had := have[node]; !ok && (had || len(have) < 8) {
				t.Fatalf("nothing for %s while %d of 8 are taken", node, len(have))
			}
			if !ok {
				continue
			}
			have[node] = got
			for other, r := range have {
				if other != node && r.Overlaps(got) {
					t.Fatalf("%s has %s, %s has %s", node, got, other, r)
				}
			}
		}
	})
}
