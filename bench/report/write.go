package main

import (
	"bytes"
	"fmt"
	"strings"

	"skiff.dev/skiff/bench/measure"
	"skiff.dev/skiff/bench/page"
)

// section is where the tables stand; what is around it is written by hand, or
// by others, and kept.
var section = page.Section{Name: "bench", Writer: "bench/report"}

func (r *report) write() error { return section.Write(r.out, r.tables("Measured "+page.Facts()+".")) }

func byKey(found []measure.Result) map[string]measure.Result {
	figures := map[string]measure.Result{}
	for _, x := range found {
		figures[x.Key] = x
	}
	return figures
}

// tables writes the generated part of the page.
func (r *report) tables(where string) string {
	figures := byKey(r.found)
	var w bytes.Buffer
	fmt.Fprintf(&w, "\n%s\n\n## Budgets\n\n| what | budget | measured | verdict |\n|---|---|---|---|\n", where)
	for _, b := range budgets {
		sign := "≤"
		if b.atLeast {
			sign = "≥"
		}
		measured, verdict := b.judge(figures)
		fmt.Fprintf(&w, "| %s | %s %s | %s | %s |\n", b.text, sign, measure.Format(b.limit, b.unit), measured, verdict)
	}
	fmt.Fprintf(&w, "\n## All figures\n\n| what | measured | key |\n|---|---|---|\n")
	for _, x := range r.found {
		fmt.Fprintf(&w, "| %s | %s | %s |\n", x.Text, measure.Format(x.Value, x.Unit), x.Key)
	}
	if len(r.missing) > 0 {
		fmt.Fprintf(&w, "\nNot measured:\n\n")
		for _, m := range r.missing {
			fmt.Fprintf(&w, "- %s\n", strings.Join(strings.Fields(m), " "))
		}
	}
	w.WriteString("\n")
	return w.String()
}
