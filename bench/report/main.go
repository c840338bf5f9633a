// Command report runs all load tools against a freshly started skiff and
// rewrites the tables of docs/performance.md: each budget with what was
// measured and a verdict, and all figures. Everything runs below a directory
// and in namespaces of its own; without root the parts that need a node are
// left out.
//
//	go run ./bench/report --binary bin/skiff -o docs/performance.md
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"skiff.dev/skiff/bench/cluster"
	"skiff.dev/skiff/bench/measure"
	"skiff.dev/skiff/bench/sandbox"
	"skiff.dev/skiff/internal/runtime"
)

// tools are the programs that report runs, by their directory below bench/.
var tools = []string{"api", "etcd", "idle", "pods", "schedule", "startup"}

type report struct {
	binary string
	out    string
	dir    string
	settle time.Duration
	log    *os.File
	found  []measure.Result
	// missing says why figures are not there.
	missing []string
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "bench/report:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) (err error) {
	var r report
	flags := pflag.NewFlagSet("report", pflag.ContinueOnError)
	flags.StringVar(&r.binary, "binary", "bin/skiff", "program to measure")
	flags.StringVarP(&r.out, "output", "o", "docs/performance.md", "page whose tables are rewritten")
	flags.DurationVar(&r.settle, "settle", 5*time.Minute, "how long the node idles before it is measured")
	if err := flags.Parse(args(os.Args[1:])); err != nil {
		return err
	}
	root := os.Geteuid() == 0
	if root {
		if done, err := sandbox.Enter(ctx); done || err != nil {
			return err
		}
	}
	if r.dir, err = os.MkdirTemp("", "skiff-bench-"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(r.dir)) }()
	if r.log, err = os.Create(filepath.Join(r.dir, "log")); err != nil {
		return err
	}
	defer r.log.Close()
	if err := r.build(ctx); err != nil {
		return err
	}
	if err := r.sizes(); err != nil {
		return err
	}
	parts := []struct {
		name string
		root bool
		run  func(context.Context) error
	}{
		{"start-up of the control plane", false, func(ctx context.Context) error { return r.tool(ctx, "startup", "--binary", r.binary) }},
		{"raw etcd", false, func(ctx context.Context) error { return r.tool(ctx, "etcd") }},
		{"write path", false, r.writePath},
		{"API", false, r.api},
		{"scheduling", false, r.schedule},
		{"start-up of the node", true, func(ctx context.Context) error { return r.tool(ctx, "startup", "--node", "--binary", r.binary) }},
		{"node", true, r.node},
	}
	for _, p := range parts {
		if p.root && !root {
			r.missing = append(r.missing, p.name+": needs root")
			continue
		}
		fmt.Fprintln(os.Stderr, "measuring:", p.name)
		// A part that fails is told in the page; the others are still worth having.
		if err := p.run(ctx); err != nil {
			r.missing = append(r.missing, fmt.Sprintf("%s: %v", p.name, err))
			fmt.Fprintln(os.Stderr, "failed:", err)
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	return r.write()
}

// args accepts -binary for --binary, as the Makefile and Go programs write it.
func args(given []string) []string {
	for i, a := range given {
		if len(a) > 2 && a[0] == '-' && a[1] != '-' {
			given[i] = "-" + a
		}
	}
	return given
}

// build compiles the tools, so that no compiler runs while they measure.
func (r *report) build(ctx context.Context) error {
	command := []string{"build", "-o", r.dir + "/"}
	for _, t := range tools {
		command = append(command, "./bench/"+t)
	}
	build := exec.CommandContext(ctx, "go", command...)
	build.Stderr = os.Stderr
	if err := build.Run(); err != nil {
		return fmt.Errorf("building the tools: %w", err)
	}
	return nil
}

// sizes measures the binary and what it shrinks to.
func (r *report) sizes() error {
	data, err := os.ReadFile(r.binary)
	if err != nil {
		return err
	}
	var packed bytes.Buffer
	w, err := zstd.NewWriter(&packed, zstd.WithEncoderLevel(zstd.SpeedBestCompression))
	if err != nil {
		return err
	}
	if _, err := w.Write(data); err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	var out measure.Results
	out.Add("binary.size", "MiB", float64(len(data))/(1<<20), "binary")
	out.Add("binary.packed", "MiB", float64(packed.Len())/(1<<20), "binary, compressed (zstd)")
	return r.take(&out)
}

// take adds a tool's results.
func (r *report) take(out *measure.Results) error {
	var lines bytes.Buffer
	if err := out.Write(&lines, true); err != nil {
		return err
	}
	return r.parse(&lines)
}

func (r *report) parse(lines io.Reader) error {
	dec := json.NewDecoder(lines)
	for {
		var x measure.Result
		switch err := dec.Decode(&x); {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return fmt.Errorf("reading figures: %w", err)
		}
		r.found = append(r.found, x)
	}
}

// tool runs one of the tools and takes its figures.
func (r *report) tool(ctx context.Context, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, filepath.Join(r.dir, name), append(args, "--json")...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w: %s", name, err, bytes.TrimSpace(errs.Bytes()))
	}
	return r.parse(&out)
}

// server runs f against a fresh control plane without a node.
func (r *report) server(ctx context.Context, name string, f func(kubeconfig, pid string) error) error {
	s, err := cluster.Start(r.binary, filepath.Join(r.dir, name), r.log, "--disable-agent")
	if err != nil {
		return err
	}
	defer s.Kill()
	if _, err := s.Ready(ctx); err != nil {
		return err
	}
	if err := f(s.Kubeconfig(), strconv.Itoa(s.PID())); err != nil {
		return err
	}
	_, err = s.Stop()
	return err
}

func (r *report) api(ctx context.Context) error {
	return r.server(ctx, "api-data", func(kubeconfig, pid string) error {
		if err := r.tool(ctx, "idle", "--key", "idle.server", "--pids", pid, "--settle", "1m", "--period", "30s"); err != nil {
			return err
		}
		return r.tool(ctx, "api", "--kubeconfig", kubeconfig, "--pids", pid)
	})
}

// pairs is how often the write path is measured and what it is compared with.
const pairs = 5

// writePath measures updates and raw puts in turn: what a write to the disk
// takes changes from minute to minute.
func (r *report) writePath(ctx context.Context) error {
	return r.server(ctx, "write-data", func(kubeconfig, pid string) error {
		var ratios []float64
		for i := range pairs {
			pair := *r
			pair.found, pair.missing = nil, nil
			err := errors.Join(pair.tool(ctx, "etcd"),
				pair.tool(ctx, "api", "--kubeconfig", kubeconfig, "--pids", pid, "--media", "protobuf",
					"--namespace", "pair-"+strconv.Itoa(i), "--steps", "update1"))
			if err != nil {
				return err
			}
			figures := byKey(pair.found)
			ratios = append(ratios, figures["api.protobuf.update1.p50"].Value/figures["etcd.put1.p50"].Value)
		}
		slices.Sort(ratios)
		var out measure.Results
		out.Add("write.ratio", "×", ratios[pairs/2], "update over HTTPS by raw etcd put, one client, medians in turn: median of %d", pairs)
		out.Add("write.ratio.least", "×", ratios[0], "the least of them")
		out.Add("write.ratio.most", "×", ratios[pairs-1], "the most")
		return r.take(&out)
	})
}

func (r *report) schedule(ctx context.Context) error {
	return r.server(ctx, "schedule-data", func(kubeconfig, pid string) error {
		return r.tool(ctx, "schedule", "--kubeconfig", kubeconfig, "--pids", pid)
	})
}

// node measures pods on a node, and then the node with 20 of them while
// nothing happens.
func (r *report) node(ctx context.Context) (err error) {
	dir := filepath.Join(r.dir, "node-data")
	s, err := cluster.Start(r.binary, dir, r.log)
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
	if err := r.tool(ctx, "pods", "--kubeconfig", s.Kubeconfig()); err != nil {
		return err
	}
	if err := r.tool(ctx, "pods", "--kubeconfig", s.Kubeconfig(), "--keep", "20"); err != nil {
		return err
	}
	both, err := cluster.WithRuntime(s.PID())
	if err != nil {
		return err
	}
	settle := r.settle.String()
	all := make(chan error, 1)
	second := *r
	second.found, second.missing = nil, nil
	go func() { all <- second.tool(ctx, "idle", "--key", "idle.all", "--pids", both, "--settle", settle) }()
	err = errors.Join(r.tool(ctx, "idle", "--key", "idle.node", "--pids", strconv.Itoa(s.PID()), "--settle", settle), <-all)
	r.found = append(r.found, second.found...)
	return err
}
