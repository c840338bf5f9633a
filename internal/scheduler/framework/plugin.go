// Package framework is what a scheduler plugin is made of: the Plugin itself,
// the pods, nodes and snapshot it looks at, the statuses and scores it
// answers with, and the cluster events that wake the pods it rejected. It
// reads and writes nothing; package scheduler gives plugins life.
package framework

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// MaxScore is the best normalized score of a node; the worst is 0.
const MaxScore = 100

// A Plugin is one rule about which node a pod should run on. S is what it
// works out about a pod before it looks at nodes, so that this is done once
// and not once per node. Functions left nil have nothing to say.
//
// For a pod the functions are called in this order: Admit when it enters the
// queue, Less while it waits there, then Sign, Prepare, Filter and Score to
// decide, Bind to carry the decision out; Wakes if Filter rejected it. All but
// Bind are pure, and none may keep or change what it is given.
//
// Pods that sign alike form a class (KEP-5598 calls it a signature) and share
// states, filter results and scores. The rule that makes this right: of the
// pod, Prepare may use only what Sign wrote; of the cluster, Filter and Score
// may use only the node and the state.
type Plugin[S any] struct {
	// Name is the name in the configuration, and in metrics.
	Name string

	// Admit returns why a pod must not be tried yet (PreEnqueue upstream).
	Admit func(pod *corev1.Pod) *Status
	// Less orders the pods that wait (QueueSort). One plugin has it.
	Less func(a, b Waiting) bool

	// Sign writes everything of the pod that the plugin reads. Required with
	// Filter or Score.
	Sign func(s *Signer, pod *Pod)
	// Prepare makes the state of a pod (PreFilter and PreScore).
	Prepare func(pod *Pod, snap *Snapshot) Preparation[S]
	// Stale reports that the snapshot has moved on so that the state, and with
	// it every node's result, is no longer right. Nil if the state depends on
	// the pod alone.
	Stale func(state S, snap *Snapshot) bool
	// Filter returns why the pod cannot run on the node, nil if it can.
	Filter func(state S, node *Node) *Status
	// Score rates a node that passed all filters, on any scale if Normalize
	// is set, else from 0 to MaxScore.
	Score func(state S, node *Node) int64
	// Normalize brings scores to 0..MaxScore.
	Normalize Normalizer

	// Wakes lists the events that may let a pod in that Filter or Admit
	// turned away (queueing hints, KEP-4247). What is not listed does not
	// wake it: an omission leaves pods waiting up to five minutes.
	Wakes []Wake

	// Bind writes the decision to the API.
	Bind func(ctx context.Context, pod *corev1.Pod, node string) error
}

// Preparation is what a plugin has worked out about a pod before it looks at
// nodes.
type Preparation[S any] struct {
	State S
	// Skip says that the plugin has nothing to say about the pod: neither
	// Filter nor Score is called.
	Skip bool
	// Nodes, if not nil, names the only nodes that the pod can run on, so
	// that the others need not be looked at.
	Nodes []string
	// Reject, if not nil, is why no node at all can run the pod.
	Reject *Status
	// Err, if not nil, is a pod that makes no sense to the plugin. The attempt
	// fails with reason SchedulerError.
	Err error
}

// Waiting is what the order of the queue may depend on.
type Waiting struct {
	Pod *corev1.Pod
	// Since is when the pod entered the queue for this attempt.
	Since time.Time
}

// Any is a Plugin without its type parameter, made by Of.
type Any struct {
	Name      string
	Admit     func(pod *corev1.Pod) *Status
	Less      func(a, b Waiting) bool
	Sign      func(s *Signer, pod *Pod)
	Prepare   func(pod *Pod, snap *Snapshot) Prepared
	Filters   bool // Prepared has Filter
	Scores    bool // Prepared has Score
	Normalize Normalizer
	Wakes     []Wake
	Bind      func(ctx context.Context, pod *corev1.Pod, node string) error
}

// Prepared is a plugin together with its state for one pod or class.
type Prepared struct {
	Skip   bool
	Nodes  []string
	Reject *Status
	Err    error
	Filter func(node *Node) *Status
	Score  func(node *Node) int64
	Stale  func(snap *Snapshot) bool
}

// Of hides the type parameter of a plugin.
func Of[S any](p *Plugin[S]) *Any {
	a := &Any{
		Name: p.Name, Admit: p.Admit, Less: p.Less, Sign: p.Sign,
		Filters: p.Filter != nil, Scores: p.Score != nil,
		Normalize: p.Normalize, Wakes: p.Wakes, Bind: p.Bind,
	}
	if a.Filters || a.Scores {
		if p.Sign == nil {
			panic("framework: plugin " + p.Name + " looks at pods but does not sign them")
		}
		a.Prepare = p.prepare
	}
	return a
}

func (p *Plugin[S]) prepare(pod *Pod, snap *Snapshot) Prepared {
	var made Preparation[S]
	if p.Prepare != nil {
		made = p.Prepare(pod, snap)
	}
	ready := Prepared{Skip: made.Skip, Nodes: made.Nodes, Reject: made.Reject, Err: made.Err}
	if p.Filter != nil {
		ready.Filter = func(node *Node) *Status { return p.Filter(made.State, node) }
	}
	if p.Score != nil {
		ready.Score = func(node *Node) int64 { return p.Score(made.State, node) }
	}
	if p.Stale != nil {
		ready.Stale = func(snap *Snapshot) bool { return p.Stale(made.State, snap) }
	}
	return ready
}
