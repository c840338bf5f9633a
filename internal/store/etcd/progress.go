package etcd

import "sync/atomic"

// progress is the wish of a watch's reader to be told how far the watch is.
type progress struct {
	wanted atomic.Bool
	poke   chan struct{} // receives when a wish comes up
}

func newProgress() *progress { return &progress{poke: make(chan struct{}, 1)} }

// ask notes the wish and wakes whoever reads the watch.
func (p *progress) ask() {
	p.wanted.Store(true)
	select {
	case p.poke <- struct{}{}:
	default:
	}
}

// told says that a notice has come.
func (p *progress) told() { p.wanted.Store(false) }
