package measure

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// GroupCPU is the CPU time, in seconds, of everything that has ever run in a
// control group or below it, also of what has ended since: of cpuacct in
// version 1, of any group in version 2.
func GroupCPU(dir string) (float64, error) {
	text, err := os.ReadFile(filepath.Join(dir, "cpuacct.usage"))
	if err == nil {
		nanos, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
		return float64(nanos) / 1e9, err
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return 0, err
	}
	text, err = os.ReadFile(filepath.Join(dir, "cpu.stat"))
	if err != nil {
		return 0, fmt.Errorf("%s is no control group that counts CPU time: %w", dir, err)
	}
	for line := range strings.Lines(string(text)) {
		if name, value, _ := strings.Cut(strings.TrimSpace(line), " "); name == "usage_usec" {
			micros, err := strconv.ParseInt(value, 10, 64)
			return float64(micros) / 1e6, err
		}
	}
	return 0, fmt.Errorf("%s/cpu.stat has no usage_usec", dir)
}
