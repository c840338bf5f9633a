package status

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	v1 "k8s.io/api/core/v1"

	"skiff.dev/skiff/internal/kubelet/layout"
	"skiff.dev/skiff/internal/kubelet/podsync"
)

// What is read of a termination message, and of a log in its place.
const (
	maxMessage  = 4096
	maxLogBytes = 2048
	maxLogLines = 80
)

// Message returns the last words of an instance that has ended: its
// termination message file or, if that is empty and the policy says so, the
// end of its log.
// https://kubernetes.io/docs/tasks/debug/debug-application/determine-reason-pod-failure/
func Message(l layout.Layout, pod *v1.Pod, c *podsync.Container) string {
	spec, _, ok := podsync.Find(pod, c.Name)
	if !ok {
		return ""
	}
	file := filepath.Join(l.ContainerDir(pod.UID, c.Name), strconv.Itoa(c.Attempt))
	text := head(file, maxMessage)
	if text == "" && c.ExitCode != 0 && spec.TerminationMessagePolicy == v1.TerminationMessageFallbackToLogsOnError {
		log := filepath.Join(l.PodLogDir(pod), layout.LogPath(c.Name, c.Attempt))
		text = logEnd(tail(log, 4*maxLogBytes))
	}
	return text
}

// head reads the first bytes of a file that the container may have replaced:
// only regular files are read, links are not followed. No file, no words.
func head(path string, limit int64) string {
	info, err := os.Lstat(path)
	if err != nil || !info.Mode().IsRegular() {
		return ""
	}
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit))
	if err != nil {
		return ""
	}
	return string(b)
}

// tail reads the last bytes of a file.
func tail(path string, limit int64) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	if _, err := f.Seek(-limit, io.SeekEnd); err != nil {
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			return ""
		}
	}
	b, err := io.ReadAll(f)
	if err != nil && !errors.Is(err, io.EOF) {
		return ""
	}
	return string(b)
}

// logEnd takes time, stream and tag off the lines of a CRI log and returns the
// last of what the container wrote.
func logEnd(log string) string {
	lines := strings.Split(strings.TrimSuffix(log, "\n"), "\n")
	lines = lines[max(0, len(lines)-maxLogLines):]
	var out strings.Builder
	for _, line := range lines {
		parts := strings.SplitN(line, " ", 4)
		if len(parts) < 4 {
			continue
		}
		out.WriteString(parts[3])
		if parts[2] == "F" {
			out.WriteByte('\n')
		}
	}
	text := out.String()
	return text[max(0, len(text)-maxLogBytes):]
}
