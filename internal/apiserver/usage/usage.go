// Package usage tells what nodes and pods use of CPU and memory now. It asks
// the kubelets for their resource metrics when somebody wants to know, and works out
// rates from two looks; while nobody asks it does nothing and, after a while,
// remembers nothing. It writes nothing.
//
// What it tells is what metrics-server would, of the same kubelets.
// https://kubernetes.io/docs/tasks/debug/debug-cluster/resource-metrics-pipeline/
package usage

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"

	"skiff.dev/skiff/internal/node"
)

const (
	// keep is how long an answer, or the lack of one, is given again.
	keep = 15 * time.Second
	// patience is how long a kubelet may take to answer.
	patience = 3 * time.Second
	// whole is how long all kubelets together may take.
	whole = 15 * time.Second
	// parallel is how many kubelets are asked at once.
	parallel = 64
	// sizeLimit is how much a kubelet may say, in bytes.
	sizeLimit = 32 << 20
	// forgetAfter is how long what was seen of a node that nobody asks for is kept.
	forgetAfter = 2 * longest
)

// A Meter asks kubelets what is used. It is safe for concurrent use.
type Meter struct {
	kubelets http.RoundTripper
	slots    chan struct{}

	mu     sync.Mutex
	nodes  map[string]*watched
	forget *time.Timer // nil while nothing is remembered
}

// watched is what is known of one node.
type watched struct {
	turn chan struct{} // holds one token, who has it may look
	host string
	at   time.Time // of the last try
	last *look
	now  *Node // nil if the node did not answer
}

// New returns a meter that reaches kubelets by way of kubelets, which shows them
// who asks and verifies who they are. Without it nothing is known of any node.
func New(kubelets http.RoundTripper) *Meter {
	return &Meter{kubelets: kubelets, slots: make(chan struct{}, parallel), nodes: map[string]*watched{}}
}

// Of returns by name what the nodes and their pods use. Nodes that have not
// answered in time are missing, and do not keep the answer from the others
// waiting for longer than patience allows.
func (m *Meter) Of(ctx context.Context, nodes []*corev1.Node) map[string]*Node {
	ctx, cancel := context.WithTimeout(ctx, whole)
	defer cancel()
	out := make(map[string]*Node, len(nodes))
	if m.kubelets == nil {
		return out
	}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for _, n := range nodes {
		host, ok := node.Kubelet(n)
		if !ok || lost(n) {
			continue
		}
		wg.Go(func() {
			if u := m.of(ctx, n.Name, host); u != nil {
				mu.Lock()
				out[n.Name] = u
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	m.forgetLater()
	return out
}

// lost reports whether the node has given no sign of life for a while.
func lost(n *corev1.Node) bool {
	ready := node.Condition(&n.Status, corev1.NodeReady)
	return ready != nil && ready.Status == corev1.ConditionUnknown
}

// of returns what one node uses: as known, or by asking it.
func (m *Meter) of(ctx context.Context, name, host string) *Node {
	w := m.watched(name)
	select {
	case <-w.turn:
	case <-ctx.Done():
		return nil
	}
	defer func() { w.turn <- struct{}{} }()
	if w.host == host && time.Since(w.at) < keep {
		return w.now
	}
	if w.host != host { // another machine under the same name
		w.host, w.last = host, nil
	}
	last, now, err := m.measure(ctx, host, w.last)
	if ctx.Err() != nil {
		return nil // who asked has gone, which says nothing of the node
	}
	if err != nil {
		slog.Warn("asking a node what it uses", "node", name, "err", err)
	}
	w.at, w.last, w.now = time.Now(), last, now
	return w.now
}

func (m *Meter) watched(name string) *watched {
	m.mu.Lock()
	defer m.mu.Unlock()
	w := m.nodes[name]
	if w == nil {
		w = &watched{turn: make(chan struct{}, 1)}
		w.turn <- struct{}{}
		m.nodes[name] = w
	}
	return w
}

// measure looks at a node and works out what it uses since the last look. If
// that is too long ago, it looks twice.
func (m *Meter) measure(ctx context.Context, host string, last *look) (*look, *Node, error) {
	for {
		l, err := m.look(ctx, host)
		if err != nil {
			return last, nil, err
		}
		if last != nil {
			if since := l.at.Sub(last.at); since >= shortest && since <= longest {
				return l, between(last, l), nil
			}
		}
		last = l
		select {
		case <-time.After(shortest + shortest/10):
		case <-ctx.Done():
			return last, nil, ctx.Err()
		}
	}
}

// look asks a kubelet for its resource metrics.
func (m *Meter) look(ctx context.Context, host string) (*look, error) {
	select {
	case m.slots <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	defer func() { <-m.slots }()
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+host+"/metrics/resource", nil)
	if err != nil {
		return nil, err
	}
	r.Header.Set("Accept", "text/plain; version=0.0.4")
	resp, err := m.kubelets.RoundTrip(r) // which follows no redirects
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("its kubelet answered %s", resp.Status)
	}
	return readLook(io.LimitReader(resp.Body, sizeLimit), time.Now())
}

// forgetLater drops what nobody asks for any more, once.
func (m *Meter) forgetLater() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.forget == nil {
		m.forget = time.AfterFunc(forgetAfter, m.forgetOld)
	}
}

func (m *Meter) forgetOld() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for name, w := range m.nodes {
		select {
		case <-w.turn:
			if time.Since(w.at) >= forgetAfter {
				delete(m.nodes, name)
			}
			w.turn <- struct{}{}
		default: // being asked for
		}
	}
	m.forget = nil
	if len(m.nodes) > 0 {
		m.forget = time.AfterFunc(forgetAfter, m.forgetOld)
	}
}
