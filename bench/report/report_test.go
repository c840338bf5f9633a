package main

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"skiff.dev/skiff/bench/measure"
)

func TestJudge(t *testing.T) {
	figures := map[string]measure.Result{"low": {Value: 0.4}}
	for _, tc := range []struct {
		budget  budget
		verdict string
	}{
		{budget{key: "low", unit: "s", limit: 0.5}, "holds"},
		{budget{key: "low", unit: "s", limit: 0.4}, "holds"},
		{budget{key: "low", unit: "s", limit: 0.3}, "**missed**"},
		{budget{key: "low", unit: "s", limit: 0.3, atLeast: true}, "holds"},
		{budget{key: "low", unit: "s", limit: 0.5, atLeast: true}, "**missed**"},
		{budget{key: "none", limit: 4}, "not measured"},
	} {
		if _, got := tc.budget.judge(figures); got != tc.verdict {
			t.Errorf("%+v: %s, want %s", tc.budget, got, tc.verdict)
		}
	}
}

func TestTablesNameWhatIsMissing(t *testing.T) {
	r := report{missing: []string{"node: no node\nbecame ready"}, found: []measure.Result{{Key: "startup.fresh", Text: "fresh", Value: 0.2, Unit: "s"}}}
	got := r.tables("here")
	for _, want := range []string{"| 200 ms | holds |", "- node: no node became ready\n", "| fresh | 200 ms | startup.fresh |"} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is missing in:\n%s", want, got)
		}
	}
}

func TestArgs(t *testing.T) {
	if diff := cmp.Diff([]string{"--binary", "x", "-o", "y", "--settle", "1s"}, args([]string{"-binary", "x", "-o", "y", "--settle", "1s"})); diff != "" {
		t.Error(diff)
	}
}
