package page

import (
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestReplaceKeepsTheRest(t *testing.T) {
	one, two := Section{"one", "a program"}, Section{"two", "another"}
	page := "a\n" + one.begin() + "old\n" + one.end() + "b\n" + two.begin() + "other\n" + two.end() + "c\n"
	got, err := one.Replace(page, "new\n")
	if err != nil {
		t.Fatal(err)
	}
	want := "a\n" + one.begin() + "new\n" + one.end() + "b\n" + two.begin() + "other\n" + two.end() + "c\n"
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if _, err := one.Replace("a\n"+one.begin(), "new\n"); err == nil {
		t.Error("wrote over a page without marks")
	}
	if _, err := one.Replace(two.begin()+two.end(), "new\n"); err == nil {
		t.Error("wrote into another section")
	}
}

// TestPerformancePage holds the marks of the page as it stands to those that are looked for.
func TestPerformancePage(t *testing.T) {
	text, err := os.ReadFile("../../docs/performance.md")
	if err != nil {
		t.Fatal(err)
	}
	page := string(text)
	for _, s := range []Section{{"bench", "bench/report"}, {"compare", "bench/compare"}} {
		if page, err = s.Replace(page, "new\n"); err != nil {
			t.Error(err)
		}
	}
}
