package etcd

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3client"

	"skiff.dev/skiff/internal/store"
)

// The benchmarks answer the questions of docs/design/0001-store.md. Run them with
//
//	go test -run '^$' -bench . ./internal/store/etcd

var silent = slog.New(slog.NewTextHandler(io.Discard, nil))

func benchOpen(b *testing.B, dir string) *Store {
	s, err := Open(b.Context(), Config{Dir: dir, Log: silent})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { s.Close() })
	return s
}

// cpu is the process's CPU time.
func cpu() time.Duration {
	var ru syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &ru); err != nil {
		return 0
	}
	return time.Duration(ru.Utime.Nano() + ru.Stime.Nano())
}

// written is the number of bytes that the process had written to disks.
func written(b *testing.B) int64 {
	data, err := os.ReadFile("/proc/self/io")
	if err != nil {
		b.Skip("needs /proc/self/io:", err)
	}
	var name string
	var n int64
	for rest := string(data); ; {
		var k int
		if k, err = fmt.Sscan(rest, &name, &n); k < 2 || err != nil {
			b.Fatal("no write_bytes in /proc/self/io")
		}
		if name == "write_bytes:" {
			return n
		}
		for i := range rest {
			if rest[i] == '\n' {
				rest = rest[i+1:]
				break
			}
		}
	}
}

// BenchmarkPut writes 1,000 bytes under one of 5,000 keys: through the store,
// and through etcd's own ways for comparison.
func BenchmarkPut(b *testing.B) {
	value := make([]byte, 1000)
	key := func(i int64) string { return fmt.Sprintf("/registry/pods/default/pod-%d", i%5000) }
	for _, writers := range []int{1, 64} {
		s := benchOpen(b, filepath.Join(b.TempDir(), "etcd"))
		m := s.engine.(*member)
		client := v3client.New(m.srv)
		ways := []struct {
			name string
			put  func(ctx context.Context, key string) error
		}{
			{"store", func(ctx context.Context, key string) error {
				_, err := s.Commit(ctx, store.Txn{Do: []store.Op{{Key: key, Value: value}}})
				return err
			}},
			{"etcd-direct", func(ctx context.Context, key string) error {
				_, err := m.srv.Put(ctx, &pb.PutRequest{Key: []byte(key), Value: value})
				return err
			}},
			{"etcd-v3client", func(ctx context.Context, key string) error {
				_, err := client.Put(ctx, key, string(value))
				return err
			}},
		}
		for _, way := range ways {
			b.Run(fmt.Sprintf("%s/writers=%d", way.name, writers), func(b *testing.B) {
				var next atomic.Int64
				before := cpu()
				b.ResetTimer()
				var wg sync.WaitGroup
				for range writers {
					wg.Go(func() {
						for {
							i := next.Add(1)
							if i > int64(b.N) {
								return
							}
							if err := way.put(b.Context(), key(i)); err != nil {
								b.Error(err)
								return
							}
						}
					})
				}
				wg.Wait()
				b.ReportMetric(float64((cpu()-before).Microseconds())/float64(b.N), "cpu-µs/op")
			})
		}
	}
}

func fill(b *testing.B, s *Store, n int) {
	value := make([]byte, 1000)
	for i := 0; i < n; i += 50 {
		var ops []store.Op
		for k := range 50 {
			ops = append(ops, store.Op{Key: fmt.Sprintf("/registry/pods/default/pod-%d", i+k), Value: value})
		}
		if _, err := s.Commit(b.Context(), store.Txn{Do: ops}); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkRead(b *testing.B) {
	s := benchOpen(b, filepath.Join(b.TempDir(), "etcd"))
	fill(b, s, 5000)
	client := v3client.New(s.engine.(*member).srv)
	b.Run("get/store", func(b *testing.B) {
		for b.Loop() {
			if _, found, _, err := s.Get(b.Context(), "/registry/pods/default/pod-7", 0); err != nil || !found {
				b.Fatal(err)
			}
		}
	})
	b.Run("get/etcd-v3client", func(b *testing.B) {
		for b.Loop() {
			if _, err := client.Get(b.Context(), "/registry/pods/default/pod-7"); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("list-5000/store", func(b *testing.B) {
		for b.Loop() {
			if page, err := s.List(b.Context(), "/registry/pods/", store.ListOptions{}); err != nil || len(page.KVs) != 5000 {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkWatch measures from a commit until 60 watches, one a resource, have
// been passed by and the one concerned has delivered.
func BenchmarkWatch(b *testing.B) {
	s := benchOpen(b, filepath.Join(b.TempDir(), "etcd"))
	var w store.Watcher
	for i := range 60 {
		var err error
		if w, err = s.Watch(b.Context(), fmt.Sprintf("/registry/r%d/", i), 0); err != nil {
			b.Fatal(err)
		}
		defer w.Close()
	}
	for b.Loop() {
		if _, err := s.Commit(b.Context(), store.Txn{Do: []store.Op{{Key: "/registry/r59/x", Value: make([]byte, 1000)}}}); err != nil {
			b.Fatal(err)
		}
		if _, err := w.Next(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkStart measures Open on an empty directory and on one with 10,000 objects.
func BenchmarkStart(b *testing.B) {
	dir := b.TempDir()
	b.Run("fresh", func(b *testing.B) {
		for i := 0; b.Loop(); i++ {
			s, err := Open(b.Context(), Config{Dir: filepath.Join(dir, fmt.Sprint("fresh", b.N, "-", i)), Log: silent})
			if err != nil {
				b.Fatal(err)
			}
			b.StopTimer()
			s.Close()
			b.StartTimer()
		}
	})
	b.Run("10000-objects", func(b *testing.B) {
		full := filepath.Join(dir, "full")
		s := benchOpen(b, full)
		fill(b, s, 10000)
		for range 900 { // and a log to replay
			if _, err := s.Commit(b.Context(), store.Txn{Do: []store.Op{{Key: "/x", Value: make([]byte, 1000)}}}); err != nil {
				b.Fatal(err)
			}
		}
		s.Close()
		for b.Loop() {
			s, err := Open(b.Context(), Config{Dir: full, Log: silent})
			if err != nil {
				b.Fatal(err)
			}
			b.StopTimer()
			s.Close()
			b.StartTimer()
		}
	})
}

// BenchmarkIdle reports what a member costs that nobody uses, and one that
// takes a write a second, over SKIFF_BENCH_IDLE (default 10 s) each.
func BenchmarkIdle(b *testing.B) {
	span := 10 * time.Second
	if text := os.Getenv("SKIFF_BENCH_IDLE"); text != "" {
		var err error
		if span, err = time.ParseDuration(text); err != nil {
			b.Fatal(err)
		}
	}
	for _, every := range []time.Duration{0, time.Second} {
		b.Run(fmt.Sprintf("write-every=%v", every), func(b *testing.B) {
			s := benchOpen(b, filepath.Join(b.TempDir(), "etcd"))
			fill(b, s, 1000)
			<-time.After(3 * batchInterval) // what start and filling left to do
			cpu0, disk0 := cpu(), written(b)
			var tick <-chan time.Time
			if every > 0 {
				ticker := time.NewTicker(every)
				defer ticker.Stop()
				tick = ticker.C
			}
			for end := time.After(span); end != nil; {
				select {
				case <-end:
					end = nil
				case <-tick:
					if _, err := s.Commit(b.Context(), store.Txn{Do: []store.Op{{Key: "/lease", Value: make([]byte, 300)}}}); err != nil {
						b.Fatal(err)
					}
				}
			}
			b.ReportMetric(float64(cpu()-cpu0)/float64(span)*100, "cpu-%")
			b.ReportMetric(float64(written(b)-disk0)/span.Seconds()/1024, "disk-KiB/s")
		})
	}
}

// BenchmarkResume is a watch that begins 3,000 changes ago, as each table's
// does after a restart.
func BenchmarkResume(b *testing.B) {
	s := benchOpen(b, b.TempDir())
	from, err := s.Revision(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	const changes = 3000
	for i := range changes {
		op := store.Op{Key: fmt.Sprintf("/k/%d", i%10), Value: []byte("some value that takes a little room")}
		if _, err := s.Commit(b.Context(), store.Txn{Do: []store.Op{op}}); err != nil {
			b.Fatal(err)
		}
	}
	for b.Loop() {
		w, err := s.Watch(b.Context(), "/k/", from)
		if err != nil {
			b.Fatal(err)
		}
		for seen := 0; seen < changes; {
			batch, err := w.Next(b.Context())
			if err != nil {
				b.Fatal(err)
			}
			seen += len(batch.Events)
		}
		w.Close()
	}
}
