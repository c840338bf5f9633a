package report

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const sample = `<?xml version="1.0"?>
<testsuites><testsuite name="Kubernetes e2e suite">
<testcase name="[SynchronizedBeforeSuite]" status="passed" time="1"></testcase>
<testcase name="[It] [sig-apps] Deployment works [Conformance] [sig-apps, Conformance]" status="passed" time="2.5"></testcase>
<testcase name="[It] [sig-apps] Job works [Conformance] [sig-apps, Conformance]" status="failed" time="3">
<failure message="the server could not find the requested resource" type="failed">[FAILED] the server could not find</failure></testcase>
<testcase name="[It] [sig-node] other [sig-node]" status="skipped" time="0"><skipped message="skipped"></skipped></testcase>
</testsuite></testsuites>`

func read(t *testing.T) []Spec {
	t.Helper()
	file := filepath.Join(t.TempDir(), "junit.xml")
	if err := os.WriteFile(file, []byte(sample), 0o600); err != nil {
		t.Fatal(err)
	}
	specs, err := Read(file)
	if err != nil {
		t.Fatal(err)
	}
	return specs
}

func TestRead(t *testing.T) {
	specs := read(t)
	if len(specs) != 2 {
		t.Fatalf("read %+v", specs)
	}
	want := Spec{Name: "[sig-apps] Deployment works [Conformance]", SIG: "apps", Took: 2500 * time.Millisecond}
	if specs[0] != want {
		t.Errorf("read %+v, not %+v", specs[0], want)
	}
	if got := specs[1].FirstLine(); got != "the server could not find the requested resource" {
		t.Errorf("the first line is %q", got)
	}
}

func TestReplaceLeavesOtherSections(t *testing.T) {
	file := filepath.Join(t.TempDir(), "conformance.md")
	run := Run{Target: "skiff", Date: time.Unix(0, 0), Commit: "abc", Version: "v1.37.1", Parallel: 4, Took: time.Hour}
	for _, s := range []struct{ name, text string }{{"stock", "outdated"}, {"skiff", run.Page(read(t))}, {"stock", "new"}} {
		if err := Replace(file, s.name, s.text); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"# Conformance\n", "begin stock -->\nnew\n", "**1 of 2 specs pass.**", "| apps | 1 | 1 |", "- [sig-apps] Job works"} {
		if !strings.Contains(string(text), want) {
			t.Errorf("the page lacks %q:\n%s", want, text)
		}
	}
	if strings.Contains(string(text), "outdated") {
		t.Errorf("the old section is still there:\n%s", text)
	}
}

func TestWhy(t *testing.T) {
	all := reasons("# comment\nskiff\tcould not find the requested\tnot served yet\nstock\tJob\tother\n")
	for target, want := range map[string]string{"skiff": "not served yet", "stock": "other", "none": unknown} {
		if got := why(all, target, read(t)[1]); got != want {
			t.Errorf("%s: the reason is %q, not %q", target, got, want)
		}
	}
}
