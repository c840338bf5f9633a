package resident

import (
	"runtime"
	"runtime/debug"
	"testing"
	"time"
)

func TestPaceFollowsTheCollector(t *testing.T) {
	p := &pace{garbage: 64 << 20, now: mostGrowth}
	start := time.Now()
	for _, c := range []struct {
		after   time.Duration
		live    uint64
		growth  int
		changed bool
	}{
		{0, 10 << 20, 30, true},
		{2 * time.Minute, 10 << 20, 30, false},
		{2*time.Minute + time.Second, 10 << 20, 400, true},
		{2*time.Minute + 2*time.Second, 0, 400, false},
		{2*time.Minute + 3*time.Second, 32 << 20, 200, true},
		{2*time.Minute + 4*time.Second, 1 << 30, 100, true},
		{4 * time.Minute, 10 << 20, 30, true},
	} {
		growth, changed := p.collected(start.Add(c.after), c.live)
		if growth != c.growth || changed != c.changed {
			t.Errorf("after %v with %d bytes: %d, %v; want %d, %v", c.after, c.live, growth, changed, c.growth, c.changed)
		}
	}
}

func TestPaceIsToldOfCollections(t *testing.T) {
	was := debug.SetGCPercent(100)
	defer debug.SetGCPercent(was)
	p := &pace{now: idleGrowth}
	p.arm()
	for p.growth() == idleGrowth {
		runtime.GC()
		runtime.Gosched()
	}
}

func TestLive(t *testing.T) {
	ballast := make([]byte, 32<<20)
	runtime.GC()
	if got := live(); got < 32<<20 {
		t.Errorf("%d bytes are live, and 32 MiB more", got)
	}
	runtime.KeepAlive(ballast)
}

func (p *pace) growth() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.now
}
