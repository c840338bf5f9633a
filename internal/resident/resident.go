// Package resident keeps small what a long-running process holds in memory. It
// reads /proc/self and writes nothing.
package resident

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"os"
	"runtime/debug"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// settled are the moments after the start at which memory is trimmed: when the
// first work is done, and when what came after it is.
var settled = []time.Duration{5 * time.Second, 30 * time.Second, 2 * time.Minute}

// Trim gives back to the kernel what only the start has used: free heap, and
// the pages of the binary itself, of which a start touches nearly all and an
// idle process few. What is needed again comes back from the page cache. It
// returns when that is done, or when ctx ends.
func Trim(ctx context.Context) {
	start := time.Now()
	for _, moment := range settled {
		timer := time.NewTimer(time.Until(start.Add(moment)))
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
		debug.FreeOSMemory()
		if err := releaseBinary(); err != nil {
			slog.Debug("releasing the pages of the binary", "err", err)
		}
	}
}

// releaseBinary unmaps the resident pages of the program's text and constants.
func releaseBinary() error {
	self, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return err
	}
	maps, err := os.Open("/proc/self/maps")
	if err != nil {
		return err
	}
	defer maps.Close()
	lines := bufio.NewScanner(maps)
	for lines.Scan() {
		first, last, ok := constantOf(lines.Text(), self)
		if !ok {
			continue
		}
		// Only what is never written may be dropped: it is read again from the file.
		if _, _, errno := unix.Syscall(unix.SYS_MADVISE, first, last-first, unix.MADV_DONTNEED); errno != 0 {
			return fmt.Errorf("madvise: %w", errno)
		}
	}
	return lines.Err()
}

// constantOf reads a line of /proc/self/maps and returns the range of
// addresses, if it is an unwritable private mapping of the file.
func constantOf(line, file string) (first, last uintptr, ok bool) {
	fields := strings.Fields(line)
	if len(fields) < 6 || fields[5] != file || len(fields[1]) != 4 || fields[1][1] != '-' || fields[1][3] != 'p' {
		return 0, 0, false
	}
	n, err := fmt.Sscanf(fields[0], "%x-%x", &first, &last)
	return first, last, n == 2 && err == nil && last > first
}
