package usage

import (
	"fmt"
	"io"
	"math"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"skiff.dev/skiff/internal/meta"
)

const (
	// shortest is the least time over which a rate says anything: the kernel
	// counts a node's CPU time in hundredths of a second.
	shortest = time.Second
	// longest is the time over which a rate still tells what is used now.
	longest = 2 * time.Minute
	// young is the least age at which the time since a container's start, which
	// is known to the second only, makes a window.
	young = 10 * time.Second
)

// A Reading is what something used of CPU, in billionths of a core on average
// over the window that ends at Time, and of memory, in bytes of its working set,
// at Time.
type Reading struct {
	Time        time.Time
	Window      time.Duration
	CPU, Memory uint64
}

// A Node is what a node and its pods use.
type Node struct {
	Reading
	Known bool // whether the node's own reading is
	// Pods holds the containers' readings by name. A pod of which a running
	// container's reading is not known is missing.
	Pods map[meta.Key]map[string]Reading
}

// A counter is what was seen of something at one look.
type counter struct {
	at, started time.Time // when that was, and when it began
	cpu         float64   // seconds of a core used since it began
	memory      float64   // bytes
	complete    bool      // whether both are known
}

// A look is what a kubelet told at one time.
type look struct {
	at   time.Time // by our own clock
	node counter
	pods map[meta.Key]map[string]*counter
}

// readLook reads a kubelet's resource metrics (KEP-727).
func readLook(r io.Reader, at time.Time) (*look, error) {
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(r)
	if err != nil {
		return nil, fmt.Errorf("reading its kubelet's resource metrics: %w", err)
	}
	l := &look{at: at, pods: map[meta.Key]map[string]*counter{}}
	for _, m := range families["node_cpu_usage_seconds_total"].GetMetric() {
		l.node.at, l.node.cpu = stamp(m, at), value(m)
		for _, m := range families["node_memory_working_set_bytes"].GetMetric() {
			l.node.memory, l.node.complete = value(m), true
		}
	}
	for _, m := range families["container_cpu_usage_seconds_total"].GetMetric() {
		c := l.container(m)
		c.at, c.cpu = stamp(m, at), value(m)
	}
	for _, m := range families["container_memory_working_set_bytes"].GetMetric() {
		c := l.container(m)
		c.memory, c.complete = value(m), !c.at.IsZero()
	}
	for _, m := range families["container_start_time_seconds"].GetMetric() {
		l.container(m).started = time.UnixMilli(int64(value(m) * 1000))
	}
	return l, nil
}

// container returns what is being gathered about the container that m names.
func (l *look) container(m *dto.Metric) *counter {
	var pod meta.Key
	var name string
	for _, label := range m.GetLabel() {
		switch label.GetName() {
		case "namespace":
			pod.Namespace = label.GetValue()
		case "pod":
			pod.Name = label.GetValue()
		case "container":
			name = label.GetValue()
		}
	}
	containers := l.pods[pod]
	if containers == nil {
		containers = map[string]*counter{}
		l.pods[pod] = containers
	}
	c := containers[name]
	if c == nil {
		c = &counter{}
		containers[name] = c
	}
	return c
}

func value(m *dto.Metric) float64 {
	switch {
	case m.Counter != nil:
		return m.Counter.GetValue()
	case m.Gauge != nil:
		return m.Gauge.GetValue()
	}
	return m.GetUntyped().GetValue()
}

// stamp is when the value was seen: by the kubelet's clock, if it says so.
func stamp(m *dto.Metric, now time.Time) time.Time {
	if m.TimestampMs != nil {
		return time.UnixMilli(m.GetTimestampMs())
	}
	return now
}

// between works out what was used between two looks.
func between(old, now *look) *Node {
	n := &Node{Pods: make(map[meta.Key]map[string]Reading, len(now.pods))}
	n.Reading, n.Known = reading(&old.node, &now.node)
	for key, containers := range now.pods {
		readings := make(map[string]Reading, len(containers))
		for name, c := range containers {
			if r, ok := reading(old.pods[key][name], c); ok {
				readings[name] = r
			}
		}
		if len(readings) == len(containers) {
			n.Pods[key] = readings
		}
	}
	return n
}

// reading works out what was used between two looks at the same thing. What has
// begun since the old look counts from there, when it had used nothing.
func reading(old, now *counter) (Reading, bool) {
	if !now.complete {
		return Reading{}, false
	}
	least := shortest
	if old == nil || !old.complete || !old.started.Equal(now.started) || now.cpu < old.cpu {
		old, least = &counter{at: now.started}, young
	}
	r := Reading{Time: now.at, Window: now.at.Sub(old.at), Memory: uint64(now.memory)}
	if r.Window < least || r.Window > longest {
		return Reading{}, false
	}
	r.CPU = uint64(math.Round((now.cpu - old.cpu) / r.Window.Seconds() * 1e9))
	return r, true
}
