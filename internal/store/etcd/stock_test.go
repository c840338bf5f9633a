package etcd_test

import (
	"log/slog"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3client"

	"skiff.dev/skiff/internal/store/etcd"
)

// stock runs etcd as its own program would.
func stock(t *testing.T, dir, name string) (stop func(), c *clientv3.Client) {
	t.Helper()
	peer := url.URL{Scheme: "http", Host: held(t)}
	conf := embed.NewConfig()
	conf.Name, conf.Dir, conf.LogLevel = name, dir, "fatal"
	conf.ListenClientUrls = []url.URL{{Scheme: "http", Host: "127.0.0.1:0"}}
	conf.ListenPeerUrls, conf.AdvertisePeerUrls = []url.URL{peer}, []url.URL{peer}
	conf.InitialCluster = conf.InitialClusterFromName(name)
	e, err := embed.StartEtcd(conf)
	if err != nil {
		t.Fatal(err)
	}
	stop = sync.OnceFunc(e.Close) // a second Close panics
	t.Cleanup(stop)
	<-e.Server.ReadyNotify()
	return stop, v3client.New(e.Server)
}

// journal is a log that may be read while it is written.
type journal struct {
	mu   sync.Mutex
	said strings.Builder
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.said.Write(p)
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.said.String()
}

// TestStockEtcd moves a directory from a stock etcd to skiff and back.
func TestStockEtcd(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "etcd")
	stop, c := stock(t, dir, "node-7")
	theirs, err := c.Put(t.Context(), "/registry/minions/n1", "k8s\x00...")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := etcd.Open(t.Context(), etcd.Config{Dir: dir, Log: quiet(t)}); err == nil || !strings.Contains(err.Error(), "in use by another process") {
		t.Errorf("open beside a running etcd: %v", err)
	}
	stop()

	s := open(t, dir)
	kv, found, _, err := s.Get(t.Context(), "/registry/minions/n1", 0)
	if err != nil || !found || kv.ModRev != theirs.Header.Revision || string(kv.Value) != "k8s\x00..." {
		t.Fatalf("stock etcd's key: %+v, %v, %v", kv, found, err)
	}
	ours, err := put(t.Context(), s, "/registry/minions/n2", []byte("2"))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}

	stop, c = stock(t, dir, "node-7")
	resp, err := c.Get(t.Context(), "/registry/minions/n2")
	if err != nil || len(resp.Kvs) != 1 || resp.Kvs[0].ModRevision != ours {
		t.Fatalf("skiff's key: %v, %v", resp, err)
	}
	// A member of a larger cluster cannot run alone.
	if _, err := c.MemberAddAsLearner(t.Context(), []string{"http://127.0.0.1:1"}); err != nil {
		t.Fatal(err)
	}
	stop()
	log := &journal{}
	if s, err := etcd.Open(t.Context(), etcd.Config{Dir: dir, Log: slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))}); err == nil || !strings.Contains(err.Error(), "cluster of 2") {
		t.Errorf("open a member of two: %v", err)
		if err == nil {
			s.Close()
		}
	}
	// It has not turned to the other member, and nothing of it runs on.
	if said := log.String(); strings.Contains(said, "remote peer") {
		t.Errorf("it was refused and yet has said:\n%s", said)
	}
}
