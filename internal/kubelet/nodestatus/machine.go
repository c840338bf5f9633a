package nodestatus

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/api/resource"
)

// Machine is what the node is made of. It does not change while it runs.
type Machine struct {
	CPUs      int64
	Memory    int64            // bytes
	Swap      int64            // bytes
	Storage   int64            // bytes of the file system with the pods' directories
	HugePages map[string]int64 // bytes by size of page, such as "2Mi"

	Hostname, MachineID, SystemUUID, BootID string
	Kernel, OSImage, OS, Arch               string
}

// ReadMachine reads the machine from the proc and sys file systems and /etc.
// dir is on the file system whose size counts as ephemeral storage.
func ReadMachine(dir string) (Machine, error) {
	m, err := readMachine("/")
	if err != nil {
		return m, err
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return m, fmt.Errorf("reading the size of the file system of %s: %w", dir, err)
	}
	m.Storage = int64(fs.Blocks) * fs.Bsize //nolint:gosec // a disk of 8 EiB is far off
	m.CPUs = int64(runtime.NumCPU())
	if m.Hostname, err = os.Hostname(); err != nil {
		return m, fmt.Errorf("reading the host's name: %w", err)
	}
	return m, nil
}

// readMachine reads what files below root tell.
func readMachine(root string) (Machine, error) {
	m := Machine{OS: runtime.GOOS, Arch: runtime.GOARCH}
	info, err := os.ReadFile(filepath.Join(root, "proc/meminfo"))
	if err != nil {
		return m, fmt.Errorf("reading the machine's memory: %w", err)
	}
	sizes := meminfo(info)
	m.Memory, m.Swap = sizes["MemTotal"], sizes["SwapTotal"]
	if m.Memory == 0 {
		return m, fmt.Errorf("reading the machine's memory: no MemTotal in /proc/meminfo")
	}
	if m.HugePages, err = hugePages(filepath.Join(root, "sys/kernel/mm/hugepages")); err != nil {
		return m, err
	}
	m.BootID = firstLine(root, "proc/sys/kernel/random/boot_id")
	m.Kernel = firstLine(root, "proc/sys/kernel/osrelease")
	m.MachineID = firstLine(root, "etc/machine-id", "var/lib/dbus/machine-id")
	m.SystemUUID = firstLine(root, "sys/class/dmi/id/product_uuid", "proc/device-tree/vm,uuid")
	if m.SystemUUID == "" {
		m.SystemUUID = m.MachineID
	}
	m.OSImage = osImage(root)
	return m, nil
}

// meminfo reads lines such as "MemTotal:  4014208 kB" into bytes.
func meminfo(data []byte) map[string]int64 {
	out := map[string]int64{}
	lines := bufio.NewScanner(bytes.NewReader(data))
	for lines.Scan() {
		name, rest, _ := strings.Cut(lines.Text(), ":")
		fields := strings.Fields(rest)
		if len(fields) != 2 || fields[1] != "kB" {
			continue
		}
		if n, err := strconv.ParseInt(fields[0], 10, 64); err == nil {
			out[name] = n << 10
		}
	}
	return out
}

// hugePages reads directories such as hugepages-2048kB.
func hugePages(dir string) (map[string]int64, error) {
	out := map[string]int64{}
	dirs, err := filepath.Glob(filepath.Join(dir, "hugepages-*kB"))
	if err != nil {
		return nil, err
	}
	for _, d := range dirs {
		text := strings.TrimSuffix(strings.TrimPrefix(filepath.Base(d), "hugepages-"), "kB")
		kb, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return nil, fmt.Errorf("reading huge pages: %s: %w", d, err)
		}
		data, err := os.ReadFile(filepath.Join(d, "nr_hugepages"))
		if err != nil {
			return nil, fmt.Errorf("reading huge pages: %w", err)
		}
		n, err := strconv.ParseInt(strings.TrimSpace(string(data)), 10, 64)
		if err != nil {
			return nil, fmt.Errorf("reading huge pages: %s: %w", d, err)
		}
		out[resource.NewQuantity(kb<<10, resource.BinarySI).String()] = n * kb << 10
	}
	return out, nil
}

// firstLine returns the first line of the first of the files that has one. The
// facts read so are for people; a host without them is no worse a node.
func firstLine(root string, files ...string) string {
	for _, f := range files {
		data, err := os.ReadFile(filepath.Join(root, f))
		if err != nil {
			continue
		}
		line, _, _ := strings.Cut(string(data), "\n")
		if line = strings.Trim(line, " \t\x00"); line != "" {
			return line
		}
	}
	return ""
}

// osImage returns the distribution's name for itself, see os-release(5).
func osImage(root string) string {
	for _, f := range []string{"etc/os-release", "usr/lib/os-release"} {
		data, err := os.ReadFile(filepath.Join(root, f))
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(data)) {
			if v, ok := strings.CutPrefix(strings.TrimSpace(line), "PRETTY_NAME="); ok {
				return strings.Trim(v, `"'`)
			}
		}
	}
	return "Unknown"
}
