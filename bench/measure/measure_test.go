package measure

import (
	"os"
	"syscall"
	"testing"
	"time"
)

func TestPercentile(t *testing.T) {
	var times Times
	if got := times.Percentile(50); got != 0 {
		t.Errorf("of nothing: %v", got)
	}
	for i := 100; i > 0; i-- {
		times.Add(time.Duration(i) * time.Second)
	}
	for p, want := range map[float64]float64{0: 1, 1: 1, 50: 50, 99: 99, 100: 100} {
		if got := times.Percentile(p); got != want {
			t.Errorf("percentile %v = %v, want %v", p, got, want)
		}
	}
}

func TestFormat(t *testing.T) {
	for _, tc := range []struct {
		value float64
		unit  string
		want  string
	}{
		{0.0000425, "s", "42 µs"}, {0.0123, "s", "12.3 ms"}, {1.5, "s", "1.5 s"},
		{12345.6, "op/s", "12346 op/s"}, {80.04, "MiB", "80 MiB"},
	} {
		if got := Format(tc.value, tc.unit); got != tc.want {
			t.Errorf("Format(%v, %s) = %q, want %q", tc.value, tc.unit, got, tc.want)
		}
	}
}

// The usage of this process must follow what it does.
func TestUsageOfItself(t *testing.T) {
	before, err := Of(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	ballast := memory(t, 64<<20)
	for end := worked(t) + 100*time.Millisecond; worked(t) < end; {
		ballast[len(ballast)/2]++
	}
	after, err := Of(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if grown := after.Anon - before.Anon; grown < 60<<20 {
		t.Errorf("64 MiB more memory show as %d bytes", grown)
	}
	if used := after.CPU - before.CPU; used < 0.05 {
		t.Errorf("100 ms of work show as %v s", used)
	}
	if after.RSS != after.Anon+after.File || after.PSS == 0 {
		t.Errorf("parts do not add up: %+v", after)
	}
}

// memory returns touched memory that is the kernel's to give: what Go's heap
// hands out may have been this process's before.
func memory(t *testing.T, size int) []byte {
	t.Helper()
	m, err := syscall.Mmap(-1, 0, size, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_PRIVATE|syscall.MAP_ANON)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Munmap(m) }) // what else would be done about it
	for i := 0; i < len(m); i += os.Getpagesize() {
		m[i] = 1
	}
	return m
}

// worked returns the CPU time of this process. On a busy machine it is less
// than the time that has passed.
func worked(t *testing.T) time.Duration {
	t.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func TestParsePIDs(t *testing.T) {
	pids, err := ParsePIDs("12,13,")
	if err != nil || len(pids) != 2 || pids[1] != 13 {
		t.Errorf("got %v, %v", pids, err)
	}
	if _, err := ParsePIDs("12,x"); err == nil {
		t.Error("accepted x")
	}
}
