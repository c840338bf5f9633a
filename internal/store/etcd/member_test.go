package etcd_test

import (
	"log/slog"
	"path/filepath"
	"sync"
	"testing"

	"skiff.dev/skiff/internal/store"
	"skiff.dev/skiff/internal/store/etcd"
	"skiff.dev/skiff/internal/store/storetest"
)

func quiet(t testing.TB) *slog.Logger {
	return slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}))
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
