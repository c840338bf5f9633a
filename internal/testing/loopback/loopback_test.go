package loopback

import (
	"errors"
	"fmt"
	"net"
	"testing"

	"golang.org/x/sys/unix"
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
// but the held port.
func TestHeldPortIsNotGivenAway(t *testing.T) {
	held := Port(t)
	other, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	chosen := func(when string) {
		t.Helper()
		if err := unix.Bind(confined(t, held), &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); !errors.Is(err, unix.EADDRINUSE) {
			t.Errorf("%s: listening where it may: %v, want %v", when, err, unix.EADDRINUSE)
		}
		for _, to := range []int{held, other.Addr().(*net.TCPAddr).Port} {
			if err := unix.Connect(confined(t, held), &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}, Port: to}); !errors.Is(err, unix.EADDRNOTAVAIL) {
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

// confined returns a socket for which the kernel may choose one port only.
func confined(t *testing.T, port int) (fd int) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
		t.Fatal(err)
	}
	err = unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_LOCAL_PORT_RANGE, port<<16|port)
	if errors.Is(err, unix.ENOPROTOOPT) {
		t.Skip("SKIPPED: needs Linux 6.3, where a socket may have a range of ports of its own")
	}
	if err != nil {
		t.Fatal(err)
	}
	return fd
}
