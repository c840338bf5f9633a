package compare

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"
)

// figure is one as the tools print it.
type figure = json.RawMessage

// line is one of the results file, of which bench/compare knows the shape as well.
type line struct {
	About  *about `json:"about,omitempty"`
	Round  int    `json:"round,omitempty"`
	Target string `json:"target,omitempty"`
	Part   string `json:"part,omitempty"`
	Figure figure `json:"figure,omitempty"`
	Failed string `json:"failed,omitempty"`
}

// about tells of a run as a whole, in its first line.
type about struct {
	Facts  string `json:"facts"`
	Rounds int    `json:"rounds"`
	Quick  bool   `json:"quick,omitempty"`
}

// record is the file that figures are written to.
type record struct {
	mu   sync.Mutex
	file *os.File
}

// newRecord begins a file of its own in dir, where there may be those of earlier runs.
func newRecord(dir string, a about) (*record, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	name := filepath.Join(dir, "figures-"+time.Now().UTC().Format("20060102-150405")+".jsonl")
	file, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	r := &record{file: file}
	return r, r.write(line{About: &a})
}

// write writes a line at once, so that it is there whatever happens next.
func (r *record) write(l line) error {
	text, err := json.Marshal(l)
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	_, err = r.file.Write(append(text, '\n'))
	return err
}

func (r *record) figures(round int, target, part string, all []figure) error {
	for _, f := range all {
		if err := r.write(line{Round: round, Target: target, Part: part, Figure: f}); err != nil {
			return err
		}
	}
	return nil
}

func (r *record) failed(round int, target, part string, why error) error {
	return r.write(line{Round: round, Target: target, Part: part, Failed: why.Error()})
}

func (r *record) close() error { return r.file.Close() }

// tool runs one of bench/'s programs and returns what it printed.
func (c *comparison) tool(ctx context.Context, name string, args ...string) ([]figure, error) {
	cmd := exec.CommandContext(ctx, filepath.Join(c.Tools, name), append(args, "--json")...)
	var out, complaints bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaints
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("%s: %w: %s", name, err, bytes.TrimSpace(complaints.Bytes()))
	}
	var all []figure
	for in := json.NewDecoder(&out); ; {
		var f figure
		switch err := in.Decode(&f); {
		case errors.Is(err, io.EOF):
			return all, nil
		case err != nil:
			return all, fmt.Errorf("reading what %s printed: %w", name, err)
		}
		all = append(all, f)
	}
}
