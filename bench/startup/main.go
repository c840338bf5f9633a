// Command startup measures how long `skiff server` takes from its start to
// /readyz, to a ready node and to the first running pod on a fresh data
// directory, and to /readyz again with many objects, after a stop and after a
// kill. It works below a directory of its own, which it removes.
//
//	go run ./bench/startup --binary bin/skiff
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"skiff.dev/skiff/bench/cluster"
	"skiff.dev/skiff/bench/load"
	"skiff.dev/skiff/bench/measure"
)

type bench struct {
	binary  string
	dir     string
	rounds  int
	objects int
	log     *os.File
	out     measure.Results
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "bench/startup:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) (err error) {
	var b bench
	pflag.StringVar(&b.binary, "binary", "bin/skiff", "program to measure")
	pflag.IntVar(&b.rounds, "rounds", 5, "how often each start is measured; the median is told")
	pflag.IntVar(&b.objects, "objects", 10000, "objects of 1,000 bytes for the restart")
	asJSON := pflag.Bool("json", false, "print JSON lines")
	pflag.Parse()
	if b.dir, err = os.MkdirTemp("", "skiff-bench-"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(b.dir)) }()
	if b.log, err = os.Create(filepath.Join(b.dir, "log")); err != nil {
		return err
	}
	defer b.log.Close()
	for _, step := range []func(context.Context) error{b.fresh, b.restart} {
		if err := step(ctx); err != nil {
			tail, _ := os.ReadFile(b.log.Name()) // without it the error says less
			return fmt.Errorf("%w; the server's log ends:\n%s", err, tail[max(0, len(tail)-2000):])
		}
	}
	return b.out.Write(os.Stdout, *asJSON)
}

func (b *bench) start(dir string) (*cluster.Server, error) {
	return cluster.Start(b.binary, filepath.Join(b.dir, dir), b.log, "--disable-agent")
}

// ready starts a server, waits for it and returns both.
func (b *bench) ready(ctx context.Context, dir string) (*cluster.Server, time.Duration, error) {
	s, err := b.start(dir)
	if err != nil {
		return nil, 0, err
	}
	took, err := s.Ready(ctx)
	if err != nil {
		s.Kill()
		return nil, 0, err
	}
	return s, took, nil
}

func (b *bench) fresh(ctx context.Context) error {
	var starts, stops measure.Times
	for i := range b.rounds {
		s, took, err := b.ready(ctx, fmt.Sprintf("fresh-%d", i))
		if err != nil {
			return err
		}
		starts.Add(took)
		if took, err = s.Stop(); err != nil {
			return err
		}
		stops.Add(took)
	}
	b.out.Add("startup.fresh", "s", starts.Percentile(50), "start to /readyz, fresh data directory")
	b.out.Add("startup.stop", "s", stops.Percentile(50), "SIGTERM to exit")
	return nil
}

func (b *bench) restart(ctx context.Context) error {
	s, _, err := b.ready(ctx, "full")
	if err != nil {
		return err
	}
	if err := b.fill(ctx, s.Kubeconfig()); err != nil {
		s.Kill()
		return err
	}
	var stopped, killed measure.Times
	for range b.rounds {
		if _, err := s.Stop(); err != nil {
			return err
		}
		var took time.Duration
		if s, took, err = b.ready(ctx, "full"); err != nil {
			return err
		}
		stopped.Add(took)
		s.Kill()
		if s, took, err = b.ready(ctx, "full"); err != nil {
			return err
		}
		killed.Add(took)
	}
	b.out.Add("startup.restart", "s", stopped.Percentile(50), "start to /readyz, %d objects", b.objects)
	b.out.Add("startup.killed", "s", killed.Percentile(50), "start to /readyz after kill -9, %d objects", b.objects)
	_, err = s.Stop()
	return err
}

func (b *bench) fill(ctx context.Context, kubeconfig string) error {
	c, err := load.Dial(kubeconfig, 4)
	if err != nil {
		return err
	}
	if err := c.Namespace(ctx, "bench-startup"); err != nil {
		return err
	}
	data := strings.Repeat("x", 1000)
	_, _, err = load.Parallel(ctx, b.objects, 32, func(ctx context.Context, i int) error {
		body := fmt.Appendf(nil, `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"object-%06d"},"data":{"data":%q}}`, i, data)
		_, err := c.Discard(ctx, "POST", "/api/v1/namespaces/bench-startup/configmaps", load.JSON, body)
		return err
	})
	return err
}
