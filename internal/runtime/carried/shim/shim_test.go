package main

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/v2/pkg/shim"
	"github.com/containerd/containerd/v2/pkg/shutdown"
	"google.golang.org/protobuf/types/known/emptypb"
)

func TestGroupName(t *testing.T) {
	for _, c := range []struct{ id, sandbox, groups, want string }{
		{"c1", "", "", "c1"},
		{"c1", "s1", "", "pods-0"},
		{"c2", "s2", "1", "pods-0"},
		{"s1", "s1", "x", ""},
		{"s1", "s1", "0", ""},
		{"s1", "s1", "70000", ""},
	} {
		got, err := groupName(c.id, c.sandbox, c.groups)
		if got != c.want || (err == nil) != (c.want != "") {
			t.Errorf("groupName(%q, %q, %q) = %q, %v; want %q", c.id, c.sandbox, c.groups, got, err, c.want)
		}
	}
	seen := map[string]bool{}
	for i := range 100 {
		group, err := groupName("c", string(rune('a'+i)), "4")
		if err != nil {
			t.Fatal(err)
		}
		seen[group] = true
	}
	if len(seen) != 4 {
		t.Errorf("100 pods landed in the groups %v, want 4", seen)
	}
}

func TestListen(t *testing.T) {
	address := "unix://" + filepath.Join(t.TempDir(), "s", "socket")
	first, err := listen(address)
	if err != nil || first == nil {
		t.Fatal(first, err)
	}
	if second, err := listen(address); second != nil || err != nil {
		t.Errorf("listening where a shim serves = %v, %v", second, err)
	}
	first.Close()
	third, err := listen(address)
	if err != nil || third == nil {
		t.Fatalf("listening where a shim has died = %v, %v", third, err)
	}
	third.Close()
	if _, err := net.Dial("unix", address[len("unix://"):]); err == nil {
		t.Error("the socket still accepts")
	}
	if err := shim.RemoveSocket(address); err != nil {
		t.Errorf("the socket's file went with the listener: %v", err)
	}
}

// service stands for the task service: it passes a shutdown on only while it has no containers.
type service struct {
	l          *linger
	containers atomic.Int32
}

func (s *service) Shutdown(context.Context, *taskapi.ShutdownRequest) (*emptypb.Empty, error) {
	if s.containers.Load() == 0 {
		s.l.Shutdown()
	}
	return &emptypb.Empty{}, nil
}

// stopper records that the process is to end.
type stopper struct {
	shutdown.Service
	at time.Time
}

func (s *stopper) Shutdown() { s.at = time.Now() }

func TestLinger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		stop := &stopper{}
		l := &linger{Service: stop, wait: time.Minute}
		s := &service{l: l}
		l.ask(s)
		call := func() {
			if _, err := s.Shutdown(t.Context(), nil); err != nil {
				t.Fatal(err)
			}
		}
		call()
		time.Sleep(30 * time.Second)
		s.containers.Store(1) // a pod comes while the shim lingers
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		if !stop.at.IsZero() {
			t.Fatal("the shim ended with a container")
		}
		s.containers.Store(0)
		call()
		time.Sleep(30 * time.Second)
		call() // the last of two containers: the minute starts over
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		if want := began.Add(12 * time.Minute); !stop.at.Equal(want) {
			t.Errorf("the shim ended after %v, want %v", stop.at.Sub(began), want.Sub(began))
		}
	})
}

func TestStartNeedsASocketDirectory(t *testing.T) {
	if _, err := (&grouped{}).Start(t.Context(), nil); err == nil || errors.Is(err, context.Canceled) {
		t.Errorf("Start without parameters = %v", err)
	}
}
