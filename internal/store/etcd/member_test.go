package etcd_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"runtime"
	"sync"
	"testing"

	"skiff.dev/skiff/internal/store"
	"skiff.dev/skiff/internal/store/etcd"
	"skiff.dev/skiff/internal/store/storetest"
)

func quiet(t testing.TB) *slog.Logger {
	o := &output{to: t.Output()}
	t.Cleanup(o.end)
	return slog.New(slog.NewTextHandler(o, &slog.HandlerOptions{Level: slog.LevelWarn}))
}

// output is the output of a test while that lasts. Goroutines of an etcd that
// has died are not waited for, and a test that is over panics if it is told
// anything.
type output struct {
	mu    sync.Mutex
	to    io.Writer
	ended bool
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.ended {
		return len(p), nil
	}
	return o.to.Write(p)
}

func (o *output) end() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.ended = true
}

func open(t testing.TB, dir string) *etcd.Store {
	t.Helper()
	s, err := etcd.Open(t.Context(), etcd.Config{Dir: dir, Log: quiet(t)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func TestMemberConformance(t *testing.T) {
	var dirs sync.Map // by store
	storetest.Run(t, storetest.Backend{
		Open: func(t *testing.T) store.Store {
			dir := filepath.Join(t.TempDir(), "etcd")
			s := open(t, dir)
			dirs.Store(s, dir)
			return s
		},
		Reopen: func(t *testing.T, s store.Store) store.Store {
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			dir, _ := dirs.Load(s)
			next := open(t, dir.(string))
			dirs.Store(next, dir)
			return next
		},
	})
}

// TestReopenShortLog opens a member whose whole log is replayed: it must not
// campaign before raft knows what is applied, since entry 1 is compacted then.
func TestReopenShortLog(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "etcd")
	s := open(t, dir)
	for i := range 400 {
		if _, err := put(t.Context(), s, fmt.Sprintf("/k/%d", i), []byte("v")); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	var busy sync.WaitGroup
	for range 2 * runtime.GOMAXPROCS(0) { // so that etcd's goroutines are taken off in mid-step
		busy.Go(func() {
			for ctx.Err() == nil {
			}
		})
	}
	defer busy.Wait()
	defer cancel()
	rounds := 25
	if testing.Short() {
		rounds = 10
	}
	for range rounds {
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		s = open(t, dir)
	}
}
