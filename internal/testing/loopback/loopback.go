// Package loopback gives tests ports for servers that must be told where to listen,
// be it in another process, or again after they have ended. Tests only.
package loopback

import (
	"testing"

	"golang.org/x/sys/unix"
)

// Port returns a TCP port of 127.0.0.1 that is the test's until it ends. Who
// asks for the port by its number can listen on it, as often as they like;
// nobody is given it by chance, as the port of a listener that has closed could
// be. It is a socket's that is bound and does not listen: next to such a one
// Linux lets a listener in if both say SO_REUSEADDR, as Go's listeners do, and
// it passes over the port when it chooses one for a listener or a connection.
func Port(t testing.TB) int {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatalf("opening a socket: %v", err)
	}
	t.Cleanup(func() { unix.Close(fd) }) // nothing was sent that could be lost
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
		t.Fatalf("sharing a port: %v", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatalf("taking a port: %v", err)
	}
	name, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatalf("asking for the port: %v", err)
	}
	return name.(*unix.SockaddrInet4).Port
}
