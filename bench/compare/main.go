// Command compare turns what `make bench-compare` has measured into a section
// of docs/performance.md: the same loads on skiff and on upstream's own parts,
// side by side. It reads files of JSON lines, of which the later ones take
// precedence where they measured the same, and a run need not have come to its
// end.
//
//	go run ./bench/compare -o docs/performance.md ~/.cache/skiff-yardstick/results/compare-*/figures.jsonl
package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/spf13/pflag"

	"skiff.dev/skiff/bench/page"
)

// section is where the tables stand.
var section = page.Section{Name: "compare", Writer: "bench/compare"}

func main() {
	if err := write(); err != nil {
		fmt.Fprintln(os.Stderr, "bench/compare:", err)
		os.Exit(1)
	}
}

func write() error {
	out := pflag.StringP("output", "o", "", "page whose section is rewritten; printed if empty")
	facts := pflag.Bool("facts", false, "only print when, where and of what figures would be if they were taken now")
	pflag.Parse()
	if *facts {
		fmt.Println(page.Facts())
		return nil
	}
	if pflag.NArg() == 0 {
		return errors.New("name the files of results")
	}
	runs, err := readFiles(pflag.Args())
	if err != nil {
		return err
	}
	text, err := tables(runs)
	if err != nil {
		return err
	}
	if *out == "" {
		fmt.Print(text)
		return nil
	}
	return section.Write(*out, text)
}
