package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"skiff.dev/skiff/bench/measure"
)

// The tables stand between these two lines of the page; what is around them is
// written by hand and kept.
const (
	begin = "<!-- bench:begin, written by bench/report -->\n"
	end   = "<!-- bench:end -->\n"
)

func (r *report) write() error {
	page, err := os.ReadFile(r.out)
	if err != nil {
		return err
	}
	replaced, err := replace(string(page), r.tables(facts()))
	if err != nil {
		return fmt.Errorf("%s: %w", r.out, err)
	}
	return os.WriteFile(r.out, []byte(replaced), 0o644)
}

// replace puts tables between the marks of a page.
func replace(page, tables string) (string, error) {
	before, rest, ok := strings.Cut(page, begin)
	_, after, closed := strings.Cut(rest, end)
	if !ok || !closed {
		return "", errors.New("the lines that mark where the tables stand are missing")
	}
	return before + begin + tables + end + after, nil
}

// tables writes the generated part of the page.
func (r *report) tables(where string) string {
	figures := map[string]measure.Result{}
	for _, x := range r.found {
		figures[x.Key] = x
	}
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

// facts says when, on what and of what the figures are.
func facts() string {
	commit := "unknown"
	if out, err := exec.Command("git", "describe", "--always", "--dirty").Output(); err == nil {
		commit = strings.TrimSpace(string(out))
	}
	var name unix.Utsname
	kernel := "?"
	if unix.Uname(&name) == nil {
		kernel = unix.ByteSliceToString(name.Release[:])
	}
	return fmt.Sprintf("Measured %s at commit %s: %d cores (%s), load average before the end %s, Linux %s, %s.",
		time.Now().UTC().Format("2006-01-02 15:04 UTC"), commit, runtime.NumCPU(), processor(), loadAverage(), kernel, runtime.Version())
}

func processor() string {
	info, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return "?"
	}
	_, rest, _ := strings.Cut(string(info), "model name")
	line, _, _ := strings.Cut(rest, "\n")
	return strings.Trim(line, "\t :")
}

func loadAverage() string {
	data, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "?"
	}
	return strings.Join(strings.Fields(string(data))[:3], " ")
}
