package etcd_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"skiff.dev/skiff/internal/store"
	"skiff.dev/skiff/internal/store/etcd"
)

func put(ctx context.Context, s store.Store, key string, value []byte) (int64, error) {
	res, err := s.Commit(ctx, store.Txn{Do: []store.Op{{Key: key, Value: value}}})
	return res.Rev, err
}

func TestDirInUse(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "etcd")
	s := open(t, dir)
	_, err := etcd.Open(t.Context(), etcd.Config{Dir: dir, Log: quiet(t)})
	if err == nil || !strings.Contains(err.Error(), dir+" is in use by another process (pid "+fmt.Sprint(os.Getpid())) {
		t.Fatalf("second member: %v", err)
	}
	// What went before must not have hurt the first.
	if _, err := put(t.Context(), s, "/a", []byte("1")); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	open(t, dir)
}

func TestDirIsPrivate(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "etcd")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	open(t, dir)
	err := filepath.Walk(dir, func(path string, info os.FileInfo, err error) error {
		if err != nil {
			return err
		}
		if info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v", path, info.Mode())
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestDamagedFiles(t *testing.T) {
	if testing.Short() {
		t.Skip("starts several members")
	}
	tests := map[string]struct {
		damage func(t *testing.T, dir string)
		want   string
	}{
		"database": {func(t *testing.T, dir string) { overwrite(t, filepath.Join(dir, "member", "snap", "db"), 0) }, "damaged"},
		"log": {func(t *testing.T, dir string) {
			logs, err := filepath.Glob(filepath.Join(dir, "member", "wal", "*.wal"))
			if err != nil || len(logs) == 0 {
				t.Fatalf("no log: %v", err)
			}
			overwrite(t, logs[0], 100)
		}, "starting etcd in "},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "etcd")
			s := open(t, dir)
			for i := range 100 {
				if _, err := put(t.Context(), s, fmt.Sprint("/k/", i), make([]byte, 200)); err != nil {
					t.Fatal(err)
				}
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			test.damage(t, dir)
			_, err := etcd.Open(t.Context(), etcd.Config{Dir: dir, Log: quiet(t)})
			if err == nil || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), dir) {
				t.Fatalf("opening damaged files: %v", err)
			}
			t.Log(err)
		})
	}
}

func overwrite(t *testing.T, name string, at int64) {
	f, err := os.OpenFile(name, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte(strings.Repeat("damage", 2000)), at); err != nil {
		t.Fatal(err)
	}
}

func TestDiskFull(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "etcd")
	s := open(t, dir)
	if _, err := put(t.Context(), s, "/a", []byte("1")); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	full, err := etcd.Open(t.Context(), etcd.Config{Dir: dir, MinFree: math.MaxInt64, Log: quiet(t)})
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	if _, err := put(t.Context(), full, "/b", []byte("1")); !errors.Is(err, store.ErrNoSpace) {
		t.Fatalf("write without space: %v, want ErrNoSpace", err)
	}
	// What makes space goes on.
	if _, err := full.Commit(t.Context(), store.Txn{Do: []store.Op{{Key: "/a", Delete: true}}}); err != nil {
		t.Fatalf("delete without space: %v", err)
	}
	rev, err := full.Revision(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := full.Compact(t.Context(), rev); err != nil {
		t.Fatal(err)
	}
}

func TestQuota(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "etcd")
	s, err := etcd.Open(t.Context(), etcd.Config{Dir: dir, Quota: 2 << 20, Log: quiet(t)})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for i := 0; err == nil; i++ {
		if i > 3000 { // the size is known after a thousand changes at the latest
			t.Fatal("the quota never held")
		}
		_, err = put(t.Context(), s, fmt.Sprint("/k/", i), make([]byte, 10<<10))
	}
	if !errors.Is(err, store.ErrNoSpace) {
		t.Fatalf("write over the quota: %v, want ErrNoSpace", err)
	}
	if _, err := s.List(t.Context(), "/", store.ListOptions{}); err != nil {
		t.Fatal(err)
	}
	// Deleting and compacting makes room.
	page, err := s.List(t.Context(), "/k/", store.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, kv := range page.KVs {
		if _, err := s.Commit(t.Context(), store.Txn{Do: []store.Op{{Key: kv.Key, Delete: true}}}); err != nil {
			t.Fatal(err)
		}
	}
	rev, err := s.Revision(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Compact(t.Context(), rev); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil { // after which the room shows
		t.Fatal(err)
	}
	s, err = etcd.Open(t.Context(), etcd.Config{Dir: dir, Quota: 2 << 20, Log: quiet(t)})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := put(t.Context(), s, "/after", []byte("1")); err != nil {
		t.Fatal(err)
	}
}

func TestTooLarge(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "etcd"))
	if _, err := put(t.Context(), s, "/a", make([]byte, 5<<20)); !errors.Is(err, store.ErrTooLarge) {
		t.Fatalf("5 MiB in one key: %v, want ErrTooLarge", err)
	}
	if _, err := put(t.Context(), s, "/a", make([]byte, 3<<20)); err != nil {
		t.Fatal(err)
	}
}

func TestSocket(t *testing.T) {
	dir := t.TempDir()
	socket := filepath.Join(dir, "s")
	for range 2 { // the second finds the socket of the first
		s, err := etcd.Open(t.Context(), etcd.Config{Dir: filepath.Join(dir, "etcd"), ListenClient: "unix://" + socket, Log: quiet(t)})
		if err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(socket)
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Fatalf("socket %v, %v", info, err)
		}
		rev, err := put(t.Context(), s, "/a", []byte("1"))
		if err != nil {
			t.Fatal(err)
		}
		c := dial(t, etcd.ClusterConfig{Endpoints: []string{"unix://" + socket}, KeepHistory: -1, Log: quiet(t)})
		kv, found, _, err := c.Get(t.Context(), "/a", 0)
		if err != nil || !found || kv.ModRev != rev {
			t.Fatalf("through the socket: %+v, %v", kv, err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(socket, nil, 0o600); err != nil { // as after kill -9
			t.Fatal(err)
		}
	}
	for _, bad := range []string{"http://127.0.0.1:0", "https://127.0.0.1:0", "127.0.0.1:2379"} {
		s, err := etcd.Open(t.Context(), etcd.Config{Dir: filepath.Join(dir, "etcd"), ListenClient: bad, Log: quiet(t)})
		if err == nil {
			s.Close()
			t.Errorf("%s without client certificates was accepted", bad)
		}
	}
}
