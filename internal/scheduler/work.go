package scheduler

import "skiff.dev/skiff/internal/crew"

// maxWork is how many bindings and conditions may be under way at once. When
// there are more the scheduler waits, which keeps it from deciding far ahead
// of what the API server can take.
const maxWork = 256

// work is what is under way.
type work struct {
	crew crew.Crew
	free chan struct{} // holds an element for each that is
}

func newWork() *work { return &work{free: make(chan struct{}, maxWork)} }

// do has f done beside what the scheduler does. It waits if too much is.
func (w *work) do(f func()) {
	w.free <- struct{}{}
	w.crew.Go(func() {
		defer func() { <-w.free }()
		f()
	})
}

// end waits for everything.
func (w *work) end() { w.crew.Close() }
