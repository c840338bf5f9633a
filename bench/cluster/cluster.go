// Package cluster starts and stops the `skiff server` that is measured, in a
// data directory and on a port of its own. Whatever it starts it also ends.
package cluster

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
)

// Server is a running `skiff server`.
type Server struct {
	cmd     *exec.Cmd
	dir     string
	base    string
	client  *http.Client
	started time.Time
	ended   chan struct{}
	err     error
}

// stopGrace is how long a server may take to stop before it is killed.
const stopGrace = 20 * time.Second

// poll is how often the server's state is asked for from outside.
const poll = 2 * time.Millisecond

// Start starts the binary on dir; its output goes to log. Ports are chosen
// among the free ones.
func Start(binary, dir string, log io.Writer, args ...string) (*Server, error) {
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	args = append([]string{"server", "--data-dir", dir, "--secure-port", strconv.Itoa(port)}, args...)
	cmd := exec.Command(binary, args...)
	cmd.Stdout, cmd.Stderr = log, log
	// Were this program killed, the server would not be left behind.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	s := &Server{
		cmd: cmd, dir: dir, base: "https://127.0.0.1:" + strconv.Itoa(port), ended: make(chan struct{}),
		client:  asker(),
		started: time.Now(),
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting %s: %w", binary, err)
	}
	go func() {
		s.err = cmd.Wait()
		close(s.ended)
	}()
	return s, nil
}

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

// PID is the server's process.
func (s *Server) PID() int { return s.cmd.Process.Pid }

// Kubeconfig is the administrator's.
func (s *Server) Kubeconfig() string { return filepath.Join(s.dir, "kubeconfig") }

// Since says how long ago the server was started.
func (s *Server) Since() time.Duration { return time.Since(s.started) }

// Ready waits until /readyz answers and the kubeconfig is there, and returns
// the time since the start.
func (s *Server) Ready(ctx context.Context) (time.Duration, error) {
	for {
		if readyz(s.client, s.base) {
			if _, err := os.Stat(s.Kubeconfig()); err == nil {
				return s.Since(), nil
			}
		}
		select {
		case <-s.ended:
			return 0, fmt.Errorf("the server ended while it was waited for: %w", errors.Join(s.err, errors.New("see its log")))
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		case <-time.After(poll):
		}
	}
}

// asker asks servers whose certificates nobody knows yet.
func asker() *http.Client {
	return &http.Client{Timeout: time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
}

func readyz(client *http.Client, base string) bool {
	resp, err := client.Get(base + "/readyz")
	if err != nil {
		return false
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body) // so that the connection can be used again
	return err == nil && resp.StatusCode == http.StatusOK
}

// gentlePoll is how often others' servers are asked: each answer costs them.
const gentlePoll = 10 * time.Millisecond

// Await waits until the server at a URL, which somebody else starts, is ready.
func Await(ctx context.Context, base string) error {
	client := asker()
	defer client.CloseIdleConnections()
	return until(ctx, func() bool { return readyz(client, base) })
}

// AwaitFile waits until somebody else has written a file.
func AwaitFile(ctx context.Context, path string) error {
	return until(ctx, func() bool {
		_, err := os.Stat(path)
		return err == nil
	})
}

func until(ctx context.Context, done func() bool) error {
	for !done() {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(gentlePoll):
		}
	}
	return nil
}

// Stop ends the server by SIGTERM and returns how long that took.
func (s *Server) Stop() (time.Duration, error) {
	start := time.Now()
	s.client.CloseIdleConnections()
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return 0, err
	}
	select {
	case <-s.ended:
		return time.Since(start), s.err
	case <-time.After(stopGrace):
		s.Kill()
		return 0, fmt.Errorf("the server had not stopped after %v and was killed", stopGrace)
	}
}

// Kill ends the server at once, as a crash would.
func (s *Server) Kill() {
	_ = s.cmd.Process.Kill() // it may have ended by itself
	<-s.ended
}
