package cgroup

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/cgroups"
)

// weight converts CPU shares as runc does, so that a pod's group and its containers' agree.
func weight(shares uint64) uint64 { return cgroups.ConvertCPUSharesToCgroupV2Value(shares) }

// Stats implements Tree.
func (h *Host) Stats(path string) (Stats, error) {
	if err := inside(h.root, path); err != nil {
		return Stats{}, err
	}
	read := h.statsV1
	if h.version == V2 {
		read = h.statsV2
	}
	s, err := read(path)
	if err != nil {
		return Stats{}, fmt.Errorf("reading what cgroup %s uses: %w", path, err)
	}
	return s, nil
}

func (h *Host) statsV1(path string) (Stats, error) {
	s := Stats{Time: time.Now()}
	var r reader
	s.CPU = time.Duration(r.number(h.dir("cpuacct", path), "cpuacct.usage"))
	memory := h.dir("memory", path)
	s.MemoryUsage = r.number(memory, "memory.usage_in_bytes")
	s.MemoryLimit = r.number(memory, "memory.limit_in_bytes")
	// The kernel writes "no limit" as the largest number of whole pages.
	if s.MemoryLimit >= math.MaxInt64&^(1<<16-1) {
		s.MemoryLimit = 0
	}
	stat := r.table(memory, "memory.stat")
	s.RSS = stat["total_rss"]
	s.WorkingSet = without(s.MemoryUsage, stat["total_inactive_file"])
	s.PageFaults, s.MajorPageFaults = stat["total_pgfault"], stat["total_pgmajfault"]
	s.Pids = r.number(h.dir("pids", path), "pids.current")
	return s, r.err
}

func (h *Host) statsV2(path string) (Stats, error) {
	s := Stats{Time: time.Now()}
	var r reader
	dir := h.dir("", path)
	s.CPU = time.Duration(r.table(dir, "cpu.stat")["usage_usec"]) * time.Microsecond
	s.MemoryUsage = r.number(dir, "memory.current")
	s.MemoryLimit = r.number(dir, "memory.max")
	stat := r.table(dir, "memory.stat")
	s.RSS = stat["anon"]
	s.WorkingSet = without(s.MemoryUsage, stat["inactive_file"])
	s.PageFaults, s.MajorPageFaults = stat["pgfault"], stat["pgmajfault"]
	s.Pids = r.number(dir, "pids.current")
	return s, r.err
}

// without subtracts, down to 0: the two numbers were not read at one instant.
func without(a, b uint64) uint64 {
	if b > a {
		return 0
	}
	return a - b
}

// reader reads statistics files and keeps the first error.
type reader struct{ err error }

// number reads a file with one number; "max" counts as 0, no limit.
func (r *reader) number(dir, file string) uint64 {
	data := r.file(dir, file)
	text := string(bytes.TrimSpace(data))
	if text == "max" || r.err != nil {
		return 0
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		r.err = fmt.Errorf("reading %s: %w", file, err)
	}
	return n
}

// table reads a file of lines `name number`; lines of another form are left out.
func (r *reader) table(dir, file string) map[string]uint64 {
	table := map[string]uint64{}
	lines := bufio.NewScanner(bytes.NewReader(r.file(dir, file)))
	for lines.Scan() {
		name, value, _ := strings.Cut(lines.Text(), " ")
		if n, err := strconv.ParseUint(value, 10, 64); err == nil {
			table[name] = n
		}
	}
	return table
}

func (r *reader) file(dir, file string) []byte {
	if r.err != nil {
		return nil
	}
	data, err := os.ReadFile(filepath.Join(dir, file))
	if errors.Is(err, fs.ErrNotExist) {
		// A controller that is not enabled says nothing, but a group that is not there is an error.
		if _, gone := os.Stat(dir); gone == nil {
			return []byte("0")
		}
	}
	r.err = err
	return data
}
