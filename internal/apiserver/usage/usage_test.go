package usage

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"skiff.dev/skiff/internal/meta"
)

func TestReading(t *testing.T) {
	start := time.Unix(1000, 0)
	at := func(seconds float64) time.Time { return start.Add(time.Duration(seconds * float64(time.Second))) }
	seen := func(seconds, cpu float64) *counter {
		return &counter{at: at(seconds), started: start, cpu: cpu, memory: 7, complete: true}
	}
	again := seen(25, 1)
	again.started = at(5)
	half := seen(310, 3)
	half.complete = false
	for _, c := range []struct {
		name     string
		old, now *counter
		want     Reading
		ok       bool
	}{
		{"two looks", seen(300, 1), seen(310, 3), Reading{at(310), 10 * time.Second, 2e8, 7}, true},
		{"one look", nil, seen(300, 1), Reading{}, false},
		{"one look at what is young", nil, seen(10, 1), Reading{at(10), 10 * time.Second, 1e8, 7}, true},
		{"one look at what has just begun", nil, seen(9, 1), Reading{}, false},
		{"started again since", seen(3, 2), again, Reading{at(25), 20 * time.Second, 5e7, 7}, true},
		{"a counter that went back", seen(300, 3), seen(310, 1), Reading{}, false},
		{"too long between", seen(300, 1), seen(421, 3), Reading{}, false},
		{"the kubelet has not looked again", seen(300, 1), seen(300, 1), Reading{}, false},
		{"without memory", seen(300, 1), half, Reading{}, false},
		{"without memory before", half, seen(320, 3), Reading{}, false},
	} {
		got, ok := reading(c.old, c.now)
		if diff := cmp.Diff(c.want, got); diff != "" || ok != c.ok {
			t.Errorf("%s: %v %s", c.name, ok, diff)
		}
	}
}

// A machine pretends to be kubelets: by host, what each answers. A host that it
// does not know never answers.
type machine struct {
	mu    sync.Mutex
	asked map[string]int
	hosts map[string]func() (int, string)
}

func (m *machine) RoundTrip(r *http.Request) (*http.Response, error) {
	m.mu.Lock()
	m.asked[r.URL.Host]++
	answer := m.hosts[r.URL.Host]
	m.mu.Unlock()
	if answer == nil {
		<-r.Context().Done()
		return nil, r.Context().Err()
	}
	if r.URL.RequestURI() != "/metrics/resource" || r.URL.Scheme != "https" {
		return nil, fmt.Errorf("asked for %s", r.URL)
	}
	code, body := answer()
	return &http.Response{StatusCode: code, Status: http.StatusText(code), Body: io.NopCloser(strings.NewReader(body))}, nil
}

// busy answers as a kubelet whose node uses cores, and its one pod half of that
// in two containers, since the start of the test.
func busy(cores float64) func() (int, string) {
	start := time.Now()
	return func() (int, string) {
		now := time.Now()
		seconds, stamp := (now.Sub(start)+time.Hour).Seconds()*cores, now.UnixMilli()
		var b strings.Builder
		fmt.Fprintf(&b, "node_cpu_usage_seconds_total %f %d\nnode_memory_working_set_bytes 1.048576e+06 %d\n", seconds, stamp, stamp)
		for _, name := range []string{"a", "b"} {
			labels := fmt.Sprintf(`{container=%q,namespace="ns",pod="p"}`, name)
			fmt.Fprintf(&b, "container_cpu_usage_seconds_total%s %f %d\n", labels, seconds/4, stamp)
			fmt.Fprintf(&b, "container_memory_working_set_bytes%s 1024 %d\n", labels, stamp)
			fmt.Fprintf(&b, "container_start_time_seconds%s %d\n", labels, start.Add(-time.Hour).Unix())
		}
		return http.StatusOK, b.String()
	}
}

func nodeNamed(name string, ready corev1.ConditionStatus) *corev1.Node {
	return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Status: corev1.NodeStatus{
		Addresses:       []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: name}},
		DaemonEndpoints: corev1.NodeDaemonEndpoints{KubeletEndpoint: corev1.DaemonEndpoint{Port: 1}},
		Conditions:      []corev1.NodeCondition{{Type: corev1.NodeReady, Status: ready}},
	}}
}

func inBubble(t *testing.T, hosts func() map[string]func() (int, string), test func(t *testing.T, m *Meter, k *machine)) {
	synctest.Test(t, func(t *testing.T) {
		k := &machine{asked: map[string]int{}, hosts: hosts()}
		test(t, New(k), k)
	})
}

func TestAsksOnlyWhenAsked(t *testing.T) {
	inBubble(t, func() map[string]func() (int, string) {
		return map[string]func() (int, string){"n:1": busy(2)}
	}, func(t *testing.T, m *Meter, k *machine) {
		nodes := []*corev1.Node{nodeNamed("n", corev1.ConditionTrue)}
		begin := time.Now()
		got := m.Of(t.Context(), nodes)["n"]
		if got == nil || !got.Known || got.CPU != 2e9 || got.Memory != 1<<20 || got.Window != time.Since(begin) || got.Window > 2*time.Second {
			t.Fatalf("the first answer: %+v", got)
		}
		if c := got.Pods[meta.Key{Namespace: "ns", Name: "p"}]; len(c) != 2 || c["a"].CPU != 5e8 {
			t.Errorf("its pod: %+v", got.Pods)
		}
		time.Sleep(keep - time.Millisecond)
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() { m.Of(t.Context(), nodes) })
		}
		wg.Wait()
		if k.asked["n:1"] != 2 {
			t.Errorf("asked %d times, want 2: once for each end of the window", k.asked["n:1"])
		}
		time.Sleep(time.Millisecond)
		if got := m.Of(t.Context(), nodes)["n"]; got == nil || got.Window != keep || got.CPU != 2e9 || k.asked["n:1"] != 3 {
			t.Errorf("the next answer: %+v after %d", got, k.asked["n:1"])
		}
		time.Sleep(time.Hour) // nobody asks
		synctest.Wait()
		if k.asked["n:1"] != 3 || len(m.nodes) != 0 || m.forget != nil {
			t.Errorf("after an hour: asked %d times, remembers %d nodes", k.asked["n:1"], len(m.nodes))
		}
		if got := m.Of(t.Context(), nodes)["n"]; got == nil || got.Window > 2*time.Second {
			t.Errorf("after an hour: %+v", got)
		}
	})
}

// A node that does not answer holds up the others for patience at most, once;
// one that is known to be lost is not even asked.
func TestDeadNodes(t *testing.T) {
	inBubble(t, func() map[string]func() (int, string) {
		return map[string]func() (int, string){
			"good:1": busy(1), "lost:1": busy(1),
			"bad:1":  func() (int, string) { return http.StatusForbidden, "no" },
			"odd:1":  func() (int, string) { return http.StatusOK, "{" },
			"void:1": func() (int, string) { return http.StatusOK, "\n" },
		}
	}, func(t *testing.T, m *Meter, k *machine) {
		nodes := []*corev1.Node{nodeNamed("dead", corev1.ConditionTrue), nodeNamed("lost", corev1.ConditionUnknown), {}}
		for _, name := range []string{"good", "bad", "odd", "void"} {
			nodes = append(nodes, nodeNamed(name, corev1.ConditionFalse))
		}
		begin := time.Now()
		got := m.Of(t.Context(), nodes)
		if took := time.Since(begin); took > patience {
			t.Errorf("took %v", took)
		}
		if len(got) != 2 || got["good"] == nil || got["void"] == nil || got["void"].Known || k.asked["lost:1"] != 0 {
			t.Errorf("answered: %v, asked %v", got, k.asked)
		}
		begin = time.Now()
		if got := m.Of(t.Context(), nodes); len(got) != 2 || time.Since(begin) != 0 || k.asked["dead:1"] != 1 {
			t.Errorf("again after %v: %v", time.Since(begin), got)
		}
	})
}

// Who goes away in the middle leaves nothing wrong behind.
func TestAskerGoesAway(t *testing.T) {
	inBubble(t, func() map[string]func() (int, string) {
		return map[string]func() (int, string){"n:1": busy(1)}
	}, func(t *testing.T, m *Meter, _ *machine) {
		nodes := []*corev1.Node{nodeNamed("n", corev1.ConditionTrue)}
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second/2, errors.New("gone"))
		defer cancel()
		if got := m.Of(ctx, nodes); len(got) != 0 {
			t.Errorf("after half a second: %v", got)
		}
		if got := m.Of(t.Context(), nodes); got["n"] == nil || !got["n"].Known {
			t.Errorf("the next: %v", got)
		}
	})
}

// Many nodes are asked side by side.
func TestManyNodes(t *testing.T) {
	inBubble(t, func() map[string]func() (int, string) {
		hosts := map[string]func() (int, string){}
		for i := range 1000 {
			hosts[fmt.Sprintf("n%d:1", i)] = busy(1)
		}
		return hosts
	}, func(t *testing.T, m *Meter, _ *machine) {
		var nodes []*corev1.Node
		for i := range 1000 {
			nodes = append(nodes, nodeNamed(fmt.Sprintf("n%d", i), corev1.ConditionTrue))
		}
		begin := time.Now()
		if got := m.Of(t.Context(), nodes); len(got) != len(nodes) || time.Since(begin) > 2*time.Second {
			t.Errorf("%d nodes after %v", len(got), time.Since(begin))
		}
	})
}
