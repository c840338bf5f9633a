package measure

import (
	"os"
	"path/filepath"
	"testing"
)

func TestGroupCPU(t *testing.T) {
	for _, tc := range []struct {
		file, text string
		want       float64
		bad        bool
	}{
		{"cpuacct.usage", "2500000000\n", 2.5, false},
		{"cpu.stat", "nr_periods 7\nusage_usec 1500000\nuser_usec 1000000\n", 1.5, false},
		{"cpu.stat", "nr_periods 7\n", 0, true},
		{"cpuacct.usage", "much\n", 0, true},
		{"tasks", "1\n", 0, true},
	} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, tc.file), []byte(tc.text), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := GroupCPU(dir)
		if got != tc.want || (err != nil) != tc.bad {
			t.Errorf("%s %q: %v, %v", tc.file, tc.text, got, err)
		}
	}
}
