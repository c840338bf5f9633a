package resident

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestConstants(t *testing.T) {
	smaps := `00400000-0296d000 r-xp 00000000 08:01 1234   /bin/skiff
Rss:               22832 kB
Anonymous:             0 kB
VmFlags: rd ex mr mw me
0296d000-06a06000 r--p 0256d000 08:01 1234   /bin/skiff
Anonymous:             0 kB
06a06000-06a08000 r--p 06606000 08:01 1234   /bin/skiff
Anonymous:             8 kB
06a08000-06b39000 rw-p 06608000 08:01 1234   /bin/skiff
Anonymous:             0 kB
06b40000-06b50000 r--s 0256d000 08:01 1234   /bin/skiff
Anonymous:             0 kB
7f0000000000-7f0000001000 r--p 00000000 08:01 99   /lib/other
Anonymous:             0 kB
220e8e800000-220e96c00000 rw-p 00000000 00:00 0
Anonymous:          4000 kB
06c00000-06c01000 r--p 00000000 08:01 1234   /bin/skiff
`
	want := []mapping{{0x400000, 0x296d000}, {0x296d000, 0x6a06000}, {0x6c00000, 0x6c01000}}
	if diff := cmp.Diff(want, constants(strings.NewReader(smaps), "/bin/skiff"), cmp.AllowUnexported(mapping{})); diff != "" {
		t.Error(diff)
	}
}

// The program must go on as before on pages that it has to read again.
func TestReleaseBinary(t *testing.T) {
	long := strings.Repeat("text", 1000)
	before := resident(t)
	if err := unmapBinary(); err != nil {
		t.Fatal(err)
	}
	after := resident(t)
	if strings.Count(long, "text") != 1000 {
		t.Error("constants have changed")
	}
	if after >= before {
		t.Errorf("%d KiB of files resident before, %d after", before, after)
	}
}

// resident returns the KiB of this process's pages that are of files.
func resident(t *testing.T) (kib int) {
	t.Helper()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, "RssFile:"); ok {
			for _, digit := range strings.TrimSpace(rest) {
				if digit < '0' || digit > '9' {
					return kib
				}
				kib = kib*10 + int(digit-'0')
			}
		}
	}
	t.Fatal("no RssFile")
	return 0
}

func TestWatchSeesWorkEndOnce(t *testing.T) {
	w := watch{worked: true}
	var spent time.Duration
	for i, step := range []struct {
		used        time.Duration
		idle, ended bool
	}{
		{5 * time.Second, false, false}, {100 * time.Millisecond, true, true}, {100 * time.Millisecond, true, false},
		{2 * time.Second, false, false}, {3 * time.Second, false, false}, {0, true, true}, {0, true, false},
	} {
		spent += step.used
		if idle, ended := w.look(spent); idle != step.idle || ended != step.ended {
			t.Errorf("step %d: idle %v, ended %v; want %v, %v", i, idle, ended, step.idle, step.ended)
		}
	}
}
