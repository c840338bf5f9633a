package nodeipam

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"

	"skiff.dev/skiff/internal/client"
	"skiff.dev/skiff/internal/testing/controltest"
)

// logged returns what is logged from now on.
func logged(t *testing.T) *bytes.Buffer {
	var log bytes.Buffer
	old := slog.Default()
	slog.SetDefault(slog.New(slog.NewTextHandler(&log, nil)))
	t.Cleanup(func() { slog.SetDefault(old) })
	return &log
}

// Nodes that go before they are given a range neither keep one nor are
// complained about.
func TestNodesThatAreGoneKeepNothing(t *testing.T) {
	log := logged(t)
	synctest.Test(t, func(t *testing.T) {
		w := controltest.New(t)
		defer w.Close()
		// Caches lag, so that some are given a range when they are gone.
		w.Run(start(t, w, client.New(w.Faulty(time.Second)), config("10.244.0.0/20")))
		for i := range 64 {
			name := fmt.Sprint("short", i)
			controltest.Create(w, newNode(name))
			time.Sleep(time.Duration(i) * 20 * time.Millisecond)
			controltest.Delete[*corev1.Node](w, "", name, "")
			time.Sleep(3 * time.Second)
		}
		for i := range 16 {
			controltest.Create(w, newNode(fmt.Sprint("n", i)))
		}
		time.Sleep(time.Minute)
		w.Settle()
		for _, n := range controltest.List[*corev1.Node](w, "") {
			if n.Spec.PodCIDR == "" {
				t.Errorf("nothing was left for %s", n.Name)
			}
		}
	})
	if log.Len() > 0 {
		t.Errorf("logged: %s", log)
	}
}

// A range that was meant for a node whose deletion has been seen already is free.
func TestARangeOfANodeThatIsGoneIsFree(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := controltest.New(t)
		defer w.Close()
		a := &allocator{client: w.Client, events: w.Events, cfg: config("10.244.0.0/24")}
		var err error
		if a.pools, err = a.newPools(); err != nil {
			t.Fatal(err)
		}
		if a.nodes, err = client.For[*corev1.Node](w.Client).Cache(t.Context()); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"gone", "gone too"} {
			if _, err := a.reconcile(t.Context(), newNode(name)); err != nil {
				t.Error(err)
			}
		}
		if got, ok := a.pools[0].reserve("next"); !ok {
			t.Errorf("the only range is not free: %v", got)
		}
	})
}

// That nothing is left is said once, not for every node and every try, also if
// the nodes are deleted; who waits gets what comes free.
func TestFullIsSaidOnce(t *testing.T) {
	log := logged(t)
	synctest.Test(t, func(t *testing.T) {
		w := controltest.New(t)
		defer w.Close()
		w.Run(start(t, w, w.Client, config("10.244.0.0/23")))
		for i := range 10 {
			controltest.Create(w, newNode(fmt.Sprint("n", i)))
		}
		time.Sleep(time.Hour)
		for i := range 8 {
			controltest.Delete[*corev1.Node](w, "", fmt.Sprint("n", i), "")
		}
		time.Sleep(time.Hour)
		for _, n := range controltest.List[*corev1.Node](w, "") {
			if n.Spec.PodCIDR == "" {
				t.Errorf("%s has nothing", n.Name)
			}
		}
	})
	if n := strings.Count(log.String(), "\n"); n != 1 && n != 2 || !strings.Contains(log.String(), "no range of pod addresses is left") {
		t.Errorf("logged: %s", log)
	}
}
