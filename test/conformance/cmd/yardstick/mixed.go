package main

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"skiff.dev/skiff/test/conformance/build"
	"skiff.dev/skiff/test/conformance/cluster"
	"skiff.dev/skiff/test/conformance/mixed"
	"skiff.dev/skiff/test/conformance/report"
)

// mixturePatience is how long a step of a mixture may take. Some do not come up at all, and each need not be
// waited for as long as a machine that others use as well may need.
const mixturePatience = 3 * time.Minute

// mixtures runs specs on mixed clusters. FOCUS chooses other specs, COMPONENTS (names with spaces between)
// fewer mixtures; the matrix is written down when neither is set.
func mixtures(ctx context.Context, _ []string) error {
	parallel, err := parallelism()
	if err != nil {
		return err
	}
	config, err := configure(ctx, "mixed", build.Suite...)
	if err != nil {
		return err
	}
	unlock, err := cluster.Lock(config.Dir)
	if err != nil {
		return err
	}
	defer unlock()
	config.Patience = mixturePatience
	begin := time.Now()
	out, err := resultsDir("mixed", begin)
	if err != nil {
		return err
	}
	commit, err := commit()
	if err != nil {
		return err
	}
	only := strings.Fields(os.Getenv("COMPONENTS"))
	cells, err := mixed.Run(ctx, mixed.Options{
		Cluster: config, Focus: cmp.Or(os.Getenv("FOCUS"), mixed.Specs), Parallel: parallel, Out: out, Log: os.Stderr, Only: only,
	})
	section := mixed.Page(cells, commit, begin)
	fmt.Print(section)
	fmt.Printf("everything about these runs: %s\n", out)
	if err != nil || len(only) > 0 || os.Getenv("FOCUS") != "" {
		return err
	}
	page, err := resultsPage()
	if err != nil {
		return err
	}
	return report.Replace(page, "mixed", section)
}
