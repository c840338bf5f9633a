// Package report reads the results of a run and writes docs/conformance.md from them, a section per target,
// so that a run of one leaves what another has found.
package report

import (
	"encoding/xml"
	"fmt"
	"os"
	"regexp"
	"strings"
	"time"
)

// Spec is one that was run.
type Spec struct {
	Name string
	SIG  string
	// Failure is empty when it passed.
	Failure string
	Took    time.Duration
}

// junit is what of a JUnit file is read.
type junit struct {
	Suites []struct {
		Cases []struct {
			Name    string  `xml:"name,attr"`
			Status  string  `xml:"status,attr"`
			Seconds float64 `xml:"time,attr"`
			Failure *detail `xml:"failure"`
			Error   *detail `xml:"error"`
			Skipped *detail `xml:"skipped"`
		} `xml:"testcase"`
	} `xml:"testsuite"`
}

type detail struct {
	Message string `xml:"message,attr"`
	Text    string `xml:",chardata"`
}

var (
	labels  = regexp.MustCompile(` \[[^\]]*\]$`)
	sigName = regexp.MustCompile(`^\[sig-([a-z-]+)\]`)
)

// Read reads the specs that were run from a JUnit file.
func Read(file string) ([]Spec, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var doc junit
	if err := xml.Unmarshal(text, &doc); err != nil {
		return nil, fmt.Errorf("reading %s: %w", file, err)
	}
	var specs []Spec
	for _, suite := range doc.Suites {
		for _, c := range suite.Cases {
			name, isSpec := strings.CutPrefix(c.Name, "[It] ")
			failed := c.Failure
			if failed == nil {
				failed = c.Error
			}
			if c.Skipped != nil || !isSpec && failed == nil {
				continue
			}
			s := Spec{Name: labels.ReplaceAllString(name, ""), SIG: "none", Took: time.Duration(c.Seconds * float64(time.Second))}
			if m := sigName.FindStringSubmatch(s.Name); m != nil {
				s.SIG = m[1]
			}
			if failed != nil {
				s.Failure = strings.TrimSpace(failed.Message + "\n" + failed.Text)
				if s.Failure == "" {
					s.Failure = c.Status
				}
			}
			specs = append(specs, s)
		}
	}
	return specs, nil
}

// FirstLine is the first line of a failure that says something, shortened to what fits a table.
func (s Spec) FirstLine() string {
	for line := range strings.Lines(s.Failure) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "[FAILED]") && len(line) < 12 {
			continue
		}
		if r := []rune(line); len(r) > 240 {
			line = string(r[:240]) + "…"
		}
		return line
	}
	return "(no message)"
}
