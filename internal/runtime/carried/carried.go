// Package carried holds the programs that skiff takes with it: containerd, its shim, runc and pause,
// each compressed with zstd, as build.sh left them in bin/. In a checkout where build.sh has not run
// the directory is empty, the package still compiles, and Lookup says that nothing is there.
//
// It reads only its embedded files and writes nothing.
package carried

import (
	"embed"
	"encoding/json"
	"fmt"
	"io/fs"
)

//go:embed all:bin
var bin embed.FS

// Program is one carried program.
type Program struct {
	// SHA256 is the checksum of the program itself, in hexadecimal; Size its size in bytes.
	SHA256 string `json:"sha256"`
	Size   int64  `json:"size"`
	// Compressed is the program as one zstd frame.
	Compressed []byte `json:"-"`
}

// Lookup returns a program by name; the error is fs.ErrNotExist when it was not carried.
func Lookup(name string) (Program, error) {
	var p Program
	manifest, err := bin.ReadFile("bin/manifest.json")
	if err != nil {
		return p, fmt.Errorf("looking up the carried program %s: %w", name, err)
	}
	var programs map[string]Program
	if err := json.Unmarshal(manifest, &programs); err != nil {
		return p, fmt.Errorf("reading the list of carried programs: %w", err)
	}
	p, ok := programs[name]
	if !ok {
		return p, fmt.Errorf("looking up the carried program %s: %w", name, fs.ErrNotExist)
	}
	if p.Compressed, err = bin.ReadFile("bin/" + name + ".zst"); err != nil {
		return p, fmt.Errorf("reading the carried program %s: %w", name, err)
	}
	return p, nil
}
