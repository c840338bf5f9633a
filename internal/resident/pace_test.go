package resident

import (
	"runtime"
	"runtime/debug"
	"testing"
	"time"
)

func TestPaceFollowsTheCollector(t *testing.T) {
	p := &pace{idle: 30, busy: 300, now: 30}
	start := time.Now()
	for _, c := range []struct {
		after   time.Duration
		growth  int
		changed bool
	}{
		{0, 30, false},
		{2 * time.Minute, 30, false},
		{2*time.Minute + time.Second, 300, true},
		{2*time.Minute + 2*time.Second, 300, false},
		{4 * time.Minute, 30, true},
	} {
		growth, changed := p.collected(start.Add(c.after))
		if growth != c.growth || changed != c.changed {
			t.Errorf("after %v: %d, %v; want %d, %v", c.after, growth, changed, c.growth, c.changed)
		}
	}
}

func TestPaceIsToldOfCollections(t *testing.T) {
	was := debug.SetGCPercent(100)
	defer debug.SetGCPercent(was)
	p := &pace{idle: 30, busy: 300, now: 30}
	p.arm()
	for p.growth() != 300 {
		runtime.GC()
		runtime.Gosched()
	}
}

func (p *pace) growth() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.now
}
