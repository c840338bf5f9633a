package nftables

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// NetNS is the packet filter of one network namespace. It is safe for
// concurrent use.
type NetNS struct {
	mu sync.Mutex
	fd int
}

// Open returns the packet filter of the calling thread's network namespace.
// It holds one netlink socket, which stays in that namespace wherever its
// user's goroutines run; Close closes it.
func Open() (*NetNS, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, fmt.Errorf("opening netfilter socket: %w", err)
	}
	err = errors.Join(
		unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}),
		unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_CAP_ACK, 1),
		unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_EXT_ACK, 1))
	if err != nil {
		unix.Close(fd) // nothing was written: the first error is the one to tell
		return nil, fmt.Errorf("preparing netfilter socket: %w", err)
	}
	return &NetNS{fd: fd}, nil
}

// Close closes the socket. What was applied stays.
func (n *NetNS) Close() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return unix.Close(n.fd)
}

// Apply implements Kernel.
func (n *NetNS) Apply(_ context.Context, b *Batch) error {
	if b.Empty() {
		return nil
	}
	e, err := encode(b)
	if err != nil {
		return fmt.Errorf("encoding changes of table %s %s: %w", b.Family, b.Table, err)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := n.send(e.buf); err != nil {
		return fmt.Errorf("changing table %s %s: %w", b.Family, b.Table, err)
	}
	// The kernel has done its work, or refused it, when sending returns.
	acked := false
	err = n.receive(func(m message) (bool, error) {
		if m.typ != unix.NLMSG_ERROR {
			return false, nil
		}
		if err := m.err(); err != nil {
			what := b.command(&b.ops[e.change[min(int(m.seq), len(e.change)-1)]])
			if m.seq == 0 { // the whole was refused at the end
				what = fmt.Sprintf("%d changes", len(b.ops))
			}
			return true, fmt.Errorf("changing table %s %s: %s: %w", b.Family, b.Table, what, err)
		}
		acked = true
		return true, nil
	})
	if err == nil && !acked {
		return fmt.Errorf("changing table %s %s: no answer from the kernel", b.Family, b.Table)
	}
	return err
}

// send writes one datagram, with room for it in the socket.
func (n *NetNS) send(b []byte) error {
	if err := n.receive(func(message) (bool, error) { return false, nil }); err != nil {
		return fmt.Errorf("clearing socket: %w", err)
	}
	have, err := unix.GetsockoptInt(n.fd, unix.SOL_SOCKET, unix.SO_SNDBUF)
	if err != nil {
		return fmt.Errorf("asking for the send buffer's size: %w", err)
	}
	if need := 2*len(b) + 4096; have < need {
		if err := unix.SetsockoptInt(n.fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, need); err != nil {
			return fmt.Errorf("growing the send buffer to %d bytes: %w", need, err)
		}
	}
	for {
		err := unix.Sendto(n.fd, b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
		if err != unix.EINTR {
			return err
		}
	}
}

// message is one netlink message received.
type message struct {
	typ, flags uint16
	seq        uint32
	family     Family
	body       []byte // attributes; of an error, the error
}

// err returns what an error message says, nil for an acknowledgement.
func (m message) err() error {
	if len(m.body) < 4 {
		return errors.New("short answer from the kernel")
	}
	code := int32(binary.NativeEndian.Uint32(m.body))
	if code == 0 {
		return nil
	}
	errno := syscall.Errno(-code)
	const tlvs, head = unix.NLM_F_ACK_TLVS, 4 + unix.NLMSG_HDRLEN
	if m.flags&tlvs != 0 && m.flags&unix.NLM_F_CAPPED != 0 && len(m.body) > head {
		for typ, value := range attributes(m.body[head:]) {
			if typ == unix.NLMSGERR_ATTR_MSG {
				return fmt.Errorf("%s: %w", text(value), errno)
			}
		}
	}
	return errno
}

// receive hands out the messages that are there until f says it is done or
// there are none left: the kernel answers before a send returns.
func (n *NetNS) receive(f func(message) (done bool, err error)) error {
	buf := make([]byte, 64<<10)
	for {
		size, _, err := unix.Recvfrom(n.fd, buf, unix.MSG_DONTWAIT)
		switch {
		case err == unix.EINTR:
			continue
		case err == unix.EAGAIN:
			return nil
		case err != nil:
			return fmt.Errorf("receiving from the kernel: %w", err)
		}
		for b := buf[:size]; len(b) >= unix.NLMSG_HDRLEN; {
			length := int(binary.NativeEndian.Uint32(b))
			if length < unix.NLMSG_HDRLEN || length > len(b) {
				return errors.New("receiving from the kernel: malformed message")
			}
			m := message{
				typ:   binary.NativeEndian.Uint16(b[4:]),
				flags: binary.NativeEndian.Uint16(b[6:]),
				seq:   binary.NativeEndian.Uint32(b[8:]),
				body:  b[unix.NLMSG_HDRLEN:length],
			}
			if m.typ>>8 == unix.NFNL_SUBSYS_NFTABLES && len(m.body) >= 4 {
				m.family, m.body = Family(m.body[0]), m.body[4:]
			}
			if done, err := f(m); done || err != nil {
				return err
			}
			b = b[min(len(b), (length+3)&^3):]
		}
	}
}

// attributes yields the attributes of a message, as far as they are whole.
func attributes(b []byte) func(yield func(uint16, []byte) bool) {
	return func(yield func(uint16, []byte) bool) {
		for len(b) >= 4 {
			n := int(binary.NativeEndian.Uint16(b))
			if n < 4 || n > len(b) {
				return
			}
			if !yield(binary.NativeEndian.Uint16(b[2:])&^uint16(unix.NLA_F_NESTED|unix.NLA_F_NET_BYTEORDER), b[4:n]) {
				return
			}
			b = b[min(len(b), (n+3)&^3):]
		}
	}
}

func text(b []byte) string {
	for len(b) > 0 && b[len(b)-1] == 0 {
		b = b[:len(b)-1]
	}
	return string(b)
}
