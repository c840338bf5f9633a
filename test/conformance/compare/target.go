package compare

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"skiff.dev/skiff/test/conformance/cluster"
	"skiff.dev/skiff/test/conformance/ours"
	"skiff.dev/skiff/test/conformance/stock"
)

// prepared is a cluster of one machine, of which nothing runs before Begin.
type prepared interface {
	Cluster() *cluster.Cluster
	// Begin starts the control plane, with or without a node; Furnish loads images and starts DNS.
	Begin(ctx context.Context, node bool) error
	Furnish(ctx context.Context) error
	// Server and ControlPlane are the programs that are charged.
	Server() []string
	ControlPlane() []string
}

// running is a target of which a part is measured.
type running struct {
	prepared
	c      *comparison
	target string
	part   string
	round  int
}

// prepare makes a target's machine, with the settings that a part needs.
func (c *comparison) prepare(ctx context.Context, p part, target string) (*running, error) {
	config := c.Cluster
	config.Dir, config.Durable, config.DNSReplicas, config.Flags = c.dir(target), true, 1, p.flags
	r := &running{c: c, target: target}
	if target == "skiff" {
		own, err := ours.Prepare(config)
		if err != nil {
			return nil, err
		}
		r.prepared = own
		return r, nil
	}
	theirs, err := stock.Prepare(ctx, config)
	if theirs == nil {
		return nil, err
	}
	r.prepared = theirs
	return r, err
}

// start starts the target while a tool looks on, and returns when it is ready.
func (r *running) start(ctx context.Context, node bool) error {
	group, err := r.Cluster().Nodes[0].CPUGroup()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	args := []string{
		"--watch", r.Cluster().Server(), "--kubeconfig", r.Cluster().Kubeconfig(), "--cgroup", group,
		"--since", strconv.FormatInt(time.Now().UnixNano(), 10), "--node=" + strconv.FormatBool(node),
	}
	type answer struct {
		figures []figure
		err     error
	}
	seen := make(chan answer, 1)
	go func() {
		figures, err := r.c.tool(ctx, "startup", args...)
		seen <- answer{figures, err}
	}()
	if err := r.Begin(ctx, node); err != nil {
		cancel()
		<-seen
		return err
	}
	a := <-seen
	if a.err != nil || r.part != startPart {
		return a.err
	}
	return r.c.record.figures(r.round, r.target, r.part, a.figures)
}

// measure runs a tool and writes its figures down.
func (r *running) measure(ctx context.Context, tool string, args ...string) error {
	figures, err := r.c.tool(ctx, tool, args...)
	// What there is of them is worth having.
	return errors.Join(err, r.c.record.figures(r.round, r.target, r.part, figures))
}

// pids lists the processes of programs, as tools take them; all but those of pods when none is named.
func (r *running) pids(programs []string) (string, error) {
	processes, err := r.Cluster().Nodes[0].Processes()
	if err != nil {
		return "", err
	}
	return charge(processes, programs)
}

// podProgram is what pods run, as their sandboxes do.
const podProgram = "pause"

// charge chooses among processes.
func charge(processes map[int]string, programs []string) (string, error) {
	var list []int
	missing := slices.Clone(programs)
	for pid, name := range processes {
		if len(programs) == 0 && name != podProgram || slices.Contains(programs, name) {
			list = append(list, pid)
			missing = slices.DeleteFunc(missing, func(m string) bool { return m == name })
		}
	}
	if len(missing) > 0 || len(list) == 0 {
		return "", fmt.Errorf("%v do not run", missing)
	}
	slices.Sort(list)
	var text []string
	for _, pid := range list {
		text = append(text, strconv.Itoa(pid))
	}
	return strings.Join(text, ","), nil
}
