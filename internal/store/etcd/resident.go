package etcd

import (
	"bufio"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// releasePages takes the pages of a mapped file out of the process's resident
// memory; they come back one by one when they are read. etcd maps its database
// with MAP_POPULATE, which keeps all of it resident, used or not.
func releasePages(name string) error {
	maps, err := os.Open("/proc/self/maps")
	if err != nil {
		return fmt.Errorf("looking for mappings: %w", err)
	}
	defer maps.Close()
	for lines := bufio.NewScanner(maps); lines.Scan(); {
		line := lines.Text()
		if !strings.HasSuffix(line, " "+name) {
			continue
		}
		var from, to uintptr
		if _, err := fmt.Sscanf(line, "%x-%x ", &from, &to); err != nil {
			return fmt.Errorf("reading a mapping: %w", err)
		}
		// The mapping is shared and read-only, so nothing can be lost.
		if _, _, errno := unix.Syscall(unix.SYS_MADVISE, from, to-from, unix.MADV_DONTNEED); errno != 0 {
			return fmt.Errorf("releasing the pages of %s: %w", name, errno)
		}
	}
	return nil
}
