// Package resident keeps small what a long-running process holds in memory. It
// reads /proc/self and writes nothing.
package resident

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// settled are the moments after the start at which memory is trimmed, unless the
// process works: when the first work is done, and when what came after it is.
var settled = []time.Duration{5 * time.Second, 30 * time.Second}

const (
	// pause is how long before it is looked whether the process works.
	pause = time.Second
	// interval is how often it is looked whether work has ended.
	interval = time.Minute
	// profileRate is how many bytes are allocated between two samples of the heap's
	// profile. At Go's rate, an eighth of it, the profile's tables are 1.5 MiB.
	profileRate = 4 << 20
	// quiet is the CPU time that an idle process stays below in an interval.
	quiet = time.Second
)

// Keep keeps this process small until ctx ends, and may be called once. It has
// the garbage collector run often while the process is idle and seldom while it
// works. It gives back to the kernel what only the start and bursts of work have
// used: free heap, and the pages of the binary itself, of which a start touches
// nearly all and an idle process few. What is needed again comes back from the
// page cache.
//
// Garbage is how many bytes of it may lie about while the process works.
// Collecting a small heap again and again costs more than the work; but what
// lives on from a burst lies scattered in all of the heap that it took, and keeps
// much of that resident.
func Keep(ctx context.Context, garbage uint64) {
	runtime.MemProfileRate = profileRate
	startPace(garbage)
	trim(ctx)
}

func trim(ctx context.Context) {
	start := time.Now()
	for _, moment := range settled {
		if !wait(ctx, time.Until(start.Add(moment-pause))) {
			return
		}
		before := spent()
		if !wait(ctx, pause) {
			return
		}
		if spent()-before < pause/4 { // who works needs it again at once
			release()
		}
	}
	w := watch{worked: true, spent: spent()}
	for wait(ctx, interval) {
		switch idle, ended := w.look(spent()); {
		case ended:
			release()
		case idle:
			releaseBinary()
		}
	}
}

// watch tells when work has ended.
type watch struct {
	worked bool          // since the last time that it had ended
	spent  time.Duration // CPU time up to the last look
}

// look takes the process's CPU time so far, and reports whether it has been
// idle and, once after each stretch of work, that it has ended.
func (w *watch) look(spent time.Duration) (idle, ended bool) {
	idle = spent-w.spent < quiet
	w.spent = spent
	ended = idle && w.worked
	w.worked = !idle
	return idle, ended
}

// spent is the CPU time of this process.
func spent() time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		return 0 // never, for this process; it would only mean no trimming
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func wait(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

func release() {
	debug.FreeOSMemory()
	releaseBinary()
}

// releaseBinary gives back the pages of the binary. Most of what is resident of
// it after some time has never been needed: the kernel maps 64 KiB around each
// byte that was.
func releaseBinary() {
	if err := unmapBinary(); err != nil {
		slog.Debug("releasing the pages of the binary", "err", err)
	}
}

// unmapBinary unmaps the resident pages of the program's text and constants.
func unmapBinary() error {
	self, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return err
	}
	maps, err := os.Open("/proc/self/smaps")
	if err != nil {
		return err
	}
	defer maps.Close()
	for _, m := range constants(maps, self) {
		// A huge page would make 2 MiB resident for each byte that is needed. Kernels
		// without these refuse, and need not be told.
		_, _, _ = unix.Syscall(unix.SYS_MADVISE, m.first, m.last-m.first, unix.MADV_NOHUGEPAGE)
		if _, _, errno := unix.Syscall(unix.SYS_MADVISE, m.first, m.last-m.first, unix.MADV_DONTNEED); errno != 0 {
			return fmt.Errorf("madvise: %w", errno)
		}
	}
	return nil
}

// mapping is a range of addresses.
type mapping struct{ first, last uintptr }

// constants reads /proc/self/smaps and returns the unwritable private mappings
// of the file whose pages are all the file's, and can be read from it again.
// Others have been written before they were protected, as the addresses of a
// dynamically linked program are.
func constants(smaps io.Reader, file string) []mapping {
	var found []mapping
	open := false
	for lines := bufio.NewScanner(smaps); lines.Scan(); {
		line := lines.Text()
		if m, constant, ok := parseMapping(line, file); ok {
			if open = constant; constant {
				found = append(found, m)
			}
			continue
		}
		name, value, _ := strings.Cut(line, ":")
		if open && name == "Anonymous" && strings.Fields(value)[0] != "0" {
			found = found[:len(found)-1]
			open = false
		}
	}
	return found
}

// parseMapping reads the first line of a mapping, and tells whether it is an
// unwritable private one of the file. ok is false for other lines.
func parseMapping(line, file string) (m mapping, constant, ok bool) {
	fields := strings.Fields(line)
	if len(fields) < 5 || strings.HasSuffix(fields[0], ":") {
		return m, false, false
	}
	if n, err := fmt.Sscanf(fields[0], "%x-%x", &m.first, &m.last); n != 2 || err != nil {
		return m, false, false
	}
	constant = len(fields) == 6 && fields[5] == file && len(fields[1]) == 4 && fields[1][1] == '-' && fields[1][3] == 'p'
	return m, constant, true
}
