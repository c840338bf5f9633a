package loopback

import (
	"errors"
	"fmt"
	"net"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"skiff.dev/skiff/internal/netlink/netnstest"
)

func TestHeldPortTakesListeners(t *testing.T) {
	address := fmt.Sprintf("127.0.0.1:%d", Port(t))
	if c, err := net.Dial("tcp", address); err == nil {
		c.Close()
		t.Error("somebody listens before anybody should")
	}
	for range 3 {
		l, err := net.Listen("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		c, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
		l.Close()
	}
}

// TestHeldPortIsNotGivenAway lets the kernel choose where there is no choice
// but the held port: in a network that has one port to give.
func TestHeldPortIsNotGivenAway(t *testing.T) {
	netnstest.New(t).Do(t, func() { notGivenAway(t) })
}

func notGivenAway(t *testing.T) {
	held := Port(t)
	other, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	only := fmt.Sprintf("%d %d", held, held)
	if err := os.WriteFile("/proc/sys/net/ipv4/ip_local_port_range", []byte(only), 0o644); err != nil {
		t.Fatal(err)
	}
	chosen := func(when string) {
		t.Helper()
		if err := unix.Bind(socket(t), &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); !errors.Is(err, unix.EADDRINUSE) {
			t.Errorf("%s: listening where it may: %v, want %v", when, err, unix.EADDRINUSE)
		}
		for _, to := range []int{held, other.Addr().(*net.TCPAddr).Port} {
			if err := unix.Connect(socket(t), &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}, Port: to}); !errors.Is(err, unix.EADDRNOTAVAIL) {
				t.Errorf("%s: connecting from where it may: %v, want %v", when, err, unix.EADDRNOTAVAIL)
			}
		}
	}
	chosen("before anybody listens")
	l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", held))
	if err != nil {
		t.Fatal(err)
	}
	chosen("while somebody listens")
	l.Close()
	chosen("after somebody has listened")
}

func socket(t *testing.T) (fd int) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) }) // nothing was sent that could be lost
	return fd
}
