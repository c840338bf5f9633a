package server

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// logOptions is what of a log is wanted.
type logOptions struct {
	follow, timestamps bool
	since              time.Time // zero for all
	tail               int64     // lines from the end, -1 for all
	limit              int64     // bytes, -1 for all
	stream             string    // "stdout", "stderr" or "" for both
}

// logLine is one line of a log, or a part of one that was long.
// https://github.com/kubernetes/design-proposals-archive/blob/main/node/kubelet-cri-logging.md
type logLine struct {
	stamp   []byte
	stream  string
	partial bool // more of the line follows
	text    []byte
}

// parseLog reads "2006-01-02T15:04:05.999999999Z stdout F text". The parts
// point into line, which has no newline at its end.
func parseLog(line []byte) (logLine, error) {
	var l logLine
	var ok1, ok2, ok3 bool
	var stream, tags, rest []byte
	l.stamp, rest, ok1 = bytes.Cut(line, []byte(" "))
	stream, rest, ok2 = bytes.Cut(rest, []byte(" "))
	tags, l.text, ok3 = bytes.Cut(rest, []byte(" "))
	if !ok1 || !ok2 || !ok3 {
		return l, fmt.Errorf("not a log line: %.80q", line)
	}
	l.stream = string(stream)
	if l.stream != "stdout" && l.stream != "stderr" {
		return l, fmt.Errorf("unknown stream in log line: %.80q", line)
	}
	first, _, _ := bytes.Cut(tags, []byte(":"))
	switch string(first) {
	case "P":
		l.partial = true
	case "F":
	default:
		return l, fmt.Errorf("unknown tag in log line: %.80q", line)
	}
	return l, nil
}

// before tells whether the line was written before t; false if its time
// cannot be read.
func (l *logLine) before(t time.Time) bool {
	at, err := time.Parse(time.RFC3339Nano, string(l.stamp))
	return err == nil && at.Before(t)
}

// errEnough ends a log at its byte limit.
var errEnough = errors.New("the limit of bytes is reached")

// logWriter writes lines in the form that is wanted.
type logWriter struct {
	to   *bufio.Writer
	opts logOptions
	left int64
	mid  bool // the last line written was partial
}

func (w *logWriter) line(l logLine) error {
	if w.opts.stream != "" && w.opts.stream != l.stream || !w.opts.since.IsZero() && l.before(w.opts.since) {
		return nil
	}
	if w.opts.timestamps && !w.mid {
		if err := errors.Join(w.write(l.stamp), w.write([]byte(" "))); err != nil {
			return err
		}
	}
	w.mid = l.partial
	if err := w.write(l.text); err != nil || l.partial {
		return err
	}
	return w.write([]byte("\n"))
}

func (w *logWriter) write(b []byte) error {
	if w.opts.limit >= 0 && int64(len(b)) > w.left {
		if _, err := w.to.Write(b[:w.left]); err != nil {
			return err
		}
		w.left = 0
		return errEnough
	}
	w.left -= int64(len(b))
	_, err := w.to.Write(b)
	return err
}

// logFile reads a container's log; it goes on in the next file where the log
// is rotated while it is followed.
type logFile struct {
	root    *os.Root // the directory of all logs: nothing outside is read
	name    string   // below root
	file    *os.File
	in      *bufio.Reader
	pending []byte // a line whose end is not written yet
}

// maxLine bounds what is held of one line; the runtime writes 16 KiB at most.
const maxLine = 1 << 20

func openRoot(dir string) (*os.Root, error) { return os.OpenRoot(dir) }

// openLog opens the log at path, which must be below dir.
func openLog(dir, path string) (*logFile, error) {
	name, err := filepath.Rel(dir, path)
	if err != nil || !filepath.IsLocal(name) {
		return nil, fmt.Errorf("the log %s is not below %s", path, dir)
	}
	root, err := openRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("opening the directory of logs: %w", err)
	}
	l := &logFile{root: root, name: name}
	if err := l.open(); err != nil {
		root.Close()
		return nil, err
	}
	return l, nil
}

func (l *logFile) open() error {
	f, err := l.root.Open(l.name)
	if err != nil {
		return fmt.Errorf("opening the log: %w", err)
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("the log %s is not a file", l.name)
	}
	if err != nil {
		return errors.Join(err, f.Close())
	}
	if l.file != nil {
		l.file.Close()
	}
	l.file, l.in, l.pending = f, bufio.NewReaderSize(f, 32<<10), nil
	return nil
}

func (l *logFile) close() {
	l.file.Close()
	l.root.Close()
}

// seekTail moves to the last n lines. What is after the last newline counts as
// part of a line that is still written.
func (l *logFile) seekTail(n int64) error {
	end, err := l.file.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	if n == 0 {
		return nil
	}
	const block = 32 << 10
	buf := make([]byte, block)
	at, found := end, int64(0)
	for at > 0 {
		size := min(at, block)
		at -= size
		if _, err := l.file.ReadAt(buf[:size], at); err != nil {
			return err
		}
		part := buf[:size]
		for {
			i := bytes.LastIndexByte(part, '\n')
			if i < 0 {
				break
			}
			if at+int64(i)+1 < end { // the last byte of the file ends a line, it begins none
				if found++; found == n {
					_, err := l.file.Seek(at+int64(i)+1, io.SeekStart)
					return err
				}
			}
			part = part[:i]
		}
	}
	_, err = l.file.Seek(0, io.SeekStart)
	return err
}

// copy writes all complete lines that there are now. Lines that are not the
// runtime's are left out.
func (l *logFile) copy(w *logWriter) error {
	for {
		part, err := l.in.ReadSlice('\n')
		if len(l.pending)+len(part) > maxLine {
			return fmt.Errorf("the log %s has a line of more than %d bytes", l.name, maxLine)
		}
		l.pending = append(l.pending, part...)
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			continue
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return fmt.Errorf("reading the log: %w", err)
		}
		line, err := parseLog(bytes.TrimSuffix(l.pending, []byte("\n")))
		l.pending = l.pending[:0]
		if err != nil {
			continue
		}
		if err := w.line(line); err != nil {
			return err
		}
	}
}

// rotated goes on in the file that has taken the log's name, if one has, when
// the rest of the old one is written.
func (l *logFile) rotated(w *logWriter) (bool, error) {
	now, err := l.root.Stat(l.name)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil // renamed a moment ago, or removed
	}
	if err != nil {
		return false, err
	}
	have, err := l.file.Stat()
	if err != nil || os.SameFile(now, have) {
		return false, err
	}
	if err := l.copy(w); err != nil {
		return false, err
	}
	return true, l.open()
}

// readLog writes what is wanted of a log to out, and flush tells out that
// nothing more comes for the moment. When following, it ends when the
// container, as running tells, has ended and all is written.
func readLog(ctx context.Context, l *logFile, o logOptions, out io.Writer, flush func() error, running func(context.Context) (bool, error)) error {
	w := &logWriter{to: bufio.NewWriterSize(out, 32<<10), opts: o, left: o.limit}
	var events *logEvents
	if o.follow { // watched before it is read, so that no write is missed
		var err error
		if events, err = watchLog(filepath.Join(l.root.Name(), l.name)); err != nil {
			return err
		}
		defer events.close()
	}
	if o.tail >= 0 {
		if err := l.seekTail(o.tail); err != nil {
			return fmt.Errorf("looking for the end of the log: %w", err)
		}
	}
	err := pump(ctx, l, w, events, flush, running)
	if errors.Is(err, errEnough) {
		err = nil
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return errors.Join(err, w.to.Flush())
}

func pump(ctx context.Context, l *logFile, w *logWriter, events *logEvents, flush func() error, running func(context.Context) (bool, error)) error {
	for ended := false; ; {
		if err := l.copy(w); err != nil {
			return err
		}
		if more, err := l.rotated(w); err != nil {
			return err
		} else if more {
			continue
		}
		if events == nil || ended {
			return l.rest(w)
		}
		if err := errors.Join(w.to.Flush(), flush()); err != nil {
			return err
		}
		alive, err := events.wait(ctx, running)
		if err != nil {
			return err
		}
		ended = !alive // then what was written last is still to be read
	}
}

// rest writes a last line without a newline, if it makes sense.
func (l *logFile) rest(w *logWriter) error {
	line, err := parseLog(l.pending)
	if err != nil {
		return nil // cut off in the middle
	}
	line.partial = true
	return w.line(line)
}

// trimID takes the runtime's name off a container ID.
func trimID(id string) string {
	_, rest, ok := strings.Cut(id, "://")
	if !ok {
		return id
	}
	return rest
}
