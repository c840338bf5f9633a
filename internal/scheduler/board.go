package scheduler

// board ranks the nodes that fit by their total score, so that one of the best
// is found, and one node is moved, without looking at the others. Only if an
// extreme changes that scores are normalized by are all totals worked out
// anew, in settle.
type board struct {
	q *inquiry
	// now are the extremes of the nodes on the board, with the number of nodes
	// that have them; used are those that the totals are made with. After a
	// leave they may be out of date; then a count is 0.
	now, used   extremes
	lows, highs []int
	size        int
	buckets     map[int64][]int32 // slots by total
	totals      []int64           // by slot
	at          []int32           // by slot: place in its bucket
	top         int64             // no total is higher
}

func newBoard(q *inquiry) board {
	k := len(q.scorers)
	fresh := func() extremes { return extremes{low: make([]int64, k), high: make([]int64, k)} }
	return board{q: q, now: fresh(), used: fresh(), lows: make([]int, k), highs: make([]int, k), buckets: map[int64][]int32{}}
}

func (b *board) resize(slots int) {
	if grow := slots - len(b.totals); grow > 0 {
		b.totals = append(b.totals, make([]int64, grow)...)
		b.at = append(b.at, make([]int32, grow)...)
	}
}

// enter puts a node on the board.
func (b *board) enter(slot int, raws []int64) {
	for i, raw := range raws {
		if b.q.scorers[i].normalize == nil {
			continue
		}
		b.now.low[i], b.lows[i] = extend(raw, b.now.low[i], b.lows[i], b.size == 0 || raw < b.now.low[i])
		b.now.high[i], b.highs[i] = extend(raw, b.now.high[i], b.highs[i], b.size == 0 || raw > b.now.high[i])
	}
	b.size++
	b.put(slot, b.q.total(raws, b.used))
}

// extend returns an extreme and its count after raw has come; beyond says that
// raw is a new extreme.
func extend(raw, extreme int64, count int, beyond bool) (int64, int) {
	switch {
	case beyond:
		return raw, 1
	case raw == extreme:
		return extreme, count + 1
	}
	return extreme, count
}

// leave takes a node off the board; raws are those that it entered with.
func (b *board) leave(slot int, raws []int64) {
	for i, raw := range raws {
		if raw == b.now.low[i] {
			b.lows[i]--
		}
		if raw == b.now.high[i] {
			b.highs[i]--
		}
	}
	b.size--
	total := b.totals[slot]
	bucket := b.buckets[total]
	last := bucket[len(bucket)-1]
	bucket[b.at[slot]] = last
	b.at[last] = b.at[slot]
	b.buckets[total] = bucket[:len(bucket)-1]
}

func (b *board) put(slot int, total int64) {
	b.totals[slot] = total
	b.at[slot] = int32(len(b.buckets[total]))
	b.buckets[total] = append(b.buckets[total], int32(slot))
	b.top = max(b.top, total)
}

// settle makes the totals right; all yields every node on the board.
func (b *board) settle(all func(yield func(slot int, raws []int64))) {
	if b.size == 0 {
		return
	}
	lost, moved := false, false
	for i := range b.q.scorers {
		if b.q.scorers[i].normalize == nil {
			continue
		}
		lost = lost || b.lows[i] == 0 || b.highs[i] == 0
	}
	if lost {
		b.findExtremes(all)
	}
	for i := range b.q.scorers {
		if b.q.scorers[i].normalize != nil && (b.now.low[i] != b.used.low[i] || b.now.high[i] != b.used.high[i]) {
			b.used.low[i], b.used.high[i] = b.now.low[i], b.now.high[i]
			moved = true
		}
	}
	if !moved {
		return
	}
	for total := range b.buckets {
		b.buckets[total] = b.buckets[total][:0]
	}
	b.top = 0
	all(func(slot int, raws []int64) { b.put(slot, b.q.total(raws, b.used)) })
}

func (b *board) findExtremes(all func(yield func(slot int, raws []int64))) {
	first := true
	all(func(_ int, raws []int64) {
		for i, raw := range raws {
			b.now.low[i], b.lows[i] = extend(raw, b.now.low[i], b.lows[i], first || raw < b.now.low[i])
			b.now.high[i], b.highs[i] = extend(raw, b.now.high[i], b.highs[i], first || raw > b.now.high[i])
		}
		first = false
	})
}

// best returns the slots of the nodes with the highest total.
func (b *board) best() []int32 {
	if b.size == 0 {
		return nil
	}
	for len(b.buckets[b.top]) == 0 {
		b.top--
	}
	return b.buckets[b.top]
}
