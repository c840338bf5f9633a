package compare

import (
	"fmt"
	"io"
	"slices"
	"time"
)

// progress tells how far the run is, and about how long the rest takes.
type progress struct {
	log         io.Writer
	total, done int
	began       time.Time
	// left is what the parts that have not been measured usually take, gone what those that have do, and
	// took what they did.
	left, gone, took time.Duration
	now              time.Duration
}

func newProgress(log io.Writer, parts []part, rounds int) *progress {
	p := &progress{log: log, total: rounds * len(parts) * len(Targets)}
	for _, x := range parts {
		for i := range Targets {
			p.left += time.Duration(rounds*x.usual[i]) * time.Second
		}
	}
	fmt.Fprintf(log, "%d measurements, about %v\n", p.total, p.left.Round(time.Minute))
	return p
}

func (p *progress) begin(round int, x part, target string) {
	p.began, p.now = time.Now(), time.Duration(x.usual[slices.Index(Targets, target)])*time.Second
	fmt.Fprintf(p.log, "[%d of %d] round %d: %s on %s; about %v left\n", p.done+1, p.total, round, x.name, target, p.estimate().Round(time.Minute))
}

func (p *progress) end(err error) {
	p.add(time.Since(p.began))
	if err != nil {
		fmt.Fprintf(p.log, "failed after %v: %v\n", time.Since(p.began).Round(time.Second), err)
	}
}

// add takes in how long a measurement took.
func (p *progress) add(took time.Duration) {
	p.done++
	p.left, p.gone, p.took = p.left-p.now, p.gone+p.now, p.took+took
}

// estimate is what is left, at the pace that there has been so far.
func (p *progress) estimate() time.Duration {
	if p.gone == 0 {
		return p.left
	}
	return time.Duration(float64(p.left) * float64(p.took) / float64(p.gone))
}
