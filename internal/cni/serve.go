package cni

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// maxRequest bounds a request: a configuration is some KiB, one for GC has
	// a line per attachment.
	maxRequest = 1 << 20
	// maxCallers bounds the connections that are open at a time.
	maxCallers = 64
	// callerTime is how long a caller may take to say what it wants and to take
	// the answer.
	callerTime = 10 * time.Second
)

// Server answers calls of the plugin in this process, so that no program needs
// to be started for them. Those who call are the small program that the runtime
// takes for the plugin (internal/runtime/carried/launcher/cni.c); where nobody
// answers it executes the plugin itself. A call is the variables of the
// request, each "NAME=value" and a zero byte, another zero byte, and the
// configuration up to the end. The answer is one byte, the exit code, and what
// belongs on standard output.
type Server struct {
	path     string
	listener *net.UnixListener
	log      *slog.Logger
	// turn is held while a request is carried out. They would wait for each
	// other at the lock of the state anyway, each with a thread.
	turn sync.Mutex
}

// Listen begins to listen at a path, whose file it replaces; only root can
// connect. Call Run then.
func Listen(path string, log *slog.Logger) (*Server, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("listening for the network plugin: %w", err)
	}
	// Bound under another name, so that it has its mode before anybody finds it.
	fresh := path + ".new"
	if err := os.Remove(fresh); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("listening for the network plugin: %w", err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: fresh, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listening for the network plugin: %w", err)
	}
	l.SetUnlinkOnClose(false) // by a name that it has no more
	if err := errors.Join(os.Chmod(fresh, 0o600), os.Rename(fresh, path)); err != nil {
		return nil, errors.Join(fmt.Errorf("listening for the network plugin: %w", err), l.Close(), os.Remove(fresh))
	}
	return &Server{path: path, listener: l, log: log}, nil
}

// Run answers until ctx ends, and finishes what is under way. The socket's file
// goes first.
func (s *Server) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	context.AfterFunc(ctx, func() {
		os.Remove(s.path)  // a file that stays refuses connections
		s.listener.Close() // ends Accept
	})
	var callers sync.WaitGroup
	defer callers.Wait()
	slots := make(chan struct{}, maxCallers)
	for {
		slots <- struct{}{}
		c, err := s.listener.AcceptUnix()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("listening for the network plugin: %w", err)
		}
		callers.Go(func() {
			defer func() { <-slots }()
			defer c.Close()
			if err := s.answer(c); err != nil {
				s.log.Warn("a call of the network plugin was not answered", "err", err)
			}
		})
	}
}

// answer answers one caller.
func (s *Server) answer(c *net.UnixConn) error {
	if err := isRoot(c); err != nil {
		return err
	}
	if err := c.SetDeadline(time.Now().Add(callerTime)); err != nil {
		return err
	}
	data, err := io.ReadAll(io.LimitReader(c, maxRequest+1))
	if err != nil {
		return fmt.Errorf("reading the request: %w", err)
	}
	r, err := parseRequest(data)
	if err != nil {
		return err // unanswered, so that the plugin itself has a look
	}
	s.turn.Lock()
	out, code := r.Answer()
	s.turn.Unlock()
	if err := c.SetDeadline(time.Now().Add(callerTime)); err != nil {
		return err
	}
	_, err = c.Write(append([]byte{byte(code)}, out...))
	return err
}

// parseRequest reads a request in the form of Server.
func parseRequest(data []byte) (Request, error) {
	if len(data) > maxRequest {
		return Request{}, errors.New("the request is too long")
	}
	r := Request{Env: map[string]string{}}
	for {
		entry, rest, ok := bytes.Cut(data, []byte{0})
		if !ok {
			return Request{}, errors.New("the request ends among its variables")
		}
		data = rest
		if len(entry) == 0 {
			r.Config = data
			return r, nil
		}
		name, value, ok := strings.Cut(string(entry), "=")
		if !ok || !strings.HasPrefix(name, "CNI_") {
			return Request{}, fmt.Errorf("%q is no variable of CNI", name)
		}
		r.Env[name] = value
	}
}

// isRoot refuses a caller that is not the node's root.
func isRoot(c *net.UnixConn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var who *unix.Ucred
	var failed error
	if err := raw.Control(func(fd uintptr) { who, failed = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); err != nil {
		return err
	}
	if failed != nil {
		return os.NewSyscallError("getsockopt", failed)
	}
	if who.Uid != 0 {
		return fmt.Errorf("user %d (process %d) may not call the network plugin", who.Uid, who.Pid)
	}
	return nil
}
