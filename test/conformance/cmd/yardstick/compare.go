package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"skiff.dev/skiff/test/conformance/build"
	"skiff.dev/skiff/test/conformance/compare"
	"skiff.dev/skiff/test/conformance/images"
)

// benchCompare measures skiff and upstream's parts in turns, as the environment says: ROUNDS, PARTS, RESULTS
// (an earlier run that this one completes), QUICK. The page is written when all parts were measured in
// their full shapes, in this run or in those before it in RESULTS.
func benchCompare(ctx context.Context, _ []string) error {
	rounds, err := strconv.Atoi(cmp.Or(os.Getenv("ROUNDS"), "2"))
	if err != nil || rounds < 1 {
		return fmt.Errorf("ROUNDS is %q; it must be a number", os.Getenv("ROUNDS"))
	}
	config, err := configure(ctx, "compare")
	if err != nil {
		return err
	}
	// The two images that are run; more would only take time.
	config.Archives = slices.DeleteFunc(config.Archives, func(file string) bool {
		return filepath.Base(file) != "pause.tar" && filepath.Base(file) != "coredns.tar"
	})
	source, err := module()
	if err != nil {
		return err
	}
	root := filepath.Join(source, "..", "..")
	o := compare.Options{
		Cluster: config, PodImage: images.Pause(), Tools: filepath.Join(root, "bin", "bench"), Rounds: rounds,
		Parts: strings.FieldsFunc(os.Getenv("PARTS"), func(r rune) bool { return r == ',' || r == ' ' }),
		Quick: os.Getenv("QUICK") != "", Log: os.Stderr,
	}
	if o.Out, err = compareDir(); err != nil {
		return err
	}
	writer := filepath.Join(o.Tools, "compare")
	facts, err := exec.CommandContext(ctx, writer, "--facts").Output()
	if err != nil {
		return fmt.Errorf("%s: %w", writer, err)
	}
	o.Facts = strings.TrimSpace(string(facts))
	fmt.Fprintf(os.Stderr, "figures are kept in %s\n", o.Out)
	if err := compare.Run(ctx, o); err != nil {
		return fmt.Errorf("%w\nwhat there is can be shown, or with -o docs/performance.md written, by %s %s/*.jsonl", err, writer, o.Out)
	}
	return present(writer, o.Out, filepath.Join(root, "docs", "performance.md"), !o.Quick && (len(o.Parts) == 0 || os.Getenv("RESULTS") != ""))
}

// compareDir is $RESULTS, a name or a directory, or a new one.
func compareDir() (string, error) {
	given := os.Getenv("RESULTS")
	if given == "" {
		return resultsDir("compare", time.Now())
	}
	if filepath.IsAbs(given) {
		return given, nil
	}
	cache, err := build.Cache()
	return filepath.Join(cache, "results", given), err
}

// present prints the section that the figures make, and writes it into the page if it is to be kept.
func present(writer, dir, page string, keep bool) error {
	files, err := filepath.Glob(filepath.Join(dir, "*.jsonl"))
	if err != nil {
		return err
	}
	runs := [][]string{files}
	if keep {
		runs = append(runs, append([]string{"-o", page}, files...))
	}
	for _, args := range runs {
		cmd := exec.Command(writer, args...)
		cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
		err = errors.Join(err, cmd.Run())
	}
	if keep && err == nil {
		fmt.Printf("written to %s\n", page)
	}
	return err
}
