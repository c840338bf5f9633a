// Package run runs upstream's suite against a cluster and tells meanwhile how far it is.
//
// The suite runs on the switch of a cluster's machines, outside of the nodes. It writes JUnit and its
// whole output into a directory of the run's own.
package run

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"skiff.dev/skiff/test/conformance/machine"
)

// Options say what is run, and against what.
type Options struct {
	// Programs has e2e.test, ginkgo and kubectl.
	Programs string
	// On is the machine the suite runs on.
	On         *machine.Machine
	Kubeconfig string
	// Focus and Skip are regular expressions over the names of specs; Labels is ginkgo's label filter.
	Focus, Skip, Labels string
	// Parallel is how many specs run at a time; those marked [Serial] run alone, afterwards.
	Parallel int
	// Out is the directory for results.
	Out string
	// Log gets the progress.
	Log io.Writer
}

// Conformance is the label filter of the conformance suite.
const Conformance = "Conformance"

// Files of a run's directory.
const (
	JUnit  = "junit.xml"
	Output = "suite.log"
)

// part is the suite's name among those of its machine.
const part = "suite"

// Run runs the suite to its end, and returns an error if it could not; failed specs are no error.
func Run(ctx context.Context, o Options) error {
	if err := os.MkdirAll(o.Out, 0o755); err != nil {
		return err
	}
	// ginkgo runs specs in this many processes; a single one would report in another form.
	parallel := max(2, o.Parallel)
	args := []string{
		filepath.Join(o.Programs, "ginkgo"), "--procs=" + strconv.Itoa(parallel), "--timeout=8h", "--no-color", "-v",
		"--silence-skips", "--keep-going", "--output-dir=" + o.Out, "--junit-report=" + JUnit, "--label-filter=" + o.Labels,
	}
	if o.Focus != "" {
		args = append(args, "--focus="+o.Focus)
	}
	if o.Skip != "" {
		args = append(args, "--skip="+o.Skip)
	}
	args = append(args, filepath.Join(o.Programs, "e2e.test"), "--",
		"--kubeconfig="+o.Kubeconfig, "--kubectl-path="+filepath.Join(o.Programs, "kubectl"), "--provider=skeleton",
		"--disable-log-dump", "--e2e-output-dir="+o.Out, "--num-nodes=2")
	output := o.On.Log(part)
	if err := os.RemoveAll(output); err != nil {
		return err
	}
	if err := o.On.Start(machine.Part{Name: part, Args: args, Env: []string{"KUBECONFIG=" + o.Kubeconfig, "HOME=/tmp"}}); err != nil {
		return err
	}
	err := follow(ctx, o, output)
	if err != nil {
		err = errors.Join(err, o.On.Stop(part))
	}
	if copied := copyFile(output, filepath.Join(o.Out, Output)); copied != nil {
		err = errors.Join(err, copied)
	}
	if _, missing := os.Stat(filepath.Join(o.Out, JUnit)); missing != nil && err == nil {
		err = fmt.Errorf("the suite has left no results; its output: %s", filepath.Join(o.Out, Output))
	}
	return err
}

// follow reads the suite's output until the suite has ended.
func follow(ctx context.Context, o Options, output string) error {
	f, err := os.Open(output)
	if err != nil {
		return err
	}
	defer f.Close()
	progress := newProgress(o.Log, max(2, o.Parallel))
	var line []byte
	for in := bufio.NewReader(f); ; {
		text, err := in.ReadBytes('\n')
		line = append(line, text...)
		if err == nil {
			progress.line(string(line[:len(line)-1]))
			line = nil
			continue
		}
		if !errors.Is(err, io.EOF) {
			return err
		}
		progress.tick(time.Now())
		running, err := runs(o.On)
		if err != nil || !running {
			progress.last()
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Second):
		}
	}
}

// runs says whether the suite still does.
func runs(m *machine.Machine) (bool, error) {
	parts, err := m.Parts()
	for _, p := range parts {
		if p.Name == part {
			return p.Running, err
		}
	}
	return false, err
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}
