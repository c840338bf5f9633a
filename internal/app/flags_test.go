package app

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"sort"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

var update = flag.Bool("update", false, "write the generated documents anew")

const flagsDocument = "../../docs/flags.md"

// TestFlagsDocument keeps docs/flags.md as the commands are; -update writes it.
func TestFlagsDocument(t *testing.T) {
	var doc bytes.Buffer
	doc.WriteString("# Commands and flags\n\nGenerated from the commands: `go test ./internal/app -run TestFlagsDocument -update`.\n" +
		"`--config FILE` of `server` and `agent` has the same names. `skiff kubectl` is kubectl.\n")
	document(&doc, newRoot(), "")
	if *update {
		if err := os.WriteFile(flagsDocument, doc.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	have, err := os.ReadFile(flagsDocument)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(doc.String(), string(have)); d != "" {
		t.Errorf("docs/flags.md is out of date (run with -update):\n%s", d)
	}
}

func document(w *bytes.Buffer, cmd *cobra.Command, path string) {
	name := strings.TrimSpace(path + " " + cmd.Name())
	if cmd.Runnable() {
		fmt.Fprintf(w, "\n## %s\n\n%s.\n", name, strings.TrimSuffix(cmd.Short, "."))
		flags := map[string]*pflag.Flag{}
		collect := func(f *pflag.Flag) { flags[f.Name] = f }
		cmd.LocalFlags().VisitAll(collect)
		cmd.InheritedFlags().VisitAll(collect)
		var shown, hidden []string
		for n, f := range flags {
			switch {
			case n == "help" || n == "version":
			case f.Hidden:
				hidden = append(hidden, "`--"+n+"`")
			default:
				shown = append(shown, n)
			}
		}
		sort.Strings(shown)
		sort.Strings(hidden)
		if len(shown) > 0 {
			w.WriteString("\n| flag | default | |\n|---|---|---|\n")
		}
		for _, n := range shown {
			fmt.Fprintf(w, "| `--%s` | %s | %s |\n", n, defaultOf(flags[n]), strings.ReplaceAll(flags[n].Usage, "|", "\\|"))
		}
		if len(hidden) > 0 {
			fmt.Fprintf(w, "\nAccepted without effect: %s.\n", strings.Join(hidden, ", "))
		}
	}
	for _, sub := range cmd.Commands() {
		document(w, sub, name)
	}
}

func defaultOf(f *pflag.Flag) string {
	switch f.DefValue {
	case "", "[]", "false", "0", "0s":
		return ""
	}
	return "`" + f.DefValue + "`"
}
