package resident

import (
	"runtime"
	"runtime/debug"
	"sync"
	"time"
)

// calm is how far apart two collections are at least while a process is idle.
const calm = 5 * time.Second

// Pace has the garbage collector run often while the process is idle, so that
// little garbage lies about, and seldom while it works, where collecting a
// small heap again and again costs more than the work. Idle and busy are growth
// in percent as in GOGC. The collector's own beat tells which it is: each
// collection looks how long ago the one before was. It may be called once.
func Pace(idle, busy int) {
	debug.SetGCPercent(idle)
	p := &pace{idle: idle, busy: busy, now: idle}
	p.arm()
}

type pace struct {
	idle, busy int

	mu   sync.Mutex
	now  int       // growth in force
	last time.Time // of a collection
}

// beat is garbage whose collection tells that one took place.
type beat struct{ _ *byte }

func (p *pace) arm() {
	runtime.AddCleanup(&beat{new(byte)}, func(p *pace) {
		if growth, changed := p.collected(time.Now()); changed {
			debug.SetGCPercent(growth)
		}
		p.arm()
	}, p)
}

// collected takes the time of a collection and returns the growth from now on,
// and whether it is another.
func (p *pace) collected(now time.Time) (growth int, changed bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	growth = p.idle
	if now.Sub(p.last) < calm {
		growth = p.busy
	}
	p.last = now
	changed = growth != p.now
	p.now = growth
	return growth, changed
}
