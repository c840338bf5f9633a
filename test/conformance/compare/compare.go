// Package compare puts the same load on skiff and on upstream's own parts, in turns and never both at a time.
//
// The load comes from the tools of bench/ in the main module, which are run as programs and print figures as
// JSON; each figure is written down as soon as it is there, so that an interrupted run is not lost. What they
// mean together is the business of bench/compare, which reads these files.
package compare

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"skiff.dev/skiff/test/conformance/cluster"
)

// Options say what is measured, and where results go.
type Options struct {
	// Cluster is what the clusters are made of. Each target has its own below Cluster.Dir, with "-skiff" or
	// "-stock" added.
	Cluster cluster.Config
	// PodImage is the one that pods run; it is among the archives.
	PodImage string
	// Tools is the folder of the programs of bench/.
	Tools  string
	Rounds int
	// Parts are those measured: names, or names up to a dash; all when empty.
	Parts []string
	// Quick has small shapes, to try everything out.
	Quick bool
	// Facts say when, where and of what figures are.
	Facts string
	// Out is the directory for results.
	Out string
	Log io.Writer
}

// Targets in the order of their turns.
var Targets = []string{"skiff", "stock"}

// comparison is one that runs.
type comparison struct {
	Options
	shapes shapes
	record *record
}

// Run measures all parts, in rounds. A part that fails is written
// down as such, with the logs of its cluster beside, and does not keep others from being measured.
func Run(ctx context.Context, o Options) (err error) {
	parts, err := choose(plan(), o.Parts)
	if err != nil {
		return err
	}
	c := &comparison{Options: o, shapes: full}
	if o.Quick {
		c.shapes = quick
	}
	if c.record, err = newRecord(o.Out, about{Facts: o.Facts, Rounds: o.Rounds, Quick: o.Quick}); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.record.close()) }()
	progress := newProgress(o.Log, parts, o.Rounds)
	for round := 1; round <= o.Rounds; round++ {
		for _, p := range parts {
			for _, target := range Targets {
				progress.begin(round, p, target)
				err := c.part(ctx, round, p, target)
				progress.end(err)
				if ctx.Err() != nil {
					return ctx.Err()
				}
				if err == nil {
					continue
				}
				if err := c.record.failed(round, target, p.name, err); err != nil {
					return err
				}
			}
		}
	}
	fmt.Fprintf(o.Log, "done after %v\n", progress.took.Round(time.Second))
	return nil
}

// choose finds the parts that are asked for: "schedule" is all whose names begin with "schedule-".
func choose(parts []part, names []string) ([]part, error) {
	if len(names) == 0 {
		return parts, nil
	}
	var found []part
	for _, name := range names {
		n := len(found)
		for _, p := range parts {
			if p.name == name || strings.HasPrefix(p.name, name+"-") {
				found = append(found, p)
			}
		}
		if len(found) == n {
			return nil, fmt.Errorf("there is no part %q", name)
		}
	}
	slices.SortStableFunc(found, func(a, b part) int { return place(parts, a) - place(parts, b) })
	return slices.CompactFunc(found, func(a, b part) bool { return a.name == b.name }), nil
}

func place(parts []part, p part) int {
	return slices.IndexFunc(parts, func(o part) bool { return o.name == p.name })
}

// patience is how long one part may take.
const patience = 20 * time.Minute

// part measures one part on one target, on fresh clusters.
func (c *comparison) part(ctx context.Context, round int, p part, target string) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for range max(1, p.starts) {
		if err := c.once(ctx, round, p, target); err != nil {
			return err
		}
	}
	return nil
}

// once measures a part on one fresh cluster.
func (c *comparison) once(ctx context.Context, round int, p part, target string) (err error) {
	r, err := c.prepare(ctx, p, target)
	defer func() {
		if err != nil && r != nil && ctx.Err() == nil {
			err = errors.Join(err, r.Cluster().KeepLogs(filepath.Join(c.Out, fmt.Sprintf("%s-%s-%d", p.name, target, round))))
		}
		err = errors.Join(err, cluster.Remove(c.dir(target)))
		unix.Sync() // what one target has left to write is not the other's to wait for
	}()
	if err != nil {
		return err
	}
	r.round, r.part = round, p.name
	if err := r.start(ctx, p.node); err != nil {
		return err
	}
	if p.load == nil {
		return nil
	}
	if p.node {
		if err := r.Furnish(ctx); err != nil {
			return err
		}
	}
	return p.load(ctx, r)
}

// dir is where a target's cluster lives.
func (c *comparison) dir(target string) string { return c.Cluster.Dir + "-" + target }
