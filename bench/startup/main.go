// Command startup measures how long `skiff server` takes from its start to
// /readyz, to a ready node and to the first running pod on a fresh data
// directory, and to /readyz again with many objects, after a stop and after a
// kill. It works below a directory of its own, which it removes. With --node,
// which needs root, it measures a server with a node instead, in namespaces of
// its own. With --watch it starts nothing, but follows a control plane that
// somebody else starts, of whatever make.
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
	"golang.org/x/sys/unix"

	"skiff.dev/skiff/bench/cluster"
	"skiff.dev/skiff/bench/load"
	"skiff.dev/skiff/bench/measure"
	"skiff.dev/skiff/bench/sandbox"
	"skiff.dev/skiff/internal/runtime"
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
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
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
	node := pflag.Bool("node", false, "measure to the ready node and the first pod instead")
	var f follower
	f.flags()
	asJSON := pflag.Bool("json", false, "print JSON lines")
	pflag.Parse()
	if f.server != "" {
		if err := f.follow(ctx, *node); err != nil {
			return err
		}
		return f.out.Write(os.Stdout, *asJSON)
	}
	steps := []func(context.Context) error{b.fresh, b.restart}
	if *node {
		if done, err := sandbox.Enter(ctx); done || err != nil {
			return err
		}
		steps = []func(context.Context) error{b.node}
	}
	if b.dir, err = os.MkdirTemp("", "skiff-bench-"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(b.dir)) }()
	if b.log, err = os.Create(filepath.Join(b.dir, "log")); err != nil {
		return err
	}
	defer b.log.Close()
	for _, step := range steps {
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

// patience is how long a node and its first pod may take.
const patience = 30 * time.Second

// node measures a server with a node, on one fresh data directory: making
// several would measure leftovers in the kernel too.
func (b *bench) node(ctx context.Context) (err error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	dir := filepath.Join(b.dir, "node")
	s, err := cluster.Start(b.binary, dir, b.log)
	if err != nil {
		return err
	}
	defer func() {
		s.Kill()
		err = errors.Join(err, runtime.Reset(dir))
	}()
	if _, err := s.Ready(ctx); err != nil {
		return err
	}
	c, err := load.Dial(s.Kubeconfig(), 2)
	if err != nil {
		return err
	}
	if err := cluster.WaitNode(ctx, c, patience); err != nil {
		return err
	}
	b.out.Add("startup.node", "s", s.Since().Seconds(), "start to node Ready, fresh data directory")
	pods := load.Pods{Client: c, Namespace: "bench-startup", Image: cluster.PauseImage}
	if err := pods.Prepare(ctx); err != nil {
		return err
	}
	if _, _, err := pods.Start(ctx, 1); err != nil {
		return err
	}
	b.out.Add("startup.pod", "s", s.Since().Seconds(), "start to first pod Running, image present")
	if err := c.DeleteAll(ctx, pods.Path()); err != nil {
		return err
	}
	_, err = s.Stop()
	return err
}
