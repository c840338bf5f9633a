package scheduler

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"skiff.dev/skiff/internal/scheduler/framework"
)

// errNoNodes is why no pod can run in a cluster without nodes.
var errNoNodes = errors.New("no nodes available to schedule pods")

// FitError says why no node can run a pod.
type FitError struct {
	// Nodes is how many nodes there are.
	Nodes int
	// Reasons counts over the nodes what was wrong with them.
	Reasons map[string]int
	// Rejected is the reason why no node was looked at, if so.
	Rejected string
	// By lists the plugins that turned the pod away; they know what can let it in.
	By []*framework.Any
}

// Error returns the text that people find in the pod's condition and events:
// "0/5 nodes are available: 2 Insufficient cpu, 3 node(s) had untolerated
// taint(s)." What preemption could do is not appended, as by upstream where
// preemption is off.
func (e *FitError) Error() string {
	msg := fmt.Sprintf("0/%d nodes are available:", e.Nodes)
	if e.Rejected != "" {
		return msg + " " + e.Rejected + "."
	}
	counts := make([]string, 0, len(e.Reasons))
	for reason, n := range e.Reasons {
		counts = append(counts, fmt.Sprintf("%d %s", n, reason))
	}
	if len(counts) == 0 {
		return msg
	}
	slices.Sort(counts)
	return msg + " " + strings.Join(counts, ", ") + "."
}

// add counts one node's rejection.
func (e *FitError) add(s *framework.Status, by *framework.Any, nodes int) {
	for _, reason := range s.Reasons {
		e.Reasons[reason] += nodes
	}
	if !slices.Contains(e.By, by) {
		e.By = append(e.By, by)
	}
}
