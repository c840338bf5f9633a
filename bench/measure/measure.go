// Package measure is what the load tools share: durations and their
// percentiles, what a process uses as /proc tells it, and results as a table
// or as JSON lines. It reads /proc and writes to standard output only.
package measure

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"sync"
	"text/tabwriter"
	"time"
)

// Result is one figure. Key is stable and names it for bench/report, such as
// "api.create.json.p99"; Text says in words what was measured.
type Result struct {
	Key   string  `json:"key"`
	Text  string  `json:"text"`
	Value float64 `json:"value"`
	// Unit is "s", "MiB", "op/s" and the like.
	Unit string `json:"unit"`
}

// Results grows as a tool measures.
type Results struct{ list []Result }

// Add notes a figure.
func (r *Results) Add(key, unit string, value float64, text string, args ...any) {
	r.list = append(r.list, Result{Key: key, Text: fmt.Sprintf(text, args...), Value: value, Unit: unit})
}

// Write prints the results as JSON lines for bench/report, or as a table to read.
func (r *Results) Write(w io.Writer, asJSON bool) error {
	if asJSON {
		enc := json.NewEncoder(w)
		for _, x := range r.list {
			if err := enc.Encode(x); err != nil {
				return err
			}
		}
		return nil
	}
	table := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	for _, x := range r.list {
		fmt.Fprintf(table, "%s\t%s\t%s\n", x.Text, Format(x.Value, x.Unit), x.Key)
	}
	return table.Flush()
}

// Format writes a figure with three significant digits in a handy unit.
func Format(v float64, unit string) string {
	switch {
	case unit == "s" && v < 1e-3:
		return fmt.Sprintf("%.0f µs", v*1e6)
	case unit == "s" && v < 1:
		return fmt.Sprintf("%.3g ms", v*1e3)
	case v >= 1000:
		return fmt.Sprintf("%.0f %s", v, unit)
	}
	return fmt.Sprintf("%.3g %s", v, unit)
}

// Times collects durations from many goroutines.
type Times struct {
	mu   sync.Mutex
	list []time.Duration
}

// Add notes a duration.
func (t *Times) Add(d time.Duration) {
	t.mu.Lock()
	t.list = append(t.list, d)
	t.mu.Unlock()
}

// Len says how many durations there are.
func (t *Times) Len() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.list)
}

// Percentile returns the duration in seconds that p percent do not exceed
// (nearest rank), 0 without any.
func (t *Times) Percentile(p float64) float64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.list) == 0 {
		return 0
	}
	slices.Sort(t.list)
	rank := int(p/100*float64(len(t.list))+0.5) - 1
	return t.list[min(max(rank, 0), len(t.list)-1)].Seconds()
}
