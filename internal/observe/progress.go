package observe

import (
	"fmt"
	"io"
	"sync"
	"time"
)

// slow is how long a step may take before it is told that it is waited for.
const slow = time.Second

// Progress tells a person at a terminal how a start goes: each step with its
// time, and what is being waited for if that takes long.
type Progress struct {
	w     io.Writer
	start time.Time
	mu    sync.Mutex
}

// NewProgress returns a progress that writes to w.
func NewProgress(w io.Writer) *Progress { return &Progress{w: w, start: time.Now()} }

// Step runs f as a step of that name.
func (p *Progress) Step(name string, f func() error) error {
	timer := time.AfterFunc(slow, func() { p.say("waiting for: %s", name) })
	defer timer.Stop()
	if err := f(); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	p.say("%s", name)
	return nil
}

// Say tells one line.
func (p *Progress) Say(format string, args ...any) { p.say(format, args...) }

func (p *Progress) say(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	fmt.Fprintf(p.w, "[%6.2fs] %s\n", time.Since(p.start).Seconds(), fmt.Sprintf(format, args...))
}
