package report

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"
	"time"
)

// Run is what is known of a run besides its specs.
type Run struct {
	Target   string
	Date     time.Time
	Commit   string
	Version  string // of the suite
	Parallel int
	Took     time.Duration
	Whole    bool // no specs were left out
}

// Save writes it to a file, for Load.
func (r Run) Save(file string) error {
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(file, append(data, '\n'), 0o644)
}

// Load reads what Save has written.
func Load(file string) (r Run, err error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return r, err
	}
	if err := json.Unmarshal(data, &r); err != nil {
		return r, fmt.Errorf("%s: %w", file, err)
	}
	return r, nil
}

const intro = `# Conformance

Written by ` + "`make conformance`" + ` and ` + "`make mixed`" + ` (docs/testing.md tells how), a section per target; a run of one
leaves the others alone. The suite is upstream's own, its images are stand-ins made here
(test/conformance/images/README.md). Why specs fail is told by test/conformance/report/reasons.txt.
`

// Page makes a section of the page from a run.
func (r Run) Page(specs []Spec) string {
	var b strings.Builder
	what := map[string]string{
		"stock": "upstream's parts, the ceiling of this machine",
		"skiff": "`skiff server` and `skiff agent`",
	}[r.Target]
	failed := failures(specs)
	fmt.Fprintf(&b, "## %s: %s\n\n", r.Target, what)
	fmt.Fprintf(&b, "**%d of %d specs pass.** %s, commit %s, suite %s, two nodes on one machine of 2 cores, %d specs at a time, %v.\n\n",
		len(specs)-len(failed), len(specs), r.Date.UTC().Format("2006-01-02 15:04 UTC"), r.Commit, r.Version, r.Parallel, r.Took.Round(time.Minute))
	b.WriteString(table(specs))
	if len(failed) == 0 {
		return b.String()
	}
	known := reasons(reasonsText)
	byReason := map[string][]Spec{}
	for _, s := range failed {
		w := why(known, r.Target, s)
		byReason[w] = append(byReason[w], s)
	}
	b.WriteString("\nFailures by cause, the largest first, each with the first line of its error:\n")
	order := slices.SortedFunc(maps.Keys(byReason), func(x, y string) int {
		return cmp.Or(cmp.Compare(len(byReason[y]), len(byReason[x])), cmp.Compare(x, y))
	})
	for _, w := range order {
		fmt.Fprintf(&b, "\n### %s (%d)\n\n", w, len(byReason[w]))
		for _, s := range byReason[w] {
			fmt.Fprintf(&b, "- %s\n  `%s`\n", s.Name, strings.ReplaceAll(s.FirstLine(), "`", "'"))
		}
	}
	return b.String()
}

func failures(specs []Spec) []Spec {
	var failed []Spec
	for _, s := range specs {
		if s.Failure != "" {
			failed = append(failed, s)
		}
	}
	slices.SortFunc(failed, func(x, y Spec) int { return cmp.Compare(x.Name, y.Name) })
	return failed
}

// table counts specs per SIG.
func table(specs []Spec) string {
	passed, failed := map[string]int{}, map[string]int{}
	for _, s := range specs {
		passed[s.SIG] += 0
		if s.Failure == "" {
			passed[s.SIG]++
		} else {
			failed[s.SIG]++
		}
	}
	var b strings.Builder
	b.WriteString("| SIG | passed | failed |\n|---|---|---|\n")
	for _, name := range slices.Sorted(maps.Keys(passed)) {
		fmt.Fprintf(&b, "| %s | %d | %d |\n", name, passed[name], failed[name])
	}
	return b.String()
}

// Summary is the section's beginning, for a terminal, and the failures with their first lines.
func (r Run) Summary(specs []Spec) string {
	failed := failures(specs)
	var b strings.Builder
	fmt.Fprintf(&b, "%d of %d specs passed\n", len(specs)-len(failed), len(specs))
	for _, s := range failed {
		fmt.Fprintf(&b, "FAILED %s\n       %s\n", s.Name, s.FirstLine())
	}
	return b.String()
}

// Replace puts a section into the page, in place of the one of its name or at the end.
func Replace(file, name, section string) error {
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		text, err = []byte(intro), nil
	}
	if err != nil {
		return err
	}
	begin, end := fmt.Sprintf("<!-- begin %s -->\n", name), fmt.Sprintf("<!-- end %s -->\n", name)
	section = begin + strings.TrimSpace(section) + "\n" + end
	page := string(text)
	i, j := strings.Index(page, begin), strings.Index(page, end)
	if i >= 0 && j > i {
		page = page[:i] + section + page[j+len(end):]
	} else {
		page += "\n" + section
	}
	return os.WriteFile(file, []byte(page), 0o644)
}
