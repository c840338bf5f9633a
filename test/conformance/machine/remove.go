package machine

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// holder is the init process of a machine, found among all processes.
type holder struct {
	pid      int
	name, ip string
}

// holders finds the machines of a set by their command lines.
func holders(dir string) (found []holder) {
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline") // the pattern is well-formed
	for _, file := range files {
		text, _ := os.ReadFile(file) // a process that ends meanwhile reads as nothing
		args := strings.Split(strings.TrimSuffix(string(text), "\x00"), "\x00")
		if len(args) < 5 || args[1] != holdCommand || args[2] != dir {
			continue
		}
		if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file))); err == nil && pid != os.Getpid() {
			found = append(found, holder{pid, args[3], args[4]})
		}
	}
	return found
}

// Remove ends a set's machines, whatever state they are in, and removes all that they left.
func Remove(dir string) error {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	var spaces []string
	for _, h := range holders(dir) {
		if ns, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid_for_children", h.pid)); err == nil {
			spaces = append(spaces, ns)
		}
		if err := syscall.Kill(h.pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("ending the machine %s: %w", h.name, err)
		}
	}
	own, _ := os.Readlink("/proc/self/ns/pid") // unequal to all, if unreadable
	for end := time.Now().Add(60 * time.Second); len(holders(dir)) > 0 || inhabited(spaces, own); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			return fmt.Errorf("processes of %s have not ended 60 s after they were killed", dir)
		}
	}
	network, err := os.ReadFile(filepath.Join(dir, "network"))
	if err == nil {
		err = linkGone(hostLink(string(network)))
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := removeGroups(dir); err != nil {
		return fmt.Errorf("removing control groups: %w", err)
	}
	if err := restoreSettings(dir); err != nil {
		return err
	}
	return os.RemoveAll(dir)
}

// inhabited says whether a process lives in one of the PID namespaces.
func inhabited(spaces []string, own string) bool {
	if len(spaces) == 0 {
		return false
	}
	files, _ := filepath.Glob("/proc/[0-9]*/ns/pid") // the pattern is well-formed
	for _, file := range files {
		ns, _ := os.Readlink(file) // it may have ended
		for _, s := range spaces {
			if ns == s && s != own {
				return true
			}
		}
	}
	return false
}

// linkGone waits for the end of a cable, which follows that of the machine at its other end.
func linkGone(name string) error {
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if _, err := net.InterfaceByName(name); err != nil {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("the link %s is still there", name)
		}
	}
}

// nodeSettings are kernel settings of the whole machine that a kubelet changes.
var nodeSettings = []string{
	"vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops",
	"kernel/keys/root_maxkeys", "kernel/keys/root_maxbytes",
}

func saveSettings(dir string) error {
	values := map[string]string{}
	for _, name := range nodeSettings {
		text, err := os.ReadFile("/proc/sys/" + name)
		if err != nil {
			return err
		}
		values[name] = string(text)
	}
	text, err := json.Marshal(values)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "settings"), text, 0o644)
}

// restoreSettings puts back what was before. Kubelets look at these only when they start, so that one of
// another set does not mind.
func restoreSettings(dir string) error {
	text, err := os.ReadFile(filepath.Join(dir, "settings"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	values := map[string]string{}
	if err == nil {
		err = json.Unmarshal(text, &values)
	}
	if err != nil {
		return fmt.Errorf("reading the kernel's former settings: %w", err)
	}
	for name, value := range values {
		if err := os.WriteFile("/proc/sys/"+name, []byte(value), 0o644); err != nil {
			return err
		}
	}
	return nil
}
