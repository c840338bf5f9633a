// Package runtime is the container runtime that ships inside skiff: the containerd, runc, shim and pause
// that the binary carries, the first run as a child process. Start brings it up (or
// takes over one that is running), keeps it running, and gives its CRI socket; containers survive the
// end of containerd and of skiff, since their shims live in sessions of their own. Reset ends all that
// belongs to a data directory, also when nothing of skiff runs any more.
//
// It reads <data-dir>/images and writes <data-dir>/runtime, <data-dir>/cni and /run/skiff/<hash of the
// data directory>. docs/design/0003-runtime-embedding.md has the decisions and their measurements.
package runtime

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"skiff.dev/skiff/internal/image"
	"skiff.dev/skiff/internal/runtime/carried"
)

const (
	// startTimeout bounds containerd's start; with many containers it asks each shim in turn.
	startTimeout = 2 * time.Minute
	// stopTimeout is containerd's time to end by itself.
	stopTimeout = 10 * time.Second
	// adoptTimeout is how soon a running containerd must answer to be kept.
	adoptTimeout = 2 * time.Second
	// The delay before a restart doubles from minBackoff to maxBackoff, and starts over when containerd
	// has run for steadyAfter. The first restart is at once.
	minBackoff  = 100 * time.Millisecond
	maxBackoff  = 10 * time.Second
	steadyAfter = time.Minute
)

// Runtime is a running containerd with its supervisor. Its methods may be called by any goroutine.
type Runtime struct {
	config      Config
	layout      layout
	host        host
	fingerprint string
	owner       *os.File // held while this process supervises the data directory's containerd
	notify      *net.UnixConn
	images      *image.Client

	cancel context.CancelFunc
	done   chan struct{} // closed when the supervisor has ended

	mu      sync.Mutex
	ready   chan struct{} // closed while the CRI is served
	current *process
}

// Start brings the runtime up and returns when its CRI is served, the pause image is there and the
// images folder is imported. The supervisor runs until Stop; ctx is that of the start only.
func Start(ctx context.Context, c Config) (_ *Runtime, err error) {
	c, err = c.withDefaults()
	if err != nil {
		return nil, err
	}
	if err := Carried(); err != nil {
		return nil, err
	}
	r := &Runtime{config: c, layout: layoutOf(c.DataDir), done: make(chan struct{}), ready: make(chan struct{})}
	if err := r.prepare(); err != nil {
		return nil, errors.Join(err, r.close())
	}
	p, err := r.bringUp(ctx)
	if err != nil {
		return nil, errors.Join(err, r.close())
	}
	supervised, cancel := context.WithCancel(context.WithoutCancel(ctx))
	r.cancel = cancel
	go r.supervise(supervised, p)
	if err := r.furnish(ctx); err != nil {
		late, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
		defer cancel()
		return nil, errors.Join(err, r.Stop(late))
	}
	return r, nil
}

// prepare makes the directories, programs and configuration.
func (r *Runtime) prepare() (err error) {
	l := r.layout
	if err := l.prepare(r.config); err != nil {
		return err
	}
	if r.owner, err = own(l); err != nil {
		return err
	}
	if r.host, err = detect(r.config, l); err != nil {
		return err
	}
	if err := extract(l.bin); err != nil {
		return err
	}
	program, err := carried.Lookup(containerdName)
	if err != nil {
		return fmt.Errorf("%w: %s", ErrNotCarried, containerdName)
	}
	pause, err := carried.Lookup(pauseName)
	if err != nil {
		return fmt.Errorf("%w: %s", ErrNotCarried, pauseName)
	}
	config, err := containerdConfig(r.config, l, r.host, pause.SHA256)
	if err != nil {
		return err
	}
	r.fingerprint = fingerprint(program.SHA256, config)
	if err := os.WriteFile(l.config, config, 0o600); err != nil {
		return fmt.Errorf("writing containerd's configuration: %w", err)
	}
	if r.notify, err = notices(l); err != nil {
		return err
	}
	r.images, err = image.Dial(r.Endpoint())
	return err
}

// own claims the data directory for this process, as long as it lives.
func own(l layout) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(l.data, "owner.lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("claiming the runtime: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = errors.New("another skiff runs with this data directory")
		}
		return nil, errors.Join(fmt.Errorf("claiming the runtime of %s: %w", filepath.Dir(l.data), err), f.Close())
	}
	return f, nil
}

// bringUp returns a containerd that serves the CRI: the one that is running, when it is of this
// program and configuration and answers, otherwise a new one.
func (r *Runtime) bringUp(ctx context.Context) (*process, error) {
	locked, err := lock(r.layout)
	if err != nil {
		return nil, err
	}
	if locked == nil {
		p, same, err := running(r.layout, r.fingerprint)
		if err != nil {
			return nil, err
		}
		if same {
			answered, cancel := context.WithTimeout(ctx, adoptTimeout)
			err = r.check(answered)
			cancel()
			if err == nil {
				r.config.Log.Info("containerd is running; taking it over", "pid", p.pid)
				r.set(p)
				return p, nil
			}
		}
		r.config.Log.Info("containerd is running but does not fit; replacing it", "pid", p.pid, "sameBuild", same)
		soon, cancel := context.WithTimeout(ctx, stopTimeout)
		err = p.stop(soon)
		cancel()
		if err != nil {
			return nil, err
		}
		if locked, err = lock(r.layout); err != nil {
			return nil, err
		}
		if locked == nil {
			return nil, fmt.Errorf("the lock %s is still held after containerd has ended", r.layout.lock)
		}
	}
	return r.start(ctx, locked)
}

// start starts containerd and waits until it says that it is ready.
func (r *Runtime) start(ctx context.Context, locked *os.File) (*process, error) {
	if err := r.notify.SetReadDeadline(time.Time{}); err != nil {
		_ = locked.Close() // nothing is written through it
		return nil, fmt.Errorf("waiting for containerd: %w", err)
	}
	p, err := spawn(r.layout, locked, r.fingerprint)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	told := make(chan error, 1)
	go func() { told <- r.awaitNotice(p.pid) }()
	select {
	case err = <-told:
	case <-p.ended:
		err = fmt.Errorf("it ended while starting; the last lines of %s:\n%s", r.layout.log, tail(r.layout.log))
	case <-ctx.Done():
		err = fmt.Errorf("it is not ready: %w; see %s", ctx.Err(), r.layout.log)
	}
	if err == nil {
		r.set(p)
		return p, nil
	}
	_ = r.notify.SetReadDeadline(time.Unix(1, 0)) // ends awaitNotice; fails only on a closed socket
	late, cancelStop := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
	defer cancelStop()
	return nil, errors.Join(fmt.Errorf("starting containerd: %w", err), p.stop(late))
}

// awaitNotice returns when containerd says READY=1. Notices of an earlier containerd may be in the way:
// they are told apart by the CRI not being served, so the check that follows decides.
func (r *Runtime) awaitNotice(pid int) error {
	buffer := make([]byte, 512)
	for {
		n, err := r.notify.Read(buffer)
		if err != nil {
			return fmt.Errorf("listening for containerd (process %d): %w", pid, err)
		}
		if !strings.Contains(string(buffer[:n]), "READY=1") {
			continue
		}
		ctx, cancel := context.WithTimeout(context.Background(), adoptTimeout)
		err = r.check(ctx)
		cancel()
		if err == nil {
			return nil
		}
	}
}

// check asks the CRI for its version.
func (r *Runtime) check(ctx context.Context) error {
	conn, err := grpc.NewClient(r.Endpoint(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return fmt.Errorf("asking the CRI: %w", err)
	}
	defer conn.Close()
	if _, err := cri.NewRuntimeServiceClient(conn).Version(ctx, &cri.VersionRequest{}); err != nil {
		return fmt.Errorf("asking the CRI: %w", err)
	}
	return nil
}

// furnish brings in the images that must be there: pause, and those of the images folder.
func (r *Runtime) furnish(ctx context.Context) error {
	if err := r.images.SetSnapshotter(ctx, r.host.snapshotter); err != nil {
		return err
	}
	if err := r.importPause(ctx); err != nil {
		return fmt.Errorf("importing the pause image: %w", err)
	}
	names, err := r.images.ImportDir(ctx, r.layout.images, filepath.Join(r.layout.data, "images.json"))
	if len(names) > 0 {
		r.config.Log.Info("imported images", "dir", r.layout.images, "archives", names)
	}
	if err != nil {
		// A bad archive must not keep the node from starting.
		r.config.Log.Warn("some images could not be imported", "dir", r.layout.images, "error", err)
	}
	return nil
}

// set notes a containerd that serves.
func (r *Runtime) set(p *process) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.current = p
	close(r.ready)
}

// unset notes that none does.
func (r *Runtime) unset() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.current = nil
	r.ready = make(chan struct{})
}

// supervise starts containerd again whenever it ends.
func (r *Runtime) supervise(ctx context.Context, p *process) {
	defer close(r.done)
	delay, since := time.Duration(0), time.Now()
	for {
		if p != nil {
			select {
			case <-ctx.Done():
				return
			case <-p.ended:
			}
			p.release()
			r.unset()
			if time.Since(since) > steadyAfter {
				delay = 0
			}
			r.config.Log.Warn("containerd ended; starting it again", "pid", p.pid, "delay", delay, "log", r.layout.log)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(delay):
		}
		delay = min(max(2*delay, minBackoff), maxBackoff)
		since = time.Now()
		var err error
		if p, err = r.bringUp(ctx); err != nil {
			if ctx.Err() != nil {
				return
			}
			p = nil
			r.config.Log.Error("containerd does not start", "error", err, "retryIn", delay)
		}
	}
}

// Endpoint returns the CRI socket as a URL.
func (r *Runtime) Endpoint() string { return "unix://" + r.layout.socket }

// Snapshotter returns the name of the snapshotter in use.
func (r *Runtime) Snapshotter() string { return r.host.snapshotter }

// Images returns the client of the runtime's images; it ends with the Runtime.
func (r *Runtime) Images() *image.Client { return r.images }

// Pid returns containerd's process number, 0 while none serves.
func (r *Runtime) Pid() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.current == nil {
		return 0
	}
	return r.current.pid
}

// Ready returns when the CRI is served.
func (r *Runtime) Ready(ctx context.Context) error {
	r.mu.Lock()
	ready := r.ready
	r.mu.Unlock()
	select {
	case <-ready:
		return nil
	case <-r.done:
		return errors.New("the container runtime has been stopped")
	case <-ctx.Done():
		return fmt.Errorf("waiting for the container runtime: %w", ctx.Err())
	}
}

// Stop ends the supervisor and containerd, by force at ctx's end. Containers go on, and the next Start
// finds them.
func (r *Runtime) Stop(ctx context.Context) error {
	r.cancel()
	<-r.done
	r.mu.Lock()
	p := r.current
	r.mu.Unlock()
	var err error
	if p != nil {
		err = p.stop(ctx)
		r.unset()
	}
	return errors.Join(err, r.close())
}

// close lets go of what prepare took.
func (r *Runtime) close() error {
	var errs []error
	if r.images != nil {
		errs = append(errs, r.images.Close())
	}
	if r.notify != nil {
		errs = append(errs, r.notify.Close())
	}
	if r.owner != nil {
		errs = append(errs, r.owner.Close())
	}
	return errors.Join(errs...)
}

// tail returns the last lines of a file, for an error message.
func tail(file string) string {
	data, err := os.ReadFile(file)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(data)), "\n")
	return strings.Join(lines[max(0, len(lines)-15):], "\n")
}
