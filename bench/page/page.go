// Package page is what the writers of docs/performance.md share: sections
// between marks, each with a writer of its own, and the facts without which
// figures say little. It reads /proc and asks git.
package page

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Section is a part of a page that a program writes, named after its marks.
type Section struct {
	// Name is unique on the page; Writer says where the text comes from.
	Name, Writer string
}

func (s Section) begin() string {
	return "<!-- " + s.Name + ":begin, written by " + s.Writer + " -->\n"
}
func (s Section) end() string { return "<!-- " + s.Name + ":end -->\n" }

// Replace puts text between the section's marks, and leaves the rest alone.
func (s Section) Replace(page, text string) (string, error) {
	before, rest, ok := strings.Cut(page, s.begin())
	_, after, closed := strings.Cut(rest, s.end())
	if !ok || !closed {
		return "", fmt.Errorf("the lines that mark the section %q are missing", s.Name)
	}
	return before + s.begin() + text + s.end() + after, nil
}

// Write puts text into the section of a file.
func (s Section) Write(file, text string) error {
	page, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	replaced, err := s.Replace(string(page), text)
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	return os.WriteFile(file, []byte(replaced), 0o644)
}

// Facts says when, on what and of what figures are.
func Facts() string {
	commit := "unknown"
	if out, err := exec.Command("git", "describe", "--always", "--dirty").Output(); err == nil {
		commit = strings.TrimSpace(string(out))
	}
	var name unix.Utsname
	kernel := "?"
	if unix.Uname(&name) == nil {
		kernel = unix.ByteSliceToString(name.Release[:])
	}
	return fmt.Sprintf("%s at commit %s: %d cores (%s), load average %s, Linux %s, %s",
		time.Now().UTC().Format("2006-01-02 15:04 UTC"), commit, runtime.NumCPU(), processor(), loadAverage(), kernel, runtime.Version())
}

func processor() string {
	info, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return "?"
	}
	_, rest, _ := strings.Cut(string(info), "model name")
	line, _, _ := strings.Cut(rest, "\n")
	return strings.Trim(line, "\t :")
}

func loadAverage() string {
	data, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "?"
	}
	return strings.Join(strings.Fields(string(data))[:3], " ")
}
