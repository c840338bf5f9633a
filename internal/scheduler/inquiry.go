package scheduler

import (
	"fmt"
	"slices"

	"skiff.dev/skiff/internal/scheduler/framework"
)

// inquiry is what the plugins of a profile have to say about one pod, or
// about all pods of its class.
type inquiry struct {
	looks    []look
	prepared []framework.Prepared // by look
	scorers  []scorer
	// filters are the looks that filter and do not skip the pod.
	filters []int
	// only names the nodes worth looking at, nil for all; limited names the
	// plugins that said so.
	only    []string
	limited []string
	// limiters are the plugins in limited.
	limiters []*framework.Any
	rejected *framework.Status
	by       *framework.Any // that rejected
}

// scorer is a plugin that scores and does not skip the pod.
type scorer struct {
	look      int
	weight    int64
	normalize framework.Normalizer
}

// prepare asks every plugin to get ready for the pod.
func (p *profile) prepare(pod *framework.Pod, snap *framework.Snapshot) (*inquiry, error) {
	q := &inquiry{looks: p.looks, prepared: make([]framework.Prepared, len(p.looks))}
	for i := range p.looks {
		ready := p.looks[i].Prepare(pod, snap)
		if ready.Err != nil {
			return nil, fmt.Errorf("running %s on pod %s/%s: %w", p.looks[i].Name, pod.Namespace, pod.Name, ready.Err)
		}
		q.set(i, ready)
		if q.rejected != nil {
			return q, nil
		}
	}
	return q, nil
}

// set takes in what one plugin has prepared.
func (q *inquiry) set(i int, ready framework.Prepared) {
	q.prepared[i] = ready
	l := &q.looks[i]
	if l.filters {
		if ready.Reject != nil {
			q.rejected, q.by = ready.Reject, l.Any
			return
		}
		if ready.Nodes != nil {
			q.limit(ready.Nodes, l.Any)
		}
		if !ready.Skip {
			q.filters = append(q.filters, i)
		}
	}
	if l.weight > 0 && !ready.Skip {
		q.scorers = append(q.scorers, scorer{look: i, weight: l.weight, normalize: l.Normalize})
	}
}

// limit narrows the nodes to those that are also in nodes.
func (q *inquiry) limit(nodes []string, by *framework.Any) {
	if q.only == nil {
		q.only = nodes
	} else {
		q.only = slices.DeleteFunc(slices.Clone(q.only), func(name string) bool { return !slices.Contains(nodes, name) })
	}
	q.limited = append(q.limited, by.Name)
	q.limiters = append(q.limiters, by)
	slices.Sort(q.limited)
}

// filter returns the first rejection of the node and the look it comes from.
func (q *inquiry) filter(n *framework.Node) (*framework.Status, int) {
	for _, i := range q.filters {
		if s := q.prepared[i].Filter(n); s != nil {
			return s, i
		}
	}
	return nil, 0
}

// score writes the raw scores of the node to raws, one for each scorer.
func (q *inquiry) score(n *framework.Node, raws []int64) {
	for i := range q.scorers {
		raws[i] = q.prepared[q.scorers[i].look].Score(n)
	}
}

// extremes are the lowest and highest raw scores of each scorer among the
// nodes that fit.
type extremes struct{ low, high []int64 }

// total returns the weighted sum of a node's normalized scores.
func (q *inquiry) total(raws []int64, e extremes) int64 {
	var sum int64
	for i := range q.scorers {
		score := raws[i]
		if normalize := q.scorers[i].normalize; normalize != nil {
			score = normalize(score, e.low[i], e.high[i])
		}
		sum += score * q.scorers[i].weight
	}
	return sum
}
