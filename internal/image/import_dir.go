package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// imported records an archive of an images folder: what it was, and which names came of it.
type imported struct {
	Size  int64    `json:"size"`
	Time  int64    `json:"time"`
	Names []string `json:"names"`
}

// ImportDir imports the archives (.tar, .tar.gz, .tgz, .tar.zst) of a folder, for machines without a
// registry. An archive that is unchanged since the last time, and whose images are all still there, is
// left out; record is the file that remembers. It returns the archives imported, and the errors of
// those that could not be, having tried all.
func (c *Client) ImportDir(ctx context.Context, dir, record string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("importing images: %w", err)
	}
	before, now := readRecord(record), map[string]imported{}
	var done []string
	var failed []error
	for _, e := range entries {
		if !e.Type().IsRegular() || !isArchive(e.Name()) {
			continue
		}
		info, err := e.Info()
		if err != nil {
			failed = append(failed, fmt.Errorf("importing images: %w", err))
			continue
		}
		is := imported{Size: info.Size(), Time: info.ModTime().UnixNano()}
		if was := before[e.Name()]; was.Size == is.Size && was.Time == is.Time && c.hasAll(ctx, was.Names) {
			now[e.Name()] = was
			continue
		}
		if is.Names, err = c.Import(ctx, filepath.Join(dir, e.Name())); err != nil {
			failed = append(failed, err)
			continue
		}
		now[e.Name()] = is
		done = append(done, e.Name())
	}
	if len(now)+len(before) > 0 {
		data, err := json.Marshal(now)
		if err == nil {
			err = os.WriteFile(record, data, 0o600)
		}
		if err != nil {
			failed = append(failed, fmt.Errorf("remembering the imported images: %w", err))
		}
	}
	return done, errors.Join(failed...)
}

// hasAll tells whether all names are there; an error counts as no, the import then reports it.
func (c *Client) hasAll(ctx context.Context, names []string) bool {
	for _, n := range names {
		if has, err := c.Has(ctx, n); err != nil || !has {
			return false
		}
	}
	return len(names) > 0
}

// readRecord reads what was imported before. Without it, or when it cannot be read, all is imported
// again, which does no harm.
func readRecord(file string) map[string]imported {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil
	}
	var r map[string]imported
	if err := json.Unmarshal(data, &r); err != nil {
		return nil
	}
	return r
}

func isArchive(name string) bool {
	for _, suffix := range []string{".tar", ".tar.gz", ".tgz", ".tar.zst"} {
		if strings.HasSuffix(name, suffix) {
			return true
		}
	}
	return false
}
