package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"skiff.dev/skiff/bench/measure"
)

// A row is a line of a table: one figure of a part.
type row struct {
	part, key, text string
	// more says that more is better: the figure is a rate.
	more bool
}

// A table has a heading and what must be known to read it.
type table struct {
	title, text string
	rows        []row
}

// sample is what the rounds have measured of a row on one target.
type sample struct {
	unit         string
	median       float64
	lowest, most float64
	n            int
}

// sum reduces values to their median and spread; the median of an even number
// of values is the mean of the two in the middle.
func sum(values []measure.Result) (s sample, ok bool) {
	if len(values) == 0 {
		return s, false
	}
	var v []float64
	for _, x := range values {
		v = append(v, x.Value)
	}
	slices.Sort(v)
	n := len(v)
	return sample{unit: values[0].Unit, median: (v[(n-1)/2] + v[n/2]) / 2, lowest: v[0], most: v[n-1], n: n}, true
}

// String is the median, with the spread if there is one.
func (s sample) String() string {
	text := measure.Format(s.median, s.unit)
	low, high := measure.Format(s.lowest, s.unit), measure.Format(s.most, s.unit)
	if s.n < 2 || low == high {
		return text
	}
	return fmt.Sprintf("%s (%s .. %s)", text, low, high)
}

// ratio says how many times as much the stock cluster takes, or as little it
// reaches, as skiff.
func ratio(ours, theirs sample, more bool) string {
	over, under := theirs.median, ours.median
	if more {
		over, under = under, over
	}
	switch r := over / under; {
	case under == 0:
		return "—"
	case r >= 10:
		return fmt.Sprintf("**%.0f×**", r)
	case r >= 1:
		return fmt.Sprintf("%.1f×", r)
	default:
		return fmt.Sprintf("%.2f×", r)
	}
}

// line writes the row, if it was measured on a target at least.
func (w row) line(r *run) string {
	ours, one := sum(r.values[key{w.part, w.key, skiff}])
	theirs, other := sum(r.values[key{w.part, w.key, stock}])
	cells := []string{w.text, "—", "—", "—"}
	if one {
		cells[1] = ours.String()
	}
	if other {
		cells[2] = theirs.String()
	}
	switch {
	case one && other:
		cells[3] = ratio(ours, theirs, w.more)
	case !one && !other:
		return ""
	}
	return "| " + strings.Join(cells, " | ") + " |\n"
}

// tables writes the section.
func tables(runs []*run) (string, error) {
	var body strings.Builder
	used := map[*run][]string{}
	for _, t := range plan {
		var lines strings.Builder
		for _, w := range t.rows {
			r := choose(runs, w.part)
			if r == nil {
				continue
			}
			if text := w.line(r); text != "" {
				lines.WriteString(text)
				if !slices.Contains(used[r], w.part) {
					used[r] = append(used[r], w.part)
				}
			}
		}
		if lines.Len() > 0 {
			fmt.Fprintf(&body, "\n### %s\n\n%s\n\n| what | skiff | stock | ratio |\n|---|---|---|---|\n%s", t.title, t.text, lines.String())
		}
	}
	if body.Len() == 0 {
		return "", errors.New("there are no figures in the results")
	}
	var head strings.Builder
	head.WriteString("\n## Side by side with upstream's parts\n\n" + fairness + "\n")
	for _, r := range runs {
		if len(used[r]) == 0 {
			continue
		}
		note := ""
		if r.about.Quick {
			note = " **A trial with small shapes, not to be quoted.**"
		}
		rounds := "one round"
		if r.about.Rounds > 1 {
			rounds = fmt.Sprintf("%d rounds", r.about.Rounds)
		}
		fmt.Fprintf(&head, "\nMeasured %s, %s: %s.%s\n", r.about.Facts, rounds, strings.Join(used[r], ", "), note)
	}
	return head.String() + body.String() + failures(runs) + "\n", nil
}

// failures lists what went wrong and was not measured by another run.
func failures(runs []*run) string {
	var w strings.Builder
	for _, r := range runs {
		for _, l := range r.failed {
			if choose(runs, l.Part) != r && choose(runs, l.Part) != nil {
				continue // another run has measured it
			}
			text := strings.Join(strings.Fields(l.Failed), " ")
			fmt.Fprintf(&w, "- %s on %s, round %d: %s\n", l.Part, l.Target, l.Round, text[:min(len(text), 300)])
		}
	}
	if w.Len() == 0 {
		return ""
	}
	return "\nNot measured:\n\n" + w.String()
}
