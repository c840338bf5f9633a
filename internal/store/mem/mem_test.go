package mem_test

import (
	"context"
	"fmt"
	"testing"

	"skiff.dev/skiff/internal/store"
	"skiff.dev/skiff/internal/store/mem"
	"skiff.dev/skiff/internal/store/storetest"
)

func TestConformance(t *testing.T) {
	storetest.Run(t, storetest.Backend{
		Open:   func(*testing.T) store.Store { return mem.New() },
		Bubble: true,
	})
}

// TestCompactionFrees checks that history does not pile up: what is left after
// a compaction is what a store with only the live keys takes.
func TestCompactionFrees(t *testing.T) {
	ctx := context.Background()
	s := mem.New()
	defer s.Close()
	for i := range 5000 {
		op := store.Op{Key: fmt.Sprintf("/k/%d", i%50), Value: make([]byte, 100), Delete: i%7 == 0}
		if _, err := s.Commit(ctx, store.Txn{Do: []store.Op{op}}); err != nil {
			t.Fatal(err)
		}
	}
	rev, _ := s.Revision(ctx)
	if err := s.Compact(ctx, rev); err != nil {
		t.Fatal(err)
	}
	page, err := s.List(ctx, "/", store.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	size, _ := s.Size(ctx)
	if perKey := size / int64(len(page.KVs)); perKey > 400 {
		t.Fatalf("%d bytes for %d live keys", size, len(page.KVs))
	}
}

func BenchmarkCommit(b *testing.B) {
	ctx := context.Background()
	for _, watchers := range []int{0, 50, 1000} {
		b.Run(fmt.Sprintf("watchers=%d", watchers), func(b *testing.B) {
			s := mem.New()
			defer s.Close()
			for i := range watchers {
				if _, err := s.Watch(ctx, fmt.Sprintf("/registry/r%d/", i), 0); err != nil {
					b.Fatal(err)
				}
			}
			value := make([]byte, 1000)
			i := 0
			for b.Loop() {
				i++
				if _, err := s.Commit(ctx, store.Txn{Do: []store.Op{{Key: fmt.Sprintf("/registry/pods/%d", i%5000), Value: value}}}); err != nil {
					b.Fatal(err)
				}
				if i%10000 == 0 {
					if err := s.Compact(ctx, int64(i-5000)); err != nil {
						b.Fatal(err)
					}
				}
			}
		})
	}
}

func BenchmarkList5000(b *testing.B) {
	ctx := context.Background()
	s := mem.New()
	defer s.Close()
	for i := range 5000 {
		if _, err := s.Commit(ctx, store.Txn{Do: []store.Op{{Key: fmt.Sprintf("/registry/pods/%d", i), Value: make([]byte, 1000)}}}); err != nil {
			b.Fatal(err)
		}
	}
	for b.Loop() {
		if page, err := s.List(ctx, "/registry/pods/", store.ListOptions{}); err != nil || len(page.KVs) != 5000 {
			b.Fatal(err)
		}
	}
}
