package compare

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func names(parts []part) (all []string) {
	for _, p := range parts {
		all = append(all, p.name)
	}
	return all
}

func TestChoose(t *testing.T) {
	for _, tc := range []struct{ asked, want []string }{
		{nil, names(plan())},
		{[]string{"idle", "start", "idle"}, []string{"start", "idle"}},
		{[]string{"schedule"}, []string{"schedule-1000", "schedule-5000", "schedule-default"}},
		{[]string{"schedule-5000", "watch"}, []string{"watch", "schedule-5000"}},
	} {
		got, err := choose(plan(), tc.asked)
		if err != nil || !slices.Equal(names(got), tc.want) {
			t.Errorf("%v: %v, %v", tc.asked, names(got), err)
		}
	}
	for _, wrong := range []string{"sched", "", "lists-2"} {
		if got, err := choose(plan(), []string{wrong}); err == nil {
			t.Errorf("%q: %v", wrong, names(got))
		}
	}
}

func TestCharge(t *testing.T) {
	processes := map[int]string{30: "etcd", 4: "kube-apiserver", 5: "containerd-shim-runc-v2", 6: "pause", 7: "coredns", 8: "containerd-shim-runc-v2"}
	for _, tc := range []struct {
		programs []string
		want     string
	}{
		{[]string{"kube-apiserver", "etcd"}, "4,30"},
		{nil, "4,5,7,8,30"},
	} {
		if got, err := charge(processes, tc.programs); err != nil || got != tc.want {
			t.Errorf("%v: %s, %v", tc.programs, got, err)
		}
	}
	if got, err := charge(processes, []string{"etcd", "kube-scheduler"}); err == nil {
		t.Errorf("charged %s without the scheduler", got)
	}
	if got, err := charge(nil, nil); err == nil {
		t.Errorf("charged nothing: %q", got)
	}
}

func TestScheduling(t *testing.T) {
	flags := scheduling(fastController)
	if len(flags["kube-scheduler"]) > 0 || len(flags["kube-controller-manager"]) != len(flags["skiff-server"])+len(unlimited) {
		t.Errorf("%v", flags)
	}
}

// TestEstimate: the rest is expected at the pace of what has been done.
func TestEstimate(t *testing.T) {
	parts := []part{{name: "a", usual: [2]int{10, 30}}, {name: "b", usual: [2]int{20, 40}}}
	p := newProgress(io.Discard, parts, 2)
	if got := p.estimate(); got != 200*time.Second {
		t.Errorf("at first %v", got)
	}
	p.begin(1, parts[0], "skiff")
	p.add(15 * time.Second) // half as quick as usual
	if got := p.estimate(); got != 285*time.Second {
		t.Errorf("after one %v", got)
	}
	p.begin(1, parts[0], "stock")
	p.add(5 * time.Second)
	if got := p.estimate(); got != 80*time.Second {
		t.Errorf("after two %v", got)
	}
}

// TestRecord: each line is there as soon as it is written.
func TestRecord(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "results")
	r, err := newRecord(dir, about{Facts: "here", Rounds: 2})
	if err != nil {
		t.Fatal(err)
	}
	defer r.close()
	if err := r.figures(1, "stock", "lists", []figure{figure(`{"key":"k","value":2}`)}); err != nil {
		t.Fatal(err)
	}
	if err := r.failed(1, "stock", "watch", errors.New("no")); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.jsonl"))
	if err != nil || len(files) != 1 {
		t.Fatal(files, err)
	}
	text, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		`{"about":{"facts":"here","rounds":2}}`,
		`{"round":1,"target":"stock","part":"lists","figure":{"key":"k","value":2}}`,
		`{"round":1,"target":"stock","part":"watch","failed":"no"}`,
	}
	if got := strings.Split(strings.TrimSpace(string(text)), "\n"); !slices.Equal(got, want) {
		t.Errorf("%s", text)
	}
}

// TestTool takes what a program prints for figures, and its complaints for an error.
func TestTool(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"good": `printf '{"key":"%s"}\n{"key":"b"}\n' $1`,
		"bad":  "echo 'no such cluster' >&2; exit 1",
		"odd":  `echo '{"key":"a"}'; echo hello`,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"+text+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	c := &comparison{Options: Options{Tools: dir}}
	if got, err := c.tool(t.Context(), "good", "a"); err != nil || len(got) != 2 || string(got[0]) != `{"key":"a"}` {
		t.Errorf("%s, %v", got, err)
	}
	if _, err := c.tool(t.Context(), "bad"); err == nil || !strings.Contains(err.Error(), "no such cluster") {
		t.Errorf("%v", err)
	}
	if got, err := c.tool(t.Context(), "odd"); err == nil || len(got) != 1 {
		t.Errorf("%s, %v", got, err)
	}
}
