package crew

import (
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
)

func TestAllJobsAreDone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c Crew
		var done atomic.Int64
		var all sync.WaitGroup
		for range 500 {
			all.Go(func() { c.Go(func() { done.Add(1) }) })
			c.Go(func() { done.Add(1) })
		}
		all.Wait()
		synctest.Wait()
		if done.Load() != 1000 {
			t.Errorf("%d of 1000 jobs were done", done.Load())
		}
		if n := len(c.idle); n == 0 || n > spare {
			t.Errorf("%d are kept", n)
		}
		c.Close() // or the bubble would find them left over
		c.Go(func() { done.Add(1) })
		synctest.Wait()
		if done.Load() != 1001 {
			t.Error("a closed crew does nothing")
		}
	})
}

func TestJobsReuseGoroutines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c Crew
		defer c.Close()
		for range 10 {
			c.Go(func() {})
			synctest.Wait()
		}
		if len(c.idle) != 1 {
			t.Errorf("%d goroutines for one job at a time", len(c.idle))
		}
	})
}

func TestCloseWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c Crew
		held, ended := make(chan struct{}), false
		c.Go(func() { <-held; ended = true })
		synctest.Wait()
		go func() { synctest.Wait(); close(held) }()
		c.Close()
		if !ended {
			t.Error("closed before the work was done")
		}
	})
}

// deep needs about 30 KiB of stack.
//
//go:noinline
func deep(n int) int {
	var room [1 << 10]byte
	if n == 0 {
		return int(room[0])
	}
	return deep(n-1) + int(room[n])
}

func BenchmarkDeep(b *testing.B) {
	b.Run("new", func(b *testing.B) {
		for b.Loop() {
			done := make(chan struct{})
			go func() { deep(28); close(done) }()
			<-done
		}
	})
	b.Run("crew", func(b *testing.B) {
		var c Crew
		defer c.Close()
		for b.Loop() {
			done := make(chan struct{})
			c.Go(func() { deep(28); close(done) })
			<-done
		}
	})
}
