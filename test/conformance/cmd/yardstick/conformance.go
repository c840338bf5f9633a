package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"skiff.dev/skiff/test/conformance/build"
	"skiff.dev/skiff/test/conformance/cluster"
	"skiff.dev/skiff/test/conformance/ours"
	"skiff.dev/skiff/test/conformance/report"
	"skiff.dev/skiff/test/conformance/run"
	"skiff.dev/skiff/test/conformance/stock"
)

// conformance runs the suite as the environment says: TARGET, FOCUS, SKIP, PARALLEL, KEEP.
func conformance(ctx context.Context, _ []string) error {
	target := cmp.Or(os.Getenv("TARGET"), "skiff")
	if target != "skiff" && target != "stock" {
		return fmt.Errorf("TARGET is %q; it must be skiff or stock", target)
	}
	parallel, err := parallelism()
	if err != nil {
		return err
	}
	config, err := configure(ctx, target, build.Suite...)
	if err != nil {
		return err
	}
	unlock, err := cluster.Lock(config.Dir)
	if err != nil {
		return err
	}
	defer unlock()
	keep := os.Getenv("KEEP") != ""
	c, err := provide(ctx, target, config, keep)
	if err != nil {
		return err
	}
	commit, err := commit()
	if err != nil {
		return err
	}
	begin := time.Now()
	out, err := resultsDir(target, begin)
	if err != nil {
		return err
	}
	options := run.Options{
		Programs: config.Programs, On: c.Set.Switch, Kubeconfig: c.Kubeconfig(), Focus: os.Getenv("FOCUS"), Skip: os.Getenv("SKIP"),
		Labels: run.Conformance, Parallel: parallel, Out: out, Log: os.Stderr,
	}
	if labels, set := os.LookupEnv("LABELS"); set && labels != "" {
		options.Labels = labels
	}
	fmt.Fprintf(os.Stderr, "running the suite; its output: %s\n", c.Set.Switch.Log("suite"))
	err = run.Run(ctx, options)
	if !keep {
		err = errors.Join(err, c.KeepLogs(out), cluster.Remove(config.Dir))
	}
	if err != nil {
		if specs, unread := report.Read(filepath.Join(out, run.JUnit)); unread == nil {
			fmt.Print(report.Run{}.Summary(specs)) // as far as it came
		}
		return err
	}
	r := report.Run{
		Target: target, Date: begin, Commit: commit, Version: build.Version, Parallel: parallel, Took: time.Since(begin),
		Whole: options.Focus == "" && options.Skip == "" && options.Labels == run.Conformance,
	}
	if err := r.Save(filepath.Join(out, runFile)); err != nil {
		return err
	}
	return conclude(r, out)
}

// runFile tells of a run what its specs do not; it lies beside their results.
const runFile = "run.json"

// tell concludes a run again, with the reasons that are known by now.
func tell(_ context.Context, args []string) error {
	if len(args) != 1 {
		return errors.New("usage: yardstick report DIRECTORY, which is one of a run's results")
	}
	r, err := report.Load(filepath.Join(args[0], runFile))
	if err != nil {
		return err
	}
	return conclude(r, args[0])
}

// parallelism is how many specs run at a time: $PARALLEL.
func parallelism() (int, error) {
	n, err := strconv.Atoi(cmp.Or(os.Getenv("PARALLEL"), "6"))
	if err != nil || n < 1 {
		return 0, fmt.Errorf("PARALLEL is %q; it must be a number", os.Getenv("PARALLEL"))
	}
	return n, nil
}

// conclude prints a run's results, and writes them down when it was whole.
func conclude(r report.Run, out string) error {
	specs, err := report.Read(filepath.Join(out, run.JUnit))
	if err != nil {
		return err
	}
	fmt.Print(r.Summary(specs))
	fmt.Printf("everything about this run: %s\n", out)
	if !r.Whole {
		return nil
	}
	page, err := resultsPage()
	if err != nil {
		return err
	}
	fmt.Printf("written to %s\n", page)
	return report.Replace(page, r.Target, r.Page(specs))
}

// commit is the checkout's.
func commit() (string, error) {
	out, err := exec.Command("git", "rev-parse", "--short", "HEAD").Output()
	if err != nil {
		return "", fmt.Errorf("asking git for the commit: %w", err)
	}
	return strings.TrimSpace(string(out)), nil
}

// resultsPage is docs/conformance.md.
func resultsPage() (string, error) {
	source, err := module()
	if err != nil {
		return "", err
	}
	return filepath.Join(source, "..", "..", "docs", "conformance.md"), nil
}

func resultsDir(target string, begin time.Time) (string, error) {
	cache, err := build.Cache()
	if err != nil {
		return "", err
	}
	return filepath.Join(cache, "results", target+"-"+begin.UTC().Format("20060102-150405")), nil
}

// provide returns the cluster that runs already, if it may be used, or a new one.
func provide(ctx context.Context, target string, config cluster.Config, keep bool) (*cluster.Cluster, error) {
	if keep {
		if c, err := cluster.Open(config); err == nil {
			fmt.Fprintf(os.Stderr, "using the cluster in %s\n", config.Dir)
			return c, nil
		}
	}
	if target == "skiff" {
		return ours.Up(ctx, config)
	}
	c, err := stock.Up(ctx, config)
	if err != nil {
		return nil, err
	}
	return c.Cluster, nil
}
