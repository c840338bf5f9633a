package controller

import (
	"context"
	"sync"
)

// SlowStart calls f count times: first once, then, while all goes well, in
// batches of double the size, each batch in parallel. After a batch with an
// error it stops, so that what cannot work is not tried hundreds of times. It
// returns how many calls went well and the first error.
func SlowStart(ctx context.Context, count int, f func(context.Context) error) (done int, err error) {
	for size := 1; count > 0; size *= 2 {
		size = min(size, count)
		n, err := Parallel(ctx, size, func(ctx context.Context, _ int) error { return f(ctx) })
		done += n
		if err != nil {
			return done, err
		}
		count -= size
	}
	return done, nil
}

// Parallel calls f with 0 to count-1 at once, waits for all, and returns how
// many went well and the first error.
func Parallel(ctx context.Context, count int, f func(context.Context, int) error) (done int, first error) {
	var wg sync.WaitGroup
	var mu sync.Mutex
	for i := range count {
		wg.Go(func() {
			err := f(ctx, i)
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				done++
			} else if first == nil {
				first = err
			}
		})
	}
	wg.Wait()
	return done, first
}
