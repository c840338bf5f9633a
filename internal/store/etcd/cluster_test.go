package etcd_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"skiff.dev/skiff/internal/store"
	"skiff.dev/skiff/internal/store/etcd"
	"skiff.dev/skiff/internal/store/storetest"
	"skiff.dev/skiff/internal/testing/loopback"
)

// held returns an address that is free, and nobody else's until the test ends.
func held(t testing.TB) string {
	t.Helper()
	return fmt.Sprintf("127.0.0.1:%d", loopback.Port(t))
}

// serve runs a member that takes clients over TLS and returns how to dial it.
func serve(t testing.TB, dir, address string, a *authority) (*etcd.Store, etcd.ClusterConfig) {
	t.Helper()
	conf, err := a.issue("server").Server()
	if err != nil {
		t.Fatal(err)
	}
	s, err := etcd.Open(t.Context(), etcd.Config{Dir: dir, ListenClient: "https://" + address, ListenTLS: conf, Log: quiet(t)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s, etcd.ClusterConfig{Endpoints: []string{"https://" + address}, TLS: a.issue("client"), KeepHistory: -1, Log: quiet(t)}
}

func dial(t testing.TB, cfg etcd.ClusterConfig) *etcd.Store {
	t.Helper()
	s, err := etcd.Dial(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func TestClusterConformance(t *testing.T) {
	var configs sync.Map // by store
	storetest.Run(t, storetest.Backend{
		Open: func(t *testing.T) store.Store {
			_, cfg := serve(t, filepath.Join(t.TempDir(), "etcd"), held(t), newAuthority(t))
			s := dial(t, cfg)
			configs.Store(s, cfg)
			return s
		},
		Reopen: func(t *testing.T, s store.Store) store.Store {
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			cfg, _ := configs.Load(s)
			next := dial(t, cfg.(etcd.ClusterConfig))
			configs.Store(next, cfg)
			return next
		},
	})
}

func TestClusterRefusesStrangers(t *testing.T) {
	a := newAuthority(t)
	_, cfg := serve(t, filepath.Join(t.TempDir(), "etcd"), held(t), a)
	cfg.RequestTimeout = time.Second
	stranger := newAuthority(t)
	tests := map[string]etcd.Files{
		"certificate of another CA": {CA: cfg.TLS.CA, Cert: stranger.issue("x").Cert, Key: filepath.Join(stranger.dir, "x.key")},
		"no certificate":            {CA: cfg.TLS.CA},
		"server of another CA":      {CA: filepath.Join(stranger.dir, "ca.crt"), Cert: cfg.TLS.Cert, Key: cfg.TLS.Key},
	}
	for name, files := range tests {
		cfg := cfg
		cfg.TLS = files
		if s, err := etcd.Dial(t.Context(), cfg); !errors.Is(err, store.ErrUnavailable) {
			t.Errorf("%s: error %v, want ErrUnavailable", name, err)
			if err == nil {
				s.Close()
			}
		}
	}
	cfg.TLS = etcd.Files{CA: "/nonexistent"}
	if _, err := etcd.Dial(t.Context(), cfg); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("absent CA file: %v", err)
	}
}

func TestDialNobody(t *testing.T) {
	_, err := etcd.Dial(t.Context(), etcd.ClusterConfig{Endpoints: []string{"http://" + held(t)}, RequestTimeout: 300 * time.Millisecond, Log: quiet(t)})
	if !errors.Is(err, store.ErrUnavailable) {
		t.Fatalf("error %v, want ErrUnavailable", err)
	}
}

// TestClusterReloadsCertificates replaces CA and certificates on both sides,
// restarts only the server, and goes on with the same client and watch.
func TestClusterReloadsCertificates(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	a := newAuthority(t)
	dir, address := filepath.Join(t.TempDir(), "etcd"), held(t)
	server, cfg := serve(t, dir, address, a)
	s := dial(t, cfg)
	w, err := s.Watch(ctx, "/", 0)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if err := server.Close(); err != nil {
		t.Fatal(err)
	}
	next := newAuthority(t)
	next.issue("client")
	for _, name := range []string{"ca.crt", "client.crt", "client.key"} {
		data, err := os.ReadFile(filepath.Join(next.dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(a.dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	serve(t, dir, address, next)
	var res store.Result
	for { // the connection comes back by itself; until then answers are ErrUnavailable
		res, err = s.Commit(ctx, store.Txn{Do: []store.Op{{Key: "/a", Value: []byte("1")}}})
		if err == nil {
			break
		}
		if !errors.Is(err, store.ErrUnavailable) {
			t.Fatal(err)
		}
	}
	for {
		b, err := w.Next(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if n := len(b.Events); n > 0 {
			if b.Events[n-1].KV.ModRev == res.Rev {
				break
			}
		}
	}
}

// BenchmarkClusterPut is BenchmarkPut over TCP and TLS to a member in the same process.
func BenchmarkClusterPut(b *testing.B) {
	_, cfg := serve(b, filepath.Join(b.TempDir(), "etcd"), held(b), newAuthority(b))
	s := dial(b, cfg)
	value := make([]byte, 1000)
	usage := func() time.Duration {
		var ru syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &ru); err != nil {
			b.Fatal(err)
		}
		return time.Duration(ru.Utime.Nano() + ru.Stime.Nano())
	}
	i, before := 0, usage()
	for b.Loop() {
		i++
		if _, err := put(b.Context(), s, fmt.Sprintf("/registry/pods/default/pod-%d", i%5000), value); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64((usage()-before).Microseconds())/float64(b.N), "cpu-µs/op")
}
