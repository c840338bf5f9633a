package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"

	"skiff.dev/skiff/bench/measure"
)

// line is one of a results file, as the yardstick writes them while it
// measures. A run begins with one that has About; the lines up to the next such
// belong to it. Each other line has a figure, or says that a part failed.
type line struct {
	About  *about          `json:"about,omitempty"`
	Round  int             `json:"round,omitempty"`
	Target string          `json:"target,omitempty"` // skiff or stock
	Part   string          `json:"part,omitempty"`   // of the plan, such as "lists"
	Figure *measure.Result `json:"figure,omitempty"`
	Failed string          `json:"failed,omitempty"`
}

// about tells of a run as a whole.
type about struct {
	// Facts are when, where and of what.
	Facts  string `json:"facts"`
	Rounds int    `json:"rounds"`
	// Quick runs try the programs out; their shapes are too small to compare.
	Quick bool `json:"quick,omitempty"`
}

// The targets.
const (
	skiff = "skiff"
	stock = "stock"
)

// key names what was measured of one target.
type key struct{ part, key, target string }

// run is one run's figures: a value for each time that something was measured.
type run struct {
	about  about
	values map[key][]measure.Result
	failed []line
}

// has says whether the run measured anything of a part on a target.
func (r *run) has(part, target string) bool {
	for k := range r.values {
		if k.part == part && k.target == target {
			return true
		}
	}
	return false
}

// read reads a results file, to its end or to where its writer was interrupted.
func read(in io.Reader) (runs []*run, err error) {
	lines := bufio.NewScanner(in)
	for n := 1; lines.Scan(); n++ {
		var l line
		if err := json.Unmarshal(lines.Bytes(), &l); err != nil {
			if !lines.Scan() {
				break // the last line may be half of one
			}
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		if l.About != nil {
			runs = append(runs, &run{about: *l.About, values: map[key][]measure.Result{}})
			continue
		}
		if len(runs) == 0 {
			return nil, fmt.Errorf("line %d: nothing has told of which run it is", n)
		}
		last := runs[len(runs)-1]
		switch {
		case l.Failed != "":
			last.failed = append(last.failed, l)
		case l.Figure != nil:
			k := key{l.Part, l.Figure.Key, l.Target}
			last.values[k] = append(last.values[k], *l.Figure)
		}
	}
	return runs, lines.Err()
}

func readFiles(names []string) (all []*run, err error) {
	for _, name := range names {
		f, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		runs, err := read(f)
		f.Close() // it was only read
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		all = append(all, runs...)
	}
	return all, nil
}

// choose returns the run that is told of for a part: the latest that measured
// it on both targets, or else the latest that measured it at all; nil if none.
func choose(runs []*run, part string) *run {
	var found *run
	for _, r := range slices.Backward(runs) {
		one, other := r.has(part, skiff), r.has(part, stock)
		if one && other {
			return r
		}
		if found == nil && (one || other) {
			found = r
		}
	}
	return found
}
