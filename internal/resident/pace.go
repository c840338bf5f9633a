package resident

import (
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"sync"
	"time"
)

// Growth of the heap between two collections in percent of what is live, as in
// GOGC.
const (
	// idleGrowth lets little garbage lie about. Idle processes make so little
	// that collecting often costs less than the memory.
	idleGrowth = 30
	// What a process that works grows by depends on how much garbage it may make.
	leastGrowth, mostGrowth = 100, 400
)

// calm is how far apart two collections are at least while a process is idle.
const calm = 5 * time.Second

// pace sets the collector's growth by its own beat: each collection looks how
// long ago the one before was.
type pace struct {
	garbage uint64 // while it works, in bytes

	mu   sync.Mutex
	now  int       // growth in force
	last time.Time // of a collection
}

// startPace takes over from Go's default. A process begins with work.
func startPace(garbage uint64) {
	p := &pace{garbage: garbage, now: mostGrowth}
	debug.SetGCPercent(p.now)
	p.arm()
}

// beat is garbage whose collection tells that one took place.
type beat struct{ _ *byte }

func (p *pace) arm() {
	runtime.AddCleanup(&beat{new(byte)}, func(p *pace) {
		if growth, changed := p.collected(time.Now(), live()); changed {
			debug.SetGCPercent(growth)
		}
		p.arm()
	}, p)
}

// collected takes the time of a collection and the bytes that it has left, and
// returns the growth from now on, and whether it is another.
func (p *pace) collected(now time.Time, live uint64) (growth int, changed bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	growth = idleGrowth
	if now.Sub(p.last) < calm {
		growth = min(max(int(p.garbage*100/max(live, 1)), leastGrowth), mostGrowth)
	}
	p.last = now
	changed = growth != p.now
	p.now = growth
	return growth, changed
}

// live is what the last collection has left of the heap, in bytes.
func live() uint64 {
	sample := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	metrics.Read(sample)
	if sample[0].Value.Kind() != metrics.KindUint64 {
		return 0 // a Go that does not tell
	}
	return sample[0].Value.Uint64()
}
