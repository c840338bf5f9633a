package etcd_test

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"skiff.dev/skiff/internal/store"
	"skiff.dev/skiff/internal/store/etcd"
)

const killDir = "SKIFF_TEST_KILL_DIR"

// TestMain lets the test binary be the child that is killed.
func TestMain(m *testing.M) {
	if dir := os.Getenv(killDir); dir != "" {
		writeForEver(dir)
	}
	if dir := os.Getenv(fullDir); dir != "" {
		fillDisk(dir)
	}
	os.Exit(m.Run())
}

// writeForEver writes keys from many goroutines and prints "key revision" for each that was acknowledged.
func writeForEver(dir string) {
	ctx := context.Background()
	s, err := etcd.Open(ctx, etcd.Config{Dir: dir})
	if err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
	rev, err := s.Revision(ctx)
	if err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
	fmt.Println("start", rev)
	for w := range 4 {
		go func() {
			for i := 0; ; i++ {
				key := fmt.Sprintf("/k/%d/%d/%d", rev, w, i)
				got, err := put(ctx, s, key, []byte(strings.Repeat(key, 20)))
				if err != nil {
					fmt.Println("error", err)
					os.Exit(1)
				}
				fmt.Printf("%s %d\n", key, got)
				if i%50 == 49 {
					if err := s.Compact(ctx, got-20); err != nil {
						fmt.Println("error", err)
					}
				}
			}
		}()
	}
	select {}
}

// TestKill kills the process at random instants: every acknowledged write must
// be there with its revision, and revisions must only grow.
func TestKill(t *testing.T) {
	rounds := 20
	if testing.Short() {
		rounds = 3
	}
	dir := filepath.Join(t.TempDir(), "etcd")
	acked := map[string]int64{}
	var top int64
	for round := range rounds {
		start := runAndKill(t, dir, acked, round+1, time.Duration(rand.IntN(150))*time.Millisecond)
		if start < top {
			t.Fatalf("round %d starts at revision %d, after %d was acknowledged", round, start, top)
		}
		for _, rev := range acked {
			top = max(top, rev)
		}
	}
	s := open(t, dir)
	page, err := s.List(t.Context(), "/k/", store.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]int64{}
	for _, kv := range page.KVs {
		found[kv.Key] = kv.ModRev
		if string(kv.Value) != strings.Repeat(kv.Key, 20) {
			t.Errorf("%s has another value", kv.Key)
		}
	}
	for key, rev := range acked {
		if found[key] != rev {
			t.Errorf("%s was acknowledged at revision %d, now at %d", key, rev, found[key])
		}
	}
	t.Logf("%d acknowledged writes, %d found", len(acked), len(found))
}

// runAndKill runs the child until some time after its start, but until so many
// writes are acknowledged by it and those before it, for on a slow machine
// nothing would be proven. It notes what the child acknowledged, and returns the
// revision at which it started.
func runAndKill(t *testing.T, dir string, acked map[string]int64, writes int, after time.Duration) int64 {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), killDir+"="+dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReader(out)
	var start int64 = -1
	var timer *time.Timer
	for {
		line, err := lines.ReadString('\n') // a line cut short by the kill does not count
		if err != nil {
			break
		}
		var key string
		var rev int64
		if _, err := fmt.Sscan(line, &key, &rev); err != nil {
			t.Errorf("child: %s", line)
			continue
		}
		if key == "start" {
			start = rev
		} else {
			acked[key] = rev
		}
		if timer == nil && start >= 0 && len(acked) >= writes {
			timer = time.AfterFunc(after, func() { cmd.Process.Signal(syscall.SIGKILL) })
			defer timer.Stop()
		}
	}
	if err := cmd.Wait(); err == nil || start < 0 {
		t.Fatalf("child ended by itself: %v", err)
	}
	return start
}
