package server

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// The runtime closes a log when its container has ended, and shortly after
	// tells so. Until it does, or in case a close was missed, it is asked again.
	askSoon  = 50 * time.Millisecond
	askLater = 10 * time.Second
)

// logEvents tells what happens to a log by the kernel's notices of its
// directory.
type logEvents struct {
	name   string
	file   *os.File
	reader sync.WaitGroup
	wake   chan struct{} // written, renamed or made anew
	closed chan struct{} // a writer closed it
	asked  bool          // whether the container runs has been asked since the start
	delay  time.Duration // until it is asked again
}

// watchLog begins to watch the log at path.
func watchLog(path string) (*logEvents, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("watching the log: %w", err)
	}
	e := &logEvents{
		name: filepath.Base(path), file: os.NewFile(uintptr(fd), "inotify"),
		wake: make(chan struct{}, 1), closed: make(chan struct{}, 1), delay: askLater,
	}
	const mask = unix.IN_MODIFY | unix.IN_CLOSE_WRITE | unix.IN_CREATE | unix.IN_MOVED_TO | unix.IN_ONLYDIR
	if _, err := unix.InotifyAddWatch(fd, filepath.Dir(path), mask); err != nil {
		return nil, errors.Join(fmt.Errorf("watching the log: %w", err), e.file.Close())
	}
	e.reader.Go(e.read)
	return e, nil
}

// close ends the watch.
func (e *logEvents) close() {
	e.file.Close() // wakes the reader
	e.reader.Wait()
}

// read turns the kernel's notices into calls.
func (e *logEvents) read() {
	buf := make([]byte, 16<<10)
	for {
		n, err := e.file.Read(buf)
		if err != nil {
			if !errors.Is(err, fs.ErrClosed) {
				signal(e.closed) // then asking in turn is all that is left
			}
			return
		}
		for b := buf[:n]; len(b) >= unix.SizeofInotifyEvent; {
			mask := binary.NativeEndian.Uint32(b[4:])
			size := unix.SizeofInotifyEvent + int(binary.NativeEndian.Uint32(b[12:]))
			if size > len(b) {
				break
			}
			name := strings.TrimRight(string(b[unix.SizeofInotifyEvent:size]), "\x00")
			b = b[size:]
			switch {
			case mask&unix.IN_Q_OVERFLOW != 0:
				signal(e.wake)
				signal(e.closed)
			case name != e.name:
			case mask&unix.IN_CLOSE_WRITE != 0:
				signal(e.closed)
			default:
				signal(e.wake)
			}
		}
	}
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// wait returns when there may be more to read, with whether the container is
// still running.
func (e *logEvents) wait(ctx context.Context, running func(context.Context) (bool, error)) (bool, error) {
	if !e.asked {
		e.asked = true
		return running(ctx)
	}
	t := time.NewTimer(e.delay)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false, ctx.Err()
	case <-e.wake:
		e.delay = askLater
		return true, nil
	case <-e.closed:
		e.delay = askSoon
	case <-t.C:
		e.delay = min(2*e.delay, askLater)
	}
	return running(ctx)
}
