package scheduler

import (
	"math/rand/v2"

	"skiff.dev/skiff/internal/scheduler/framework"
)

const (
	// maxRows bounds the rows of all tables of a profile, at about 80 bytes.
	maxRows = 400_000
	// maxMet bounds the classes that are remembered without a table.
	maxMet = 4096
)

// classes remembers the classes of pods that have come by.
type classes struct {
	tables map[string]*class
	met    map[string]struct{}
	uses   uint64
}

func newClasses() *classes {
	return &classes{tables: map[string]*class{}, met: map[string]struct{}{}}
}

// meet returns the table of a class, nil if it is to do without: because it has
// not been met before, or because there are as many tables as may be and all
// are in use.
func (cs *classes) meet(name string, nodes int) *class {
	cs.uses++
	c := cs.tables[name]
	if c != nil {
		c.used = cs.uses
		return c
	}
	if _, ok := cs.met[name]; !ok {
		if len(cs.met) >= maxMet {
			clear(cs.met)
		}
		cs.met[name] = struct{}{}
		return nil
	}
	for (len(cs.tables)+1)*nodes > maxRows && len(cs.tables) > 0 {
		if !cs.dropIdle() {
			return nil
		}
	}
	c = &class{used: cs.uses}
	cs.tables[name] = c
	return c
}

// dropIdle drops the table that has gone unused for longest, unless all are in
// use: to make and drop tables in turn would cost more than having none.
func (cs *classes) dropIdle() bool {
	var oldest string
	least := cs.uses
	for name, c := range cs.tables {
		if c.used < least {
			oldest, least = name, c.used
		}
	}
	if cs.uses-least < uint64(8*len(cs.tables)) {
		return false
	}
	delete(cs.tables, oldest)
	return true
}

// class is the table of what the plugins say of each node for one class of
// pods. A row holds as long as its node does not change; so after a pod has
// been placed, one row of each table is worked out anew instead of all.
type class struct {
	*inquiry
	used  uint64
	fresh bool  // nothing has been worked out since begin
	rows  []row // by slot
	raws  []int64
	// position is up to where in the snapshot's changes the rows are right.
	position uint64
	board    board
	failure  *FitError // that holds until a row changes
}

type row struct {
	generation uint64 // of the node; 0 if the row is to be worked out
	status     *framework.Status
	by         int32 // the look that status comes from
	fits       bool
}

// begin starts the table over.
func (c *class) begin(q *inquiry) {
	*c = class{inquiry: q, used: c.used, board: newBoard(q), fresh: true}
}

// refresh brings the table up to the snapshot; false if it must begin anew,
// because a plugin must be asked again about every node.
func (c *class) refresh(pod *framework.Pod, snap *framework.Snapshot) bool {
	if !c.fresh && !c.renewScores(pod, snap) {
		c.inquiry = nil
		return false
	}
	c.fresh = false
	nodes := snap.Nodes()
	for slot := len(nodes); slot < len(c.rows); slot++ {
		c.leave(slot)
	}
	k := len(c.scorers)
	if len(c.rows) > len(nodes) {
		c.rows, c.raws = c.rows[:len(nodes)], c.raws[:len(nodes)*k]
		c.failure = nil
	} else if grow := len(nodes) - len(c.rows); grow > 0 {
		c.rows = append(c.rows, make([]row, grow)...)
		c.raws = append(c.raws, make([]int64, grow*k)...)
	}
	c.board.resize(len(nodes))
	if changed, ok := snap.ChangedSince(c.position); ok && c.position > 0 {
		for _, slot := range changed {
			if int(slot) < len(nodes) {
				c.look(nodes[slot])
			}
		}
	} else {
		for _, n := range nodes {
			c.look(n)
		}
	}
	c.position = snap.Now()
	c.settle()
	return true
}

// renewScores prepares the plugins anew that only score and whose state the
// snapshot has overtaken, and works out their scores; false if that is not
// enough.
func (c *class) renewScores(pod *framework.Pod, snap *framework.Snapshot) bool {
	var scores []int
	for i := range c.prepared {
		stale := c.prepared[i].Stale
		if stale == nil || !stale(snap) {
			continue
		}
		if c.looks[i].filters {
			return false
		}
		ready := c.looks[i].Prepare(pod, snap)
		if ready.Err != nil || ready.Skip != c.prepared[i].Skip {
			return false
		}
		c.prepared[i] = ready
		for s := range c.scorers {
			if c.scorers[s].look == i {
				scores = append(scores, s)
			}
		}
	}
	k := len(c.scorers)
	for _, s := range scores {
		for slot, n := range snap.Nodes() {
			if slot >= len(c.rows) || !c.rows[slot].fits || c.rows[slot].generation != n.Generation() {
				continue
			}
			raws := c.raws[slot*k : (slot+1)*k]
			if raw := c.prepared[c.scorers[s].look].Score(n); raw != raws[s] {
				c.board.leave(slot, raws)
				raws[s] = raw
				c.board.enter(slot, raws)
			}
		}
	}
	return true
}

// look works out the row of a node, unless it still holds.
func (c *class) look(n *framework.Node) {
	r := &c.rows[n.Slot()]
	if r.generation == n.Generation() {
		return
	}
	c.leave(n.Slot())
	status, by := c.filter(n)
	*r = row{generation: n.Generation(), status: status, by: int32(by), fits: status == nil}
	c.failure = nil
	if r.fits {
		k := len(c.scorers)
		raws := c.raws[n.Slot()*k : (n.Slot()+1)*k]
		c.score(n, raws)
		c.board.enter(n.Slot(), raws)
	}
}

// leave takes a node that is about to change off the board.
func (c *class) leave(slot int) {
	if c.rows[slot].fits {
		k := len(c.scorers)
		c.board.leave(slot, c.raws[slot*k:(slot+1)*k])
		c.rows[slot].fits = false
	}
}

// settle makes the board right after rows have changed.
func (c *class) settle() {
	k := len(c.scorers)
	c.board.settle(func(yield func(slot int, raws []int64)) {
		for slot := range c.rows {
			if c.rows[slot].fits {
				yield(slot, c.raws[slot*k:(slot+1)*k])
			}
		}
	})
}

// pick returns the slot of one of the best nodes, false if none fits.
func (c *class) pick(r *rand.Rand) (int, bool) {
	best := c.board.best()
	if len(best) == 0 {
		return 0, false
	}
	return int(best[r.IntN(len(best))]), true
}

// fitError says why no node fits.
func (c *class) fitError(snap *framework.Snapshot) *FitError {
	if c.failure == nil {
		e := &FitError{Nodes: len(snap.Nodes()), Reasons: map[string]int{}}
		for i := range c.rows {
			e.add(c.rows[i].status, c.looks[c.rows[i].by].Any, 1)
		}
		c.failure = e
	}
	return c.failure
}
