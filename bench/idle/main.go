// Command idle measures what processes use while nothing is asked of them:
// resident memory by kind, CPU time, wake-ups, and bytes written to disk.
//
//	go run ./bench/idle --pids "$(pidof skiff)" --settle 0 --period 1m
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"time"

	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"skiff.dev/skiff/bench/measure"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "bench/idle:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	list := pflag.String("pids", "", "processes to measure, together")
	key := pflag.String("key", "idle", "start of the figures' keys")
	settle := pflag.Duration("settle", 5*time.Minute, "how long to wait before")
	period := pflag.Duration("period", time.Minute, "how long to watch")
	asJSON := pflag.Bool("json", false, "print JSON lines")
	pflag.Parse()
	pids, err := measure.ParsePIDs(*list)
	if err != nil {
		return err
	}
	if len(pids) == 0 {
		return errors.New("say which processes to measure with --pids")
	}
	if err := wait(ctx, *settle); err != nil {
		return err
	}
	before, err := measure.Of(pids...)
	if err != nil {
		return err
	}
	start := time.Now()
	if err := wait(ctx, *period); err != nil {
		return err
	}
	after, err := measure.Of(pids...)
	if err != nil {
		return err
	}
	seconds := time.Since(start).Seconds()
	const mib = 1 << 20
	var out measure.Results
	out.Add(*key+".rss", "MiB", float64(after.RSS)/mib, "resident memory")
	out.Add(*key+".pss", "MiB", float64(after.PSS)/mib, "proportional share of resident memory")
	out.Add(*key+".anon", "MiB", float64(after.Anon)/mib, "of it heap, stacks and other anonymous memory")
	out.Add(*key+".file", "MiB", float64(after.File)/mib, "of it pages of files (program text, database)")
	out.Add(*key+".cpu", "%", 100*(after.CPU-before.CPU)/seconds, "CPU time, of one core")
	out.Add(*key+".switches", "/s", float64(after.Switches-before.Switches)/seconds, "wake-ups (voluntary context switches)")
	out.Add(*key+".written", "KiB/s", float64(after.Written-before.Written)/1024/seconds, "written to disk")
	return out.Write(os.Stdout, *asJSON)
}

func wait(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
