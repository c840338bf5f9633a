package etcd

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"skiff.dev/skiff/internal/store"
)

// resident returns how much of a mapped file is in memory, KiB.
func resident(t *testing.T, name string) int {
	data, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		t.Skip("needs /proc/self/smaps:", err)
	}
	_, rest, found := strings.Cut(string(data), name+"\n")
	if !found {
		t.Fatalf("%s is not mapped", name)
	}
	_, rest, _ = strings.Cut(rest, "\nRss:")
	var kib int
	if _, err := fmt.Sscan(rest, &kib); err != nil {
		t.Fatal(err)
	}
	return kib
}

func TestDatabaseIsNotResident(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "etcd")
	start := func() *Store {
		s, err := Open(t.Context(), Config{Dir: dir, Log: silent})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	s := start()
	for i := range 100 {
		if _, err := s.Commit(t.Context(), store.Txn{Do: []store.Op{{Key: fmt.Sprint("/k/", i), Value: make([]byte, 100<<10)}}}); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = start()
	defer s.Close()
	db := s.engine.(*member).database()
	info, err := os.Stat(db)
	if err != nil {
		t.Fatal(err)
	}
	if kib := resident(t, db); int64(kib)<<10 > info.Size()/4 {
		t.Errorf("%d KiB of a database of %d KiB are resident after the start", kib, info.Size()>>10)
	}
	if page, err := s.List(t.Context(), "/k/", store.ListOptions{}); err != nil || len(page.KVs) != 100 {
		t.Fatalf("%d keys, %v", len(page.KVs), err)
	}
	if kib := resident(t, db); kib < 8<<10 {
		t.Errorf("all was read and only %d KiB are resident: this test measures something else", kib)
	}
}
