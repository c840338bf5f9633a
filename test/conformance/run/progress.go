package run

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"time"
)

// progress reads the suite's output, line by line, and says from time to time how far it is.
type progress struct {
	log      io.Writer
	parallel int
	start    time.Time
	said     time.Time

	total  int
	done   int
	failed int
	sigs   map[string]*tally
	// verdict is that of a spec whose name the next line has.
	verdict string
}

// tally counts specs of a SIG.
type tally struct{ passed, failed int }

var (
	willRun = regexp.MustCompile(`^Will run (\d+) of \d+ specs`)
	// A spec's report begins with a bullet, what became of it unless it passed, and how long it took.
	header = regexp.MustCompile(`^• (?:\[([A-Z ]+)\] )?.*\[[0-9.]+ seconds\]$`)
	// Names have ginkgo's own word in them, and labels behind them.
	tags = regexp.MustCompile(`\[It\] | \[[^\]]*\]$`)
	sig  = regexp.MustCompile(`^\[sig-([a-z-]+)\]`)
)

func newProgress(log io.Writer, parallel int) *progress {
	now := time.Now()
	return &progress{log: log, parallel: parallel, start: now, said: now, sigs: map[string]*tally{}}
}

func (p *progress) line(text string) {
	if m := willRun.FindStringSubmatch(text); m != nil && p.total == 0 {
		p.total, _ = strconv.Atoi(m[1]) // it is digits
		fmt.Fprintf(p.log, "%d specs, %d at a time\n", p.total, p.parallel)
		return
	}
	if m := header.FindStringSubmatch(text); m != nil {
		p.verdict = cmp.Or(m[1], "PASSED")
		return
	}
	if p.verdict == "" || text == "" {
		return
	}
	p.spec(tags.ReplaceAllString(text, ""), p.verdict)
	p.verdict = ""
}

// spec counts one that has ended.
func (p *progress) spec(name, verdict string) {
	area := "none"
	if m := sig.FindStringSubmatch(name); m != nil {
		area = m[1]
	}
	if p.sigs[area] == nil {
		p.sigs[area] = &tally{}
	}
	p.done++
	if verdict == "PASSED" {
		p.sigs[area].passed++
		return
	}
	p.failed++
	p.sigs[area].failed++
	fmt.Fprintf(p.log, "%s %s\n", verdict, name)
}

// every is how often the progress is told.
const every = 30 * time.Second

func (p *progress) tick(now time.Time) {
	if now.Sub(p.said) < every {
		return
	}
	p.said = now
	fmt.Fprintln(p.log, p.state(now))
}

// state is a line such as "120 of 462 done, 2 failed; 6m0s, about 17m left".
func (p *progress) state(now time.Time) string {
	gone := now.Sub(p.start)
	if p.done == 0 {
		return fmt.Sprintf("nothing done yet; %v", gone.Round(time.Second))
	}
	left := time.Duration(float64(gone) / float64(p.done) * float64(p.total-p.done))
	return fmt.Sprintf("%d of %d done, %d failed; %v, about %v left", p.done, p.total, p.failed,
		gone.Round(time.Second), left.Round(time.Minute))
}

// last tells how many specs of each SIG have passed and failed.
func (p *progress) last() {
	fmt.Fprintf(p.log, "%d of %d done, %d failed; %v\n", p.done, p.total, p.failed, time.Since(p.start).Round(time.Second))
	for _, name := range slices.Sorted(maps.Keys(p.sigs)) {
		fmt.Fprintf(p.log, "  %-20s %3d passed %3d failed\n", name, p.sigs[name].passed, p.sigs[name].failed)
	}
}
