package main

import (
	"context"
	"sync"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/v2/pkg/shutdown"
	"google.golang.org/protobuf/types/known/emptypb"
)

// shutdownAsker is the part of the task service that decides, under its own lock, whether the shim is
// without containers, and calls Shutdown of the service it was given only then.
type shutdownAsker interface {
	Shutdown(context.Context, *taskapi.ShutdownRequest) (*emptypb.Empty, error)
}

// linger delays the end of the process: a first Shutdown only starts the clock; when it runs out the
// task service is asked again, and if no container came in the meantime the shutdown takes place.
type linger struct {
	shutdown.Service
	wait time.Duration

	mu      sync.Mutex
	service shutdownAsker
	timer   *time.Timer
	due     bool
}

// ask sets the service that is asked again when the time is over.
func (l *linger) ask(service shutdownAsker) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.service = service
}

// Shutdown is called by the task service while it holds its lock and has no container.
func (l *linger) Shutdown() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.due {
		l.Service.Shutdown()
		return
	}
	if l.timer != nil {
		l.timer.Stop()
	}
	l.timer = time.AfterFunc(l.wait, l.expire)
}

// expire asks the task service for a shutdown that is carried out, should it still be without containers.
func (l *linger) expire() {
	l.mu.Lock()
	l.due = true
	service := l.service
	l.mu.Unlock()
	// The only error of this call is that of a shutdown under way, which is what is wanted.
	_, _ = service.Shutdown(context.Background(), &taskapi.ShutdownRequest{})
	l.mu.Lock()
	l.due = false
	l.mu.Unlock()
}
