// Package mixed takes each of the five components out of a cluster and puts the other's in: skiff's among
// upstream's, upstream's among skiff's. It runs some specs of the suite on each mixture and makes a matrix.
package mixed

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"skiff.dev/skiff/test/conformance/build"
	"skiff.dev/skiff/test/conformance/cluster"
	"skiff.dev/skiff/test/conformance/report"
	"skiff.dev/skiff/test/conformance/run"
	"skiff.dev/skiff/test/conformance/stock"
)

// Specs are those that are run unless others are chosen: something of each component's work.
const Specs = `Deployment deployment should support rollover|` +
	`Deployment RecreateDeployment should delete old pods|` +
	`ReplicaSet should adopt matching pods|` +
	`Services should serve a basic endpoint from pods|` +
	`Services should be able to change the type from ExternalName to NodePort|` +
	`Services should have session affinity work for service with type clusterIP|` +
	`DNS should provide DNS for services|` +
	`Pods should get a host IP|` +
	`Pods should be updated|` +
	`Pods should support remote command execution over websockets|` +
	`Probing container should be restarted with a /healthz http liveness probe|` +
	`InitContainer .* should invoke init containers on a RestartAlways pod|` +
	`Container Lifecycle Hook when create a pod with lifecycle hook should execute prestop exec hook|` +
	`Secrets should be consumable from pods in volume \[NodeConformance|` +
	`ConfigMap updates should be reflected in volume|` +
	`Projected downwardAPI should provide podname only|` +
	`EmptyDir volumes should support \(non-root,0644,default\)|` +
	`ServiceAccounts should mount projected service account token|` +
	`Garbage collector should delete RS created by deployment when not orphaning|` +
	`Watchers should observe add, update, and delete watch notifications on configmaps|` +
	`SchedulerPredicates .* validates that NodeSelector is respected if matching`

// Cell is what became of one mixture.
type Cell struct {
	// Base is "stock" or "skiff": whose the cluster is. Component is the one that is the other's; it is
	// empty for the unmixed cluster.
	Base, Component string
	Passed, Total   int
	Failed          []report.Spec
	// Broken says why no spec could be run.
	Broken error
}

// Options say what is run on what.
type Options struct {
	Cluster  cluster.Config
	Focus    string
	Parallel int
	// Out is the directory for results, one below it for each mixture.
	Out string
	Log io.Writer
	// Only are components; all when it is empty.
	Only []string
}

// Run makes all mixtures, one after the other.
func Run(ctx context.Context, o Options) ([]Cell, error) {
	var cells []Cell
	for _, base := range []string{"stock", "skiff"} {
		for _, component := range append([]string{""}, build.Components...) {
			if len(o.Only) > 0 && !slices.Contains(o.Only, component) {
				continue
			}
			c := Cell{Base: base, Component: component}
			fmt.Fprintf(o.Log, "--- %s\n", c)
			c.run(ctx, o)
			fmt.Fprintf(o.Log, "--- %s: %s\n", c, c.verdict())
			cells = append(cells, c)
			if err := errors.Join(ctx.Err(), cluster.Remove(o.Cluster.Dir)); err != nil {
				return cells, err
			}
		}
	}
	return cells, nil
}

func (c Cell) String() string {
	switch {
	case c.Component == "":
		return "all of " + c.Base
	case c.Base == "stock":
		return "skiff's " + c.Component + " among stock parts"
	}
	return "the stock " + c.Component + " among skiff's"
}

// ours are the components of a mixture that are skiff's.
func (c Cell) ours() []string {
	if c.Base == "skiff" {
		return slices.DeleteFunc(slices.Clone(build.Components), func(name string) bool { return name == c.Component })
	}
	if c.Component == "" {
		return nil
	}
	return []string{c.Component}
}

// run runs the specs on a fresh cluster of the mixture.
func (c *Cell) run(ctx context.Context, o Options) {
	out := filepath.Join(o.Out, strings.ReplaceAll(c.String(), " ", "-"))
	mixture, err := stock.Up(ctx, o.Cluster, c.ours()...)
	if err == nil {
		err = run.Run(ctx, run.Options{
			Programs: o.Cluster.Programs, On: mixture.Set.Switch, Kubeconfig: mixture.Kubeconfig(), Focus: o.Focus,
			Labels: run.Conformance, Parallel: o.Parallel, Out: out, Log: o.Log,
		})
	}
	if mixture != nil {
		err = errors.Join(err, mixture.KeepLogs(out))
	}
	var specs []report.Spec
	if err == nil {
		specs, err = report.Read(filepath.Join(out, run.JUnit))
	}
	c.Broken = err
	for _, s := range specs {
		c.Total++
		if s.Failure == "" {
			c.Passed++
		} else {
			c.Failed = append(c.Failed, s)
		}
	}
}

func (c Cell) verdict() string {
	if c.Broken != nil {
		line, _, _ := strings.Cut(c.Broken.Error(), "\n")
		return "does not come up: " + line
	}
	return fmt.Sprintf("%d of %d", c.Passed, c.Total)
}

// Page is the matrix as a section of docs/conformance.md.
func Page(cells []Cell, commit string, date time.Time) string {
	var b strings.Builder
	b.WriteString("## Mixed clusters\n\n")
	fmt.Fprintf(&b, "Specs passed of those chosen (test/conformance/mixed), on clusters of five separate components, of which one is the other's. "+
		"etcd and containerd are stock in all. %s, commit %s.\n\n", date.UTC().Format("2006-01-02 15:04 UTC"), commit)
	b.WriteString("| the one component | skiff's among stock parts | stock's among skiff's |\n|---|---|---|\n")
	for _, component := range append([]string{""}, build.Components...) {
		row := []string{component, "", ""}
		if component == "" {
			row[0] = "(none)"
		}
		for _, c := range cells {
			if c.Component == component {
				row[map[string]int{"stock": 1, "skiff": 2}[c.Base]] = strings.ReplaceAll(c.verdict(), "|", "/")
			}
		}
		if row[1]+row[2] != "" {
			fmt.Fprintf(&b, "| %s |\n", strings.Join(row, " | "))
		}
	}
	for _, c := range cells {
		if len(c.Failed) > 0 {
			fmt.Fprintf(&b, "\n%s:\n\n", strings.ToUpper(c.String()[:1])+c.String()[1:])
		}
		for _, s := range c.Failed {
			fmt.Fprintf(&b, "- %s\n  `%s`\n", s.Name, strings.ReplaceAll(s.FirstLine(), "`", "'"))
		}
	}
	return b.String()
}
