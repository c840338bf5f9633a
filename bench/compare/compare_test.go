package main

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"skiff.dev/skiff/bench/measure"
)

func TestSum(t *testing.T) {
	for _, tc := range []struct {
		values []float64
		want   string
	}{
		{[]float64{0.002}, "2 ms"},
		{[]float64{0.003, 0.001}, "2 ms (1 ms .. 3 ms)"},
		{[]float64{0.009, 0.001, 0.002}, "2 ms (1 ms .. 9 ms)"},
		{[]float64{0.0021, 0.0021}, "2.1 ms"},
	} {
		var values []measure.Result
		for _, v := range tc.values {
			values = append(values, measure.Result{Value: v, Unit: "s"})
		}
		s, ok := sum(values)
		if got := s.String(); !ok || got != tc.want {
			t.Errorf("%v: %s, want %s", tc.values, got, tc.want)
		}
	}
	if _, ok := sum(nil); ok {
		t.Error("there is a median of nothing")
	}
}

func TestRatio(t *testing.T) {
	for _, tc := range []struct {
		ours, theirs float64
		more         bool
		want         string
	}{
		{1, 25, false, "**25×**"},
		{2, 3, false, "1.5×"},
		{2, 1, false, "0.50×"},
		{3000, 250, true, "**12×**"},
		{100, 200, true, "0.50×"},
		{0, 1, false, "—"},
		{1, 0, true, "—"},
	} {
		if got := ratio(sample{median: tc.ours}, sample{median: tc.theirs}, tc.more); got != tc.want {
			t.Errorf("%+v: %s", tc, got)
		}
	}
}

// results is what the yardstick writes, with a last line that was cut off.
const results = `{"about":{"facts":"yesterday","rounds":2}}
{"round":1,"target":"skiff","part":"lists","figure":{"key":"api.json.list.cpu","value":0.01,"unit":"s"}}
{"round":1,"target":"stock","part":"lists","figure":{"key":"api.json.list.cpu","value":0.2,"unit":"s"}}
{"round":1,"target":"skiff","part":"watch","figure":{"key":"api.json.watch.rate","value":90000,"unit":"event/s"}}
{"round":1,"target":"stock","part":"watch","figure":{"key":"api.json.watch.rate","value":30000,"unit":"event/s"}}
{"round":1,"target":"stock","part":"schedule-5000","failed":"it did\nnot"}
{"round":2,"target":"skiff","part":"lists","figure":{"key":"api.json.list.cpu","value":0.03,"unit":"s"}}
{"about":{"facts":"today","rounds":2}}
{"round":1,"target":"skiff","part":"watch","figure":{"key":"api.json.watch.rate","value":80000,"unit":"event/s"}}
{"round":1,"target":"stock","part":"watch","figure":{"key":"api.json.watch.rate","value":40000,"unit":"event/s"}}
{"round":1,"target":"skiff","part":"lists","figure":{"key":"api.json.list.cpu","value":7,"unit":"s"}}
{"round":1,"target":"sto`

func TestInterruptedResultsAreWritten(t *testing.T) {
	runs, err := read(strings.NewReader(results))
	if err != nil {
		t.Fatal(err)
	}
	got, err := tables(runs)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		// The later run has lists of skiff only: the earlier pair is the one to compare.
		"| consistent, JSON: CPU | 20 ms (10 ms .. 30 ms) | 200 ms | **10×** |\n",
		"| JSON: events delivered | 80000 event/s | 40000 event/s | 2.0× |\n",
		"Measured yesterday, 2 rounds: lists.\n",
		"Measured today, 2 rounds: watch.\n",
		"- schedule-5000 on stock, round 1: it did not\n",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is missing in:\n%s", want, got)
		}
	}
	if strings.Contains(got, "### Idle") {
		t.Error("there is a table of what was not measured")
	}
}

func TestBrokenResultsAreRefused(t *testing.T) {
	for name, text := range map[string]string{
		"half a line in the middle": `{"about":{}}` + "\n{\"rou\n" + `{"round":1}` + "\n",
		"no beginning":              `{"round":1,"failed":"x"}` + "\n",
	} {
		if _, err := read(strings.NewReader(text)); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if _, err := tables([]*run{{}}); err == nil {
		t.Error("a section was made of nothing")
	}
}

func TestOneTargetAlone(t *testing.T) {
	r := &run{values: map[key][]measure.Result{{"start", "startup.ready", stock}: {{Value: 2.5, Unit: "s"}}}}
	if diff := cmp.Diff("| ready | — | 2.5 s | — |\n", row{part: "start", key: "startup.ready", text: "ready"}.line(r)); diff != "" {
		t.Error(diff)
	}
}

// TestPlan keeps rows apart.
func TestPlan(t *testing.T) {
	seen := map[[2]string]bool{}
	for _, table := range plan {
		for _, r := range table.rows {
			k := [2]string{r.part, r.key}
			if seen[k] || r.text == "" {
				t.Errorf("%v is there twice, or without words", k)
			}
			seen[k] = true
		}
	}
}
