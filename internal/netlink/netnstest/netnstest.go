// Package netnstest gives tests network namespaces of their own, so that what
// they do to links, routes and packet filters touches nothing else and goes
// when the test ends. Tests only. It needs root and says so where it is not.
package netnstest

import (
	"fmt"
	"os"
	"runtime"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// NS is a network namespace that lives until the test ends.
type NS struct{ file *os.File }

// New makes a network namespace with its loopback up. Without root the test
// is skipped.
func New(t testing.TB) *NS {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED: needs root for a network namespace of its own")
	}
	ns := &NS{}
	err := onThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("unsharing network namespace: %w", err)
		}
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return fmt.Errorf("finding lo: %w", err)
		}
		if err := netlink.LinkSetUp(lo); err != nil {
			return fmt.Errorf("setting lo up: %w", err)
		}
		ns.file, err = os.Open(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ns.file.Close() }) // only read from
	return ns
}

// Path returns a path under which the namespace can be opened.
func (ns *NS) Path() string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), ns.file.Fd()) }

// Fd returns the namespace's file descriptor.
func (ns *NS) Fd() int { return int(ns.file.Fd()) }

// Do runs f on a thread in the namespace. Sockets opened by f stay there;
// goroutines f starts do not run there.
func (ns *NS) Do(t testing.TB, f func()) {
	t.Helper()
	err := onThread(func() error {
		if err := unix.Setns(ns.Fd(), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("entering network namespace: %w", err)
		}
		f()
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// onThread runs f on a thread that is thrown away afterwards, whatever f did
// to it.
func onThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		ended := false
		defer func() {
			if !ended { // by runtime.Goexit, as t.Fatal does
				done <- fmt.Errorf("the test failed in the namespace")
			}
		}()
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		err := f()
		ended = true
		done <- err
	}()
	return <-done
}
