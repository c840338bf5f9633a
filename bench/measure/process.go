package measure

import (
	"bufio"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// clockTicks is USER_HZ, which Linux fixes at 100 for /proc on all
// architectures that Go runs on.
const clockTicks = 100

// Usage is what processes use, added up.
type Usage struct {
	// CPU is user and system time since the start, in seconds, with a
	// resolution of 10 ms.
	CPU float64
	// RSS, Anon, File and PSS are resident memory in bytes; PSS shares out
	// pages that several processes map.
	RSS, Anon, File, PSS int64
	// Written is what was handed to block devices since the start, in bytes,
	// less what was truncated before it got there.
	Written int64
	// Switches counts voluntary context switches of all threads, a measure of wake-ups.
	Switches int64
}

// ParsePIDs reads a list such as "12,13".
func ParsePIDs(list string) ([]int, error) {
	var pids []int
	for _, s := range strings.FieldsFunc(list, func(r rune) bool { return r == ',' }) {
		pid, err := strconv.Atoi(s)
		if err != nil {
			return nil, fmt.Errorf("%q is not a process id", s)
		}
		pids = append(pids, pid)
	}
	return pids, nil
}

// Of adds up what the processes use.
func Of(pids ...int) (Usage, error) {
	var sum Usage
	for _, pid := range pids {
		if err := sum.add(pid); err != nil {
			return sum, fmt.Errorf("measuring process %d: %w", pid, err)
		}
	}
	return sum, nil
}

func (u *Usage) add(pid int) error {
	dir := fmt.Sprintf("/proc/%d/", pid)
	stat, err := os.ReadFile(dir + "stat")
	if err != nil {
		return err
	}
	// The name in parentheses may hold anything; fields are counted after it.
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	if len(fields) < 13 {
		return fmt.Errorf("unexpected %sstat", dir)
	}
	for _, f := range fields[11:13] {
		ticks, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return err
		}
		u.CPU += float64(ticks) / clockTicks
	}
	memory, err := numbers(dir + "smaps_rollup")
	if err != nil {
		return err
	}
	anon := memory["Anonymous"] << 10
	rss := memory["Rss"] << 10
	u.RSS, u.Anon, u.File, u.PSS = u.RSS+rss, u.Anon+anon, u.File+rss-anon, u.PSS+memory["Pss"]<<10
	io, err := numbers(dir + "io")
	if err != nil {
		return err
	}
	u.Written += io["write_bytes"] - io["cancelled_write_bytes"]
	return u.addSwitches(dir)
}

func (u *Usage) addSwitches(dir string) error {
	threads, err := os.ReadDir(dir + "task")
	if err != nil {
		return err
	}
	for _, t := range threads {
		status, err := numbers(dir + "task/" + t.Name() + "/status")
		if os.IsNotExist(err) {
			continue // the thread has ended meanwhile
		}
		if err != nil {
			return err
		}
		u.Switches += status["voluntary_ctxt_switches"]
	}
	return nil
}

// numbers reads a file of lines "name: number [kB]".
func numbers(path string) (map[string]int64, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	found := map[string]int64{}
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		name, rest, ok := strings.Cut(lines.Text(), ":")
		fields := strings.Fields(rest)
		if !ok || len(fields) == 0 {
			continue
		}
		if n, err := strconv.ParseInt(fields[0], 10, 64); err == nil {
			found[name] = n
		}
	}
	return found, lines.Err()
}
