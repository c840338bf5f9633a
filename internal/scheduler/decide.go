package scheduler

import (
	"fmt"
	"math/rand/v2"
	"strings"

	"skiff.dev/skiff/internal/scheduler/framework"
)

// decider chooses nodes for the pods of one profile. It reads the snapshot and
// writes nothing but what it remembers of classes.
type decider struct {
	profile *profile
	snap    *framework.Snapshot
	rand    *rand.Rand
	classes *classes
	// next is the slot where the next sample of nodes begins, so that all
	// nodes get their turn.
	next int
}

func newDecider(p *profile, snap *framework.Snapshot, r *rand.Rand) *decider {
	return &decider{profile: p, snap: snap, rand: r, classes: newClasses()}
}

// sign sets the pod's class: pods whose every plugin reads the same are of one.
func (d *decider) sign(pod *framework.Pod, s *framework.Signer) {
	s.Reset()
	for i := range d.profile.looks {
		d.profile.looks[i].Sign(s, pod)
	}
	pod.Class = s.Class()
}

// decide returns the name of the best node for the pod; of several equally
// good ones, any. The error is a *FitError if no node can run the pod.
//
// The second pod of a class gets a table of all nodes, which later ones use.
// Before that only as many nodes are looked at as are likely to include a good
// one.
func (d *decider) decide(pod *framework.Pod) (string, error) {
	if len(d.snap.Nodes()) == 0 {
		return "", errNoNodes
	}
	c := d.classes.meet(pod.Class, len(d.snap.Nodes()))
	if c == nil {
		return d.sample(pod, d.wanted(len(d.snap.Nodes())))
	}
	for c.inquiry == nil || !c.refresh(pod, d.snap) {
		q, err := d.profile.prepare(pod, d.snap)
		if err != nil {
			return "", err
		}
		if q.rejected != nil || q.only != nil {
			// Looking at few nodes or none is cheaper than keeping a table.
			return d.sample(pod, len(d.snap.Nodes()))
		}
		c.begin(q)
	}
	slot, ok := c.pick(d.rand)
	if !ok {
		return "", c.fitError(d.snap)
	}
	return d.snap.Nodes()[slot].Name(), nil
}

// wanted returns how many nodes that fit are enough to choose from. With a
// percentage of 0 it falls from half of all nodes to a twentieth as clusters
// grow to 5,600 nodes; it never is below 100.
// https://kubernetes.io/docs/concepts/scheduling-eviction/scheduler-perf-tuning/
func (d *decider) wanted(nodes int) int {
	const fewest = 100
	if nodes < fewest || d.profile.percentage >= 100 {
		return nodes
	}
	percentage := int(d.profile.percentage)
	if percentage == 0 {
		percentage = max(5, 50-nodes/125)
	}
	return max(fewest, nodes*percentage/100)
}

// candidate is a node that fits.
type candidate struct {
	node *framework.Node
	raws []int64
}

// sample decides by looking at nodes until enough of them fit.
func (d *decider) sample(pod *framework.Pod, enough int) (string, error) {
	q, err := d.profile.prepare(pod, d.snap)
	if err != nil {
		return "", err
	}
	all := d.snap.Nodes()
	why := &FitError{Nodes: len(all), Reasons: map[string]int{}}
	if q.rejected != nil {
		why.Rejected = strings.Join(q.rejected.Reasons, ", ")
		why.By = []*framework.Any{q.by}
		return "", why
	}
	var fits []candidate
	look := func(n *framework.Node) {
		if s, i := q.filter(n); s != nil {
			why.add(s, q.looks[i].Any, 1)
		} else {
			fits = append(fits, candidate{node: n})
		}
	}
	if q.only != nil {
		d.lookAtOnly(q, why, look)
	} else {
		seen := 0
		for ; seen < len(all) && len(fits) < enough; seen++ {
			look(all[(d.next+seen)%len(all)])
		}
		d.next = (d.next + seen) % len(all)
	}
	if len(fits) == 0 {
		return "", why
	}
	best := d.best(q, fits)
	return best[d.rand.IntN(len(best))].node.Name(), nil
}

// lookAtOnly looks at the nodes that the plugins named; all others are
// accounted to those plugins.
func (d *decider) lookAtOnly(q *inquiry, why *FitError, look func(*framework.Node)) {
	others := len(d.snap.Nodes())
	for _, name := range q.only {
		if n := d.snap.Node(name); n != nil {
			look(n)
			others--
		}
	}
	if others > 0 {
		s := framework.RejectFinally(fmt.Sprintf("node(s) didn't satisfy plugin(s) %v", q.limited))
		for _, by := range q.limiters {
			why.add(s, by, 0)
		}
		why.Reasons[s.Reasons[0]] += others
	}
}

// best returns the candidates with the highest total score.
func (d *decider) best(q *inquiry, fits []candidate) []candidate {
	if len(fits) == 1 {
		return fits
	}
	k := len(q.scorers)
	raws := make([]int64, len(fits)*k)
	e := extremes{low: make([]int64, k), high: make([]int64, k)}
	for i := range fits {
		fits[i].raws = raws[i*k : (i+1)*k]
		q.score(fits[i].node, fits[i].raws)
		for j, raw := range fits[i].raws {
			if i == 0 {
				e.low[j], e.high[j] = raw, raw
			}
			e.low[j], e.high[j] = min(e.low[j], raw), max(e.high[j], raw)
		}
	}
	var best []candidate
	top := int64(-1)
	for _, c := range fits {
		total := q.total(c.raws, e)
		if total > top {
			best, top = best[:0], total
		}
		if total == top {
			best = append(best, c)
		}
	}
	return best
}
