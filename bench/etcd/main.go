// Command etcd measures raw puts to a stock embedded etcd over its gRPC port:
// what the write path of an API server is compared with. Values have the size
// of the objects that bench/api writes, as etcd would get them.
//
//	go run ./bench/etcd --puts 2000 --size 1250
package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/signal"
	"strings"
	"time"

	"github.com/spf13/pflag"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"golang.org/x/sys/unix"

	"skiff.dev/skiff/bench/load"
	"skiff.dev/skiff/bench/measure"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "bench/etcd:", err)
		os.Exit(1)
	}
}

// startTime is how long etcd may take to start.
const startTime = 30 * time.Second

func run(ctx context.Context) (err error) {
	puts := pflag.Int("puts", 2000, "how many values to put")
	size := pflag.Int("size", 1250, "bytes of each value")
	concurrency := pflag.Int("concurrency", 16, "puts under way at a time, after those one at a time")
	asJSON := pflag.Bool("json", false, "print JSON lines")
	pflag.Parse()
	dir, err := os.MkdirTemp("", "skiff-bench-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	member, err := start(dir)
	if err != nil {
		return fmt.Errorf("starting etcd: %w", err)
	}
	defer member.Close()
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{member.Clients[0].Addr().String()}})
	if err != nil {
		return err
	}
	defer client.Close()
	value := strings.Repeat("x", *size)
	put := func(ctx context.Context, i int) error {
		_, err := client.Put(ctx, fmt.Sprintf("/registry/configmaps/bench/object-%06d", i), value)
		return err
	}
	var out measure.Results
	for _, parallel := range []int{1, *concurrency} {
		times, took, err := load.Parallel(ctx, *puts, parallel, put)
		if err != nil {
			return err
		}
		key := fmt.Sprintf("etcd.put%d", parallel)
		out.Add(key+".rate", "op/s", float64(*puts)/took.Seconds(), "raw etcd put of %d bytes, %d at a time", *size, parallel)
		out.Add(key+".p50", "s", times.Percentile(50), "raw etcd put, %d at a time: median", parallel)
		out.Add(key+".p99", "s", times.Percentile(99), "raw etcd put, %d at a time: 99th percentile", parallel)
	}
	return out.Write(os.Stdout, *asJSON)
}

func start(dir string) (*embed.Etcd, error) {
	config := embed.NewConfig()
	config.Dir, config.LogLevel = dir, "panic"
	local := url.URL{Scheme: "http", Host: "127.0.0.1:0"}
	config.ListenClientUrls, config.AdvertiseClientUrls = []url.URL{local}, []url.URL{local}
	config.ListenPeerUrls, config.AdvertisePeerUrls = []url.URL{local}, []url.URL{local}
	config.InitialCluster = config.InitialClusterFromName(config.Name)
	member, err := embed.StartEtcd(config)
	if err != nil {
		return nil, err
	}
	select {
	case <-member.Server.ReadyNotify():
		return member, nil
	case <-time.After(startTime):
		member.Close()
		return nil, errors.New("not ready in time")
	}
}
